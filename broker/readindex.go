// Read indexes between brokers: a follower that is to speak of the log's end asks the broker that leads.
//
// A broker has one such call on its way to each other broker. What its followers want meanwhile waits and goes with the
// next one, once per group: so the busier they are, the more of them a call answers, and never one that came after it was sent.
// The leader confirms each group by its lease, or with a quorum where that is wanted or there is none; what it cannot
// confirm soon is answered so, and does not hold up the rest.
//
// A question and its answer (integers are unsigned varints; the answer is in the order of the question):
//
//	version 1 | flags 0 | n | n × group
//	version 1 | flags 0 | n | n × (code, index, epoch)

package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

const (
	// maxReadGroups bounds the groups of one call; what is left goes with the next.
	maxReadGroups = 4096
	// maxReadsWaiting bounds the reads that wait for calls to one broker; beyond it they are refused.
	maxReadsWaiting = 1 << 16
)

// The codes of an answer. The numbers are part of the wire format.
const (
	readConfirmed   uint64 = 0
	readNotLeader   uint64 = 1
	readUnconfirmed uint64 = 2 // no quorum within the leader's patience, or its log has failed
	readOverloaded  uint64 = 3
)

// readPoint is one group's answer.
type readPoint struct {
	code  uint64
	index raft.Index
	epoch int32
}

func readPointOf(i raft.Index, epoch int32, err error) readPoint {
	switch {
	case err == nil:
		return readPoint{readConfirmed, i, epoch}
	case errors.Is(err, partition.ErrOverloaded):
		return readPoint{code: readOverloaded}
	case errors.Is(err, partition.ErrNotLeader), errors.Is(err, partition.ErrNotReady), errors.Is(err, partition.ErrClosed):
		return readPoint{code: readNotLeader}
	}
	return readPoint{code: readUnconfirmed}
}

func (p readPoint) err(leader raft.NodeID) error {
	switch p.code {
	case readConfirmed:
		return nil
	case readNotLeader:
		return fmt.Errorf("broker %d: %w", leader, partition.ErrNotLeader)
	case readOverloaded:
		return fmt.Errorf("broker %d: %w", leader, partition.ErrOverloaded)
	}
	return fmt.Errorf("broker %d: %w", leader, partition.ErrUnavailable)
}

func encodeReadAsk(groups []raft.GroupID) []byte {
	b := append(make([]byte, 0, 8+4*len(groups)), rpcVersion, 0)
	b = binary.AppendUvarint(b, uint64(len(groups)))
	for _, g := range groups {
		b = binary.AppendUvarint(b, uint64(g))
	}
	return b
}

func encodeReadPoints(points []readPoint) []byte {
	b := append(make([]byte, 0, 8+8*len(points)), rpcVersion, 0)
	b = binary.AppendUvarint(b, uint64(len(points)))
	for _, p := range points {
		b = binary.AppendUvarint(b, p.code)
		b = binary.AppendUvarint(b, uint64(p.index))
		b = binary.AppendUvarint(b, uint64(p.epoch))
	}
	return b
}

// readNumbers checks the head of a body of n records of width numbers each, and reads those.
func readNumbers(b []byte, width int) ([]uint64, error) {
	if len(b) < 2 || len(b) > maxRPCBytes {
		return nil, fmt.Errorf("%w: read index of %d bytes", errRPC, len(b))
	}
	if b[0] != rpcVersion || b[1] != 0 {
		return nil, fmt.Errorf("%w: read index version %d, flags %#x; this broker knows version %d", errRPC, b[0], b[1], rpcVersion)
	}
	b = b[2:]
	n, w := binary.Uvarint(b)
	if w <= 0 || n > maxReadGroups || n*uint64(width) > uint64(len(b)-w) {
		return nil, fmt.Errorf("%w: read index of %d groups in %d bytes", errRPC, n, len(b))
	}
	b = b[w:]
	out := make([]uint64, n*uint64(width))
	for i := range out {
		v, w := binary.Uvarint(b)
		if w <= 0 {
			return nil, fmt.Errorf("%w: truncated read index", errRPC)
		}
		out[i], b = v, b[w:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after a read index", errRPC, len(b))
	}
	return out, nil
}

func decodeReadAsk(b []byte) ([]raft.GroupID, error) {
	nums, err := readNumbers(b, 1)
	if err != nil {
		return nil, err
	}
	groups := make([]raft.GroupID, len(nums))
	for i, v := range nums {
		groups[i] = raft.GroupID(v)
	}
	return groups, nil
}

func decodeReadPoints(b []byte, want int) ([]readPoint, error) {
	nums, err := readNumbers(b, 3)
	if err != nil {
		return nil, err
	}
	if len(nums) != 3*want {
		return nil, fmt.Errorf("%w: %d read points for %d groups", errRPC, len(nums)/3, want)
	}
	points := make([]readPoint, want)
	for i := range points {
		p := nums[3*i : 3*i+3]
		if p[2] > uint64(raft.MaxTerm) {
			return nil, fmt.Errorf("%w: read point of epoch %d", errRPC, p[2])
		}
		points[i] = readPoint{p[0], raft.Index(p[1]), int32(p[2])}
	}
	return points, nil
}

// readAsker is the follower's side.
type readAsker struct {
	ctx     context.Context
	caller  caller
	timeout time.Duration // of one call
	wg      sync.WaitGroup

	mu      sync.Mutex // guards what follows; never held across a call or a done
	leaders map[raft.NodeID]*readQueue
	closed  bool
}

// readQueue is what waits for the next call to one broker.
type readQueue struct {
	order   []raft.GroupID
	waiting map[raft.GroupID][]func(raft.Index, int32, error)
	n       int  // of reads
	calling bool // a call is on its way, and whoever made it looks here again
}

func newReadAsker(ctx context.Context, c caller, timeout time.Duration) *readAsker {
	return &readAsker{ctx: ctx, caller: c, timeout: timeout, leaders: make(map[raft.NodeID]*readQueue)}
}

// close refuses what comes, and waits for what was asked: ctx has ended.
func (a *readAsker) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
}

