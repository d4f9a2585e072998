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
