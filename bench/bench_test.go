package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// fake keeps records in memory, and can be told to misbehave. Partition p is led by node p%3, and by the next one when that is dead.
type fake struct {
	name string

	mu      sync.Mutex
	parts   [][][]byte
	offset  []int // by partition: what the group has read
	dead    [3]bool
	started int
	looks   int      // since a node came back
	waiting []func() // what was sent to partitions without a leader

	tamper func(parts [][][]byte)
	err    error // of Start
	mute   bool  // nothing is ever acknowledged
}

func (f *fake) Name() string {
	if f.name != "" {
		return f.name
	}
	return "fake"
}
func (f *fake) Mode() string { return "" }
func (f *fake) Start(_ context.Context, _ string, c Cell) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started++
	if f.parts == nil {
		f.parts, f.offset = make([][][]byte, c.Partitions), make([]int, c.Partitions)
	}
	f.revive(0, 1, 2)
	return f.err
}

// revive lets nodes answer again, with what has waited for them.
func (f *fake) revive(nodes ...int) {
	for _, n := range nodes {
		f.dead[n] = false
	}
	for _, fn := range f.waiting {
		fn()
	}
	f.waiting = nil
}
func (f *fake) Create(_ context.Context, c Cell, made func(int)) error {
	made(c.Partitions)
	return nil
}
func (f *fake) Leaders(_ context.Context, n int) ([]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	leaders := make([]int, n)
	for p := range leaders {
		leaders[p] = f.leader(p)
	}
	return leaders, nil
}
func (f *fake) leader(p int) int {
	for i := range 3 {
		if n := (p + i) % 3; !f.dead[n] {
			return n
		}
	}
	return -1
}
func (f *fake) Pids() []int { return nil }
func (f *fake) Kill(node int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead[node], f.looks = true, 0
	return nil
}
func (f *fake) Stop() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = [3]bool{true, true, true}
	return nil
}
func (f *fake) Disconnect() { // the end of a turn: the next one has data of its own
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts = nil
}
func (f *fake) StartNode(_ context.Context, node int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revive(node)
	return nil
}

// InSync is so at the third look after a node is back.
func (f *fake) InSync(_ context.Context, node int) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dead[node] {
		f.looks++
	}
	return f.looks >= 3, nil
}
func (f *fake) Opened(_ context.Context, node int) (bool, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.dead[node], "looking", nil
}
func (f *fake) Producer(context.Context, int) (Producer, error) { return f, nil }
func (f *fake) Send(_ context.Context, p int, rec []byte, done func(error)) {
	rec = bytes.Clone(rec)
	f.mu.Lock()
	defer f.mu.Unlock()
	store := func() {
		f.parts[p] = append(f.parts[p], rec)
		go done(nil)
	}
	if f.mute {
		return
	}
	if f.leader(p) < 0 {
		f.waiting = append(f.waiting, store)
		return
	}
	store()
}
func (f *fake) Flush(context.Context) error { return nil }
func (f *fake) Close()                      {}
func (f *fake) ReadBack(_ context.Context, fn func(int, []byte)) error {
	if f.tamper != nil {
		f.tamper(f.parts)
	}
	for p, recs := range f.parts {
		for _, r := range recs {
			fn(p, r)
		}
	}
	return nil
}

func (f *fake) Consumer(context.Context) (Consumer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &fakeConsumer{f: f}
	for p := range f.parts {
		c.at = append(c.at, len(f.parts[p]))
	}
	return c, nil
}
func (f *fake) Member(context.Context, int) (Consumer, error) {
	return &fakeConsumer{f: f, group: true}, nil
}

type fakeConsumer struct {
	f     *fake
	group bool
	at    []int
}

func (c *fakeConsumer) Run(ctx context.Context, fn func(int, []byte)) error {
	for ctx.Err() == nil {
		c.f.mu.Lock()
		at := c.at
		if c.group {
			at = c.f.offset
		}
		var got [][]byte
		for p, recs := range c.f.parts {
			got = append(got, recs[at[p]:]...)
			at[p] = len(recs)
		}
		c.f.mu.Unlock()
		for _, r := range got {
			fn(int(binary.BigEndian.Uint32(r[4:])), r)
		}
		pause(ctx, time.Millisecond)
	}
	return nil
}
func (c *fakeConsumer) Close() {}

