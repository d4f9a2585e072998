// Fetch (key 1), versions 4 to 18: reads record batches.
//
// A fetch is first answered by what is there. If that is less than min_bytes, it subscribes to its partitions and
// waits, as an entry in their lists and in the runtime's timer heap, without a goroutine; whatever wakes it looks again at
// the partitions that moved, only. An empty answer says where the log ends, so it is believed only after
// Replica.Linearize (a deposed leader could not know better); records below the high watermark are committed and need no
// such thing.
//
// A reader of committed records (isolation level 1) reads up to the last stable offset, waits for that, and is told of the aborted
// transactions in what it gets.
//
// From v11 on a consumer may name its rack and read from any replica (KIP-392, see preferred.go). A follower hands out what
// it knows to be committed; before it says that there is no more it asks its leader; that an offset is above the end it leaves
// to the leader to say.
//
// v7 brought sessions (see fetch_session.go), v9 leader epochs, v12 diverging epochs, v13 topic ids, v16 the new leader
// in the answer (KIP-951). max_bytes and the partition's limit are soft: the first batch comes whole.

package broker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/segment"
)

// fetchPart is one partition of a fetch.
type fetchPart struct {
	sessionPartition
	topic *coordinator.Topic
	rep   replica
	res   partition.ReadResult
	loan  segment.Loan // the memory of what res has from the disk; it is given back when that has been written, or goes
	err   error

	divergeEpoch      int32
	divergeEnd        int64 // -1: the logs do not part
	leader, hintEpoch int32 // who leads instead (KIP-951); -1: not known
	preferred         int32 // the replica that the client should read from; -1: this one

	asked      atomic.Int32 // whether the end of the log was confirmed: a confirm… constant
	confirmErr error        // set before asked becomes confirmDone
	unsure     bool         // asked, and the outcome not seen by look yet: what res says of the log's end may be wrong
	moved      atomic.Bool  // the waiter fired, or was never linked: read again
	subscribed bool
	waiter     partition.Waiter
}

// confirmGrace is how long a fetch waits for a quorum to confirm the log's end, at least: a client that asks for no wait
// at all (max_wait 0) still gets an answer where a leader without a lease has to ask around.
const confirmGrace = time.Second

const (
	confirmNot int32 = iota
	confirmAsked
	confirmDone
)

func (p *fetchPart) sameTopic(o *fetchPart) bool {
	return p.key.id == o.key.id && p.key.name == o.key.name
}

// fetchOp is one fetch. At most one goroutine works on it at a time (running); others only leave word (again).
type fetchOp struct {
	s      *server
	r      *request
	req    *kmsg.FetchRequest
	ctx    fetchContext
	parts  []fetchPart
	budget int  // bytes of the answer
	any    bool // a follower answers as well
	// committed: nothing from the last stable offset on, and with the word on what was aborted
	committed bool
	started   time.Time

	mu       sync.Mutex // guards what follows; a leaf
	running  bool
	again    bool
	finished bool
	expired  bool // max_wait is over
	late     bool // and confirmGrace too
	gone     bool // the connection is closed
	timer    *time.Timer
}

func (s *server) fetch(r *request) {
	req := r.msg.(*kmsg.FetchRequest)
	ctx, refused := s.sessions.begin(req)
	if refused != nil {
		out, _ := encodeFetch(req.Version, r.header.CorrelationID, r.throttleMillis(), refused.Code, 0, nil, false, nil)
		r.write(out, nil)
		return
	}
	op := &fetchOp{s: s, r: r, req: req, ctx: ctx, parts: make([]fetchPart, len(ctx.parts)), started: time.Now(), running: true}
	op.budget = r.mostFetched(s.fetchBudget(int(req.MaxBytes)))
	op.any, op.committed = req.Version >= 11, req.IsolationLevel == readCommitted
	im := s.b.Image()
	for i := range op.parts {
		p := &op.parts[i]
		p.sessionPartition = ctx.parts[i]
		p.divergeEnd, p.leader, p.preferred, p.res = -1, -1, -1, nothingRead
		topic, err := findTopic(im, req.Version >= 13, p.key.name, p.key.id)
		switch {
		case err == nil:
			err = r.mayTopic(coordinator.OpRead, topic)
		case req.Version < 13 && !r.may(coordinator.OpRead, coordinator.ResourceTopic, p.key.name):
			err = kerr.TopicAuthorizationFailed // rather than that there is no such topic
		}
		if err == nil {
			p.topic = topic
			if p.rep, err = s.findReplica(topic, p.key.partition); err == nil && req.Version < 10 && topicText(topic.Configs, "compression.type") == "zstd" {
				p.rep, err = nil, refuse(kerr.UnsupportedCompressionType, "zstd needs fetch version 10 or later (KIP-110)")
			}
		}
		if err == nil && op.any && req.Rack != "" {
			p.preferred = s.redirect(r.c, p.key, s.preferredReplica(im, p.rep, req.Rack))
		}
		p.err = err
		p.moved.Store(true)
		p.waiter.Fire = func() {
			p.moved.Store(true)
			op.wake()
		}
	}
	op.run()
}

