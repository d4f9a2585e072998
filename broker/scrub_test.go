// Scrubbing from end to end: damage that nobody reads is found and repaired, and a pass outlives its broker.

package broker

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

// A bit of a closed segment that nobody reads is flipped. The scrubber finds it, and the replica is repaired by its peers without
// anybody's help.
func TestScrubbedDamageIsRepaired(t *testing.T) {
	t.Parallel()
	r := newRepairs(t, func(c *Config) { c.ScrubInterval = 2 * time.Second })
	for i, leads := range []bool{false, true} {
		n := r.victim(leads)
		name := r.segments(r.disks[n])[1+i] // not the one that the first repair has left the beginning of
		from, found := n.logged(), n.scrub.damaged.Load()
		r.disks[n].flip(t, name, 300<<10)
		soon(t, "the scrubber finds the damage", func() bool { return n.scrub.damaged.Load() > found })
		soon(t, "it says so", func() bool { return n.said(from, "scrubbing has found damage") })
		soon(t, "the log says: "+saysDamaged, func() bool { return n.said(from, saysDamaged) })
		r.sound(n)
		r.lead(n)
		r.load.more("with the repaired replica in the lead", 20)
	}
	for _, n := range r.nodes {
		last := n.scrub.finished.Load()
		soon(t, "a pass comes to its end", func() bool { return n.scrub.finished.Load() > last })
	}
	r.load.stop(r.testCluster)
}

// scrubLog is a log of 3 MB.
func scrubLog(t *testing.T) (vfs.FS, *segment.Log) {
	t.Helper()
	fsys := vfs.NewMem(1)
	if err := fsys.MkdirAll("/data"); err != nil {
		t.Fatal(err)
	}
	log, err := segment.Open(fsys, "/data/log", raft.MetadataGroup, segment.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	var es []raft.Entry
	for i := range 30 {
		e := raft.Entry{Term: 1, Index: raft.Index(i + 1), Type: raft.EntryCommand, Payload: make([]byte, 100<<10)}
		segment.AppendFrame(nil, raft.MetadataGroup, &e, 0, 0)
		es = append(es, e)
	}
	_, err = log.Append(1, es)
	for range 2 { // the entries, and the mark that proves them durable
		if err == nil {
			_, err = log.Sync()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return fsys, log
}

// What there is grows: a pass that has begun on next to nothing does not rest for days over its first step.
func TestScrubPaceFollowsWhatThereIs(t *testing.T) {
	_, log := scrubLog(t)
	looks := 0
	s := &scrubber{replicas: func() []*partition.Replica { return nil }, rate: 1 << 30, interval: 100 * time.Millisecond, meta: func() *segment.Log {
		if looks++; looks == 1 {
			return nil
		}
		return log
	}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !s.payBack(ctx, 1<<20) || looks < 2 {
		t.Fatalf("a mebibyte is not paid back within %v, after %d looks at how much there is", patience, looks)
	}
}

// A broker that stops in the middle of a pass goes on with it where it was; without the note of where that was it begins anew.
func TestScrubGoesOnWhereItWas(t *testing.T) {
	fsys, log := scrubLog(t)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	start := func() *scrubber {
		return &scrubber{store: &storage{fs: fsys, dir: "/data"}, replicas: func() []*partition.Replica { return nil }, meta: func() *segment.Log { return log },
			rate: 16 << 20, interval: time.Hour, log: slog.New(slog.DiscardHandler)}
	}
	s := start()
	s.place.Started = 77
	if s.pass(stopped) {
		t.Fatal("a pass has gone on after the broker was stopped")
	}
	s.save()
	if s.place.Group != raft.MetadataGroup || s.place.Index < 2 || s.place.Index > 25 || s.bytes.Load() == 0 {
		t.Fatalf("%+v after one step", s.place)
	}
	again := start()
	again.run(stopped)
	if again.place != s.place {
		t.Fatalf("%+v after a restart, was %+v", again.place, s.place)
	}
	if err := fsys.Remove("/data/scrub.json"); err != nil {
		t.Fatal(err)
	}
	anew := start()
	anew.run(stopped)
	if anew.place != (scrubPlace{}) {
		t.Fatalf("%+v without a note", anew.place)
	}
	// Off: nothing is read, whatever there is.
	off := start()
	off.rate = -1
	off.run(t.Context())
	if off.bytes.Load() != 0 {
		t.Fatal("it scrubs although it is off")
	}
}
