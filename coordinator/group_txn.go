// Offsets that are committed within a transaction (KIP-98, KIP-447): pending, by producer, until the transaction's marker is in the same
// partition of __consumer_offsets, and then in force or forgotten.
//
// They are records like others, in transactional batches, and the markers are in the log as well, so that whoever loads the partition
// folds the same. While a shard leads it learns of a marker from the append of it (Groups.TxnEnded), which comes in the order of the log
// between its own appends.

package coordinator

import (
	"errors"
	"time"

	"github.com/balsamq/balsa/protocol"
)

// TxnProducer is whose transaction offsets are committed in.
type TxnProducer struct {
	TransactionalID string
	ID              int64
	Epoch           int16
	// Add: the client leaves it to the broker to add the group to the transaction (transaction.version 2).
	Add bool
}

// pendingOffset is a committed offset whose transaction is open.
type pendingOffset struct {
	group  string
	offset CommittedOffset
	order  uint64
}

// pendingKey names what a later commit of the same transaction replaces.
type pendingKey struct {
	group, topic string
	partition    int32
}

// pendingOffsets are those of one shard, by producer.
type pendingOffsets map[int64]map[pendingKey]pendingOffset

// CommitTxn commits offsets within a transaction. It calls reply exactly once, with an error for each offset or with one for all.
func (c *Groups) CommitTxn(r *CommitRequest, p TxnProducer, reply func(errs []error, err error)) {
	s, err := c.enter(r.Group)
	if err != nil {
		reply(nil, err)
		return
	}
	defer s.unlock()
	answer := func(errs []error, err error) { s.later(func() { reply(errs, err) }) }
	g, err := s.committer(r)
	if err != nil {
		answer(nil, err)
		return
	}
	// Producers of before KIP-447 do not say for which member they commit.
	if r.Generation >= 0 || r.MemberID != "" || r.Instance != nil {
		if err := g.mayCommit(r); err != nil {
			answer(nil, txnCommitError(err))
			s.tidy(g)
			return
		}
	}
	now := c.cfg.Now()
	errs := make([]error, len(r.Offsets))
	var records []groupRecord
	for i, o := range r.Offsets {
		if len(o.Metadata) > c.cfg.MaxOffsetMetadata {
			errs[i] = ErrOffsetMetadataTooLarge
			continue
		}
		if g.consumer != nil && r.MemberID != "" && g.consumer.stale(r, partID{o.TopicID, o.Partition}) {
			errs[i] = txnCommitError(ErrStaleEpoch)
			continue
		}
		o.Committed, o.Expires = now.UnixMilli(), -1
		records = append(records, offsetRecord(g.name, o))
	}
	if len(records) == 0 {
		answer(errs, nil)
		s.tidy(g)
		return
	}
	// From here on the offsets are unstable: the member that sent them was the right one, and its successor must not read past them.
	for i := range records {
		g.unsettle(&records[i].offset, 1)
	}
	g.commits++
	s.appendTxn(p, records, now, func(err error) {
		g.commits--
		for i := range records {
			g.unsettle(&records[i].offset, -1) // those that are pending now are counted by themselves
		}
		if !s.closed {
			s.tidy(g)
		}
		answer(errs, err)
	})
}

// txnCommitError is what a producer is told: of the epochs of the new protocol it knows nothing.
func txnCommitError(err error) error {
	if errors.Is(err, ErrStaleEpoch) {
		return ErrIllegalGeneration
	}
	return err
}

// unsettle counts by how many transactions, or commits on their way to one, an offset may still change.
func (g *group) unsettle(o *CommittedOffset, by int) {
	if g.unstable == nil {
		g.unstable = make(map[TopicPartition]int)
	}
	tp := TopicPartition{Topic: o.Topic, Partition: o.Partition}
	if g.unstable[tp] += by; g.unstable[tp] == 0 {
		delete(g.unstable, tp)
	}
}

// appendTxn appends records as one batch of a transaction; they are pending when then is called, unless with an error. mu is held.
func (s *shard) appendTxn(p TxnProducer, records []groupRecord, now time.Time, then func(error)) {
	out := make([]protocol.Record, len(records))
	for i := range records {
		out[i] = protocol.Record{Timestamp: now.UnixMilli(), Key: records[i].key(), Value: records[i].value()}
	}
	o := protocol.NewBatchOptions()
	o.ProducerID, o.ProducerEpoch, o.Transactional = p.ID, p.Epoch, true
	batch := protocol.BuildBatch(out, o)
	s.write(func(done func(error)) { s.log.AppendTxn(batch, p.TransactionalID, p.Add, done) }, func() {
		for i := range records {
			s.applyPending(p.ID, &records[i])
		}
	}, then)
}

// applyPending folds in one record of a transaction that is open.
func (s *shard) applyPending(producer int64, r *groupRecord) {
	if !r.isOffset || r.deleted {
		return // nobody writes those within a transaction
	}
	if s.pendingTxns == nil {
		s.pendingTxns = make(pendingOffsets)
	}
	of := s.pendingTxns[producer]
	if of == nil {
		of = make(map[pendingKey]pendingOffset)
		s.pendingTxns[producer] = of
	}
	g := s.groups[r.name]
	if g == nil {
		g = s.newGroup(r.name)
	}
	s.applied++
	key := pendingKey{r.name, r.offset.Topic, r.offset.Partition}
	if _, ok := of[key]; !ok {
		g.unsettle(&r.offset, 1)
	}
	of[key] = pendingOffset{group: r.name, offset: r.offset, order: s.applied}
}

// endTxn folds in a marker: what the producer has pending is in force, unless something was committed for the same partition since, or
// is forgotten.
func (s *shard) endTxn(producer int64, commit bool) {
	of := s.pendingTxns[producer]
	delete(s.pendingTxns, producer)
	for _, p := range of {
		g := s.groups[p.group]
		if g == nil {
			continue // cannot be: it is kept for what is unstable
		}
		g.unsettle(&p.offset, -1)
		if o := g.offsets[p.offset.Topic][p.offset.Partition]; commit && (o == nil || o.order < p.order) {
			p.offset.order = p.order
			g.setOffset(p.offset)
		}
		if !s.loading && s.log != nil {
			s.tidy(g)
		}
	}
}

// TxnEnded says that a marker is committed at an offset of the partition, which this node leads in epoch. It must be called in the order
// of the log, with the answers of appends.
func (c *Groups) TxnEnded(partition, epoch int32, producer int64, commit bool, offset int64) {
	c.mu.Lock()
	s := c.led[partition]
	c.mu.Unlock()
	if s == nil || s.epoch != epoch {
		return
	}
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.closed:
	case s.loading:
		s.markedTo = max(s.markedTo, offset+1) // it reads on up to there
	case offset >= s.loadedTo:
		s.endTxn(producer, commit)
	}
}

// loadTxn folds a batch of a transaction, or its marker, at a load. ok is false for other batches.
func (s *shard) loadTxn(b protocol.Batch) (ok bool, skipped int) {
	switch {
	case b.Control():
		if b.RecordCount() == 0 {
			break // compaction keeps the last batch, emptied: nothing of its transaction is left
		}
		if m, err := b.Marker(); err == nil {
			s.endTxn(b.ProducerID(), m.Commit)
		} else {
			skipped++
		}
	case b.Transactional():
		for rec, err := range b.Records(nil) {
			if err != nil {
				skipped++
				break
			}
			r, err := decodeGroupRecord(rec.Key, rec.Value)
			if err != nil {
				skipped++
				continue
			}
			s.applyPending(b.ProducerID(), &r)
		}
	default:
		return false, 0
	}
	return true, skipped
}
