// Transactions: which transactional id is coordinated where, and the life of a coordinator. The state machine of one transaction is in
// txn.go, what ends it in its partitions in txn_end.go.
//
// A transactional id belongs to one partition of __transaction_state, by its hash, and is coordinated by that partition's leader, in the
// form of [Groups]: the state is a fold over the partition, read when this node leads and has applied its no-op, and dropped when it
// stops leading. Each partition that this node leads is a shard with a mutex of its own; effects are carried out after it was released.

package coordinator

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/protocol"
)

// TransactionVersion is Kafka's feature: 1 are transactions as they were, 2 those of KIP-890, whose epoch each end raises.
const TransactionVersion = "transaction.version"

// TransactionStateTopic holds the transactions.
const TransactionStateTopic = "__transaction_state"

// What the coordinator of transactions answers, beside what that of groups does.
var (
	// ErrInvalidTxnID: an empty or overlong transactional id. INVALID_REQUEST.
	ErrInvalidTxnID = errors.New("invalid transactional id")
	// ErrInvalidTxnTimeout: not positive, or above transaction.max.timeout.ms. INVALID_TRANSACTION_TIMEOUT.
	ErrInvalidTxnTimeout = errors.New("transaction timeout is out of range")
	// ErrConcurrentTransactions: something is on its way for the id; ask again. CONCURRENT_TRANSACTIONS.
	ErrConcurrentTransactions = errors.New("another operation of the transactional id is on its way")
	// ErrInvalidProducerIDMapping: the id has another producer, or none. INVALID_PRODUCER_ID_MAPPING.
	ErrInvalidProducerIDMapping = errors.New("the producer id is not the transactional id's")
	// ErrProducerFenced: another producer has taken the id over, or its transaction timed out. PRODUCER_FENCED, before it was known
	// INVALID_PRODUCER_EPOCH.
	ErrProducerFenced = errors.New("the producer's epoch is over")
	// ErrTxnState: not in the state that the transaction is in. INVALID_TXN_STATE.
	ErrTxnState = errors.New("not in this state of the transaction")
	// ErrTxnAbortable: the partition is not in the transaction, which can only be aborted. TRANSACTION_ABORTABLE.
	ErrTxnAbortable = errors.New("the partition is not in the transaction")
	// ErrTxnNotFound: TRANSACTIONAL_ID_NOT_FOUND.
	ErrTxnNotFound = errors.New("there is no such transactional id")
	// ErrUnknownPartition, from WriteMarkers: there is no such partition any more, and nothing to end.
	ErrUnknownPartition = errors.New("unknown partition")
	// ErrMarkerFenced, from WriteMarkers: the partition has seen a later epoch of the producer, so that the marker has been written.
	ErrMarkerFenced = errors.New("the partition has seen a later epoch of the producer")
)

// TxnConfig configures a broker's coordinator of transactions. Zero fields take the defaults, which are Kafka's.
type TxnConfig struct {
	// Partitions is how many partitions __transaction_state has, 0 while there is no such topic.
	Partitions func() int
	// NextProducerID hands out an id that no other producer has; it must not block.
	NextProducerID func(done func(id int64, err error))
	// WriteMarkers ends a transaction in these partitions and calls done, once, within bounded time, with an error (or nil) for each:
	// ErrUnknownPartition and ErrMarkerFenced are final, others are tried again. It must not block.
	WriteMarkers func(m Marker, parts []TopicPartition, done func(errs []error))
	// Now is the clock, for time-outs and timestamps. Default time.Now.
	Now    func() time.Time
	Logger *slog.Logger

	// MaxTimeout bounds the time-out that a producer may ask for. Default 15 min.
	MaxTimeout time.Duration
	// Expiration is how long an id without a transaction is remembered. Default 7 days.
	Expiration time.Duration
	// Sweep is between two looks for such ids. Default 1 h.
	Sweep time.Duration
}

// Marker is how a transaction ends in its partitions.
type Marker struct {
	ProducerID       int64
	ProducerEpoch    int16
	CoordinatorEpoch int32
	Commit           bool
	Bumped           bool // the transaction wrote with a lower epoch
}

const (
	maxTransactionalID = 4096
	// maxTxns bounds the transactional ids of one shard, and so the memory that made-up ones can take.
	maxTxns = 100_000
	// maxTxnPartitions bounds one transaction: it is one record.
	maxTxnPartitions = 100_000
	// maxWaitingAdds bounds the requests that wait for another one's record to be written, per id.
	maxWaitingAdds = 1024
	// Pauses between attempts to write markers.
	markerRetryMin = 20 * time.Millisecond
	markerRetryMax = 2 * time.Second
	// busyRetry is the pause of a time-out that finds its transaction busy.
	busyRetry = 50 * time.Millisecond
)

func (c TxnConfig) withDefaults() TxnConfig {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.MaxTimeout, 15*time.Minute)
	def(&c.Expiration, 7*24*time.Hour)
	def(&c.Sweep, time.Hour)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Txns coordinates the transactions of those partitions of __transaction_state that this node leads. All methods are safe for
// concurrent use; none blocks but Close.
//
// Lock order: Txns.mu, then txnShard.mu, then timers.mu. None is held while the log, a reply or a function of TxnConfig is called.
type Txns struct {
	cfg   TxnConfig
	ended [2]atomic.Int64
	late  atomic.Int64
	again atomic.Int64
	shards[*txnShard]
}

// NewTxns makes a coordinator that leads nothing yet. Start runs its clock.
func NewTxns(cfg TxnConfig) *Txns {
	c := &Txns{cfg: cfg.withDefaults()}
	c.setUp()
	return c
}