func cellOf(t *testing.T, scenario string) Cell {
	t.Helper()
	s, ok := Find(scenario)
	if !ok {
		t.Fatalf("no scenario %s", scenario)
	}
	s.Classes, s.Partitions, s.Producers, s.RecordBytes = s.Classes[:1], []int{4}, []int{2}, []int{64}
	if s.Backlog > 0 {
		s.Backlog = 64_000
	}
	if s.Inflight > 0 {
		s.Inflight = 4096
	}
	return s.Cells(2000)[0]
}

// runFake takes fakes through a cell.
func runFakes(t *testing.T, o Options, c Cell, systems ...System) ([]Result, error) {
	t.Helper()
	o.Rounds, o.Warmup, o.Measure, o.poll = max(o.Rounds, 1), time.Millisecond, max(o.Measure, 20*time.Millisecond), time.Millisecond
	o.Verify, o.Dir, o.Log = true, t.TempDir(), t.Logf
	var got []Result
	err := Run(t.Context(), o, []Cell{c}, func(Cell) []System { return systems }, func(r Result) { got = append(got, r) })
	return got, err
}

func runFake(t *testing.T, f *fake, scenario string) Result {
	t.Helper()
	got, err := runFakes(t, Options{}, cellOf(t, scenario), f)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d results, %v", len(got), err)
	}
	return got[0]
}

// A system that never answers costs its turn, and not the run.
func TestMuteSystem(t *testing.T) {
	got, err := runFakes(t, Options{Limit: 50 * time.Millisecond}, cellOf(t, "T1"), &fake{mute: true})
	if err != nil || len(got) != 1 || !strings.Contains(got[0].Failed, "4 of 4 have had no answer") {
		t.Fatalf("%v, %v", got, err)
	}
}

// The first message of a stream is published by itself in each of the client's modes: alone in a session of fast ingest, or in an atomic batch
// that is not full, it would never be acknowledged, and a turn begins with one record in each partition.
func TestJetStreamFirstMessageAlone(t *testing.T) {
	for _, mode := range []string{JetStreamFast, JetStreamAtomic} {
		js := &oneByOne{}
		p := &natsProducer{js: js, mode: mode, fast: []*fastStream{{}, {}}, atomic: []*atomicStream{{size: 3}, {size: 3}}}
		for partition := range 2 {
			told := false
			if p.Send(t.Context(), partition, []byte("x"), func(err error) { told = err == nil }); !told || js.published != partition+1 {
				t.Errorf("%s, partition %d: told %v, %d published", mode, partition, told, js.published)
			}
		}
	}
}

// oneByOne acknowledges what is published by itself.
type oneByOne struct {
	jetstream.JetStream
	published int
}

func (o *oneByOne) Publish(context.Context, string, []byte, ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	o.published++
	return &jetstream.PubAck{}, nil
}

func TestVerifyAcceptsWhatIsWhole(t *testing.T) {
	for _, s := range Scenarios() {
		if s.IsMany() {
			continue
		}
		t.Run(s.ID, func(t *testing.T) {
			r := runFake(t, &fake{}, s.ID)
			if r.Failed != "" || r.Verified == nil || r.Verified.Acked == 0 || r.Verified.Read < r.Verified.Acked || !r.Verified.OK() {
				t.Fatalf("%+v, %+v", r, r.Verified)
			}
			if s.Backlog == 0 && (r.Records == 0 || r.Latency.Count != r.Records || r.Seconds == 0) {
				t.Fatalf("%+v", r)
			}
			if r.Line() == "" {
				t.Fatal("nothing is said of it")
			}
		})
	}
}

