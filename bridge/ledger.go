// The ledger: how far each bridge has come, in the topic __balsa_bridges.
//
// A bridge's transactional producer writes its progress, in the same transaction as the records that it is about. The topic is compacted, so that the
// newest record of each bridge stays for good, whatever happens to the bridge's own topics.
//
// Opening the ledger makes its opener the only one who can write to it: the producer's first transaction fences whoever had the transactional id
// before. Its record, which has an own key, also marks where reading may end: what comes before it is all there ever will be of others.

package bridge

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

const (
	// LedgerTopic is the topic's name. The brokers make it, and let nobody write there but bridges.
	LedgerTopic = broker.BridgesTopic
	// TransactionalPrefix begins the transactional ids of bridges; what follows is the bridge's id.
	TransactionalPrefix = broker.BridgeTransactions
	// txnTimeout is how long a transaction may be open before its coordinator aborts it, commitTimeout how long its owner tries to end it: less.
	txnTimeout    = time.Minute
	commitTimeout = 40 * time.Second
	// endTimeout is how long a transaction may take to end once its bridge is to stop.
	endTimeout = 5 * time.Second
	// openTimeout bounds the reading of the ledger.
	openTimeout = 2 * time.Minute
	// maxBuffered bounds the records of one transaction.
	maxBuffered = 2 * maxBatch
	// defaultMaxMessage is a topic's max.message.bytes where nothing is known.
	defaultMaxMessage = 1 << 20
)

// progress is how far a bridge has come.
type progress struct {
	// Position is the number of the seek that the rest comes from; 0: there is no progress yet.
	Position int64 `json:"position"`
	// Stream is that of Spec, as it was made at Created. Seq is the next sequence to be read; of a target, the last one that is known to be of before.
	Stream  string    `json:"stream,omitempty"`
	Created time.Time `json:"created,omitzero"`
	Seq     uint64    `json:"seq,omitempty"`
	// TopicID is that of the source topic, and Offsets the next ones to be read.
	TopicID string          `json:"topic_id,omitempty"`
	Offsets map[int32]int64 `json:"offsets,omitempty"`
	// Plan is the records that get the sequences behind Seq, in order; once they have, Next are the offsets. See into_stream.go.
	Plan []run           `json:"plan,omitempty"`
	Next map[int32]int64 `json:"next,omitempty"`
	// Done are records that are in the target stream although their offsets are not below Offsets: where others write to it, some before them are missing.
	Done []run `json:"done,omitempty"`
}

// ledger is an opened one.
type ledger struct {
	id        string
	partition int32
	adm       *client.Admin // whose client is the transactional producer
}

func ledgerPartition(id string, partitions int) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return int32(h.Sum32() % uint32(partitions))
}

// withOptions is a client's configuration with further options of franz-go.
func withOptions(cfg client.Config, opts ...kgo.Opt) client.Config {
	cfg.Options = append(append([]kgo.Opt{}, cfg.Options...), opts...)
	return cfg
}

