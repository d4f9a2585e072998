package coordinator

// A coordinator over a log in memory, with a clock that stands still until it is told to go.

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// memoryLog is a partition of __consumer_offsets that outlives its leaders.
type memoryLog struct {
	mu      sync.Mutex
	batches [][]byte
	next    int64
	epoch   int32
	hold    bool  // appends wait for commit
	refuse  error // appends end with it
	held    []func()
	block   chan struct{} // reads wait for it
	linear  []func()      // with holdReads: confirmations that wait
	holdLin bool
}

// epochLog is the log in one epoch.
type epochLog struct {
	l     *memoryLog
	epoch int32
}

func (e *epochLog) Append(batch []byte, done func(error)) {
	l := e.l
	l.mu.Lock()
	if err := l.refuse; err != nil {
		l.mu.Unlock()
		done(err)
		return
	}
	commit := func() {
		l.mu.Lock()
		if l.epoch != e.epoch {
			l.mu.Unlock()
			done(ErrNotCoordinator)
			return
		}
		b, err := protocol.ParseBatch(batch)
		if err == nil {
			err = b.CheckCRC()
		}
		if err == nil && !b.Transactional() { // those of a transaction have no sequence
			err = b.Check()
		}
		if err != nil {
			panic(err)
		}
		b.SetBaseOffset(l.next)
		l.next = b.NextOffset()
		l.batches = append(l.batches, b)
		l.mu.Unlock()
		done(nil)
	}
	if l.hold {
		l.held = append(l.held, commit)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	commit()
}

func (e *epochLog) AppendTxn(batch []byte, _ string, _ bool, done func(error)) { e.Append(batch, done) }

func (e *epochLog) Read(offset int64, _ int) ([][]byte, error) {
	e.l.mu.Lock()
	block := e.l.block
	e.l.mu.Unlock()
	if block != nil {
		<-block
	}
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	if e.l.epoch != e.epoch {
		return nil, ErrNotCoordinator
	}
	for _, b := range e.l.batches {
		if protocol.Batch(b).BaseOffset() >= offset {
			return [][]byte{b}, nil
		}
	}
	return nil, nil
}

func (e *epochLog) Start() int64 { return 0 }

func (e *epochLog) Linearize(done func(error)) {
	e.l.mu.Lock()
	answer := func() {
		e.l.mu.Lock()
		ok := e.l.epoch == e.epoch
		e.l.mu.Unlock()
		if ok {
			done(nil)
		} else {
			done(ErrNotCoordinator)
		}
	}
	if e.l.holdLin {
		e.l.linear = append(e.l.linear, answer)
		e.l.mu.Unlock()
		return
	}
	e.l.mu.Unlock()
	answer()
}

// commit commits what is held, and holds no more.
func (l *memoryLog) commit() {
	l.mu.Lock()
	held := l.held
	l.held, l.hold = nil, false
	l.mu.Unlock()
	for _, fn := range held {
		fn()
	}
}

func (l *memoryLog) waitForCommit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = true
}

func (l *memoryLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = err
}

func (l *memoryLog) depose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
}

// append writes records as some earlier coordinator might have.
func (l *memoryLog) put(records ...protocol.Record) {
	b := protocol.BuildBatch(records, protocol.NewBatchOptions())
	l.mu.Lock()
	defer l.mu.Unlock()
	b.SetBaseOffset(l.next)
	l.next = b.NextOffset()
	l.batches = append(l.batches, b)
}

// compacted is the log with the last record of each key only, in order, and without those that delete.
func (l *memoryLog) compacted() *memoryLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	type place struct{ batch, record int }
	var all [][]protocol.Record
	last := make(map[string]place)
	for i, raw := range l.batches {
		var rs []protocol.Record
		for r, err := range protocol.Batch(raw).Records(nil) {
			if err != nil {
				panic(err)
			}
			last[string(r.Key)] = place{i, len(rs)}
			rs = append(rs, *r)
		}
		all = append(all, rs)
	}
	out := &memoryLog{epoch: l.epoch}
	for i, rs := range all {
		var kept []protocol.Record
		for k, r := range rs {
			if last[string(r.Key)] == (place{i, k}) && r.Value != nil {
				kept = append(kept, r)
			}
		}
		if len(kept) > 0 {
			out.put(kept...)
		}
	}
	return out
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

type groupHarness struct {
	t   fataler
	c   *Groups
	cfg GroupConfig
	log *memoryLog
	now time.Time
	ids int
}