// Start runs the clock until Close.
func (c *Txns) Start() { c.run(c.cfg.Now) }

// Lead says that this node leads the partition in epoch and that its log is complete up to there. The state is read by a goroutine;
// until it is there, requests are told so.
func (c *Txns) Lead(partition, epoch int32, log ReplicatedLog) {
	c.lead(partition, epoch, func() *txnShard {
		s := &txnShard{c: c, ledPartition: ledPartition{partition: partition, epoch: epoch, log: log, loading: true}}
		s.sweep.fire = func() { s.locked(s.expire) }
		return s
	})
}

// enter locks the shard of a transactional id, if it may answer. The caller ends with unlock.
func (c *Txns) enter(id string) (*txnShard, error) {
	if id == "" || len(id) > maxTransactionalID {
		return nil, ErrInvalidTxnID
	}
	s, err := c.of(id, c.cfg.Partitions())
	if err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	return s, nil
}

// txnShard is one partition's coordinator in one leader epoch.
type txnShard struct {
	c *Txns

	ledPartition
	txns map[string]*txn
}

// confirmed calls reply with err, nil or not, if at this moment no later coordinator can have decided anything, else with what
// Linearize says: for answers that write nothing. Also a refusal may be final for the client. mu is held.
func (s *txnShard) confirmed(err error, reply func(error)) {
	if errors.Is(err, ErrConcurrentTransactions) {
		s.later(func() { reply(err) }) // ask again
		return
	}
	s.later(func() {
		s.log.Linearize(func(unsure error) {
			if unsure != nil {
				err = unsure
			}
			reply(err)
		})
	})
}

// append appends records as one batch. then is called under mu, after they were applied, or with the error. mu is held.
func (s *txnShard) append(records []txnRecord, then func(error)) {
	batch := txnBatch(records, s.c.cfg.Now().UnixMilli())
	s.write(func(done func(error)) { s.log.Append(batch, done) }, func() {
		for i := range records {
			s.apply(&records[i])
		}
	}, then)
}

// apply folds one committed record into the state: the only way in which anything stored changes, live and at a load.
func (s *txnShard) apply(r *txnRecord) {
	t := s.txns[r.id]
	switch {
	case r.data == nil && t != nil:
		s.c.timers.stop(&t.timer)
		delete(s.txns, r.id)
	case r.data != nil && t == nil:
		t = s.newTxn(r.id)
		fallthrough
	case r.data != nil:
		t.txnData = *r.data
	}
}

func (s *txnShard) newTxn(id string) *txn {
	t := &txn{s: s, id: id, txnData: noTxn}
	t.timer.fire = func() { t.s.locked(t.fired) }
	s.txns[id] = t
	return t
}

// load reads the log from its start to where it ended when this node was elected, goes on with what was decided, and starts to serve.
func (s *txnShard) load() {
	began := s.c.cfg.Now()
	logger := s.c.cfg.Logger.With("topic", TransactionStateTopic, "partition", s.partition, "epoch", s.epoch)
	into := &txnShard{c: s.c, txns: make(map[string]*txn)}
	skipped, records := 0, 0
	stopped := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.closed
	}
	_, err := replay(s.log, s.c.stop, stopped, logger, func(b protocol.Batch) error {
		for rec, err := range b.Records(nil) {
			if err != nil {
				return err // half a batch of this log is half a decision
			}
			r, err := decodeTxnRecord(rec.Key, rec.Value)
			if err != nil {
				skipped++
				continue
			}
			records++
			into.apply(&r)
		}
		return nil
	})
	if err != nil {
		if !errors.Is(err, errStopped) {
			logger.Error("cannot coordinate transactions", "err", err)
			s.c.Resign(s.partition, s.epoch)
		}
		return
	}
	s.mu.Lock()
	defer s.unlock()
	if s.closed {
		return
	}
	s.txns, s.loading = into.txns, false
	for _, t := range s.txns {
		t.s = s
		t.resume()
	}
	s.c.timers.set(&s.sweep, s.c.cfg.Now().Add(s.c.cfg.Sweep))
	logger = logger.With("transactions", len(s.txns), "records", records, "took", s.c.cfg.Now().Sub(began))
	if skipped > 0 {
		logger.Warn("loaded transactions, without records that could not be decoded", "skipped", skipped)
	} else if records > 0 {
		logger.Info("loaded transactions")
	}
}

// close drops the state. Whoever waits for a record is told by its append.
func (s *txnShard) close() {
	s.mu.Lock()
	defer s.unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.c.timers.stop(&s.sweep)
	for _, t := range s.txns {
		s.c.timers.stop(&t.timer)
		t.dismiss(ErrNotCoordinator)
	}
	s.txns = nil
}

// expire removes ids that have had no transaction for long.
func (s *txnShard) expire() {
	now := s.c.cfg.Now()
	s.c.timers.set(&s.sweep, now.Add(s.c.cfg.Sweep))
	var records []txnRecord
	var gone []*txn
	for _, t := range s.txns {
		if t.pending || t.state == TxnOngoing || t.state.preparing() || now.UnixMilli()-t.updated < s.c.cfg.Expiration.Milliseconds() {
			continue
		}
		if len(records) == maxTombstones {
			break // the rest next time
		}
		records, gone = append(records, txnRecord{id: t.id}), append(gone, t)
		t.pending = true
	}
	if len(records) == 0 {
		return
	}
	s.append(records, func(err error) {
		if err == nil {
			return
		}
		s.c.cfg.Logger.Debug("cannot remove expired transactional ids; the next sweep tries again", "err", err)
		for _, t := range gone {
			t.pending = false
		}
	})
}