// ask asks leader for a read index of g. It does not block.
func (a *readAsker) ask(leader raft.NodeID, g raft.GroupID, done func(raft.Index, int32, error)) {
	a.mu.Lock()
	q := a.leaders[leader]
	if q == nil { // about as many as there are brokers
		q = &readQueue{waiting: make(map[raft.GroupID][]func(raft.Index, int32, error))}
		a.leaders[leader] = q
	}
	if a.closed || q.n >= maxReadsWaiting {
		err := partition.ErrOverloaded
		if a.closed {
			err = partition.ErrClosed
		}
		a.mu.Unlock()
		done(0, 0, err)
		return
	}
	if _, ok := q.waiting[g]; !ok {
		q.order = append(q.order, g)
	}
	q.waiting[g] = append(q.waiting[g], done)
	q.n++
	if !q.calling {
		q.calling = true
		a.wg.Go(func() { a.run(leader, q) })
	}
	a.mu.Unlock()
}

// run makes calls until nothing waits.
func (a *readAsker) run(leader raft.NodeID, q *readQueue) {
	for {
		a.mu.Lock()
		groups := q.order
		if len(groups) == 0 {
			q.calling = false
			a.mu.Unlock()
			return
		}
		groups = groups[:min(len(groups), maxReadGroups)]
		q.order = q.order[len(groups):]
		if len(q.order) == 0 {
			q.order = nil
		}
		waits := make([][]func(raft.Index, int32, error), len(groups))
		for i, g := range groups {
			waits[i] = q.waiting[g]
			q.n -= len(waits[i])
			delete(q.waiting, g)
		}
		a.mu.Unlock()
		points, err := a.call(leader, groups)
		for i := range groups {
			var p readPoint
			err := err
			if err == nil {
				p = points[i]
				err = p.err(leader)
			}
			for _, done := range waits[i] {
				done(p.index, p.epoch, err)
			}
		}
	}
}

func (a *readAsker) call(leader raft.NodeID, groups []raft.GroupID) ([]readPoint, error) {
	ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
	defer cancel()
	b, err := a.caller.Call(ctx, leader, methodReadIndexes, encodeReadAsk(groups))
	if err != nil {
		return nil, fmt.Errorf("ask broker %d for read indexes: %w", leader, err)
	}
	return decodeReadPoints(b, len(groups))
}

// serveReadIndexes is the leader's side. patience bounds the wait for quorums.
func serveReadIndexes(ctx context.Context, groups []raft.GroupID, replica func(raft.GroupID) *partition.Replica, patience time.Duration) []readPoint {
	var (
		mu    sync.Mutex // guards points and left
		left  = len(groups)
		over  = make(chan struct{})
		found = make([]readPoint, len(groups))
	)
	for i, g := range groups {
		found[i] = readPoint{code: readUnconfirmed}
		done := func(index raft.Index, epoch int32, err error) {
			mu.Lock()
			defer mu.Unlock()
			found[i] = readPointOf(index, epoch, err)
			if left--; left == 0 {
				close(over)
			}
		}
		if rep := replica(g); rep != nil {
			rep.ReadIndexElsewhere(done)
		} else {
			done(0, 0, partition.ErrNotLeader)
		}
	}
	if len(groups) > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-over:
		case <-t.C:
		case <-ctx.Done():
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return append([]readPoint(nil), found...)
}
