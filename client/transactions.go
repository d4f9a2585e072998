// Transactions: which there are, how far each has come, and how to end one whose producer does not.

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Transaction is what its coordinator says of a transactional id.
type Transaction struct {
	TransactionalID string `json:"transactionalId" yaml:"transactionalId"`
	Coordinator     int32  `json:"coordinator" yaml:"coordinator"`
	State           string `json:"state" yaml:"state"` // Kafka's name: Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort
	ProducerID      int64  `json:"producerId" yaml:"producerId"`
	// The rest is only filled by DescribeTransaction.
	ProducerEpoch int16 `json:"producerEpoch" yaml:"producerEpoch"`
	// TimeoutMS is how long the coordinator lets a transaction be open, in milliseconds.
	TimeoutMS int32 `json:"timeoutMs,omitempty" yaml:"timeoutMs,omitempty"`
	// Started is zero unless a transaction is open.
	Started time.Time `json:"started,omitzero" yaml:"started,omitempty"`
	// Partitions are those of the open transaction; of one that is ending, those that have not been told yet.
	Partitions []TransactionPartition `json:"partitions,omitempty" yaml:"partitions,omitempty"`
}

// TransactionPartition is a partition of a transaction.
type TransactionPartition struct {
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
}

// Open says whether the transaction has no outcome yet.
func (t *Transaction) Open() bool { return t.State == "Ongoing" }

// TransactionFilter leaves out what does not match. The zero value matches all.
type TransactionFilter struct {
	States []string // Kafka's names
	// OlderThan, if above 0, asks for open transactions that have been open for longer.
	OlderThan time.Duration
	// Pattern is a regular expression (RE2) for the whole id.
	Pattern string
}

// Transactions are the transactional ids that the cluster knows, in order.
func (a *Admin) Transactions(ctx context.Context, f TransactionFilter) ([]Transaction, error) {
	const op = "list transactions"
	req := kmsg.NewPtrListTransactionsRequest()
	req.StateFilters, req.DurationFilterMillis = f.States, -1
	if f.OlderThan > 0 {
		req.DurationFilterMillis = f.OlderThan.Milliseconds()
	}
	if f.Pattern != "" {
		req.TransactionalIDPattern = &f.Pattern
	}
	out := []Transaction{}
	for _, shard := range a.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, a.wrap(op, shard.Meta.Host, shard.Err)
		}
		resp := shard.Resp.(*kmsg.ListTransactionsResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return nil, a.wrap(op, "", err)
		}
		if len(resp.UnknownStateFilters) > 0 {
			return nil, &Error{Op: op, Kind: ErrInvalid, Err: fmt.Errorf("there is no state %q", resp.UnknownStateFilters[0])}
		}
		for _, t := range resp.TransactionStates {
			out = append(out, Transaction{TransactionalID: t.TransactionalID, Coordinator: shard.Meta.NodeID, State: t.TransactionState, ProducerID: t.ProducerID})
		}
	}
	slices.SortFunc(out, func(x, y Transaction) int {
		if x.TransactionalID < y.TransactionalID {
			return -1
		}
		return 1
	})
	return out, nil
}

// DescribeTransaction says what a transactional id's coordinator knows of it. [ErrNotFound]: nothing.
func (a *Admin) DescribeTransaction(ctx context.Context, id string) (Transaction, error) {
	const op = "describe transaction"
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{id}
	for _, shard := range a.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return Transaction{}, a.wrap(op, id, shard.Err)
		}
		for _, t := range shard.Resp.(*kmsg.DescribeTransactionsResponse).TransactionStates {
			if t.TransactionalID != id {
				continue
			}
			if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
				return Transaction{}, a.wrap(op, id, err)
			}
			d := Transaction{TransactionalID: id, Coordinator: shard.Meta.NodeID, State: t.State, ProducerID: t.ProducerID, ProducerEpoch: t.ProducerEpoch,
				TimeoutMS: t.TimeoutMillis}
			if t.StartTimestamp >= 0 {
				d.Started = time.UnixMilli(t.StartTimestamp)
			}
			for _, rt := range t.Topics {
				for _, p := range rt.Partitions {
					d.Partitions = append(d.Partitions, TransactionPartition{Topic: rt.Topic, Partition: p})
				}
			}
			return d, nil
		}
	}
	return Transaction{}, &Error{Op: op, Subject: id, Err: errors.New("no broker has answered for it")}
}

// abortPause is between two looks at a transaction that is being aborted.
const abortPause = 100 * time.Millisecond

// AbortTransaction aborts the open transaction of a transactional id, as a new instance of its producer would: the producer is fenced, so
// that it cannot go on. It returns when the abort is in every partition, with what the transaction was before. Of an id without an open
// transaction nothing is changed.
func (a *Admin) AbortTransaction(ctx context.Context, id string) (Transaction, error) {
	const op = "abort transaction"
	before, err := a.DescribeTransaction(ctx, id)
	if err != nil || !before.Open() {
		return before, err
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = &id, before.TimeoutMS
	for {
		resp, err := req.RequestWith(ctx, a.cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		switch {
		case err == nil:
			return before, nil // in an epoch that the producer does not have
		case !errors.Is(err, kerr.ConcurrentTransactions) && !kerr.IsRetriable(err):
			return before, a.wrap(op, id, err)
		}
		select {
		case <-ctx.Done():
			return before, a.wrap(op, id, ctx.Err())
		case <-time.After(abortPause):
		}
	}
}
