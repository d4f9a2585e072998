// The flight recorder: the Go runtime's own trace of the last seconds, kept in memory and written to DATA-DIR/traces when a
// sync or an election was slow. Such a thing is over before anybody can look; the trace shows who ran, waited and was
// blocked meanwhile (go tool trace FILE). GET /debug/flight gives what there is at any time.
//
// One goroutine writes; what notices slowness only leaves word. A disk that hangs reports nothing, so the goroutine also
// looks for itself how old the oldest sync is. It snapshots into memory first: the disk may be the very one that is slow.

package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"runtime/trace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	tracesDir = "traces"
	// What the directory may hold: older traces go first.
	maxTraces     = 8
	maxTraceBytes = 256 << 20
	// traceEvery is the least time between two traces that slowness causes.
	traceEvery = time.Minute
	// traceFree is what must be free on the disk for a trace to be written.
	traceFree = 512 << 20
	// minTraceAge is how far back the recorder keeps, at least, as long as its memory suffices.
	minTraceAge = 10 * time.Second
	// electionHorizon: who was without a leader for longer was without a majority. No trace of the last seconds explains it.
	electionHorizon = time.Minute
	// Bounds of Config.FlightRecorderBytes.
	minFlightBytes, maxFlightBytes = 1 << 20, 256 << 20
)

// recorder is the part of trace.FlightRecorder that is used.
type recorder interface {
	WriteTo(w io.Writer) (int64, error)
}

// flight watches for slowness and keeps the recorder.
type flight struct {
	fs           vfs.FS
	dir          string
	log          *slog.Logger
	now          func() time.Time
	slowSync     time.Duration // 0: never
	slowElection time.Duration // 0: never
	oldest       func() time.Duration

	mu   sync.Mutex // guards rec's use: one snapshot at a time
	rec  recorder   // nil: nothing is recorded
	stop func()

	slow chan slowness // capacity 1: what is left of several at once

	// Counters, for metrics.
	syncs, elections, written prometheus.Counter

	// The goroutine's.
	last    time.Time // when a trace was last written, or tried
	waiting bool      // the sync that hangs has been reported
}

// slowness is what was slow.
type slowness struct {
	what  string // "sync" or "election"
	group raft.GroupID
	took  time.Duration
	still bool // it goes on
}

func newFlight(fs vfs.FS, dir string, log *slog.Logger, slowSync, slowElection time.Duration) *flight {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &flight{fs: fs, dir: path.Join(dir, tracesDir), log: log, now: time.Now, slowSync: slowSync, slowElection: slowElection,
		oldest: func() time.Duration { return 0 }, slow: make(chan slowness, 1),
		syncs:     counter("balsa_slow_syncs_total", "Syncs of logs that took longer than --slow-sync."),
		elections: counter("balsa_slow_elections_total", "Times that a replica was without a leader for longer than --slow-election."),
		written:   counter("balsa_flight_traces_total", "Execution traces written to the data directory because something was slow."),
	}
}

func (f *flight) collectors() []prometheus.Collector {
	return []prometheus.Collector{f.syncs, f.elections, f.written}
}

// record starts the runtime's recorder. A process has one only: a second broker in it goes without.
func (f *flight) record(size int64) {
	if size <= 0 {
		return
	}
	rec := trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: minTraceAge, MaxBytes: uint64(size)})
	if err := rec.Start(); err != nil {
		f.log.Warn("the flight recorder cannot run; slow syncs and elections leave no trace", "err", err)
		return
	}
	f.rec, f.stop = rec, rec.Stop
}

func (f *flight) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		f.stop()
		f.rec, f.stop = nil, nil
	}
	return nil
}

// synced is told of every sync, by a flusher.
func (f *flight) synced(g raft.GroupID, d time.Duration) {
	if f.slowSync > 0 && d >= f.slowSync {
		f.syncs.Inc()
		f.tell(slowness{what: "sync", group: g, took: d})
	}
}

// leaderFound is told of every end of a leaderless time, by a worker.
func (f *flight) leaderFound(g raft.GroupID, d time.Duration) {
	if f.slowElection > 0 && d >= f.slowElection && d < electionHorizon {
		f.elections.Inc()
		f.tell(slowness{what: "election", group: g, took: d})
	}
}