// newGroupHarness leads the one partition there is, with no delay for first members.
func newGroupHarness(t fataler, cfg GroupConfig) *groupHarness {
	h := &groupHarness{t: t, log: &memoryLog{}, now: time.UnixMilli(1_700_000_000_000)}
	cfg.Partitions = func() int { return 1 }
	cfg.Now = func() time.Time { return h.now }
	cfg.NewID = func() string { h.ids++; return fmt.Sprint("id", h.ids) }
	if cfg.InitialRebalanceDelay == 0 {
		cfg.InitialRebalanceDelay = -1
	}
	h.cfg = cfg
	h.c = NewGroups(cfg)
	h.move()
	return h
}

// move ends the epoch and begins another one, with another coordinator: a new process, as far as state goes.
func (h *groupHarness) move() {
	h.t.Helper()
	h.log.depose()
	old := h.c
	h.c = NewGroups(h.cfg)
	h.c.Lead(0, h.log.epoch, &epochLog{h.log, h.log.epoch})
	_ = old.Close()
	h.loaded()
}

func (h *groupHarness) loaded() {
	h.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; runtime.Gosched() {
		if err := h.c.Heartbeat("no such group", "x", nil, 1); errors.Is(err, ErrUnknownMember) {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("the coordinator does not load")
		}
	}
}

// advance lets time pass, and timers fire at their time.
func (h *groupHarness) advance(d time.Duration) {
	end := h.now.Add(d)
	for {
		next := h.c.fireDue()
		if next.IsZero() || next.After(end) {
			break
		}
		h.now = next
	}
	h.now = end
	h.c.fireDue()
}

// answer is what a reply function was called with, once.
type answer[T any] struct {
	t     fataler
	n     int
	value T
}

func newAnswer[T any](t fataler) *answer[T] { return &answer[T]{t: t} }

func (a *answer[T]) set(v T) {
	a.n++
	a.value = v
	if a.n > 1 {
		a.t.Errorf("answered %d times", a.n)
	}
}

func (a *answer[T]) get() T {
	a.t.Helper()
	if a.n != 1 {
		a.t.Fatalf("answered %d times, want once", a.n)
	}
	return a.value
}

func (a *answer[T]) waits() bool { return a.n == 0 }

// want checks an error.
func (h *groupHarness) want(err, want error) {
	h.t.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		h.t.Fatalf("got error %v, want %v", err, want)
	}
}

func protocols(names ...string) []GroupProtocol {
	var out []GroupProtocol
	for _, n := range names {
		out = append(out, GroupProtocol{Name: n, Metadata: []byte("meta-" + n)})
	}
	return out
}

// request is a join with usual values.
func request(member string) *JoinRequest {
	return &JoinRequest{Group: "g", MemberID: member, ClientID: "c", ClientHost: "/h", Session: 10 * time.Second, Rebalance: 30 * time.Second,
		ProtocolType: "consumer", Protocols: protocols("range")}
}

func (h *groupHarness) join(r *JoinRequest) *answer[JoinResult] {
	a := newAnswer[JoinResult](h.t)
	h.c.Join(r, a.set)
	return a
}

func (h *groupHarness) sync(member string, generation int32, assignments map[string]string) *answer[SyncResult] {
	a := newAnswer[SyncResult](h.t)
	q := &SyncRequest{Group: "g", MemberID: member, Generation: generation, Assignments: map[string][]byte{}}
	for id, s := range assignments {
		q.Assignments[id] = []byte(s)
	}
	h.c.Sync(q, a.set)
	return a
}

func (h *groupHarness) heartbeat(member string, generation int32) error {
	return h.c.Heartbeat("g", member, nil, generation)
}

func (h *groupHarness) leave(member string) error {
	errs, err := h.leavesFrom("g", LeavingMember{ID: member})
	return errors.Join(append(errs, err)...)
}

func (h *groupHarness) leavesFrom(group string, members ...LeavingMember) (errs []error, err error) {
	h.t.Helper()
	a := newAnswer[error](h.t)
	h.c.Leave(group, members, func(es []error, e error) {
		errs = es
		a.set(e)
	})
	return errs, a.get()
}

