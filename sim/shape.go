// The shape of a run: how many brokers, who replicates what, and how small the bounds are, drawn from the seed before anything
// happens. A bound of one entry per message, say, shows orders of events that batches hide.

package sim

import (
	"math/rand/v2"
	"time"

	"github.com/balsamq/balsa/raft"
)

type shape struct {
	maxMessageBytes int   // 0: the default
	maxInflight     int   // 0: the default
	keepEntries     int64 // behind a snapshot
	snapshotEvery   int64
	zeroAhead       int64
	scanBytes       int64
	direct          bool          // segments are written past the page cache
	pads            bool          // and what is large of them from where it lies: see segment.Options.Pads
	commitDelay     time.Duration // for which commits wait for entries to ride on
	minVoters       int           // membership changes leave at least so many
	snapshotChunk   int           // 0: the default, which is more than any snapshot here; else one takes several
	snapshotRate    int64
	data            []bool // by group: its records are its data, see replica.cut
	// relaxed, by group: it has relaxed durability; see faults_disk.go.
	relaxed []bool
	crowd   int // so many groups that wait make the others gather proposals; 0: the default, which is more than there are here
	// weak is the one node whose disk may rot, lie or be lost; nil: none in this run. See faults_disk.go.
	weak *node
}

// relaxedShare is the part of the runs in which groups have relaxed durability.
const relaxedShare = 0.25

// drawShape also sets the number of nodes, if the options leave it open, and each group's first members.
func (w *world) drawShape() {
	pick := func(vs ...int64) int64 { return vs[w.rng.IntN(len(vs))] }
	if w.opts.Nodes == 0 {
		w.opts.Nodes = int(pick(3, 3, 3, 3, 4, 5, 5))
	}
	s := &w.shape
	s.maxMessageBytes = int(pick(0, 0, 1, 1, 2048))
	s.maxInflight = int(pick(0, 0, 0, 1, 2))
	if s.maxMessageBytes == 1 { // every refusal sends the window anew: on a network that reorders, a long one of small messages is a storm
		s.maxInflight = int(pick(1, 2, 4))
	}
	s.keepEntries = pick(0, 5, 20, 20, 100)
	s.snapshotEvery = pick(4<<10, 8<<10, 16<<10)
	s.zeroAhead = pick(0, 0, 0, 4096)
	s.direct = w.opts.Seed%2 == 1
	s.pads = w.opts.Seed%8 == 5
	if k := w.opts.Seed % 8; k == 5 || k == 6 { // else segments are too short for a tip
		s.scanBytes = 1024
	}
	s.commitDelay = []time.Duration{0, heartbeatInterval / 2, 0, 2 * heartbeatInterval}[w.opts.Seed/2%4]
	s.minVoters = int(pick(1, 3, 3, 3))
	s.snapshotChunk = int(pick(0, 24, 48, 48))
	s.snapshotRate = pick(0, 0, 500) // or so slow that the world changes meanwhile
	for range w.opts.Groups {
		s.data = append(s.data, w.chance(0.5))
	}
	rng := newRand(w.opts.Seed, 0x72656c61786564) // a stream of its own: all other runs are what they would be without
	some := rng.Float64() < relaxedShare
	for range w.opts.Groups {
		s.relaxed = append(s.relaxed, w.opts.Relaxed || some && rng.IntN(3) > 0)
	}
	if newRand(w.opts.Seed, 0x63726f7764).IntN(2) == 0 {
		s.crowd = 1
	}
	for range w.opts.Groups {
		n := min(3, w.opts.Nodes)
		if w.opts.Nodes >= 5 && w.chance(0.4) {
			n = 5
		}
		w.initial = append(w.initial, w.someNodes(n))
	}
}

// someNodes draws n node ids, in order.
func (w *world) someNodes(n int) []raft.NodeID {
	chosen := make(map[int]bool, n)
	for _, i := range w.rng.Perm(w.opts.Nodes)[:n] {
		chosen[i] = true
	}
	var ids []raft.NodeID
	for i := range w.opts.Nodes {
		if chosen[i] {
			ids = append(ids, raft.NodeID(i+1))
		}
	}
	return ids
}

func newRand(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
