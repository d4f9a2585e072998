// Verification of transactional batches (KIP-890): a batch opens a transaction in a partition only if the transaction's coordinator
// knows of it. A batch that comes after the end of its transaction would otherwise open one that nobody ends, and stop every reader.
//
// The leader finds out when the batch gets its place in the log: if no transaction of its producer is open there, the batch goes
// back, and waits at a gate for the coordinator's word. What the producer sends meanwhile waits behind it, since a sequence must not
// overtake another one; then all are proposed in the order in which they came.
//
// Between the coordinator's word and the place in the log the transaction may end. So a batch enters by a ticket, which names where
// the log ended before the coordinator was asked: if a marker for the producer has come since, the question is asked anew.

package partition

import (
	"errors"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	// maxGates bounds the producers of a partition that wait for their verification.
	maxGates = maxOpenTxns
	// maxAtGate bounds the batches that wait at one gate; clients have five in flight, a group's offsets one a member.
	maxAtGate = 1024
	// maxGateTries bounds how often one batch is verified.
	maxGateTries = 4
)

// errUnverified is how Stage sends a batch to the gate.
var errUnverified = errors.New("partition: the transaction is not verified")

// Verification is a question to a transaction's coordinator: does the transaction that is open for this producer have, or with
// Add now get, this partition in it? nil is yes; another answer becomes the batch's error.
type Verification struct {
	TransactionalID string
	ProducerID      int64
	ProducerEpoch   int16
	Topic           string
	TopicID         [16]byte
	Partition       int32
	Add             bool
}

// ticket is a place in the leader's log. The zero one is none.
type ticket struct {
	term  raft.Term
	index raft.Index
}

type gateKey struct {
	producer int64
	epoch    int16
}

// gate holds the batches of one producer, in order of their arrival, while its transaction is verified. Guarded by Replica.mu.
type gate struct {
	ticket  ticket // where the first of them was refused: before the question
	reqs    []*AppendRequest
	opening bool // the coordinator has said its word, and they are being proposed
	again   bool // but it came too late for one: ask anew
}

// judgeTxn refuses a transactional batch that may not enter here and now.
func (m *machine) judgeTxn(req *AppendRequest, w *window, b protocol.Batch, term raft.Term) error {
	epoch := b.ProducerEpoch()
	if err := w.fence(epoch); err != nil {
		return err
	}
	if w.known() && w.open && w.epoch == epoch || b.BaseSequence() >= 0 && w.repeated(epoch, b.BaseSequence(), b.LastSequence()) != nil {
		return nil
	}
	marker := m.fold.forgotten
	if w.known() {
		marker = max(marker, w.marker)
	}
	if req.verified.term != term || req.verified.index < marker {
		req.refused = ticket{term: term, index: m.staging.index}
		return errUnverified
	}
	n := len(m.fold.open) + len(m.staging.over)
	if n >= maxOpenTxns {
		return fmt.Errorf("%w: %d transactions are open on the partition", ErrOverloaded, n)
	}
	if n+len(m.fold.aborted) >= m.fold.most {
		m.forgetCleaned() // perhaps since the last entry
	}
	if n+len(m.fold.aborted) >= m.fold.most {
		return fmt.Errorf("%w: the partition holds %d aborted transactions", ErrOverloaded, len(m.fold.aborted))
	}
	return nil
}

// waitAtGate takes a new batch to its producer's gate, if there is one.
func (r *Replica) waitAtGate(req *AppendRequest, b protocol.Batch) bool {
	r.mu.Lock()
	r.arrivals++
	req.arrival = r.arrivals
	g := r.gates[gateKey{b.ProducerID(), b.ProducerEpoch()}]
	if g == nil {
		r.mu.Unlock()
		return false
	}
	full := !g.add(req)
	r.mu.Unlock()
	if full {
		req.answer(fmt.Errorf("%w: %d batches wait for their transaction to be verified", ErrOverloaded, maxAtGate))
	}
	return true
}

// add puts req in its place; false: there is none.
func (g *gate) add(req *AppendRequest) bool {
	if len(g.reqs) >= maxAtGate {
		return false
	}
	// Batches that were on their way to the log when the first one was refused come here by another way than later ones.
	i, _ := slices.BinarySearchFunc(g.reqs, req.arrival, func(o *AppendRequest, n uint64) int {
		if o.arrival < n {
			return -1
		}
		return 1
	})
	g.reqs = slices.Insert(g.reqs, i, req)
	return true
}

// sendToGate takes a batch that the log has refused as unverified, and asks the coordinator if that is not done yet. It is called by the
// worker.
func (r *Replica) sendToGate(req *AppendRequest) {
	b := protocol.Batch(req.Batch)
	key := gateKey{b.ProducerID(), b.ProducerEpoch()}
	if req.tries++; req.tries > maxGateTries {
		req.answer(ErrTxnUnverified)
		return
	}
	r.mu.Lock()
	g := r.gates[key]
	if g == nil && len(r.gates) >= maxGates {
		r.mu.Unlock()
		req.answer(fmt.Errorf("%w: %d producers wait for their transaction to be verified", ErrOverloaded, maxGates))
		return
	}
	first := g == nil
	if first {
		if r.gates == nil {
			r.gates = make(map[gateKey]*gate)
		}
		g = &gate{ticket: req.refused}
		r.gates[key] = g
	}
	full := !g.add(req)
	if g.opening && !full {
		g.again, g.ticket = true, req.refused
	}
	r.mu.Unlock()
	if full {
		req.answer(fmt.Errorf("%w: %d batches wait for their transaction to be verified", ErrOverloaded, maxAtGate))
	}
	if first {
		r.verify(key, req)
	}
}

func (r *Replica) verify(key gateKey, req *AppendRequest) {
	r.cfg.Verify(Verification{
		TransactionalID: req.TransactionalID, ProducerID: key.producer, ProducerEpoch: key.epoch,
		Topic: r.cfg.Topic, TopicID: r.cfg.TopicID, Partition: r.cfg.Partition, Add: req.AddToTxn,
	}, func(err error) { r.openGate(key, err) })
}

// openGate lets those at the gate go, with the coordinator's word. The gate stays until nobody is left at it: whoever comes meanwhile
// comes after them.
func (r *Replica) openGate(key gateKey, err error) {
	for {
		r.mu.Lock()
		g := r.gates[key]
		if g.again && len(g.reqs) > 0 {
			g.opening, g.again = false, false
			first := g.reqs[0]
			r.mu.Unlock()
			r.verify(key, first)
			return
		}
		g.opening = true
		reqs, by := g.reqs, g.ticket
		g.reqs = nil
		if len(reqs) == 0 {
			delete(r.gates, key)
			r.mu.Unlock()
			return
		}
		m := r.m // perhaps of a later life
		var group *multi.Group
		if m != nil {
			group = m.group
		}
		r.mu.Unlock()
		for _, req := range reqs {
			switch {
			case err != nil:
				req.answer(err)
			case group == nil:
				req.answer(ErrClosed)
			default:
				req.m, req.verified = m, by
				req.propose(group)
			}
		}
	}
}
