// The inbox: what waits for a group's next turn. Bounded: messages over the bound are dropped (Raft repeats them),
// proposals and reads are refused. Events (reports of the disk, of pair coverage, orders of the embedder) are bounded
// by what causes them: one sync, one hard state, one coverage question per peer is in flight at a time.

package multi

import (
	"fmt"
	"sync"

	"github.com/balsamq/balsa/raft"
)

type eventKind uint8

const (
	evSynced         eventKind = iota + 1 // the flush loop: ticket or err
	evHardState                           // the hard-state store: hs is durable
	evConf                                // Group.ProposeConf: conf, done
	evTransfer                            // Group.Transfer: peer, reply
	evPriorities                          // Group.SetPriorities: priorities
	evCampaign                            // Group.Campaign
	evReset                               // Group.Reset: reset, reply
	evSnapshot                            // Group.Snapshot
	evPrune                               // Group.Prune
	evPruned                              // flusher: cut, or err
	evSnapshotSaved                       // flusher: meta is stored, or err
	evSnapshotOpened                      // flusher: file for peer, or err
	evChunk                               // transport: chunk from peer
	evChunkRead                           // flusher: chunk of send for peer, or err
	evFetchOpened                         // flusher: bytes of fetch are here, or err
	evChunkWritten                        // flusher: bytes of fetch, or err
	evPairOut                             // the leader's coverage by peer changed: look
	evPairIn                              // the follower's coverage changed: look; ask says that a leader proposes it
	evPaced                               // the pacer: entries may go to peer, which is behind; none: they are still to be read
	evUnreachable                         // transport: peer
	evFailed                              // Group.Fail, or the host: err
	evInspect                             // Group.Inspect: inspect
)

type event struct {
	kind    eventKind
	peer    raft.NodeID
	ticket  raft.Ticket
	hs      raft.HardState
	meta    raft.SnapshotMeta
	file    raft.SnapshotReader
	send    *snapshotSend
	fetch   *fetch
	chunk   *ChunkMessage
	bytes   int64
	entries []raft.Entry
	cut     *raft.ConfState // evSnapshotSaved: the log was compacted; the membership there
	conf    *raft.ConfChange
	reset   *raft.Reset
	done    func(Outcome)
	reply   func(error)
	inspect func(Inspection, error)
	err     error

	priorities []raft.NodePriority
}

// refuse ends an order that is not carried out, and gives back what came with a report; it tells nobody of what was only that.
func (e *event) refuse(g *Group, err error) {
	switch {
	case e.kind == evSnapshotOpened:
		g.opened(e.peer)
		if e.file != nil {
			_ = e.file.Close() // only read
		}
		g.h.freeSend()
	case e.kind == evChunkRead:
		if e.send.busy = false; e.send.dead {
			e.send.close()
		}
	case e.kind == evPaced:
		g.h.paceDone(0, e.bytes, g.h.now())
	case e.done != nil:
		e.done(Outcome{Err: err})
	case e.reply != nil:
		e.reply(err)
	case e.inspect != nil:
		e.inspect(Inspection{Status: g.Status()}, err)
	}
}

// batch is what a turn takes out of the inbox. Batches are pooled: an idle group holds none.
type batch struct {
	msgs   []raft.Message
	props  []*Proposal
	reads  []func(raft.Index, error)
	rounds []func(raft.Index, error) // reads that a lease must not answer
	events []event
}

var batchPool = sync.Pool{New: func() any { return new(batch) }}

// maxPooledMessages keeps a batch that once grew large from staying so.
const maxPooledMessages = 1024

func (b *batch) release() {
	if cap(b.msgs) > maxPooledMessages || cap(b.props) > maxPooledMessages || cap(b.events) > maxPooledMessages ||
		cap(b.reads) > maxPooledMessages || cap(b.rounds) > maxPooledMessages {
		return
	}
	clear(b.msgs)
	clear(b.props)
	clear(b.reads)
	clear(b.rounds)
	clear(b.events)
	b.msgs, b.props, b.reads, b.rounds, b.events = b.msgs[:0], b.props[:0], b.reads[:0], b.rounds[:0], b.events[:0]
	batchPool.Put(b)
}

type inbox struct {
	mu        sync.Mutex // protects all below
	b         *batch     // nil: empty
	held      []*Proposal
	msgBytes  int64 // frames in b.msgs
	chunks    int   // evChunk in b.events
	props     int   // proposals in b.props and held
	propBytes int64 // and their payloads
	lazy      lazy
	gathers   bool  // proposals are no reason for a turn yet: see gather
	stop      error // set: nothing is accepted any more; why
	installed *installResult
}

func (in *inbox) batchLocked() *batch {
	if in.b == nil {
		in.b = batchPool.Get().(*batch)
	}
	return in.b
}