func TestVerifySees(t *testing.T) {
	for name, tamper := range map[string]func([][][]byte){
		"nothing":             func([][][]byte) {},
		"a lost record":       func(p [][][]byte) { p[0] = p[0][1:] },
		"a duplicate":         func(p [][][]byte) { p[1] = append(p[1], p[1][0]) },
		"a wrong order":       func(p [][][]byte) { p[0] = append(p[0][1:], p[0][0]) },
		"a foreign record":    func(p [][][]byte) { p[0] = append(p[0], p[1][0]) },
		"a truncated record":  func(p [][][]byte) { p[0][3] = p[0][3][:10] },
		"a record never sent": func(p [][][]byte) { p[0][2] = bytes.Repeat([]byte{0xff}, 64) },
	} {
		f, c := &fake{tamper: tamper}, cellOf(t, "T1")
		l := newLoad(c, f)
		if err := errors.Join(f.Start(t.Context(), "", c), l.start(t.Context(), -1)); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := l.probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		l.end()
		v, err := l.verify(t.Context())
		if seen := err != nil || !v.OK(); seen != (name != "nothing") {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

// What is lost when nodes are killed is a figure of a peer's, and a failure of ours.
func TestVerifyOfAPeerThatIsKilled(t *testing.T) {
	lose := func(p [][][]byte) { p[0] = p[0][1:] }
	if r := runFake(t, &fake{tamper: lose}, "F1"); r.Failed != "" || r.Verified.Lost != 1 || len(r.Notes) == 0 {
		t.Fatalf("%+v, %+v", r, r.Verified)
	}
	if r := runFake(t, &fake{tamper: lose, name: OurName}, "F1"); !strings.Contains(r.Failed, "verification failed") || r.Verified.Lost != 1 {
		t.Fatalf("%+v, %+v", r, r.Verified)
	}
}

func TestARefusedRecordIsNotLost(t *testing.T) {
	sys := &refusing{fake: &fake{}}
	got, err := runFakes(t, Options{}, cellOf(t, "T1"), sys)
	if n := sys.refused.Load(); err != nil || got[0].Failed != "" || n == 0 || got[0].Errors != n || got[0].Verified.Lost != 0 || len(got[0].Notes) != 1 {
		t.Fatalf("%d refused, %d counted, %v, %v", n, got[0].Errors, got, err)
	}
}

// refusing refuses the second record that a producer sends to a partition: something was acknowledged after the first ones, so that there is one.
type refusing struct {
	*fake
	refused atomic.Int64
}

func (r *refusing) Producer(context.Context, int) (Producer, error) { return &refusingProducer{r}, nil }

type refusingProducer struct{ *refusing }

func (p *refusingProducer) Send(ctx context.Context, part int, rec []byte, done func(error)) {
	if binary.BigEndian.Uint64(rec[8:]) == 1 {
		p.refused.Add(1)
		done(errors.New("no room"))
		return
	}
	p.fake.Send(ctx, part, rec, done)
}

func TestACellThatIsNotOfferedIsSaidSo(t *testing.T) {
	if r := runFake(t, &fake{err: ErrNotOffered}, "T1"); r.Skipped == "" || r.Failed != "" {
		t.Fatalf("%+v", r)
	}
	// A system that does not start is a result; the others go on.
	got, err := runFakes(t, Options{Rounds: 2}, cellOf(t, "T1"), &fake{err: errors.New("broken")}, &fake{name: "other"})
	if err != nil || len(got) != 4 || !strings.Contains(got[0].Failed, "broken") || got[1].Failed != "" || got[1].Records == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
}

// An interrupt ends the run, and leaves nothing running.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{}
	o := Options{Rounds: 1, Warmup: time.Millisecond, Measure: time.Hour, Dir: t.TempDir(), Status: func(string, ...any) {}, poll: time.Millisecond,
		Log: func(string, ...any) { time.AfterFunc(10*time.Millisecond, cancel) }}
	err := Run(ctx, o, []Cell{cellOf(t, "L2")}, func(Cell) []System { return []System{f} }, func(Result) { t.Error("there is a result") })
	if !errors.Is(err, context.Canceled) || f.dead != [3]bool{true, true, true} {
		t.Fatalf("%v, %+v", err, f.dead)
	}
	if left, _ := filepath.Glob(filepath.Join(o.Dir, "*")); len(left) > 0 {
		t.Fatalf("%q was left behind", left)
	}
}

func TestScenarioFigures(t *testing.T) {
	f1 := runFake(t, &fake{}, "F1")
	if f := f1.Failover; f == nil || f.Orphaned != 2 || f.Node != 1 || f.FirstAckSec <= 0 || f.GapSec < f.FirstAckSec/2 || len(f1.Marks) != 2 || len(f1.Phases) != 2 {
		t.Fatalf("%+v, %+v", f1, f1.Failover)
	}
	f2 := runFake(t, &fake{}, "F2")
	if b := f2.Return; b == nil || b.Node != 2 || b.MissedBytes < 64_000 || b.InSyncSec <= 0 {
		t.Fatalf("%+v, %+v", f2, f2.Return)
	}
	var names []string
	for _, p := range f2.Phases {
		names = append(names, p.Name)
	}
	if !slices.Equal(names, []string{"one away, backlog", "one away, live load", "catching up", "back"}) {
		t.Fatalf("%q", names)
	}
	c1 := runFake(t, &fake{}, "C1")
	if c := c1.CatchUp; c == nil || c.BacklogRecords < 1000 || c.Read < c.BacklogRecords || c.MBSec <= 0 || c.Cache == "" {
		t.Fatalf("%+v, %+v", c1, c1.CatchUp)
	}
	f := &fake{}
	r1 := runFake(t, f, "R1")
	if r := r1.Restart; r == nil || f.started != 3 || r.Clean.OpenSec <= 0 || r.Clean.LedSec < r.Clean.OpenSec || r.Unclean.AckSec <= 0 || r.Clean.Opened != "looking" {
		t.Fatalf("%d starts, %+v, %+v", f.started, r1, r1.Restart)
	}
	l2 := runFake(t, &fake{}, "L2")
	if e := l2.EndToEnd; e == nil || e.Count == 0 || e.P50 < l2.Latency.P50/1000 || len(l2.Series) == 0 {
		t.Fatalf("%+v, %+v", l2, l2.EndToEnd)
	}
}

// stalling answers nothing for a while, from the first record on that is sent once it is measured.
type stalling struct {
	*fake
	measured bool
	begin    time.Time
}

func (s *stalling) Pids() []int { // whoever asks is about to measure
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measured = true
	return nil
}

func (s *stalling) Producer(context.Context, int) (Producer, error) { return &stallingProducer{s}, nil }

type stallingProducer struct{ *stalling }

func (p *stallingProducer) Send(ctx context.Context, part int, rec []byte, done func(error)) {
	p.mu.Lock()
	if p.measured && p.begin.IsZero() {
		p.begin = time.Now()
	}
	begin := p.begin
	p.mu.Unlock()
	if !begin.IsZero() { // it blocks, as a client whose window is full
		pause(ctx, time.Until(begin.Add(200*time.Millisecond)))
	}
	p.fake.Send(ctx, part, rec, done)
}

// Every record that was due in a stall shows it, though the sender stood still: at 2,000 a second and 200 ms that are some 400 records, of
// which all but one would look fast if each counted from when it could be sent.
func TestOpenLoopHasNoCoordinatedOmission(t *testing.T) {
	got, err := runFakes(t, Options{Measure: 1500 * time.Millisecond}, cellOf(t, "L2"), &stalling{fake: &fake{}})
	if err != nil || got[0].Failed != "" {
		t.Fatalf("%+v, %v", got, err)
	}
	h, err := got[0].Latency.Histogram()
	if err != nil {
		t.Fatal(err)
	}
	slow := int64(0)
	for _, b := range h.Distribution() {
		if b.From >= int64(20*time.Millisecond) {
			slow += b.Count
		}
	}
	if slow < 100 {
		t.Fatalf("%d of %d records show the stall", slow, got[0].Records)
	}
}

// The rate of an open loop is half of what the slowest system manages.
func TestCalibration(t *testing.T) {
	c := cellOf(t, "L2")
	c.Rate = 0
	got, err := runFakes(t, Options{}, c, &fake{}, &slow{&fake{name: "slow"}}, &fake{name: "absent", err: ErrNotOffered})
	if err != nil || len(got) != 3 || got[0].Rate <= 0 || got[0].Rate != got[1].Rate || got[0].Failed != "" {
		t.Fatalf("%+v, %v", got, err)
	}
	if got[0].Rate > 1000 { // a record takes a millisecond, there are two producers
		t.Fatalf("the rate is %d", got[0].Rate)
	}
}

type slow struct{ *fake }

func (s *slow) Producer(context.Context, int) (Producer, error) { return &slowProducer{s.fake}, nil }

type slowProducer struct{ *fake }

func (p *slowProducer) Send(ctx context.Context, part int, rec []byte, done func(error)) {
	pause(ctx, time.Millisecond)
	p.fake.Send(ctx, part, rec, done)
}

// An acknowledgement, or a record that was read, whose goroutine stood still while the series began, is in its first step.
func TestLateForTheSeries(t *testing.T) {
	c := cellOf(t, "L2")
	l := newLoad(c, &fake{})
	reader := l.reader()
	l.next("measuring")
	s := l.shards[0]
	s.origin += time.Hour
	reader.origin += time.Hour
	r := l.take(0)
	l.ack(r)
	reader.consume(r.bytes)
	if points, _ := l.series(); len(points) != 1 || points[0].Acked != 1 || points[0].Consumed != 1 {
		t.Errorf("%+v", points)
	}
}

// A backlog is read when each slot that has any is read to its end, whoever reads it, and however often.
func TestBacklogIsRead(t *testing.T) {
	l := newLoad(cellOf(t, "C1"), &fake{})
	const last = 1000
	for _, slot := range []int{0, 3} {
		l.lastAcked[slot].Store(last)
		l.acked[slot].Store(last)
	}
	b := newBacklog(l)
	if b.all != 2*last {
		t.Fatalf("%d records in all", b.all)
	}
	whole := func() bool {
		select {
		case <-b.done:
			return true
		default:
			return false
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for seq := range uint64(last + 10) {
				b.read(0, seq)
				b.read(1, seq) // has none
			}
		})
	}
	wg.Wait()
	b.read(3, last-2)
	if whole() {
		t.Fatal("read before its end")
	}
	b.read(3, last-1)
	b.read(3, last-1)
	if !whole() {
		t.Fatal("not read at its end")
	}
}

func TestGaps(t *testing.T) {
	g := newGaps(2)
	at := func(d time.Duration) time.Time { return g.from.Add(d) }
	g.ack(0, at(-time.Second), at(time.Second)) // due before the kill
	g.ack(0, at(-time.Second), at(2*time.Second))
	g.ack(0, at(time.Second), at(5*time.Second))
	g.ack(0, at(time.Second), at(6*time.Second))
	if longest, first := g.of(0); longest != 3*time.Second || first != 5*time.Second {
		t.Fatal(longest, first)
	}
	if _, first := g.of(1); first != 0 {
		t.Fatal(first)
	}
}

func TestCellsAreTheProductOfTheLists(t *testing.T) {
	for _, s := range Scenarios() {
		seen := make(map[Cell]bool)
		for _, c := range s.Cells(0) {
			seen[c] = true
		}
		want := len(s.Classes) * len(s.Replicas) * len(s.Partitions)
		for _, list := range [][]int{s.RecordBytes, s.Producers, s.Consumers} {
			want *= max(1, len(list))
		}
		if s.Star { // one list after the other: the load of all first values counts once
			want = len(s.Replicas) + len(s.Partitions) + len(s.RecordBytes) + len(s.Producers) + len(s.Consumers) - 4
		}
		if !s.IsMany() && len(seen) != want {
			t.Errorf("%s has %d cells, not %d", s.ID, len(seen), want)
		}
	}
	g1, _ := Find("G1")
	if cells := g1.Only([]string{OverReplicas}).Cells(0); len(cells) != len(g1.Replicas) || slices.ContainsFunc(cells, func(c Cell) bool { return c.Partitions != g1.Partitions[0] }) {
		t.Errorf("only replicas grow: %v", cells)
	}
	l1, _ := Find("l1")
	if c := l1.Cells(0)[0]; c.InflightBytes != c.RecordBytes || c.Rate != 0 {
		t.Errorf("L1 has more than one record in flight: %+v", c)
	}
}

func TestTableHasTheRatio(t *testing.T) {
	rep := NewReport("", []string{"bench", "run", "T1"})
	c := cellOf(t, "T1")
	for i := range 3 {
		rep.Results = append(rep.Results, Result{Cell: c, System: OurName, Round: i + 1, RecordsSec: 300, Verified: &Verification{Acked: 7}},
			Result{Cell: c, System: "jetstream", Mode: "async", Round: i + 1, RecordsSec: 100}, Result{Cell: c, System: "kafka", Round: i + 1, Failed: "it fell over"})
	}
	f1 := cellOf(t, "F1")
	rep.Results = append(rep.Results, Result{Cell: f1, System: OurName, Round: 1, Failover: &Failover{GapSec: 2}}, Result{Cell: f1, System: "kafka", Round: 1, Failover: &Failover{GapSec: 9}})
	var b strings.Builder
	if err := rep.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3.00x", "median of 3 rounds", "kafka, round 1: FAILED: it fell over", "silent s", "4.50x"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, b.String())
		}
	}
}

func TestReportIsReadAsWritten(t *testing.T) {
	rep := NewReport("", []string{"bench", "run", "L2"})
	rep.Results = append(rep.Results, runFake(t, &fake{}, "L2"))
	file := filepath.Join(t.TempDir(), "r.json")
	if err := rep.Save(file); err != nil {
		t.Fatal(err)
	}
	got, err := ReadReport(file)
	if err != nil || len(got.Results) != 1 || got.Results[0].Cell != rep.Results[0].Cell || got.Machine != rep.Machine {
		t.Fatalf("%+v, %v", got, err)
	}
	h, err := got.Results[0].Latency.Histogram()
	if err != nil || h.TotalCount() != got.Results[0].Records || float64(h.ValueAtQuantile(99))/1e6 != got.Results[0].Latency.P99 {
		t.Fatalf("%v, %v", h, err)
	}
	rep.Schema++
	if err := rep.Save(file); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadReport(file); !errors.Is(err, errSchema) {
		t.Fatal(err)
	}
}
