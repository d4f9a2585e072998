package partition

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
)

// rndProducer is an idempotent client: up to five batches in flight, repeated from the first unacknowledged one on,
// until all have an answer without an error.
type rndProducer struct {
	id      int64
	batches []protocol.Batch
	offsets []int64 // acknowledged offset of each batch; -1: not yet
	wave    []*AppendResult
	from    int // first batch of the wave
	target  *node
	boot    uint64
}

func newRndProducer(rng *rand.Rand, id int64, n int) *rndProducer {
	p := &rndProducer{id: id}
	next := int32(0)
	if id%2 == 0 {
		next = 1<<31 - 5 // wraps on the way; the first batch may have any sequence
	}
	for i := range n {
		k := 1 + rng.IntN(3)
		var vs []string
		for j := range k {
			vs = append(vs, fmt.Sprintf("%d.%d.%d", id, i, j))
		}
		p.batches = append(p.batches, seq(id, 0, next, vs...))
		p.offsets = append(p.offsets, -1)
		next = protocol.AddSequence(next, int32(k))
	}
	return p
}

func (p *rndProducer) firstOpen() int {
	for i, o := range p.offsets {
		if o < 0 {
			return i
		}
	}
	return len(p.offsets)
}

// step takes answers in, and sends the next wave when the last one is through (or its target is gone).
func (p *rndProducer) step(t *testing.T, leader *node, rng *rand.Rand) {
	through := true
	for _, r := range p.wave {
		through = through && r.LeaderEpoch != -2
	}
	if len(p.wave) > 0 && !through && p.target.host != nil && p.target.boot == p.boot {
		return
	}
	for i, r := range p.wave {
		if r.LeaderEpoch == -2 {
			continue
		}
		switch b := p.from + i; {
		case r.Err == nil && p.offsets[b] >= 0 && p.offsets[b] != r.BaseOffset:
			t.Errorf("producer %d, batch %d: acknowledged at %d and at %d", p.id, b, p.offsets[b], r.BaseOffset)
		case r.Err == nil:
			p.offsets[b] = r.BaseOffset
		case i == 0 && errors.Is(r.Err, ErrOutOfOrderSequence), errors.Is(r.Err, ErrInvalidProducerEpoch):
			t.Errorf("producer %d: its next batch, %d, is refused: %v", p.id, b, r.Err)
		}
	}
	p.wave = nil
	if leader == nil {
		return
	}
	p.from, p.target, p.boot = p.firstOpen(), leader, leader.boot
	for b := p.from; b < min(p.from+1+rng.IntN(windowBatches), len(p.batches)); b++ {
		res := &AppendResult{LeaderEpoch: -2}
		p.wave = append(p.wave, res)
		leader.rep.Append(&AppendRequest{Batch: bytes.Clone(p.batches[b]), Acks: -1, Done: func(r AppendResult) { *res = r }})
	}
}

// Crashes, power losses of all, partitions, transfers, snapshots and reopened replicas, under idempotent producers:
// every acknowledged batch is at its offset, each batch is there once, in its producer's order, and all replicas have
// the same state. Seeds are fixed; a failure names its own.
func TestRandomClusters(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { randomCluster(t, uint64(seed)) })
	}
}

func randomCluster(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 99))
	c := newCluster(t, 3, func(c *Config) { c.SnapshotEvery = 2 << 10 })
	var ps []*rndProducer
	for i := range 3 {
		ps = append(ps, newRndProducer(rng, int64(i+1), 25))
	}
	through := func() bool {
		for _, p := range ps {
			if p.firstOpen() < len(p.batches) {
				return false
			}
		}
		return true
	}
	for range 400 {
		c.disturb(rng)
		ps[rng.IntN(len(ps))].step(t, c.anyLeader(rng), rng)
		c.pass(time.Duration(rng.IntN(20)) * 10 * time.Millisecond)
	}
	c.heal()
	for _, n := range c.nodes {
		if n.host == nil {
			n.start()
		}
	}
	c.until("all producers are through", func() bool {
		for _, p := range ps {
			p.step(t, c.anyLeader(rng), rng)
		}
		return through()
	})
	l := c.leader()
	got := l.values()
	at := map[string]int64{}
	for i, v := range got {
		if _, twice := at[v]; twice {
			t.Errorf("%s is there twice", v)
		}
		at[v] = int64(i)
	}
	want := 0
	for _, p := range ps {
		last := int64(-1)
		for i, b := range p.batches {
			want += int(b.RecordCount())
			o, ok := at[fmt.Sprintf("%d.%d.0", p.id, i)]
			if !ok || o != p.offsets[i] || o <= last {
				t.Errorf("producer %d, batch %d: acknowledged at %d, found at %d (%v), its last one at %d", p.id, i, p.offsets[i], o, ok, last)
			}
			last = o
		}
	}
	if len(got) != want {
		t.Errorf("%d records, %d were sent", len(got), want)
	}
	c.until("all have applied all", func() bool {
		for _, n := range c.nodes {
			if hw, _ := n.rep.HighWatermark(); hw != int64(want) {
				return false
			}
		}
		return true
	})
	c.pass(time.Second)
	for _, n := range c.nodes {
		if a, b := n.rep.m.fold.encode(), l.rep.m.fold.encode(); !bytes.Equal(a, b) {
			t.Errorf("seed %d: node %d folded to %x, the leader to %x", seed, n.id, a, b)
		}
	}
}
