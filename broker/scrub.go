// The scrubber: one goroutine that reads, slowly, what nobody reads, and verifies it. Damage that it finds is damage that a read
// has met: the replica fails, is opened again, and is repaired by its peers while there still are any. See
// docs/design/0022-scrubbing.md.

package broker

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

const (
	// scrubStep is what is read at once.
	scrubStep = 1 << 20
	// scrubSave is between two notes of how far a pass has come: what is read again after a restart.
	scrubSave = time.Minute
	// scrubSettle is how long after its start a broker is left alone, at most: its replicas are being opened. How much there is to
	// do is looked at as often.
	scrubSettle = time.Minute
)

// scrubPlace is how far scrubbing has come, in DIR/scrub.json, so that a broker which is restarted each day does not verify the same
// logs each day. It may be lost.
type scrubPlace struct {
	Started  int64        `json:"started"`  // of the pass, Unix milliseconds
	Group    raft.GroupID `json:"group"`    // whose log is next, or under way
	Index    raft.Index   `json:"index"`    // the next entry in it
	Finished int64        `json:"finished"` // when the last whole pass had ended; 0: never
}

// scrubber walks through the logs of a broker, in order of their groups.
type scrubber struct {
	store    *storage
	replicas func() []*partition.Replica
	meta     func() *segment.Log // of the metadata group; nil: not open
	rate     int64               // bytes a second at most
	interval time.Duration       // in which a pass should be done
	log      *slog.Logger

	bytes, damaged, unreadable atomic.Uint64
	finished                   atomic.Int64 // Unix milliseconds; 0: never

	place scrubPlace // the goroutine's alone, as is what follows
	saved scrubPlace
	at    time.Time // of saving it
	paced time.Time // when total was added up
	total int64     // bytes of all logs
}

// scrubTarget is a group whose log can be walked through.
type scrubTarget struct {
	group raft.GroupID
	begin func(from raft.Index) *segment.Scrub // nil: not any more
}

func (s *scrubber) run(ctx context.Context) {
	if s.rate < 0 {
		return
	}
	if err := readChecked(s.store.fs, s.file(), &s.place); err != nil {
		s.place = scrubPlace{}
	}
	s.saved, s.at = s.place, time.Now()
	s.finished.Store(s.place.Finished)
	for rest(ctx, s.brief()) {
		if s.place.Started == 0 {
			s.place.Started = time.Now().UnixMilli()
		}
		bytes, damaged := s.bytes.Load(), s.damaged.Load()
		if !s.pass(ctx) {
			break
		}
		now := time.Now()
		s.log.Info("all logs have been scrubbed", "bytes", s.bytes.Load()-bytes, "damaged", s.damaged.Load()-damaged, "took", now.Sub(time.UnixMilli(s.place.Started)).Round(time.Second))
		next := time.UnixMilli(s.place.Started).Add(s.interval)
		s.place = scrubPlace{Finished: now.UnixMilli()}
		s.finished.Store(s.place.Finished)
		s.save()
		if !rest(ctx, time.Until(next)) {
			break
		}
	}
	s.save()
}

// rest waits; false when the broker stops.
func rest(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *scrubber) file() string { return path.Join(s.store.dir, "scrub.json") }

func (s *scrubber) save() {
	s.at = time.Now()
	if s.place == s.saved {
		return
	}
	s.saved = s.place
	if err := writeChecked(s.store.fs, s.store.dir, "scrub.json", &s.place); err != nil {
		s.log.Warn("cannot note how far scrubbing has come", "err", err)
	}
}

// pass walks through all logs from the place on; false when the broker stops.
func (s *scrubber) pass(ctx context.Context) bool {
	for {
		t := s.target(s.place.Group)
		if t.begin == nil {
			return true
		}
		if t.group != s.place.Group {
			s.place.Group, s.place.Index = t.group, 0
		}
		if w := t.begin(s.place.Index); w != nil && !s.walk(ctx, w) {
			return false
		}
		s.place.Group, s.place.Index = t.group+1, 0
	}
}

// payBack rests for as long as n bytes should take. The pace is looked at again now and then: there may be more by now.
func (s *scrubber) payBack(ctx context.Context, n float64) bool {
	for n > 0 {
		pace := s.pace()
		d := min(time.Duration(n/pace*float64(time.Second)), s.brief())
		if !rest(ctx, d) {
			return false
		}
		n -= max(1, d.Seconds()*pace)
	}
	return ctx.Err() == nil
}

// brief is a moment in which how much there is does not change much.
func (s *scrubber) brief() time.Duration { return min(scrubSettle, s.interval/10) }

// pace is in bytes a second: what there is, in the interval, or the rate if that is less.
func (s *scrubber) pace() float64 {
	if now := time.Now(); s.paced.IsZero() || now.Sub(s.paced) >= s.brief() {
		s.paced, s.total = now, 0
		if log := s.meta(); log != nil {
			s.total = log.Size()
		}
		for _, rep := range s.replicas() {
			n, _ := rep.LogSize()
			s.total += n
		}
	}
	return max(1, min(float64(s.rate), float64(s.total)/s.interval.Seconds()))
}

// target is the open log of the first group at or above from; without begin: there is none.
func (s *scrubber) target(from raft.GroupID) (t scrubTarget) {
	if log := s.meta(); log != nil && from <= raft.MetadataGroup {
		return scrubTarget{raft.MetadataGroup, log.Scrub}
	}
	for _, rep := range s.replicas() {
		if g := rep.GroupID(); g >= from && g != raft.MetadataGroup && (t.begin == nil || g < t.group) {
			t = scrubTarget{g, rep.Scrub}
		}
	}
	return t
}

// walk goes through one log; false when the broker stops. Whatever ends it early is the replica's, or the next pass's, to deal with.
func (s *scrubber) walk(ctx context.Context, w *segment.Scrub) bool {
	for {
		n, err := w.Step(scrubStep)
		s.bytes.Add(uint64(n))
		s.place.Index = w.At()
		switch {
		case errors.Is(err, segment.ErrCorrupt):
			s.damaged.Add(1)
			s.log.Error("scrubbing has found damage", "group", uint64(s.place.Group), "err", err)
		case errors.Is(err, segment.ErrClosed):
		case err != nil:
			s.unreadable.Add(1)
			s.log.Error("scrubbing cannot read a file; the rest of it is left to the next pass", "group", uint64(s.place.Group), "err", err)
		}
		if time.Since(s.at) > scrubSave {
			s.save()
		}
		if !s.payBack(ctx, float64(n)) {
			return false
		}
		if errors.Is(err, segment.ErrCorrupt) || errors.Is(err, segment.ErrClosed) || err == nil && n == 0 {
			return true
		}
	}
}
