package coordinator

// A coordinator of transactions over a log in memory, partitions that only take markers, and a clock that stands still until it is told
// to go.

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

var errUnreached = errors.New("the partition cannot be reached")

type txnHarness struct {
	t   fataler
	c   *Txns
	cfg TxnConfig
	log *memoryLog
	now time.Time

	mu      sync.Mutex
	pids    int64
	failPID error
	markers map[TopicPartition][]Marker
	refuse  map[TopicPartition]error
	held    []func()
	hold    bool
}

func newTxnHarness(t fataler, cfg TxnConfig) *txnHarness {
	h := &txnHarness{t: t, log: &memoryLog{}, now: time.UnixMilli(1_700_000_000_000), pids: 1000, markers: map[TopicPartition][]Marker{}, refuse: map[TopicPartition]error{}}
	cfg.Partitions = func() int { return 1 }
	cfg.Now = func() time.Time { return h.now }
	cfg.NextProducerID = func(done func(int64, error)) {
		h.pids++
		done(h.pids, h.failPID)
	}
	cfg.WriteMarkers = h.write
	h.cfg = cfg
	h.move()
	return h
}

func (h *txnHarness) write(m Marker, parts []TopicPartition, done func([]error)) {
	answer := func() {
		h.mu.Lock()
		errs := make([]error, len(parts))
		for i, p := range parts {
			if errs[i] = h.refuse[p]; errs[i] == nil {
				h.markers[p] = append(h.markers[p], m)
			}
		}
		h.mu.Unlock()
		done(errs)
	}
	h.mu.Lock()
	if h.hold {
		h.held = append(h.held, answer)
		h.mu.Unlock()
		return
	}
	h.mu.Unlock()
	answer()
}

// release lets the markers go that were held.
func (h *txnHarness) release() {
	h.mu.Lock()
	held := h.held
	h.held, h.hold = nil, false
	h.mu.Unlock()
	for _, fn := range held {
		fn()
	}
}

// move ends the epoch and begins another one, with another coordinator.
func (h *txnHarness) move() {
	h.t.Helper()
	h.log.depose()
	old := h.c
	h.c = NewTxns(h.cfg)
	h.c.Lead(0, h.log.epoch, &epochLog{h.log, h.log.epoch})
	if old != nil {
		_ = old.Close()
	}
	for end := time.Now().Add(2 * time.Minute); ; runtime.Gosched() {
		s := h.c.all()[0]
		s.mu.Lock()
		busy := s.loading || s.draining // the load's own goroutine goes on with what it has found
		s.mu.Unlock()
		if !busy {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("the coordinator does not load")
		}
	}
}

func (h *txnHarness) advance(d time.Duration) {
	end := h.now.Add(d)
	for {
		next := h.c.timers.fireDue(h.cfg.Now)
		if next.IsZero() || next.After(end) {
			break
		}
		h.now = next
	}
	h.now = end
	h.c.timers.fireDue(h.cfg.Now)
}

// owner is a producer id with its epoch.
type owner struct {
	id    int64
	epoch int16
}

func (o owner) String() string { return fmt.Sprintf("%d/%d", o.id, o.epoch) }

type ownerAnswer struct {
	owner
	err error
}

func (h *txnHarness) init(as owner) ownerAnswer {
	h.t.Helper()
	a := newAnswer[ownerAnswer](h.t)
	h.c.Init(InitRequest{TransactionalID: "tx", Timeout: time.Minute, ProducerID: as.id, ProducerEpoch: as.epoch}, func(id int64, epoch int16, err error) {
		a.set(ownerAnswer{owner{id, epoch}, err})
	})
	return a.get()
}

var newcomer = owner{-1, -1}

func (h *txnHarness) mustInit(as owner) owner {
	h.t.Helper()
	r := h.init(as)
	if r.err != nil {
		h.t.Fatalf("init: %v", r.err)
	}
	return r.owner
}

func (h *txnHarness) add(o owner, version int16, parts ...TopicPartition) error {
	h.t.Helper()
	a := newAnswer[error](h.t)
	h.c.Add(AddRequest{TransactionalID: "tx", ProducerID: o.id, ProducerEpoch: o.epoch, Partitions: parts, Version: version}, a.set)
	return a.get()
}

func (h *txnHarness) verify(o owner, parts ...TopicPartition) error {
	h.t.Helper()
	a := newAnswer[error](h.t)
	h.c.Add(AddRequest{TransactionalID: "tx", ProducerID: o.id, ProducerEpoch: o.epoch, Partitions: parts, Verify: true}, a.set)
	return a.get()
}

func (h *txnHarness) end(o owner, commit, bump bool) ownerAnswer {
	h.t.Helper()
	a := newAnswer[ownerAnswer](h.t)
	h.c.End(EndRequest{TransactionalID: "tx", ProducerID: o.id, ProducerEpoch: o.epoch, Commit: commit, Bump: bump}, func(id int64, epoch int16, err error) {
		a.set(ownerAnswer{owner{id, epoch}, err})
	})
	return a.get()
}

func (h *txnHarness) info() TxnInfo {
	h.t.Helper()
	a := newAnswer[TxnInfo](h.t)
	var e error
	h.c.Describe("tx", func(i TxnInfo, err error) { e = err; a.set(i) })
	if e != nil {
		h.t.Fatalf("describe: %v", e)
	}
	return a.get()
}

func (h *txnHarness) want(what string, err, want error) {
	h.t.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		h.t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

func (h *txnHarness) wantState(s TxnState) {
	h.t.Helper()
	if i := h.info(); i.State != s {
		h.t.Fatalf("state %v, want %v", i.State, s)
	}
}

func (h *txnHarness) wantMarker(p TopicPartition, want Marker) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	ms := h.markers[p]
	if len(ms) == 0 {
		h.t.Fatalf("%v has no marker", p)
	}
	got := ms[len(ms)-1]
	got.CoordinatorEpoch = 0
	if got != want {
		h.t.Fatalf("%v: last marker %+v, want %+v", p, got, want)
	}
}
