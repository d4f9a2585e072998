// Linearizability of the map, by porcupine: clients get, put, create, compare-and-set and delete a few keys while the leaders of their partitions are killed
// and paused. The checker knows what a map with revisions is, and nothing of logs, leaders or leases.

package client_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

var (
	kvFaults = flag.Int("kv-faults", 4, "how often TestKVLinearizable kills or pauses a leader")
	kvSeed   = flag.Uint64("kv-seed", 1, "seed of TestKVLinearizable: what is done, not when")
)

type kvAction uint8

const (
	kvGet kvAction = iota
	kvPut
	kvCreate
	kvUpdate
	kvDelete
	kvDeleteRevision
)

type kvInput struct {
	action kvAction
	key    string
	value  string // of its own: it names the write
	expect int64
}

type kvOutcome uint8

const (
	kvDone kvOutcome = iota
	kvNotFound
	kvConflict
	kvUnknown
	kvNothing // it is known that nothing has happened
)

type kvOutput struct {
	outcome  kvOutcome
	value    string
	revision int64 // of a conflict: what is there
}

func (in kvInput) String() string {
	return fmt.Sprintf("%s(%s, %q, expect %d)", [...]string{"get", "put", "create", "update", "delete", "delete at"}[in.action], in.key, in.value, in.expect)
}

func (out kvOutput) String() string {
	return fmt.Sprintf("%s %q at %d", [...]string{"done", "not found", "conflict", "unknown"}[out.outcome], out.value, out.revision)
}

const (
	kvAbsent = client.NoRevision
	kvUnseen = int64(-2) // the revision of a write that nobody was told
)

type kvState struct {
	revision int64
	value    string
}

// at reports that the state may have this revision, and what it is then.
func (s kvState) at(revision int64) (kvState, bool) {
	if s.revision == kvUnseen && revision >= 0 {
		s.revision = revision
	}
	return s, s.revision == revision
}

// kvModel is one key. revisions are those that anybody has learnt, by the value that was written.
func kvModel(revisions map[string]int64) porcupine.Model {
	revisionOf := func(value string) int64 {
		if r, ok := revisions[value]; ok {
			return r
		}
		return kvUnseen
	}
	return porcupine.Model{
		Init: func() any { return kvState{revision: kvAbsent} },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(kvState), input.(kvInput), output.(kvOutput)
			if in.action == kvGet {
				switch out.outcome {
				case kvDone:
					s, ok := s.at(out.revision)
					return ok && s.value == out.value, s
				case kvNotFound:
					return s.revision == kvAbsent, s
				}
				return false, s
			}
			conditional := in.action == kvCreate || in.action == kvUpdate || in.action == kvDeleteRevision
			now, holds := s.at(in.expect)
			if !conditional {
				now, holds = s, true
			}
			after := kvState{revision: revisionOf(in.value), value: in.value}
			if in.action == kvDelete || in.action == kvDeleteRevision {
				after = kvState{revision: kvAbsent}
			}
			switch out.outcome {
			case kvDone:
				if after.revision != kvAbsent {
					after.revision = out.revision
				}
				return holds && (after.revision < 0 || after.revision > now.revision), after
			case kvConflict:
				s, ok := s.at(out.revision)
				return conditional && ok && out.revision != in.expect, s
			}
			if !holds {
				return true, s
			}
			return true, after
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprint(in, " → ", out) },
	}
}

// kvClient does random things and writes down what came of them.
type kvClient struct {
	id    int
	kv    *client.KV
	rng   *rand.Rand
	start time.Time
	seen  map[string]int64 // the last revision that it has heard of, by key
	n     int
	ops   []porcupine.Operation
}