// readCommitted is the isolation level of readers that want no undecided and no aborted records.
const readCommitted = 1

// logEnd is where the log ends for this reader.
func (op *fetchOp) logEnd(res *partition.ReadResult) int64 {
	if op.committed {
		return res.LastStable
	}
	return res.HighWatermark
}

var nothingRead = partition.ReadResult{HighWatermark: -1, LastStable: -1, LogStart: -1, LeaderEpoch: -1}

// fetchBudget is how many bytes an answer may have: the client's wish, ours, and what is left for all of them. Never 0,
// so that a batch always gets through.
func (s *server) fetchBudget(wish int) int {
	left := s.o.FetchMemory - s.fetchUsed.Load()
	return int(max(1, min(int64(wish), s.limits.fetchMaxBytes.Load(), left)))
}

// wake runs the op if nobody does, on a goroutine of its own: the caller is a worker, or holds locks.
func (op *fetchOp) wake() {
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.finished {
		return
	}
	if op.running {
		op.again = true
		return
	}
	op.running = true
	go op.run()
}

// run reads, and answers or waits. running is set, by whoever calls.
func (op *fetchOp) run() {
	for {
		op.mu.Lock()
		op.again = false
		expired, late, gone := op.expired, op.late, op.gone
		op.mu.Unlock()
		if gone {
			op.end()
			op.giveBack()
			op.r.discard()
			return
		}
		ready, unsure := op.look()
		// What waits for a confirmation holds the answer back, beyond a max_wait that is too short for one, if need be.
		if !unsure && (ready || op.req.MaxWaitMillis <= 0 || expired) || unsure && late {
			op.end()
			op.answer()
			return
		}
		if !unsure && !op.subscribe() {
			continue
		}
		for i := range op.parts {
			op.parts[i].own()
		}
		if op.park() {
			return
		}
	}
}

// park lets go of the op until the next wake; false: there is something to do already.
func (op *fetchOp) park() bool {
	op.mu.Lock()
	if op.again || op.gone {
		op.mu.Unlock()
		return false
	}
	first := op.timer == nil
	if first {
		// The runtime's timers are a heap of their own; a goroutine exists only while f runs.
		wait := max(time.Duration(op.req.MaxWaitMillis)*time.Millisecond, 0)
		op.timer = time.AfterFunc(wait, op.expire)
	}
	op.running = false
	op.mu.Unlock()
	if first {
		op.r.whenClosed(func() {
			op.mu.Lock()
			op.gone = true
			op.mu.Unlock()
			op.wake()
		})
	}
	return true
}

// expire is the timer's: first at max_wait, then, if that was shorter, at confirmGrace.
func (op *fetchOp) expire() {
	op.mu.Lock()
	op.expired = true
	if left := confirmGrace - time.Since(op.started); left <= 0 {
		op.late = true
	} else if !op.finished {
		op.timer.Reset(left)
	}
	op.mu.Unlock()
	op.wake()
}

// end unsubscribes and stops the timer. Nothing wakes the op afterwards.
func (op *fetchOp) end() {
	op.mu.Lock()
	op.finished = true
	if op.timer != nil {
		op.timer.Stop()
	}
	op.mu.Unlock()
	for i := range op.parts {
		if p := &op.parts[i]; p.subscribed {
			p.rep.Unsubscribe(&p.waiter)
			p.subscribed = false
		}
	}
}

