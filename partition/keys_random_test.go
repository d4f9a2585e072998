package partition

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
)

// condWrite is a write of one record, sent until it has its answer.
type condWrite struct {
	key, value, expect string
	batch              protocol.Batch
	since              int64 // what was acknowledged when it was sent first: it is after that
	until              int64 // what was committed when it had its answer
	offset             int64 // where it is; -1: it was refused
	current            string
}

// condLane is a producer with one write on its way.
type condLane struct {
	id     int64
	next   int32
	at     *condWrite
	res    *AppendResult
	target *node
	boot   uint64
	late   []protocol.Batch // refused: copies of them come again
}

// Crashes, power losses, partitions, transfers and snapshots under conditional writes. In the log as it comes to be, every condition holds; what was refused is
// not in it, what was acknowledged is, once; and each refusal tells what was true at some moment between the question and its answer. Seeds are fixed; a failure
// names its own.
func TestRandomConditions(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	written, refused := 0, 0
	for seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			w, r := randomConditions(t, uint64(seed))
			written, refused = written+w, refused+r
		})
	}
	if t.Logf("%d were written, %d refused", written, refused); written < 10*seeds || refused < 10*seeds {
		t.Error("that is too few to say anything")
	}
}

func randomConditions(t *testing.T, seed uint64) (written, refused int) {
	rng := rand.New(rand.NewPCG(seed, 77))
	var tasks []func()
	c := newKeyed(t, 3, &tasks, func(c *Config) { c.SnapshotEvery = 2 << 10 })
	lanes := make([]*condLane, 4)
	for i := range lanes {
		lanes[i] = &condLane{id: int64(i + 1)}
	}
	var (
		writes []*condWrite
		acked  int64
		known  = make(map[string]string) // what the test believes of a key: an offset, or none
		number int
	)
	committed := func() (hw int64) {
		for _, n := range c.nodes {
			if n.host != nil {
				at, _ := n.rep.HighWatermark()
				hw = max(hw, at)
			}
		}
		return hw
	}
	send := func(l *condLane) {
		n := c.anyLeader(rng)
		if n == nil {
			return
		}
		l.target, l.boot, l.res = n, n.boot, nil
		w := l.at
		n.rep.Append(&AppendRequest{Batch: bytes.Clone(w.batch), Acks: -1, Done: func(r AppendResult) {
			l.res, w.until = &r, committed()
		}})
	}
	step := func(l *condLane, more bool) {
		if l.at == nil {
			if !more {
				return
			}
			number++
			w := &condWrite{key: fmt.Sprint("k", rng.IntN(5)), value: fmt.Sprint("v", number), since: acked}
			switch rng.IntN(6) {
			case 0: // without a condition
			case 1:
				w.expect = ExpectNone
			default:
				if w.expect = known[w.key]; w.expect == "" {
					w.expect = ExpectNone
				}
			}
			value := []byte(w.value)
			if rng.IntN(6) == 0 {
				w.value, value = "", nil
			}
			w.batch = recordsOf(on(w.key, value, w.expect))
			w.batch.SetProducer(l.id, 0, l.next)
			w.batch.UpdateCRC()
			l.at, l.target = w, nil
			send(l)
			return
		}
		w := l.at
		switch {
		case l.target == nil || l.target.host == nil || l.target.boot != l.boot: // it has died with the question
			send(l)
		case l.res == nil:
		case l.res.Err == nil:
			w.offset, acked = l.res.BaseOffset, max(acked, l.res.BaseOffset+1)
			known[w.key] = strconv.FormatInt(w.offset, 10)
			if w.value == "" {
				known[w.key] = ExpectNone
			}
			writes, l.at, l.next = append(writes, w), nil, l.next+1
		case errors.Is(l.res.Err, ErrConditionFailed):
			e, _ := errors.AsType[*RecordsError](l.res.Err)
			w.offset, w.current = -1, strings.TrimPrefix(strings.Replace(e.Records[0].Message, "was refused when ", "", 1), ExpectHeader+": current=")
			known[w.key] = w.current
			writes, l.at = append(writes, w), nil
			l.late = append(l.late[max(len(l.late)+1-maxRefusals, 0):], bytes.Clone(w.batch))
		case errors.Is(l.res.Err, ErrOutOfOrderSequence), errors.Is(l.res.Err, ErrInvalidRecord):
			t.Errorf("seed %d: %+v: %v", seed, w, l.res.Err)
			l.at = nil
		default:
			send(l)
		}
	}
	for range 400 {
		c.disturb(rng)
		for len(tasks) > 0 && rng.IntN(3) > 0 {
			f := tasks[0]
			tasks = tasks[1:]
			f()
		}
		for range 3 {
			step(lanes[rng.IntN(len(lanes))], true)
		}
		// A copy that had lain somewhere. Its answer is nobody's.
		if l := lanes[rng.IntN(len(lanes))]; len(l.late) > 0 && rng.IntN(2) == 0 {
			if n := c.anyLeader(rng); n != nil {
				n.rep.Append(&AppendRequest{Batch: bytes.Clone(l.late[rng.IntN(len(l.late))]), Acks: -1, Done: func(AppendResult) {}})
			}
		}
		c.pass(time.Duration(rng.IntN(8)) * 10 * time.Millisecond)
	}
	c.heal()
	for _, n := range c.nodes {
		if n.host == nil {
			n.start()
		}
	}
	c.until("all writes are through", func() bool {
		for len(tasks) > 0 {
			f := tasks[0]
			tasks = tasks[1:]
			f()
		}
		idle := true
		for _, l := range lanes {
			step(l, false)
			idle = idle && l.at == nil
		}
		return idle
	})

	// The log, record by record: what each key was after each.
	l := c.leader()
	if err := l.linearize(); err != nil {
		t.Fatal(err)
	}
	type place struct{ key, value string }
	var log []place
	now, after := map[string]string{}, []map[string]string{{}} // after so many records
	hw, _ := l.rep.HighWatermark()
	for at := int64(0); at < hw; {
		r, err := l.rep.Read(ReadQuery{Offset: at, MaxBytes: 1 << 20, LeaderEpoch: -1})
		if err != nil || len(r.Batches) == 0 {
			t.Fatalf("read %d of %d: %v", at, hw, err)
		}
		for _, raw := range r.Batches {
			for rec, err := range protocol.Batch(raw).Records(nil) {
				if err != nil || rec.Offset != at {
					t.Fatalf("offset %d, want %d: %v", rec.Offset, at, err)
				}
				key, current := string(rec.Key), ExpectNone
				if o, ok := now[key]; ok {
					current = o
				}
				if len(rec.Headers) > 0 && string(rec.Headers[1].Value) != current {
					t.Errorf("seed %d: at %d, %s was written expecting %s, and is %s", seed, at, key, rec.Headers[1].Value, current)
				}
				if now[key] = strconv.FormatInt(at, 10); rec.Value == nil {
					delete(now, key)
				}
				log = append(log, place{key, string(rec.Value)})
				after = append(after, maps.Clone(now))
				at++
			}
		}
	}
	found := make(map[string]int64)
	for o, p := range log {
		if p.value == "" {
			continue
		}
		if _, twice := found[p.value]; twice {
			t.Errorf("seed %d: %s is there twice", seed, p.value)
		}
		found[p.value] = int64(o)
	}
	for _, w := range writes {
		if w.offset >= 0 {
			written++
			if w.offset < w.since || w.offset >= int64(len(log)) || log[w.offset] != (place{w.key, w.value}) {
				t.Errorf("seed %d: %+v is not where it was acknowledged", seed, w)
			}
			continue
		}
		refused++
		if _, there := found[w.value]; there && w.value != "" {
			t.Errorf("seed %d: %+v was refused, and is there", seed, w)
		}
		holds := func(m map[string]string) bool {
			o, ok := m[w.key]
			return ok && o == w.current || !ok && w.current == ExpectNone
		}
		if w.current == w.expect || !slices.ContainsFunc(after[w.since:min(w.until, hw)+1], holds) {
			t.Errorf("seed %d: %+v was told what was not true", seed, w)
		}
	}
	for i := range 5 {
		key := fmt.Sprint("k", i)
		r, err := l.rep.LookupKey([]byte(key), -1)
		o, ok := now[key]
		if err != nil || ok && strconv.FormatInt(r.Offset, 10) != o || !ok && r.Offset != -1 {
			t.Errorf("seed %d: %s is at %d, %v; want %q", seed, key, r.Offset, err, o)
		}
	}
	if n, ready := l.rep.KeyCount(); n != len(now) || !ready {
		t.Errorf("seed %d: %d keys, there are %d", seed, n, len(now))
	}
	return written, refused
}
