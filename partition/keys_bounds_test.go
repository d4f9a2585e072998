package partition

import (
	"fmt"
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
)

// What compresses well holds many keys in few bytes: they are counted from the look inside to the answer, and as long as they are staged.
func TestKeysOnTheirWayAreBounded(t *testing.T) {
	c := newKeyed(t, 3, nil, nil)
	l := c.leader()
	many := make([]protocol.Record, maxBatchKeys+1)
	for i := range many {
		many[i] = protocol.Record{Key: []byte("k"), Value: []byte{}}
	}
	bomb := withCodec(protocol.CodecZstd, many...)
	if len(bomb) > 1<<20 {
		t.Fatalf("%d bytes", len(bomb))
	}
	wantErr(t, "a batch of too many", l.produce(bomb, -1).Err, ErrTooLarge)
	l.mustProduce(withCodec(protocol.CodecZstd, many[:1000]...))

	keys := l.rep.cfg.Keys
	c.pass(time.Second)
	c.isolate(l.id)
	pending := l.append(recordsOf(on("a", []byte("1"), ""), on("b", []byte("2"), "")), -1)
	c.settle()
	if n := keys.way.Load(); n != 2 || *pending != nil || l.rep.m.staging.keys.count != 2 {
		t.Errorf("%d keys are on their way, %d staged, %+v", n, l.rep.m.staging.keys.count, *pending)
	}
	c.heal()
	c.until("an answer", func() bool { return *pending != nil })
	if n := keys.way.Load(); n != 0 || (*pending).Err != nil || l.rep.m.staging.keys.count != 0 {
		t.Errorf("%d keys are on their way, %d staged, %+v", n, l.rep.m.staging.keys.count, *pending)
	}

	keys.way.Add(maxKeysOnWay - 1)
	wantErr(t, "beyond what may be on its way", l.produce(recordsOf(on("a", nil, ""), on("b", nil, "")), -1).Err, ErrOverloaded)
	l.mustProduce(recordsOf(on("a", nil, "")))
	if n := keys.way.Add(1 - maxKeysOnWay); n != 0 {
		t.Errorf("%d keys are on their way", n)
	}
	l.rep.m.staging.keys.count = maxKeysOnWay
	wantErr(t, "beyond what may be staged", l.produce(recordsOf(on("a", nil, "")), -1).Err, ErrOverloaded)
	l.rep.m.staging.keys.count = 0
	l.wantKey("b", "2", 1001)
}

// What comes while a table is read has the same bound; and a memory of few keys is enough for as many.
func TestKeyMemoryWhileATableIsRead(t *testing.T) {
	var tasks []func()
	run := func() {
		for len(tasks) > 0 {
			f := tasks[0]
			tasks = tasks[1:]
			f()
		}
	}
	c := newKeyed(t, 1, &tasks, func(c *Config) { c.Keys = &KeyMemory{most: 4} })
	again := func() *node {
		c.nodes[0].stop()
		c.nodes[0].start()
		return c.leader()
	}
	l := c.leader()
	run()
	for i := range 4 {
		l.mustProduce(recordsOf(on(fmt.Sprint(i), []byte("v"), "none")))
	}
	l = again()
	run()
	if n, ready := l.rep.KeyCount(); n != 4 || !ready {
		t.Fatalf("%d keys, %v", n, ready)
	}
	l = again()
	for i := range 20 {
		l.mustProduce(recordsOf(on(fmt.Sprint("new", i), nil, "")))
	}
	if used := l.rep.cfg.Keys.Used(); used > 4 {
		t.Errorf("%d keys are counted", used)
	}
	run()
	_, err := l.lookUp("0")
	wantErr(t, "with less memory", err, ErrKeyMemory)
	if used := l.rep.cfg.Keys.Used(); used != 0 {
		t.Errorf("%d keys are counted", used)
	}
	l.rep.m.keys.retry = time.Time{}
	_, err = l.lookUp("0")
	wantErr(t, "once more", err, ErrKeysLoading)
	run()
	l.wantKey("0", "v", 0)
}

// A start that moves costs the worker nothing: keys below it do not exist at once, and their memory is taken back in steps, others using the table between them.
func TestKeysBelowTheStartAreSwept(t *testing.T) {
	var tasks []func()
	c := newKeyed(t, 1, &tasks, nil)
	l := c.leader()
	for len(tasks) > 0 {
		tasks[0]()
		tasks = tasks[1:]
	}
	for _, k := range []string{"a", "b", "c"} {
		l.mustProduce(recordsOf(on(k, []byte(k), "none")))
	}
	for start := int64(1); start <= 2; start++ { // the second while the first waits
		done := false
		l.rep.DeleteBefore(start, func(int64, error) { done = true })
		c.until("the start has moved", func() bool { return done })
	}
	if n, _ := l.rep.KeyCount(); n != 3 || len(tasks) != 1 {
		t.Fatalf("%d keys, and %d tasks", n, len(tasks))
	}
	l.wantKey("b", "", -1)
	if got := conflicts(t, l.produce(recordsOf(on("b", nil, "1")), -1).Err); got != "0:current=none" {
		t.Error(got)
	}
	tasks[0]()
	if n, _ := l.rep.KeyCount(); n != 1 || l.rep.cfg.Keys.Used() != 1 {
		t.Errorf("%d keys, %d counted", n, l.rep.cfg.Keys.Used())
	}
	l.wantKey("c", "c", 2)

	const most = 5*sweepStep + 17
	table := &keyTable{memory: &KeyMemory{most: 2 * most, run: func(f func()) { tasks = append(tasks, f) }}, state: tableReady, last: make(map[keyHash]int64)}
	table.on.Store(true)
	for i := range int64(most) {
		table.last[hashOf(fmt.Append(nil, i))] = i
	}
	table.count(0)
	tasks = nil
	table.below(most / 2)
	sweep, swept := tasks[0], make(chan struct{})
	go func() { sweep(); close(swept) }()
	for i := int64(most); i < 2*most; i++ { // new keys, and old ones again
		table.mu.Lock()
		table.last[hashOf(fmt.Append(nil, i-most/4))] = i
		table.mu.Unlock()
	}
	table.below(most/2 + 100)
	<-swept
	for _, f := range tasks[1:] {
		f()
	}
	for _, o := range table.last {
		if o < most/2+100 {
			t.Fatalf("a key of offset %d is in the table", o)
		}
	}
	table.count(0)
	if used := table.memory.Used(); used != int64(len(table.last)) || used < most {
		t.Errorf("%d keys, %d counted", len(table.last), used)
	}
}