// look reads what moved. ready: there is enough to answer, or an error that the client should know of at once. unsure:
// but a confirmation is on its way, or came after look had passed its partition (then it has left word, and look is
// called again): the answer must not be written, and no waiter be linked, before it has been seen.
func (op *fetchOp) look() (ready, unsure bool) {
	total, urgent := 0, len(op.parts) == 0
	beyond := 0 // bytes that count for min_bytes, though a later answer has them
	for i := range op.parts {
		total += op.parts[i].res.Bytes
	}
	for i := range op.parts {
		p := &op.parts[i]
		if p.err == nil && p.rep != nil && (p.moved.Swap(false) || p.unsure && p.asked.Load() == confirmDone) {
			if p.subscribed { // it has fired, as a rule: linking a waiter that is linked would be our own fault, and is fatal
				p.rep.Unsubscribe(&p.waiter)
				p.subscribed = false
			}
			total -= p.res.Bytes
			op.readPart(p, total)
			total += p.res.Bytes
		}
		if p.err != nil || p.divergeEnd >= 0 || p.preferred >= 0 {
			urgent = true
		}
		unsure = unsure || p.unsure
		if n := len(p.res.Batches); n > 0 && protocol.Batch(p.res.Batches[n-1]).NextOffset() < op.logEnd(&p.res) {
			// There is more than came: what was left out is no reason to wait, nor would it come.
			beyond += max(int(p.maxBytes)-p.res.Bytes, 0)
		}
	}
	return urgent || total+beyond >= max(int(op.req.MinBytes), 0), unsure
}

// readPart reads one partition, when the answer has got total bytes from the others.
func (op *fetchOp) readPart(p *fetchPart, total int) {
	for {
		confirmed := p.asked.Load() == confirmDone
		if confirmed {
			p.unsure = false
			if p.confirmErr != nil {
				p.fail(p.confirmErr)
				return
			}
		}
		confirm, err := op.tryRead(p, total)
		if confirmed && op.any && errors.Is(err, partition.ErrOffsetOutOfRange) && p.fetchOffset > p.res.LogStart && p.rep.ISR() == nil {
			// Its log may have been opened anew since, and be shorter than it was when it was confirmed. The leader is to say it.
			err = partition.ErrLagging
		}
		if !confirm || confirmed {
			if err != nil {
				p.fail(err)
			}
			return
		}
		// The answer would speak of the end of the log: ask first whether we know it.
		if !p.asked.CompareAndSwap(confirmNot, confirmAsked) {
			return // on its way
		}
		p.unsure = true
		linearize := p.rep.Linearize
		if op.any {
			linearize = p.rep.LinearizeAny
		}
		linearize(func(err error) {
			p.confirmErr = err
			p.asked.Store(confirmDone)
			op.wake()
		})
		if p.asked.Load() != confirmDone {
			return
		}
	}
}

// fail makes an error of what the partition answers. What was read goes: it might say more than we know.
func (p *fetchPart) fail(err error) {
	p.err, p.divergeEnd = err, -1
	p.empty()
}

// empty takes back what was read.
func (p *fetchPart) empty() {
	p.res.Batches, p.res.Bytes, p.res.Aborted = nil, 0, nil
	p.loan.Return()
}

// own makes what was read the part's own, where the memory is lent: a fetch that waits may do so for long.
func (p *fetchPart) own() {
	if p.loan.Size() == 0 {
		return
	}
	b := make([]byte, 0, p.res.Bytes)
	for i, batch := range p.res.Batches {
		b = append(b, batch...)
		p.res.Batches[i] = b[len(b)-len(batch) : len(b) : len(b)]
	}
	p.loan.Return()
}

// tryRead reads once. confirm says that the result, or the error, is only true if this replica knows the log's end.
func (op *fetchOp) tryRead(p *fetchPart, total int) (confirm bool, err error) {
	room := op.budget - total
	limit := min(int(p.maxBytes), room)
	if total == 0 {
		limit = max(limit, 1) // the first batch comes whole, whatever its size
	}
	if p.preferred >= 0 {
		limit = 0 // only whether there is an error to tell instead
	}
	p.divergeEnd = -1
	p.loan.Return()
	p.res, err = p.rep.Read(partition.ReadQuery{Offset: p.fetchOffset, MaxBytes: limit, LeaderEpoch: p.leaderEpoch, AnyReplica: op.any, Committed: op.committed,
		Loan: &p.loan})
	if err != nil {
		p.preferred = -1
		return errors.Is(err, partition.ErrOffsetOutOfRange), err
	}
	if p.preferred >= 0 {
		return false, nil
	}
	if op.req.Version >= 12 && p.lastEpoch >= 0 {
		epoch, end, err := p.rep.OffsetForLeaderEpoch(p.lastEpoch, -1, op.any)
		if err != nil {
			return false, err
		}
		if epoch < p.lastEpoch || end < p.fetchOffset {
			p.divergeEpoch, p.divergeEnd = epoch, max(end, 0)
			p.empty()
			return true, nil
		}
	}
	if p.res.Bytes > room && total > 0 {
		// Only the answer's first batch may exceed it; the order of partitions changes, so that this one's turn comes.
		p.empty()
	}
	return p.res.Bytes == 0 && p.fetchOffset >= op.logEnd(&p.res), nil
}

