// One transactional id: its producer, and the state of its transaction.
//
//	Empty ──add──▶ Ongoing ──commit──▶ PrepareCommit ──markers──▶ CompleteCommit ─┐
//	                 ▲  └──abort, time-out, fence──▶ PrepareAbort ──▶ CompleteAbort ─┤
//	                 └──────────────────────────────add──────────────────────────┘
//
// A change is a record, and is in force when that is committed. One record of an id is on its way at a time; what comes meanwhile is
// sent away with CONCURRENT_TRANSACTIONS, except partitions that are to be added while others are: those wait, and go together.

package coordinator

import (
	"errors"
	"math"
	"time"
)

// finalEpoch is the largest epoch that a producer gets. The one above is for the marker that ends its last transaction.
const finalEpoch = math.MaxInt16 - 1

// noTxn is an id of which nothing is stored.
var noTxn = txnData{producer: -1, epoch: -1, prev: -1, next: -1, lastEpoch: -1, start: -1}

// txn is guarded by its shard's mutex.
type txn struct {
	s  *txnShard
	id string
	txnData
	pending bool // a record is on its way
	adding  bool // that record adds partitions, and
	waiting []*addition
	timer   timer // Ongoing: of the transaction; preparing: until markers are sent again

	// While preparing.
	left    map[TopicPartition]struct{} // without a marker yet
	sending bool
	bumped  bool // the epoch in the markers is above the one that the transaction wrote with
	pause   time.Duration
}

// addition is a request to add partitions.
type addition struct {
	producer int64
	epoch    int16
	parts    []TopicPartition
	version  int16
	reply    func(error)
}

func (t *txn) now() time.Time { return t.s.c.cfg.Now() }

// resume is called for each id after a load: it takes up what was begun.
func (t *txn) resume() {
	switch {
	case t.state == TxnOngoing:
		t.watch()
	case t.state.preparing():
		t.mark()
	}
}

// watch sets the transaction's time-out.
func (t *txn) watch() {
	t.s.c.timers.set(&t.timer, time.UnixMilli(t.start).Add(t.timeout))
}

// fired is the timer's.
func (t *txn) fired() {
	switch {
	case t.s.txns[t.id] != t:
	case t.state.preparing():
		t.send()
	case t.state != TxnOngoing:
	case t.now().Before(time.UnixMilli(t.start).Add(t.timeout)):
		t.watch() // of a later transaction
	case t.pending:
		t.s.c.timers.set(&t.timer, t.now().Add(busyRetry))
	default:
		t.s.c.cfg.Logger.Info("a transaction has timed out and is aborted", "transactionalID", t.id, "producer", t.producer, "epoch", t.epoch, "after", t.timeout)
		t.s.c.late.Add(1)
		t.abort(-1, func(err error) {
			if err != nil && !t.s.closed && t.s.txns[t.id] == t {
				t.s.c.timers.set(&t.timer, t.now().Add(busyRetry))
			}
		})
	}
}

// write stores next. then is called under the shard's mutex, when it is in force or with the error.
func (t *txn) write(next txnData, then func(error)) {
	t.pending = true
	next.updated = t.now().UnixMilli()
	t.s.append([]txnRecord{{id: t.id, data: &next}}, func(err error) {
		t.pending = false
		then(err)
	})
}

// dismiss sends away those who wait to add partitions.
func (t *txn) dismiss(err error) {
	for _, a := range t.waiting {
		t.s.later(func() { a.reply(err) })
	}
	t.waiting = nil
}

// owned says whether the producer is the id's, in its current epoch.
func (t *txn) owned(producer int64, epoch int16) error {
	switch {
	case t.next >= 0 && producer == t.next && epoch == 0:
		return ErrConcurrentTransactions // it was told with the decision, and is the id's when the markers are written
	case t.producer != producer:
		return ErrInvalidProducerIDMapping
	case t.epoch != epoch, epoch > finalEpoch:
		return ErrProducerFenced
	}
	return nil
}

// InitRequest asks for a transactional id's producer.
type InitRequest struct {
	TransactionalID string
	Timeout         time.Duration
	// ProducerID and ProducerEpoch are what the asker believes to have (KIP-360); -1: it comes new.
	ProducerID    int64
	ProducerEpoch int16

	fresh int64 // a producer id that nobody has; -1: none was asked for yet
}

// Init makes the asker the producer of its transactional id, and calls reply once. Whoever was it before is fenced; if a transaction of
// the id is open, it is aborted first, and the answer is ErrConcurrentTransactions until that is done.
func (c *Txns) Init(r InitRequest, reply func(producer int64, epoch int16, err error)) {
	if r.Timeout <= 0 || r.Timeout > c.cfg.MaxTimeout {
		reply(-1, -1, ErrInvalidTxnTimeout)
		return
	}
	r.fresh = -1
	c.init(r, reply)
}