func (f *flight) tell(s slowness) {
	select {
	case f.slow <- s:
	default: // one is reported; the counters have all
	}
}

// loop runs until done is closed.
func (f *flight) loop(done <-chan struct{}) {
	every := time.Hour
	if f.slowSync > 0 {
		every = min(max(f.slowSync/4, 10*time.Millisecond), time.Second)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case s := <-f.slow:
			f.report(s)
		case <-tick.C:
			f.look()
		}
	}
}

// look finds a sync that hangs.
func (f *flight) look() {
	d := f.oldest()
	if f.slowSync == 0 || d < f.slowSync {
		f.waiting = false
		return
	}
	if !f.waiting {
		f.waiting = true
		f.report(slowness{what: "sync", took: d, still: true})
	}
}

// report logs what was slow, and writes a trace of it unless there was one a moment ago.
func (f *flight) report(s slowness) {
	now := f.now()
	if !f.last.IsZero() && now.Sub(f.last) < traceEvery {
		return
	}
	f.last = now
	msg := "a " + s.what + " was slow"
	args := []any{"took", s.took}
	switch {
	case s.still:
		msg, args = "a "+s.what+" is slow and goes on", []any{"since", s.took}
	case s.what == "election":
		msg = "an election was slow"
	}
	if s.group != 0 {
		args = append(args, "group", uint64(s.group))
	}
	switch name, err := f.write(now, s); {
	case errors.Is(err, errNotRecording):
	case err != nil:
		args = append(args, "trace", "not written", "err", err)
	default:
		f.written.Inc()
		args = append(args, "trace", name)
	}
	f.log.Warn(msg, args...)
}

// errNotRecording: there is no flight recorder.
var errNotRecording = errors.New("the flight recorder is off")

// snapshot is the trace of the last seconds.
func (f *flight) snapshot() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rec == nil {
		return nil, errNotRecording
	}
	var b bytes.Buffer
	if _, err := f.rec.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("snapshot the flight recorder: %w", err)
	}
	return b.Bytes(), nil
}

// write puts a trace into the directory and removes what is over its bounds.
func (f *flight) write(now time.Time, s slowness) (name string, err error) {
	b, err := f.snapshot()
	if err != nil {
		return "", err
	}
	if err := f.fs.MkdirAll(f.dir); err != nil {
		return "", err
	}
	if free, err := f.fs.Free(f.dir); err == nil && free < traceFree+int64(len(b)) {
		return "", fmt.Errorf("%w: %d bytes are free, and a trace leaves %d", vfs.ErrNoSpace, free, traceFree)
	}
	if int64(len(b)) > maxTraceBytes {
		return "", fmt.Errorf("the trace has %d bytes, more than %d", len(b), int64(maxTraceBytes))
	}
	if err := f.prune(int64(len(b))); err != nil {
		return "", err
	}
	// Names sort by time.
	name = path.Join(f.dir, fmt.Sprintf("%s-%s.trace", now.UTC().Format("20060102T150405.000Z"), s.what))
	file, err := f.fs.Create(name)
	if err != nil {
		return "", err
	}
	if _, err = file.WriteAt(b, 0); err != nil {
		return "", errors.Join(err, file.Close(), f.fs.Remove(name))
	}
	return name, file.Close()
}

// prune makes room for one more trace of size bytes.
func (f *flight) prune(size int64) error {
	names, err := f.fs.ReadDir(f.dir)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".trace") })
	sizes := make([]int64, len(names))
	for i, n := range names {
		if info, err := f.fs.Stat(path.Join(f.dir, n)); err == nil {
			sizes[i] = info.Size()
			size += info.Size()
		}
	}
	for i := 0; i < len(names) && (len(names)-i >= maxTraces || size > maxTraceBytes); i++ {
		if err := f.fs.Remove(path.Join(f.dir, names[i])); err != nil {
			return err
		}
		size -= sizes[i]
	}
	return nil
}

// serve answers GET /debug/flight.
func (f *flight) serve(w http.ResponseWriter, _ *http.Request) {
	b, err := f.snapshot()
	if err != nil {
		writeAdminError(w, adminErrorf(adminConflict, "start the broker with --flight-recorder-bytes", "%v", err))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="balsa.trace"`)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // a client that hung up is told nothing
}