// pushMessage copies m; false if it does not fit.
func (in *inbox) pushMessage(h *Host, g *Group, m *raft.Message, now raft.Time) bool {
	var size int64
	for i := range m.Entries {
		size += int64(m.Entries[i].Size())
	}
	in.mu.Lock()
	b := in.batchLocked()
	if in.stop != nil || len(b.msgs) >= h.o.MaxInboxMessages || size > 0 && in.msgBytes > 0 && in.msgBytes+size > h.o.MaxInboxBytes {
		in.mu.Unlock()
		return false
	}
	b.msgs = append(b.msgs, *m)
	in.msgBytes += size
	wait := in.lateLocked(m)
	in.mu.Unlock()
	if !wait {
		h.scheduleAt(g, now)
	}
	return true
}

func (in *inbox) pushProposal(h *Host, g *Group, p *Proposal) error {
	in.mu.Lock()
	switch size := int64(len(p.Payload)); {
	case in.stop != nil:
		err := in.stop
		in.mu.Unlock()
		return err
	case in.props >= h.o.MaxInboxProposals || in.propBytes > 0 && in.propBytes+size > h.o.MaxInboxBytes:
		in.mu.Unlock()
		return ErrOverloaded
	default:
		in.props++
		in.propBytes += size
	}
	b := in.batchLocked()
	b.props = append(b.props, p)
	wait := in.gathers && !in.worthARoundLocked()
	in.mu.Unlock()
	if wait {
		h.stats.gathered.Add(1)
	} else {
		h.schedule(g)
	}
	return nil
}

func (in *inbox) pushRead(h *Host, g *Group, round bool, done func(raft.Index, error)) error {
	in.mu.Lock()
	b := in.batchLocked()
	switch {
	case in.stop != nil:
		err := in.stop
		in.mu.Unlock()
		return err
	case len(b.reads)+len(b.rounds) >= h.o.MaxReads:
		in.mu.Unlock()
		return ErrOverloaded
	case round:
		b.rounds = append(b.rounds, done)
	default:
		b.reads = append(b.reads, done)
	}
	in.mu.Unlock()
	h.schedule(g)
	return nil
}

// pushEvent never refuses for want of room, only after the group has stopped.
func (in *inbox) pushEvent(h *Host, g *Group, e event) error {
	turn, err := in.addEvent(e)
	if turn {
		h.schedule(g)
	}
	return err
}

// addEvent is pushEvent by a caller who sees to it that the group has the turn that it needs for it.
func (in *inbox) addEvent(e event) (turn bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stop != nil {
		return false, in.stop
	}
	b := in.batchLocked()
	b.events = append(b.events, e)
	return e.kind != evSynced || e.err != nil || !in.progressLocked(), nil
}

// pushChunk drops what does not fit: whoever waits for it asks again.
func (in *inbox) pushChunk(h *Host, g *Group, from raft.NodeID, m *ChunkMessage) bool {
	in.mu.Lock()
	if in.stop != nil || in.chunks >= maxInboxChunks {
		in.mu.Unlock()
		return false
	}
	in.chunks++
	b := in.batchLocked()
	b.events = append(b.events, event{kind: evChunk, peer: from, chunk: m})
	in.mu.Unlock()
	h.schedule(g)
	return true
}

// take empties the inbox: b may be nil. Proposals held back earlier come first.
func (in *inbox) take() (b *batch, held []*Proposal) {
	in.mu.Lock()
	b, in.b = in.b, nil
	held, in.held = in.held, nil
	in.msgBytes, in.chunks, in.gathers, in.lazy = 0, 0, false, lazy{}
	in.mu.Unlock()
	return b, held
}

// takeInstalled returns the outcome of installing a snapshot, once it is there.
func (in *inbox) takeInstalled() *installResult {
	in.mu.Lock()
	defer in.mu.Unlock()
	r := in.installed
	in.installed = nil
	return r
}

// consumed takes proposals out of the account, and puts those that could not be staged yet back to the front.
func (in *inbox) consumed(n int, bytes int64, rest []*Proposal) {
	in.mu.Lock()
	in.props -= n
	in.propBytes -= bytes
	in.held = rest
	in.mu.Unlock()
}

// close refuses everything from now on with err and returns what was waiting.
func (in *inbox) close(err error) (b *batch, held []*Proposal) {
	in.mu.Lock()
	if in.stop == nil {
		in.stop = err
	}
	in.mu.Unlock()
	return in.take()
}

// failBatch completes what waited in an inbox with err.
func (g *Group) failBatch(b *batch, held []*Proposal, err error) {
	for _, p := range held {
		p.Done(Outcome{Err: err})
	}
	if b == nil {
		return
	}
	for _, p := range b.props {
		p.Done(Outcome{Err: err})
	}
	failReads(b, err)
	for i := range b.events {
		b.events[i].refuse(g, err)
	}
	b.release()
}

// failReads completes the reads of a batch with err.
func failReads(b *batch, err error) {
	for _, done := range b.reads {
		done(0, err)
	}
	for _, done := range b.rounds {
		done(0, err)
	}
}

func failedError(err error) error { return fmt.Errorf("%w: %w", ErrFailed, err) }