func (c *kvClient) step(ctx context.Context, key string) {
	c.n++
	in := kvInput{key: key, value: fmt.Sprintf("%d.%d", c.id, c.n), expect: kvAbsent}
	switch n := c.rng.IntN(20); {
	case n < 7:
		in.action, in.value = kvGet, ""
	case n < 10:
		in.action = kvPut
	case n < 12:
		in.action = kvCreate
	case n < 17:
		in.action = kvUpdate
	case n < 18:
		in.action, in.value = kvDelete, ""
	default:
		in.action, in.value = kvDeleteRevision, ""
	}
	if in.action == kvUpdate || in.action == kvDeleteRevision {
		var ok bool
		if in.expect, ok = c.seen[key]; !ok || in.expect < 0 {
			in.action, in.value, in.expect = kvGet, "", kvAbsent
		}
	}
	c.record(ctx, in)
}

// record does one thing and writes it down.
func (c *kvClient) record(ctx context.Context, in kvInput) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	call := time.Since(c.start).Nanoseconds()
	out := c.do(ctx, in)
	end := time.Since(c.start).Nanoseconds()
	switch out.outcome {
	case kvNothing:
		return
	case kvUnknown:
		end = math.MaxInt64
	default:
		c.seen[in.key] = out.revision
	}
	c.ops = append(c.ops, porcupine.Operation{ClientId: c.id, Input: in, Call: call, Output: out, Return: end})
}

// kvPadded makes a value of the name of a write: long enough that logs are worth compacting.
func kvPadded(name string) []byte { return []byte(name + strings.Repeat(".", 700)) }

func (c *kvClient) do(ctx context.Context, in kvInput) (out kvOutput) {
	var err error
	switch in.action {
	case kvGet:
		var e client.KVEntry
		e, err = c.kv.Get(ctx, in.key)
		out.revision, out.value = e.Revision, strings.TrimRight(string(e.Value), ".")
	case kvPut:
		out.revision, err = c.kv.Put(ctx, in.key, kvPadded(in.value))
	case kvCreate:
		out.revision, err = c.kv.Create(ctx, in.key, kvPadded(in.value))
	case kvUpdate:
		out.revision, err = c.kv.Update(ctx, in.key, kvPadded(in.value), in.expect)
	case kvDelete:
		out.revision, err = kvAbsent, c.kv.Delete(ctx, in.key)
	case kvDeleteRevision:
		out.revision, err = kvAbsent, c.kv.DeleteRevision(ctx, in.key, in.expect)
	}
	if conflict, ok := errors.AsType[*client.ConflictError](err); ok {
		return kvOutput{outcome: kvConflict, revision: conflict.Current}
	}
	switch {
	case err == nil:
	case errors.Is(err, client.ErrNotFound):
		out = kvOutput{outcome: kvNotFound, revision: kvAbsent}
	case errors.Is(err, client.ErrUncertain):
		out = kvOutput{outcome: kvUnknown}
	case errors.Is(err, context.DeadlineExceeded):
		out = kvOutput{outcome: kvNothing}
	default:
		panic(fmt.Sprintf("client %d: %v: %v", c.id, in, err))
	}
	return out
}

// checkKV holds a history against the model.
func checkKV(ops []porcupine.Operation) (porcupine.CheckResult, string) {
	byKey, revisions := make(map[string][]porcupine.Operation), make(map[string]int64)
	for _, o := range ops {
		in, out := o.Input.(kvInput), o.Output.(kvOutput)
		byKey[in.key] = append(byKey[in.key], o)
		if out.outcome == kvDone && out.revision >= 0 {
			value := in.value
			if in.action == kvGet {
				value = out.value
			}
			revisions[value] = out.revision
		}
	}
	for key, ops := range byKey {
		if r := porcupine.CheckOperationsTimeout(kvModel(revisions), ops, time.Minute); r != porcupine.Ok {
			return r, key
		}
	}
	return porcupine.Ok, ""
}