func (c *Txns) init(r InitRequest, reply func(int64, int16, error)) {
	s, err := c.enter(r.TransactionalID)
	if err != nil {
		reply(-1, -1, err)
		return
	}
	defer s.unlock()
	answer := func(producer int64, epoch int16, err error) {
		if err != nil {
			producer, epoch = -1, -1
		}
		s.later(func() { reply(producer, epoch, err) })
	}
	t := s.txns[r.TransactionalID]
	next := noTxn
	if t != nil {
		next = t.txnData
	}
	switch {
	case t == nil && len(s.txns) >= maxTxns:
		answer(-1, -1, ErrCoordinatorUnavailable)
		return
	case t == nil:
	case t.pending || t.state.preparing(): // also of one that is only coming to be
		answer(-1, -1, ErrConcurrentTransactions)
		return
	case r.ProducerID >= 0 && !t.believed(&r):
		s.confirmed(ErrProducerFenced, func(err error) { reply(-1, -1, err) })
		return
	case t.state == TxnOngoing:
		// Its epoch is raised with the abort, and once more when the asker comes again: so nobody is told the one in the markers.
		keep := int16(-1)
		if r.ProducerID >= 0 {
			keep = r.ProducerEpoch
		}
		t.abort(keep, func(err error) {
			if err == nil {
				err = ErrConcurrentTransactions
			}
			answer(-1, -1, err)
		})
		return
	case r.ProducerID >= 0 && (r.ProducerID != t.producer || r.ProducerEpoch != t.epoch) && t.epoch <= finalEpoch:
		// A repeat of what raised the epoch.
		producer, epoch := t.producer, t.epoch
		s.confirmed(nil, func(err error) {
			if err != nil {
				producer, epoch = -1, -1
			}
			reply(producer, epoch, err)
		})
		return
	}
	if (next.epoch < 0 || next.epoch >= finalEpoch) && r.fresh < 0 {
		s.later(func() {
			c.cfg.NextProducerID(func(id int64, err error) {
				if err != nil {
					reply(-1, -1, errors.Join(ErrCoordinatorUnavailable, err))
					return
				}
				r.fresh = id
				c.init(r, reply)
			})
		})
		return
	}
	if t == nil {
		t = s.newTxn(r.TransactionalID)
	}
	next.lastEpoch = -1
	switch {
	case next.epoch < 0:
		next.producer, next.epoch = r.fresh, 0
	case next.epoch >= finalEpoch:
		if r.ProducerID >= 0 {
			next.lastEpoch = next.epoch
		}
		next.prev, next.producer, next.epoch = next.producer, r.fresh, 0
	default:
		if r.ProducerID >= 0 {
			next.lastEpoch = next.epoch
		}
		next.epoch++
	}
	next.state, next.parts, next.start, next.timeout, next.next = TxnEmpty, nil, -1, r.Timeout, -1
	t.write(next, func(err error) {
		if err != nil && !s.closed && t.epoch < 0 && s.txns[t.id] == t {
			delete(s.txns, t.id) // it never came to be
		}
		answer(next.producer, next.epoch, err)
	})
}

// believed says whether what the asker believes to have is, or just was, the id's.
func (t *txn) believed(r *InitRequest) bool {
	if r.ProducerID == t.producer {
		return r.ProducerEpoch == t.epoch || t.lastEpoch >= 0 && r.ProducerEpoch == t.lastEpoch
	}
	// The epochs of the id's former producer were used up, and it has not heard of the new one.
	return r.ProducerID == t.prev && t.epoch == 0 && r.ProducerEpoch >= finalEpoch
}

// AddRequest puts partitions into a transaction, or asks whether they are in it.
type AddRequest struct {
	TransactionalID string
	ProducerID      int64
	ProducerEpoch   int16
	Partitions      []TopicPartition
	// Verify adds nothing: partitions that are not in the transaction are ErrTxnAbortable.
	Verify bool
	// Version is the client's transaction.version.
	Version int16
}

// Add calls reply once, with nil if all of the partitions are in the transaction.
func (c *Txns) Add(r AddRequest, reply func(error)) {
	s, err := c.enter(r.TransactionalID)
	if err != nil {
		reply(err)
		return
	}
	defer s.unlock()
	t := s.txns[r.TransactionalID]
	err = ErrInvalidProducerIDMapping
	if t != nil {
		err = t.owned(r.ProducerID, r.ProducerEpoch)
	}
	switch {
	case err != nil:
	case t.state.preparing():
		err = ErrConcurrentTransactions
	case t.state == TxnOngoing && t.hasAll(r.Partitions) && (!t.pending || t.adding || r.Verify):
		// An end that is on its way does not make a verification wrong: the partition holds its ticket against the marker.
		s.confirmed(nil, reply)
		return
	case r.Verify:
		err = ErrTxnAbortable
	case t.pending && (!t.adding || len(t.waiting) >= maxWaitingAdds):
		err = ErrConcurrentTransactions
	default:
		a := &addition{producer: r.ProducerID, epoch: r.ProducerEpoch, parts: r.Partitions, version: r.Version, reply: reply}
		t.waiting = append(t.waiting, a)
		if !t.pending {
			t.add()
		}
		return
	}
	s.confirmed(err, reply)
}

// add writes all additions that wait, as one record.
func (t *txn) add() {
	batch := t.waiting
	t.waiting = nil
	next := t.txnData
	if next.state != TxnOngoing {
		next.state, next.parts, next.start = TxnOngoing, nil, t.now().UnixMilli()
	}
	kept := batch[:0]
	for _, a := range batch {
		err := t.owned(a.producer, a.epoch)
		var parts []TopicPartition
		if err == nil {
			if parts = next.with(a.parts); len(parts) > maxTxnPartitions {
				err = ErrCommitTooLarge
			}
		}
		if err != nil {
			t.s.later(func() { a.reply(err) })
			continue
		}
		next.parts, next.version = parts, a.version
		kept = append(kept, a)
	}
	if len(kept) == 0 {
		return
	}
	t.adding = true
	t.write(next, func(err error) {
		t.adding = false
		for _, a := range kept {
			t.s.later(func() { a.reply(err) })
		}
		if t.s.closed || t.s.txns[t.id] != t {
			t.dismiss(ErrNotCoordinator)
			return
		}
		if err == nil {
			t.watch()
		}
		if len(t.waiting) > 0 {
			t.add()
		}
	})
}
