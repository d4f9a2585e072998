// Tests of the flight recorder: what is slow leaves a trace, and not more of them than there may be.

package broker

import (
	"bytes"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
)

// fixedRecorder is a recorder whose trace is known.
type fixedRecorder struct{ trace []byte }

func (r *fixedRecorder) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, bytes.NewReader(r.trace))
}

func testFlight(t *testing.T, fs vfs.FS) (*flight, *time.Time, *logBuffer) {
	t.Helper()
	logger, logs := testLogger(t)
	f := newFlight(fs, "/data", logger, time.Second, time.Second)
	now := time.Unix(1_000_000, 0)
	f.now = func() time.Time { return now }
	f.rec = &fixedRecorder{bytes.Repeat([]byte("trace"), 1000)}
	return f, &now, logs
}

func traces(t *testing.T, f *flight) []string {
	t.Helper()
	names, err := f.fs.ReadDir(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestFlightKeepsFewTraces(t *testing.T) {
	f, now, logs := testFlight(t, vfs.NewMem(1))
	var all []string
	for range maxTraces + 3 {
		f.report(slowness{what: "sync", group: 7, took: 2 * time.Second})
		names := traces(t, f)
		all = append(all, names[len(names)-1])
		f.report(slowness{what: "election", group: 8, took: 2 * time.Second}) // too soon: neither logged nor traced
		if n := len(traces(t, f)); n != len(names) {
			t.Fatalf("%d traces a moment after %d", n, len(names))
		}
		*now = now.Add(traceEvery)
	}
	names := traces(t, f)
	if len(names) != maxTraces || names[0] != all[3] || names[maxTraces-1] != all[len(all)-1] {
		t.Errorf("left are %v of %v", names, all)
	}
	file, err := f.fs.Open(path.Join(f.dir, names[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if size, err := file.Size(); err != nil || size != 5000 {
		t.Errorf("a trace has %d bytes, %v", size, err)
	}
	if !logs.contains(`msg="a sync was slow" took=2s group=7 trace=/data/traces/` + all[0]) {
		t.Error("the log does not name the trace")
	}
	if logs.contains("an election was slow") {
		t.Error("what came too soon was logged")
	}
}

func TestFlightRefusals(t *testing.T) {
	// Nothing is recorded: what is slow is logged all the same.
	f, _, logs := testFlight(t, vfs.NewMem(1))
	f.rec = nil
	f.report(slowness{what: "election", group: 8, took: 2 * time.Second})
	if !logs.contains(`msg="an election was slow" took=2s group=8`) || logs.contains("trace=") {
		t.Error("without a recorder the log is wrong")
	}
	// A disk that is nearly full, or fails, keeps its room; nothing is left half written.
	f, _, logs = testFlight(t, vfs.Quota(vfs.NewMem(1), traceFree))
	f.report(slowness{what: "sync", took: 2 * time.Second})
	if n := len(traces(t, f)); n != 0 || !logs.contains("not written") {
		t.Errorf("%d traces on a full disk", n)
	}
	f, _, logs = testFlight(t, vfs.Inject(vfs.NewMem(1), func(op vfs.Op, _ string) error {
		if op == vfs.OpWrite {
			return io.ErrShortWrite
		}
		return nil
	}))
	f.report(slowness{what: "sync", took: 2 * time.Second})
	if n := len(traces(t, f)); n != 0 || !logs.contains("short write") {
		t.Errorf("%d traces on a disk that fails", n)
	}
	// Only what is slow counts; a group that had no majority for an hour had no slow election.
	f, _, _ = testFlight(t, vfs.NewMem(1))
	f.synced(1, time.Second-1)
	f.leaderFound(1, time.Second-1)
	f.leaderFound(1, time.Hour)
	f.slowSync, f.slowElection = 0, 0
	f.synced(1, time.Hour)
	f.leaderFound(1, 2*time.Second)
	select {
	case s := <-f.slow:
		t.Errorf("told of %+v", s)
	default:
	}
}

// A sync that hangs is traced while it hangs, and one that was slow after it.
func TestSlowSyncIsTraced(t *testing.T) {
	c := newCluster(t, 1, true)
	n := c.nodes[0]
	var hang atomic.Bool
	release := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(release) })
	t.Cleanup(letGo)
	n.cfg.FS = vfs.Inject(n.cfg.FS, func(op vfs.Op, name string) error {
		if op == vfs.OpSync && strings.Contains(name, "/groups/") && hang.Load() {
			<-release
		}
		return nil
	})
	n.cfg.AdminListen, n.cfg.FlightRecorderBytes, n.cfg.SlowSync, n.cfg.SlowElection = "127.0.0.1:0", minFlightBytes, 100*time.Millisecond, -1
	c.start(n)
	if n.flight.rec == nil {
		t.Skip("another broker of this process has the flight recorder")
	}
	resp, err := http.Get("http://" + n.AdminAddr() + "/debug/flight")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || !bytes.HasPrefix(body, []byte("go 1.")) {
		t.Errorf("/debug/flight: status %d, %d bytes, %v", resp.StatusCode, len(body), err)
	}
	hang.Store(true)
	done := make(chan topicResult, 1)
	go func() { done <- n.create(t, "t", 1, 1) }()
	soon(t, "a trace is written while the sync hangs", func() bool {
		names, err := n.store.fs.ReadDir(n.flight.dir)
		return err == nil && len(names) == 1
	})
	soon(t, "the log tells of the sync that hangs, and where its trace is", func() bool {
		return n.log.contains("a sync is slow and goes on") && n.log.contains("trace=/data/traces/")
	})
	hang.Store(false)
	letGo()
	if r := <-done; r.Err != nil {
		t.Fatal(r.Err)
	}
	soon(t, "the slow sync is counted", func() bool { return gathered(t, n.Broker)["balsa_slow_syncs_total"] >= 1 })
	if v := gathered(t, n.Broker)["balsa_flight_traces_total"]; v != 1 {
		t.Errorf("%v traces were written within the rate", v)
	}
}
