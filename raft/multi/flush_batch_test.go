package multi

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// splitLog is a hangLog whose Sync comes apart.
type splitLog struct {
	*hangLog
	whole  bool  // it does not come apart now
	fails  error // of its next write in a batch
	stuck  chan struct{}
	halves bool // between them
	begins int
	refuse int
}

// splitFile tells handBatch whose write it is.
type splitFile struct {
	vfs.File
	log *splitLog
}

func (l *splitLog) BeginSync(buf []byte) (w vfs.SyncWrite, rest []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.halves {
		panic("BeginSync beside itself")
	}
	if l.whole {
		l.refuse++
		return vfs.SyncWrite{}, buf, false
	}
	l.halves = true
	l.begins++
	return vfs.SyncWrite{File: splitFile{log: l}, Bufs: [][]byte{buf[:vfs.DirectUnit]}}, buf[vfs.DirectUnit:], true
}

func (l *splitLog) EndSync(err error) (raft.Ticket, error) {
	l.mu.Lock()
	if !l.halves {
		panic("EndSync without BeginSync")
	}
	l.halves = false
	l.mu.Unlock()
	if err != nil {
		return raft.Ticket{}, err
	}
	return l.memLog.Sync()
}

func (l *splitLog) Sync() (raft.Ticket, error) {
	l.mu.Lock()
	if l.halves {
		panic("Sync between BeginSync and EndSync")
	}
	l.mu.Unlock()
	return l.hangLog.Sync()
}

// handBatch lets writes fail and hang; those that hang are done last.
type handBatch struct{ sizes chan int }

func (b handBatch) Close() error { return nil }

func (b handBatch) WriteSync(writes []vfs.SyncWrite, done func(at []int)) {
	select {
	case b.sizes <- len(writes):
	default: // nobody looks any more
	}
	var now []int
	var stuck []chan struct{}
	var late []int
	for i := range writes {
		l := writes[i].File.(splitFile).log
		l.mu.Lock()
		if writes[i].Err, l.fails = l.fails, nil; l.stuck != nil {
			stuck, late = append(stuck, l.stuck), append(late, i)
		} else {
			now = append(now, i)
		}
		l.mu.Unlock()
	}
	if len(now) > 0 {
		done(now)
	}
	for k, c := range stuck {
		<-c
		done(late[k : k+1])
	}
}

