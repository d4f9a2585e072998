// The end of a transaction: the decision, which is a record; the markers in its partitions; and the record that says that they are
// written.
//
// Once the decision is committed it stands, whoever coordinates: markers are sent until each partition has taken its own, across changes
// of leadership on both sides.

package coordinator

import "errors"

// EndRequest commits or aborts a transaction.
type EndRequest struct {
	TransactionalID string
	ProducerID      int64
	ProducerEpoch   int16
	Commit          bool
	// Bump: the client knows that each end raises its epoch (transaction.version 2).
	Bump bool

	fresh int64
}

// End calls reply once: when the decision is committed. The producer id and epoch are those for the next transaction.
func (c *Txns) End(r EndRequest, reply func(producer int64, epoch int16, err error)) {
	r.fresh = -1
	c.end(r, reply)
}

func (c *Txns) end(r EndRequest, reply func(int64, int16, error)) {
	s, err := c.enter(r.TransactionalID)
	if err != nil {
		reply(-1, -1, err)
		return
	}
	defer s.unlock()
	t := s.txns[r.TransactionalID]
	again := false
	switch {
	case t == nil:
		err = ErrInvalidProducerIDMapping
	case t.pending:
		// Who is not the producer any more is told so, and need not come again.
		if err = t.owned(r.ProducerID, r.ProducerEpoch); err == nil || r.Bump {
			err = ErrConcurrentTransactions
		}
	default:
		again, err = t.mayEnd(&r)
	}
	switch {
	case err != nil:
		s.confirmed(err, func(err error) { reply(-1, -1, err) })
	case again:
		producer, epoch := t.producer, t.epoch
		s.confirmed(nil, func(err error) {
			if err != nil {
				producer, epoch = -1, -1
			}
			reply(producer, epoch, err)
		})
	case r.Bump && t.epoch >= finalEpoch && r.fresh < 0:
		s.later(func() {
			c.cfg.NextProducerID(func(id int64, err error) {
				if err != nil {
					reply(-1, -1, errors.Join(ErrCoordinatorUnavailable, err))
					return
				}
				r.fresh = id
				c.end(r, reply)
			})
		})
	default:
		t.prepare(&r, func(err error) {
			producer, epoch := t.producer, t.epoch
			switch {
			case err != nil:
				producer, epoch = -1, -1
			case t.next >= 0:
				producer, epoch = t.next, 0
			}
			s.later(func() { reply(producer, epoch, err) })
		})
	}
}

// mayEnd judges an end by the transaction's state. again: it repeats one that is done.
func (t *txn) mayEnd(r *EndRequest) (again bool, err error) {
	if !r.Bump {
		if err := t.owned(r.ProducerID, r.ProducerEpoch); err != nil {
			return false, err
		}
		switch t.state {
		case TxnOngoing:
			return false, nil
		case TxnPrepareCommit, TxnPrepareAbort:
			if r.Commit == (t.state == TxnPrepareCommit) {
				return false, ErrConcurrentTransactions
			}
		case TxnCompleteCommit, TxnCompleteAbort:
			if r.Commit == (t.state == TxnCompleteCommit) {
				return true, nil
			}
		}
		return false, ErrTxnState
	}
	// With raised epochs the state alone does not tell a repeat from the end of the next transaction, but the epoch does. Where the last end
	// raised none, the epoch below is that of an instance before.
	raised := r.ProducerID == t.producer && int(r.ProducerEpoch) == int(t.epoch)-1 && t.version >= 2
	renewed := r.ProducerID == t.prev && r.ProducerEpoch == finalEpoch && t.epoch == 0
	owned := t.owned(r.ProducerID, r.ProducerEpoch)
	switch {
	case errors.Is(owned, ErrConcurrentTransactions):
		return false, owned
	case r.ProducerID != t.producer && !renewed:
		return false, ErrInvalidProducerIDMapping
	}
	renewed = renewed && t.version >= 2
	current := owned == nil
	switch t.state {
	case TxnOngoing:
		if !current {
			return false, ErrProducerFenced
		}
		return false, nil
	case TxnEmpty:
		switch {
		case !current:
			return false, ErrProducerFenced
		case r.Commit:
			return false, ErrTxnState
		}
		return false, nil // an abort without a transaction raises the epoch: so a client gets rid of what is still on its way
	case TxnPrepareCommit, TxnPrepareAbort:
		switch {
		case current:
			// The end of the next transaction, or an abort of nothing, before this one's markers are there. (Kafka fences the producer.)
			return false, ErrConcurrentTransactions
		case !raised:
			return false, ErrProducerFenced
		case r.Commit != (t.state == TxnPrepareCommit):
			return false, ErrTxnState
		}
		return false, ErrConcurrentTransactions
	}
	committed := t.state == TxnCompleteCommit
	switch {
	case raised && t.epoch > finalEpoch:
		return false, ErrProducerFenced // aborted from here, and no epoch is left to go on with
	case raised || renewed:
		if r.Commit != committed {
			return false, ErrTxnState
		}
		return true, nil
	case !current:
		return false, ErrProducerFenced
	case r.Commit:
		return false, ErrTxnState
	}
	return false, nil
}