// openLedger makes this the one that writes as the bridge, and reads how far it has come.
func openLedger(ctx context.Context, cfg client.Config, id string, ts *targets) (_ *ledger, _ progress, err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	l := &ledger{id: id}
	l.adm, err = client.NewAdmin(ctx, withOptions(cfg, kgo.TransactionalID(TransactionalPrefix+id), kgo.TransactionTimeout(txnTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(maxBuffered), kgo.ProducerBatchMaxBytesFn(ts.batchBytes)))
	if err != nil {
		return nil, progress{}, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err := l.find(ctx); err != nil {
		return nil, progress{}, fmt.Errorf("the topic %s: %w", LedgerTopic, err)
	}
	mark := crand.Text()
	if err := l.commit(ctx, nil, l.record("/owner", []byte(mark))); err != nil {
		return nil, progress{}, fmt.Errorf("take over the bridge's progress: %w", err)
	}
	p, err := l.read(ctx, cfg, mark)
	if err != nil {
		return nil, progress{}, fmt.Errorf("read the bridge's progress: %w", err)
	}
	return l, p, nil
}

func (l *ledger) close() { l.adm.Close() }

func (l *ledger) record(suffix string, value []byte) *kgo.Record {
	return &kgo.Record{Topic: LedgerTopic, Partition: l.partition, Key: []byte(l.id + suffix), Value: value}
}

// find finds the bridge's partition. The brokers have the topic made when a bridge asks who coordinates its transactions.
func (l *ledger) find(ctx context.Context) error {
	if _, _, err := l.adm.Client().ProducerID(ctx); err != nil {
		return err
	}
	t, err := l.adm.Topic(ctx, LedgerTopic)
	if errors.Is(err, client.ErrNotFound) { // by another broker, which is a little behind
		t, err = l.adm.WaitForTopic(ctx, LedgerTopic, nil)
	}
	if err != nil {
		return err
	}
	l.partition = ledgerPartition(l.id, min(len(t.Partitions), broker.BridgesPartitions)) // clients could once add some
	return nil
}

// read reads the partition up to the record with the mark.
func (l *ledger) read(ctx context.Context, cfg client.Config, mark string) (p progress, err error) {
	reader, err := client.NewAdmin(ctx, withOptions(cfg, kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{LedgerTopic: {l.partition: kgo.NewOffset().AtStart()}})))
	if err != nil {
		return p, err
	}
	defer reader.Close()
	for {
		fetches := reader.Client().PollRecords(ctx, maxBatch)
		if err := fetches.Err0(); err != nil {
			return p, err
		}
		for _, e := range fetches.Errors() {
			return p, e.Err
		}
		for r := range fetches.RecordsAll() {
			switch string(r.Key) {
			case l.id:
				p = progress{}
				if err := json.Unmarshal(r.Value, &p); err != nil {
					return p, fmt.Errorf("offset %d of %s/%d: %w", r.Offset, LedgerTopic, l.partition, err)
				}
			case l.id + "/owner":
				if string(r.Value) == mark {
					return p, nil
				}
			}
		}
	}
}

// commit writes records, and with p, if that is not nil, how far that is: all or nothing. After an error it is not known which, and the ledger has to be
// opened anew.
func (l *ledger) commit(ctx context.Context, p *progress, records ...*kgo.Record) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	cl := l.adm.Client()
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	var mu sync.Mutex // guards first
	var first error
	done := func(r *kgo.Record, err error) {
		if err == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if hopelessRecord(err) {
			first = &topicRefusal{r.Topic, err} // what fails with it fails because of it
		} else if first == nil {
			first = fmt.Errorf("write to %s/%d: %w", r.Topic, r.Partition, err)
		}
	}
	for _, r := range records {
		cl.Produce(ctx, r, done)
	}
	if p != nil {
		value, err := json.Marshal(p)
		if err != nil {
			return err
		}
		cl.Produce(ctx, l.record("", value), done)
	}
	err := cl.Flush(ctx)
	mu.Lock()
	if first != nil {
		err = first
	}
	mu.Unlock()
	// The next owner would abort it, but a bridge that is paused or removed has none: readers of the topics would wait for txnTimeout.
	end, cancelEnd := grace(ctx)
	defer cancelEnd()
	if err != nil {
		if abort := cl.AbortBufferedRecords(end); abort == nil {
			_ = cl.EndTransaction(end, kgo.TryAbort) // that it is not committed is all that counts
		}
		return err
	}
	if err := cl.EndTransaction(end, kgo.TryCommit); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// grace goes on for endTimeout when ctx ends.
func grace(ctx context.Context) (context.Context, context.CancelFunc) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(endTimeout, cancel)
		context.AfterFunc(end, func() { t.Stop() })
	})
	return end, func() { stop(); cancel() }
}