// subscribe links every partition that is not; false: something is there already.
func (op *fetchOp) subscribe() bool {
	total := 0
	for i := range op.parts {
		total += op.parts[i].res.Bytes
	}
	// If the answer lacks n bytes over k partitions, one of them must get n/k before it can be complete.
	need := int64(max(int(op.req.MinBytes)-total, 1)) / int64(max(len(op.parts), 1))
	ok := true
	for i := range op.parts {
		p := &op.parts[i]
		if p.subscribed || p.rep == nil || p.err != nil {
			continue
		}
		p.waiter.After, p.waiter.Epoch, p.waiter.MinBytes, p.waiter.AnyReplica = op.logEnd(&p.res), p.res.LeaderEpoch, need, op.any
		p.waiter.Committed = op.committed
		p.subscribed = true
		if !p.rep.Subscribe(&p.waiter) {
			p.subscribed = false
			p.moved.Store(true)
			ok = false
			continue
		}
		if need > 1 {
			// The count of bytes began at Subscribe: what came between Read and here is not in it.
			end := p.rep.HighWatermark
			if op.committed {
				end = p.rep.LastStable
			}
			if now, _ := end(); now > op.logEnd(&p.res) && p.rep.Unsubscribe(&p.waiter) {
				p.subscribed = false
				p.moved.Store(true)
				ok = false
			}
		}
	}
	return ok
}

// answer writes the response. The op has ended.
func (op *fetchOp) answer() {
	var hints []hintedBroker
	out := make([]*fetchPart, 0, len(op.parts))
	records, held := 0, 0
	for i := range op.parts {
		p := &op.parts[i]
		if p.unsure {
			// max_wait is over and no quorum, or no leader, has said whether this is the end. Say so rather than guess.
			err := partition.ErrUnavailable
			if op.any && p.rep.ISR() == nil { // it follows
				err = partition.ErrLagging
			}
			p.fail(err)
		}
		if p.err != nil {
			op.s.met.refusedPartition(keyFetch, codeOf(p.err))
			hints = op.hint(p, hints)
		}
		if op.ctx.incremental && !p.changed() {
			continue
		}
		records += p.res.Bytes
		held += max(p.res.Bytes, p.loan.Size())
		out = append(out, p)
	}
	sessionID := int32(0)
	if se := op.ctx.session; se != nil {
		sessionID = se.id
		se.told(out)
	}
	op.s.met.fetchedBytes.Add(float64(records))
	op.s.fetchUsed.Add(int64(held))
	op.r.charge(quotaConsume, float64(records), false)
	frame, _ := encodeFetch(op.req.Version, op.r.header.CorrelationID, op.r.throttleMillis(), 0, sessionID, out, op.committed, hints)
	op.r.write(frame, func() {
		op.giveBack()
		op.s.fetchUsed.Add(-int64(held))
	})
}

// giveBack gives back what memory was lent. Nobody looks at what was read any more.
func (op *fetchOp) giveBack() {
	for i := range op.parts {
		op.parts[i].loan.Return()
	}
}

// changed says whether an incremental answer must name the partition.
func (p *fetchPart) changed() bool {
	return p.fresh || p.res.Bytes > 0 || p.err != nil || p.divergeEnd >= 0 || p.preferred >= 0 ||
		p.res.HighWatermark != p.highWatermark || p.res.LogStart != p.logStart
}

// hint adds who leads instead (v16, KIP-951).
func (op *fetchOp) hint(p *fetchPart, hints []hintedBroker) []hintedBroker {
	code := codeOf(p.err)
	if op.req.Version < 16 || p.topic == nil || code != kerr.NotLeaderForPartition.Code && code != kerr.FencedLeaderEpoch.Code {
		return hints
	}
	b := op.s.hintLeader(op.r.c, p.topic, p.key.partition, p.err, &p.leader, &p.hintEpoch)
	if b == nil {
		return hints
	}
	for i := range hints {
		if hints[i].node == b.node {
			return hints
		}
	}
	return append(hints, *b)
}