// The checker sees what it is there for.
func TestKVModel(t *testing.T) {
	var at int64
	op := func(a kvAction, value string, expect int64, out kvOutput) porcupine.Operation {
		at += 2
		o := porcupine.Operation{Input: kvInput{action: a, key: "k", value: value, expect: expect}, Call: at, Output: out, Return: at + 1}
		if out.outcome == kvUnknown {
			o.Return = math.MaxInt64
		}
		return o
	}
	put := op(kvPut, "a", kvAbsent, kvOutput{revision: 3})
	lost := op(kvPut, "b", kvAbsent, kvOutput{outcome: kvUnknown})
	read := func(value string, r int64) porcupine.Operation {
		return op(kvGet, "", kvAbsent, kvOutput{value: value, revision: r})
	}
	for _, x := range []struct {
		name string
		ops  []porcupine.Operation
		want porcupine.CheckResult
	}{
		{"read what was written", []porcupine.Operation{put, read("a", 3)}, porcupine.Ok},
		{"a stale read", []porcupine.Operation{put, op(kvGet, "", kvAbsent, kvOutput{outcome: kvNotFound, revision: kvAbsent})}, porcupine.Illegal},
		{"another revision", []porcupine.Operation{put, read("a", 4)}, porcupine.Illegal},
		{"an unknown write that happened", []porcupine.Operation{put, lost, read("b", 5), op(kvUpdate, "c", 5, kvOutput{revision: 6})}, porcupine.Ok},
		{"one that did not, and then did", []porcupine.Operation{put, lost, read("a", 3), read("b", 5), read("a", 3)}, porcupine.Illegal},
		{"two updates of one revision", []porcupine.Operation{put, op(kvUpdate, "c", 3, kvOutput{revision: 4}), op(kvUpdate, "d", 3, kvOutput{revision: 5})}, porcupine.Illegal},
		{"a conflict with what is there", []porcupine.Operation{put, op(kvCreate, "c", kvAbsent, kvOutput{outcome: kvConflict, revision: 3})}, porcupine.Ok},
		{"a conflict with what was never there", []porcupine.Operation{put, op(kvCreate, "c", kvAbsent, kvOutput{outcome: kvConflict, revision: 4})}, porcupine.Illegal},
		{"a conflict with nothing", []porcupine.Operation{put, op(kvUpdate, "c", 3, kvOutput{outcome: kvConflict, revision: 3})}, porcupine.Illegal},
		{"deleted", []porcupine.Operation{put, op(kvDeleteRevision, "", 3, kvOutput{revision: kvAbsent}), op(kvCreate, "d", kvAbsent, kvOutput{revision: 9})}, porcupine.Ok},
	} {
		if got, _ := checkKV(x.ops); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
}

func TestKVLinearizable(t *testing.T) {
	t.Parallel()
	const clients, keys = 5, 6
	c := brokertest.Cluster(t, 3, brokertest.Configure(func(_ int, cfg *broker.Config) { cfg.CleanerPause = 50 * time.Millisecond }))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(*kvFaults)*30*time.Second)
	defer cancel()
	cfg := client.KVConfig{Config: c.Config(), Topic: "map", Partitions: 3, Replicas: 3, Configs: map[string]string{
		"segment.bytes": "65536", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "0"}}
	start := time.Now()
	open := func() *client.KV {
		t.Helper()
		kv, err := client.CreateKV(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(kv.Close)
		return kv
	}
	var all []*kvClient
	another := func(kv *client.KV) *kvClient {
		k := &kvClient{id: len(all), kv: kv, rng: rand.New(rand.NewPCG(*kvSeed, uint64(len(all)))), start: start, seen: make(map[string]int64)}
		all = append(all, k)
		return k
	}
	for range clients {
		another(open())
	}
	// Clients that know the leader of before, and come when another one has written: what they are told must be of now.
	var lurkers, writers []*kvClient
	for range keys {
		lurkers = append(lurkers, another(all[0].kv), another(all[0].kv))
		writers = append(writers, another(all[1].kv))
	}
	each := func(who []*kvClient, actions ...kvAction) *sync.WaitGroup {
		var wg sync.WaitGroup
		for i, k := range who {
			wg.Go(func() {
				in := kvInput{action: actions[i%len(actions)], key: fmt.Sprint("key-", i/len(actions)), expect: kvAbsent}
				if in.action != kvGet {
					k.n++
					in.value = fmt.Sprintf("%d.%d", k.id, k.n)
				}
				k.record(ctx, in)
			})
		}
		return &wg
	}
	var (
		wg   sync.WaitGroup
		done atomic.Int64
		stop = make(chan struct{})
	)
	for _, k := range all[2:clients] {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				k.step(ctx, fmt.Sprint("key-", k.rng.IntN(keys)))
				done.Add(1)
			}
		})
	}
	// Faults come as the work goes on, not as time passes.
	rng := rand.New(rand.NewPCG(*kvSeed, 99))
	progress := func(n int64) {
		for until := done.Load() + n; done.Load() < until && ctx.Err() == nil; {
			runtime.Gosched()
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	leader := func(p int32) *brokertest.Broker {
		t.Helper()
		b, err := c.Leader(ctx, cfg.Topic, p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i := range *kvFaults {
		progress(int64(40 + rng.IntN(200)))
		p := int32(rng.IntN(3))
		b := leader(p)
		switch n := rng.IntN(4); {
		case n == 0:
			b.Pause()
			progress(int64(rng.IntN(20)))
			b.Resume()
		case n < 3: // another one leads by the time that it goes on, and it does not know
			each(lurkers, kvGet, kvGet).Wait()
			b.Pause()
			t.Logf("fault %d: broker %d paused, broker %d leads partition %d", i, b.ID(), leader(p).ID(), p)
			each(writers, kvPut).Wait()
			late := each(lurkers, kvGet, kvCreate)
			progress(int64(1 + rng.IntN(40)))
			b.Resume()
			late.Wait()
		default:
			b.Kill()
			t.Logf("fault %d: broker %d killed, broker %d leads partition %d", i, b.ID(), leader(p).ID(), p)
			progress(int64(rng.IntN(60)))
			if err := b.Restart(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	progress(100)
	close(stop)
	wg.Wait()
	for i := range keys {
		for range 2 {
			key := fmt.Sprint("key-", i)
			last := all[0]
			in := kvInput{action: kvGet, key: key, expect: kvAbsent}
			call := time.Since(last.start).Nanoseconds()
			out := last.do(ctx, in)
			if out.outcome == kvNothing {
				t.Fatalf("the last read of %s has no answer", key)
			}
			last.ops = append(last.ops, porcupine.Operation{ClientId: 0, Input: in, Call: call, Output: out, Return: time.Since(last.start).Nanoseconds()})
		}
	}
	var ops []porcupine.Operation
	count := make(map[kvOutcome]int)
	for _, k := range all {
		ops = append(ops, k.ops...)
	}
	for _, o := range ops {
		count[o.Output.(kvOutput).outcome]++
	}
	t.Logf("%d operations: %d done, %d not found, %d conflicts, %d unknown", len(ops), count[kvDone], count[kvNotFound], count[kvConflict], count[kvUnknown])
	if count[kvDone] == 0 || count[kvConflict] == 0 {
		t.Error("nothing was tried")
	}
	r, key := checkKV(ops)
	if r == porcupine.Unknown { // many writes whose outcome is not known, and a slow machine
		t.Logf("seed %d: whether the history of %s is linearizable was not found out in a minute", *kvSeed, key)
	}
	if r == porcupine.Illegal {
		var b strings.Builder
		for _, o := range ops {
			if o.Input.(kvInput).key == key {
				fmt.Fprintf(&b, "client %d [%d, %d] %v → %v\n", o.ClientId, o.Call, o.Return, o.Input, o.Output)
			}
		}
		t.Errorf("seed %d: the history of %s is %v:\n%s", *kvSeed, key, r, b.String())
	}
}