// prepare writes the decision. then is called under the shard's mutex, before any marker is sent.
func (t *txn) prepare(r *EndRequest, then func(error)) {
	next := t.txnData
	if next.state != TxnOngoing {
		next.parts, next.start = nil, t.now().UnixMilli()
	}
	next.state = TxnPrepareAbort
	if r.Commit {
		next.state = TxnPrepareCommit
	}
	next.version = 1
	if r.Bump {
		next.version = 2
		next.lastEpoch, next.epoch = next.epoch, next.epoch+1
		next.next = r.fresh
	}
	t.decide(next, then)
}

// abort ends the transaction that is open, and fences its producer. keep is the epoch of who may learn of the raise, or -1.
func (t *txn) abort(keep int16, then func(error)) {
	next := t.txnData
	next.state = TxnPrepareAbort
	next.epoch++
	next.lastEpoch = keep
	t.decide(next, then)
}

func (t *txn) decide(next txnData, then func(error)) {
	raised := next.epoch > t.epoch
	t.write(next, func(err error) {
		then(err)
		if err == nil && !t.s.closed && t.s.txns[t.id] == t {
			t.bumped = raised
			t.mark()
		}
	})
}

// mark begins to send markers.
func (t *txn) mark() {
	t.left = make(map[TopicPartition]struct{}, len(t.parts))
	for _, p := range t.parts {
		t.left[p] = struct{}{}
	}
	t.pause = markerRetryMin
	t.send()
}

// send sends the markers that are left.
func (t *txn) send() {
	if t.sending || t.pending {
		return
	}
	t.s.c.timers.stop(&t.timer)
	if len(t.left) == 0 {
		t.complete()
		return
	}
	parts := make([]TopicPartition, 0, len(t.left))
	for _, p := range t.parts {
		if _, ok := t.left[p]; ok {
			parts = append(parts, p)
		}
	}
	m := Marker{ProducerID: t.producer, ProducerEpoch: t.epoch, CoordinatorEpoch: t.s.epoch, Commit: t.state == TxnPrepareCommit,
		Bumped: t.bumped || t.version >= 2}
	t.sending = true
	s := t.s
	s.later(func() {
		s.c.cfg.WriteMarkers(m, parts, func(errs []error) {
			s.mu.Lock()
			defer s.unlock()
			t.sending = false
			if !s.closed && s.txns[t.id] == t {
				t.sent(parts, errs)
			}
		})
	})
}

// sent takes the answers in.
func (t *txn) sent(parts []TopicPartition, errs []error) {
	var first error
	for i, p := range parts {
		switch err := errs[i]; {
		case err == nil, errors.Is(err, ErrUnknownPartition):
			delete(t.left, p)
		case errors.Is(err, ErrMarkerFenced):
			t.s.c.cfg.Logger.Warn("a partition has seen a later epoch than the end of a transaction", "transactionalID", t.id, "topic", p.Topic,
				"partition", p.Partition, "producer", t.producer, "epoch", t.epoch, "err", err)
			delete(t.left, p)
		case first == nil:
			first = err
		}
	}
	if len(t.left) == 0 {
		t.complete()
		return
	}
	t.s.c.again.Add(1)
	t.s.c.cfg.Logger.Debug("not all markers of a transaction are written; trying again", "transactionalID", t.id, "left", len(t.left), "in", t.pause, "err", first)
	t.s.c.timers.set(&t.timer, t.now().Add(t.pause))
	t.pause = min(2*t.pause, markerRetryMax)
}

// complete writes that all markers are there.
func (t *txn) complete() {
	next := t.txnData
	next.state, next.parts = TxnCompleteAbort, nil
	n := 0
	if t.state == TxnPrepareCommit {
		next.state, n = TxnCompleteCommit, 1
	}
	if next.next >= 0 {
		next.prev, next.producer, next.epoch, next.next = next.producer, next.next, 0, -1
	}
	t.write(next, func(err error) {
		switch {
		case t.s.closed || t.s.txns[t.id] != t:
		case err == nil:
			t.left, t.bumped = nil, false
			t.s.c.ended[n].Add(1)
		default:
			t.s.c.timers.set(&t.timer, t.now().Add(t.pause))
			t.pause = min(2*t.pause, markerRetryMax)
		}
	})
}
