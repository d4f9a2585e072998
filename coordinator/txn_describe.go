// What can be said of transactions: DescribeTransactions, ListTransactions, metrics.

package coordinator

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// TxnInfo describes a transactional id.
type TxnInfo struct {
	TransactionalID string
	State           TxnState
	ProducerID      int64
	ProducerEpoch   int16
	Timeout         time.Duration
	Start           int64            // milliseconds; -1: no transaction is open
	Partitions      []TopicPartition // in order; of one that is ending, those without a marker yet
}

func (t *txn) info() TxnInfo {
	i := TxnInfo{TransactionalID: t.id, State: t.state, ProducerID: t.producer, ProducerEpoch: t.epoch, Timeout: t.timeout, Start: -1, Partitions: t.parts}
	if t.state == TxnOngoing || t.state.preparing() {
		i.Start = t.start
	}
	if t.state.preparing() {
		i.Partitions = slices.SortedFunc(maps.Keys(t.left), comparePartitions)
	}
	return i
}

// Describe calls reply once, with ErrTxnNotFound for an unknown id.
func (c *Txns) Describe(id string, reply func(TxnInfo, error)) {
	s, err := c.enter(id)
	if err != nil {
		reply(TxnInfo{}, err)
		return
	}
	defer s.unlock()
	var info TxnInfo
	t := s.txns[id]
	if t != nil && t.epoch >= 0 {
		info = t.info()
	}
	s.confirmed(nil, func(err error) {
		if err == nil && info.TransactionalID == "" {
			err = ErrTxnNotFound
		}
		reply(info, err)
	})
}

// List describes the ids that this broker coordinates and that match, in their order, without their partitions. ErrCoordinatorLoading: not all
// are known yet.
func (c *Txns) List(matches func(TxnInfo) bool) ([]TxnInfo, error) {
	out := []TxnInfo{}
	for _, s := range c.all() {
		s.mu.Lock()
		if s.loading && !s.closed {
			s.unlock()
			return nil, ErrCoordinatorLoading
		}
		for _, t := range s.txns {
			if i := t.info(); t.epoch >= 0 && matches(i) {
				i.Partitions = nil
				out = append(out, i)
			}
		}
		s.unlock()
	}
	slices.SortFunc(out, func(a, b TxnInfo) int { return cmp.Compare(a.TransactionalID, b.TransactionalID) })
	return out, nil
}

// TxnStats are counts for metrics.
type TxnStats struct {
	States             map[string]int // of the ids that this broker coordinates
	Committed, Aborted int64          // since its start, with all markers written
	TimedOut           int64
	MarkerRetries      int64
}

// Stats counts.
func (c *Txns) Stats() TxnStats {
	st := TxnStats{States: make(map[string]int), Committed: c.ended[1].Load(), Aborted: c.ended[0].Load(), TimedOut: c.late.Load(), MarkerRetries: c.again.Load()}
	for s := TxnEmpty; s <= TxnCompleteAbort; s++ {
		st.States[s.String()] = 0
	}
	for _, s := range c.all() {
		s.mu.Lock()
		for _, t := range s.txns {
			st.States[t.state.String()]++
		}
		s.unlock()
	}
	return st
}