// Logs that wait are synced together: one whose write fails, hangs or cannot be in a batch leaves the others alone, and is treated as by Sync.
func TestManyLogsAreSyncedTogether(t *testing.T) {
	const first, second, failing, full, whole, hanging, plain, other, groups = 0, 1, 2, 3, 4, 5, 6, 7, 8
	net := newThreadNet(1, 0)
	self := raft.Member{ID: 1, Incarnation: 1}
	states := newAsyncStates()
	sizes := make(chan int, 1000)
	h, err := NewHost(Options{Self: self, Boot: 1, Workers: 2, Flushers: 2, ElectionTimeout: 100 * time.Millisecond, Transport: threadPort{net, 1}, HardStates: states,
		// A Sync that hangs for long costs a leader its office; here they may.
		HandOverAfter: time.Hour, HangBound: time.Hour, StallBound: time.Hour,
		NewSyncBatch: func(logs int) (SyncBatch, error) {
			if logs != maxSyncBatch {
				t.Errorf("a batch for %d logs", logs)
			}
			return handBatch{sizes}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	h.flusher.eager = 1
	h.Start()
	logs := make([]*splitLog, groups)
	gs := make([]*Group, groups)
	for i := range groups {
		id := raft.GroupID(i + 1)
		sm := &memSM{group: id}
		logs[i] = &splitLog{hangLog: &hangLog{memLog: newMemLog(id)}}
		var log Log = logs[i]
		if i == plain {
			log = logs[i].hangLog // knows no halves
		}
		gs[i], err = h.CreateGroup(GroupConfig{ID: id, Log: log, Stager: sm, StateMachine: sm, Bootstrap: raft.ConfState{Voters: []raft.Member{self}}, Fresh: true, Campaign: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	propose := func(i int) <-chan error {
		done := make(chan error, 1)
		gs[i].Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("x"), Done: func(o Outcome) { done <- o.Err }})
		return done
	}
	answer := func(what string, c <-chan error) error {
		t.Helper()
		select {
		case err := <-c:
			return err
		case <-time.After(time.Minute):
			t.Fatalf("no answer: %s", what)
			return nil
		}
	}
	for i := range groups {
		poll(t, "a leader", func() bool { return gs[i].Status().Ready })
	}
	poll(t, "marks", func() bool {
		for _, l := range logs {
			if l.MarkPending() {
				return false
			}
		}
		return len(h.PendingFlushes()) == 0
	})
	// Both flushers hang, each with a log of its own, until all others wait.
	var release [2]chan struct{}
	var outcome [groups]<-chan error
	for i := range release {
		release[i] = make(chan struct{})
		logs[i].mu.Lock()
		logs[i].hang, logs[i].whole = release[i], true
		logs[i].mu.Unlock()
		outcome[i] = propose(i)
		poll(t, "a Sync that hangs", func() bool {
			logs[i].mu.Lock()
			defer logs[i].mu.Unlock()
			return logs[i].in == 1
		})
	}
	stuck := make(chan struct{})
	bad := errors.New("bad disk")
	for i := range logs {
		logs[i].mu.Lock()
		switch i {
		case failing:
			logs[i].fails = bad
		case full:
			logs[i].fails = vfs.ErrNoSpace
		case whole:
			logs[i].whole = true
		case hanging:
			logs[i].stuck = stuck
		}
		logs[i].mu.Unlock()
	}
	for i := failing; i < groups; i++ {
		outcome[i] = propose(i)
	}
	poll(t, "all others wait", func() bool { return len(h.PendingFlushes()) == groups-failing })
	for len(sizes) > 0 {
		<-sizes
	}
	logs[first].mu.Lock()
	logs[first].hang = nil
	logs[first].mu.Unlock()
	close(release[first])
	if err := answer("held up before", outcome[first]); err != nil {
		t.Error(err)
	}
	if err := answer("beside those that fail and hang", outcome[other]); err != nil {
		t.Error(err)
	}
	if err := answer("the write failed", outcome[failing]); !errors.Is(err, ErrFailed) {
		t.Errorf("the write failed: %v", err)
	}
	// failing, full, hanging and other: neither whole nor plain.
	if n := <-sizes; n != 4 {
		t.Errorf("the batch has %d logs, want 4", n)
	}
	logs[second].mu.Lock()
	logs[second].hang = nil
	logs[second].mu.Unlock()
	close(release[second])
	for i, what := range map[int]string{second: "held up before", whole: "on its own", plain: "that knows no halves", full: "once there is room"} {
		if err := answer(what, outcome[i]); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	select {
	case err := <-outcome[hanging]:
		t.Errorf("the write hangs, and has ended: %v", err)
	default:
	}
	if at := h.OldestSync(); at <= 0 {
		t.Error("no Sync is said to hang")
	}
	logs[hanging].mu.Lock()
	logs[hanging].stuck = nil
	logs[hanging].mu.Unlock()
	close(stuck)
	if err := answer("that hung", outcome[hanging]); err != nil {
		t.Error(err)
	}
	logs[whole].mu.Lock()
	if logs[whole].refuse == 0 {
		t.Error("the log that does not come apart was not asked")
	}
	logs[whole].mu.Unlock()
	if err := h.Close(); err != nil {
		t.Log(err) // of the failed log
	}
	net.close()
	close(states.c)
	states.wg.Wait()
}

// A flusher that gets no batch, though the host has found that there are some, syncs one log at a time.
func TestNoBatchToBeHad(t *testing.T) {
	h := &Host{}
	asked := 0
	h.o = Options{NewSyncBatch: func(int) (SyncBatch, error) { asked++; return nil, vfs.ErrNoBatch }, Logger: slog.New(slog.DiscardHandler), Clock: &handClock{}}
	h.flusher.init(2)
	h.flusher.eager = 1
	g, next := &Group{}, &Group{}
	next.fl.want, next.fl.queued = true, true
	h.flusher.running, h.flusher.queue = []*Group{g}, []*Group{next}
	b := batcher{h: h}
	for range 3 {
		if b.gatherLocked(g, 0) {
			t.Fatal("it gathers for a batch that is not there")
		}
	}
	if asked != 1 || len(h.flusher.queue) != 1 {
		t.Errorf("asked %d times, %d logs wait", asked, len(h.flusher.queue))
	}
	b.close()

	b = batcher{h: h}
	h.o.NewSyncBatch = func(int) (SyncBatch, error) { return handBatch{}, nil }
	h.flusher.eager = 2
	if b.gatherLocked(g, 0) {
		t.Error("two logs are a batch, and there are two flushers for them")
	}
	h.flusher.eager = 1
	next.fl.jobs = []job{{}}
	if b.gatherLocked(g, 0) {
		t.Error("snapshot work is in a batch")
	}
	next.fl.jobs, next.fl.alone = nil, true
	if b.gatherLocked(g, 0) {
		t.Error("a log that was put back is in a batch")
	}
	next.fl.alone = false
	if !b.gatherLocked(g, 0) || len(b.groups) != 2 || len(h.flusher.queue) != 0 {
		t.Errorf("%d logs are gathered, %d wait", len(b.groups), len(h.flusher.queue))
	}
}