// stable brings a group of n dynamic members to a generation; the first one leads.
func (h *groupHarness) stable(n int) (ids []string, generation int32) {
	h.t.Helper()
	joins := []*answer[JoinResult]{h.join(request(""))}
	ids = []string{joins[0].get().MemberID}
	if n > 1 {
		// The first one is already in a generation of its own, and comes again when it hears of the second.
		for range n - 1 {
			joins = append(joins, h.join(request("")))
		}
		joins[0] = h.join(request(ids[0]))
		ids = nil
		for _, a := range joins {
			h.want(a.get().Err, nil)
			ids = append(ids, a.get().MemberID)
		}
	}
	generation = joins[0].get().Generation
	assignments := map[string]string{}
	for _, id := range ids {
		assignments[id] = "part of " + id
	}
	for i := len(ids) - 1; i >= 0; i-- {
		var with map[string]string
		if i == 0 {
			with = assignments
		}
		defer func(a *answer[SyncResult], id string) {
			h.t.Helper()
			h.want(a.get().Err, nil)
			if got := string(a.get().Assignment); got != assignments[id] {
				h.t.Fatalf("%s was assigned %q", id, got)
			}
		}(h.sync(ids[i], generation, with), ids[i])
	}
	return ids, generation
}

func (h *groupHarness) commit(r *CommitRequest) *answer[error] {
	a := newAnswer[error](h.t)
	h.c.Commit(r, func(errs []error, err error) { a.set(errors.Join(append(errs, err)...)) })
	return a
}

func commitOf(group, member string, generation int32, offsets ...int64) *CommitRequest {
	r := &CommitRequest{Group: group, MemberID: member, Generation: generation, Retention: -1}
	for p, o := range offsets {
		r.Offsets = append(r.Offsets, CommittedOffset{Topic: "t", TopicID: TopicID{7}, Partition: int32(p), Offset: o, LeaderEpoch: 3, Metadata: "note"})
	}
	return r
}

// fetch is what is committed for the first n partitions of topic t.
func (h *groupHarness) fetch(group string, n int) []int64 {
	h.t.Helper()
	var want []TopicPartition
	for p := range n {
		want = append(want, TopicPartition{"t", int32(p)})
	}
	var out []int64
	a := newAnswer[error](h.t)
	h.c.FetchOffsets(group, want, false, func(offsets []CommittedOffset, err error) {
		for _, o := range offsets {
			out = append(out, o.Offset)
		}
		a.set(err)
	})
	h.want(a.get(), nil)
	return out
}

func (h *groupHarness) wantOffsets(group string, want ...int64) {
	h.t.Helper()
	if got := h.fetch(group, len(want)); !slices.Equal(got, want) {
		h.t.Fatalf("offsets of %s are %v, want %v", group, got, want)
	}
}

func (h *groupHarness) state(group string) string {
	d, err := h.c.Describe(group)
	if err != nil {
		return err.Error()
	}
	return d.State
}

func (h *groupHarness) wantState(want string) {
	h.t.Helper()
	if got := h.state("g"); got != want {
		h.t.Fatalf("the group is %s, want %s", got, want)
	}
}

// stored is a group's part of the state that the log determines.
type storedGroup struct {
	offsets map[string]map[int32]CommittedOffset
	meta    *kmsg.GroupMetadataValue
}

// storedState is that of all groups of a coordinator.
func storedState(c *Groups) map[string]storedGroup {
	out := make(map[string]storedGroup)
	for _, s := range c.all() {
		s.mu.Lock()
		for name, g := range s.groups {
			if !g.stored && g.count == 0 {
				continue
			}
			v := storedGroup{offsets: make(map[string]map[int32]CommittedOffset), meta: g.meta}
			for topic, t := range g.offsets {
				v.offsets[topic] = make(map[int32]CommittedOffset)
				for p, o := range t {
					same := *o
					same.order = 0 // it counts what this shard has read, which is less of a compacted log
					v.offsets[topic][p] = same
				}
			}
			out[name] = v
		}
		s.mu.Unlock()
	}
	return out
}

func sameStored(a, b map[string]storedGroup) error {
	if !slices.Equal(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b))) {
		return fmt.Errorf("groups %v and %v", slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)))
	}
	for name, ga := range a {
		gb := b[name]
		if !maps.EqualFunc(ga.offsets, gb.offsets, maps.Equal[map[int32]CommittedOffset]) {
			return fmt.Errorf("group %s: offsets %v and %v", name, ga.offsets, gb.offsets)
		}
		switch {
		case (ga.meta == nil) != (gb.meta == nil):
			return fmt.Errorf("group %s: metadata %v and %v", name, ga.meta, gb.meta)
		case ga.meta != nil && string(ga.meta.AppendTo(nil)) != string(gb.meta.AppendTo(nil)):
			return fmt.Errorf("group %s: metadata %+v and %+v", name, ga.meta, gb.meta)
		}
	}
	return nil
}

var _ fataler = (*testing.T)(nil)
