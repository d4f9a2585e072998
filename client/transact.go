// Transact: records that become visible together, or not at all.

package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// DefaultTransactionTimeout is how long a transaction may take when the configuration does not say.
const DefaultTransactionTimeout = 30 * time.Second

// endTimeout bounds the commit or abort of a transaction, which does not end with the program's context: it would not be known what came of it.
const endTimeout = 30 * time.Second

// Tx is a transaction that runs: see [Producer.Transact]. It is safe for concurrent use, and of no use afterwards.
type Tx struct {
	p       *Producer
	ctx     context.Context
	written callback // of its records

	mu     sync.Mutex // guards what follows
	over   bool
	failed int   // records that could not be written …
	first  error // … and the first of their errors
}

// Transact calls fn and commits what fn has produced by tx if it returns nil: consumers that read what is committed see all of it, or nothing.
// If fn fails or panics, or a record cannot be written, or ctx ends before the commit, the transaction is aborted and Transact returns that
// error, of the abort, too, if that fails. Otherwise the error is of kind [ErrAborted] (trying again may help), [ErrFenced] (it will not) or
// [ErrUnknownOutcome].
//
// A commit is durable when Transact returns; readers see it within moments. One transaction runs at a time: further calls wait. Calling Transact of the same producer within fn would wait for ever. To process
// records of a topic and commit how far that went in the same transaction, use [Transform].
func (p *Producer) Transact(ctx context.Context, fn func(tx *Tx) error) (err error) {
	const op = "begin a transaction"
	if p.txn == nil {
		return &Error{Op: op, Kind: ErrInvalid, Err: errors.New("the producer has no transactional id")}
	}
	if fn == nil {
		return &Error{Op: op, Kind: ErrInvalid, Err: errors.New("Transact needs a function")}
	}
	if err := ctx.Err(); err != nil {
		return wrap(op, "", err)
	}
	if p.closed.Load() {
		return &Error{Op: op, Kind: ErrClosed, Err: errors.New("the producer is closed")}
	}
	select {
	case p.txn <- struct{}{}:
	case <-ctx.Done():
		return wrap(op, "", ctx.Err())
	}
	defer func() { <-p.txn }()
	if err := p.cl.BeginTransaction(); err != nil {
		return wrap(op, "", err)
	}
	began := time.Now()
	tx := &Tx{p: p, ctx: ctx}
	tx.written = p.wrap(tx.settle)
	returned := false
	defer func() {
		p.hooks.transactionEnd(returned && err == nil, began, err)
	}()
	defer func() {
		if !returned { // fn has panicked, or ended its goroutine
			tx.end()
			_ = p.abort(ctx)
		}
	}()
	err = fn(tx)
	returned = true
	tx.end()
	if err == nil {
		err = tx.flush()
	}
	if err == nil {
		err = wrap("commit a transaction", "", ctx.Err())
	}
	if err != nil {
		return errors.Join(err, p.abort(ctx))
	}
	return p.commit(ctx)
}

// Produce hands records over as part of the transaction; it blocks only while the producer's buffer is full. The records must not be changed
// before the transaction is over. Nil says that no record of the transaction has failed so far; one that does makes [Producer.Transact] abort
// and return why, whether or not this error is looked at. After fn has returned, Produce fails with [ErrClosed] and writes nothing.
func (tx *Tx) Produce(records ...*kgo.Record) error {
	for _, r := range records {
		tx.mu.Lock()
		over := tx.over
		tx.mu.Unlock()
		if over {
			return &Error{Op: "produce", Kind: ErrClosed, Err: errors.New("the transaction is over")}
		}
		tx.p.hand(tx.ctx, r, tx.written)
	}
	return tx.failure()
}

// settle is for a record whose outcome is known.
func (tx *Tx) settle(_ *kgo.Record, err error) {
	if err != nil {
		tx.mu.Lock()
		defer tx.mu.Unlock()
		if tx.failed++; tx.first == nil {
			tx.first = err
		}
	}
}

// Flush waits until all records handed over are written. Their Partition, Offset and Timestamp are set then, though nothing is committed yet.
func (tx *Tx) Flush() error {
	tx.mu.Lock()
	over := tx.over
	tx.mu.Unlock()
	if over {
		return &Error{Op: "flush", Subject: "the transaction", Kind: ErrClosed, Err: errors.New("the transaction is over")}
	}
	return tx.flush()
}

func (tx *Tx) flush() error {
	if err := tx.p.drain(tx.ctx); err != nil {
		return wrap("flush", "the transaction", err)
	}
	return tx.failure()
}

func (tx *Tx) failure() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return failures(tx.failed, tx.first)
}

func (tx *Tx) end() {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	tx.over = true
}

// abort takes back what has been produced.
func (p *Producer) abort(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	err := p.cl.AbortBufferedRecords(ctx)
	if err == nil {
		err = p.drain(ctx) // those that waited for room in the buffer
	}
	if err == nil {
		if err = p.cl.EndTransaction(ctx, kgo.TryAbort); err != nil && kindOf(err) != ErrFenced {
			err = p.cl.EndTransaction(ctx, kgo.TryAbort) // by a new epoch
		}
	}
	return wrap("abort a transaction", "", err)
}

// commit is for a transaction whose records are all written.
func (p *Producer) commit(ctx context.Context) error {
	const op = "commit a transaction"
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	err := p.cl.EndTransaction(end, kgo.TryCommit)
	if err == nil {
		return nil
	}
	if errors.Is(err, kerr.OperationNotAttempted) { // the reason is the producer's state
		if _, _, why := p.cl.ProducerID(end); why != nil {
			err = why
		}
	}
	aborted := p.abort(ctx)
	switch kind := kindOf(err); {
	case kind == ErrFenced, kind == ErrAborted, kind == ErrDenied:
		return wrap(op, "", err)
	default:
		return errors.Join(&Error{Op: op, Kind: ErrUnknownOutcome, Err: err}, aborted)
	}
}

// takeOverAgain is how long to wait before a broker that could not be reached is asked again.
const takeOverAgain = 100 * time.Millisecond

// takeOver makes the client the one that has its transactional id: what another has left open is aborted, and it is fenced. A broker that
// cannot be reached is asked again: another will have its place, or it comes back.
func takeOver(ctx context.Context, cl *kgo.Client, id string) error {
	const op = "take over the transactional id"
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for {
		_, _, err := cl.ProducerID(ctx)
		if kindOf(err) != ErrUnreachable || wait(ctx, takeOverAgain, op, id) != nil {
			return wrap(op, id, err)
		}
	}
}
