// What franz-go calls when the outcome of a record is known, in the stead of the program's own callback: errors must become this package's on
// the way, and records be counted. A function made for each record is an allocation, which costs more than all else that the producer does,
// most of it later, in the garbage collector; to use such functions again costs as much, by what one processor has to fetch from another. So
// there is one for all records that have the same context, as most of a program's have, and each record carries the program's callback itself
// while it is under way: where its context will be, to which that function puts it back.

package client

import (
	"context"
	"errors"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"
)

// callback is a program's function for the outcomes of records, and franz-go's.
type callback struct {
	done    func(*kgo.Record, error) // nil: the program has none
	promise func(*kgo.Record, error) // nil: it is made or found when it is known that franz-go gets the record
}

// wrap makes the callback of a function, for any number of records.
func (p *Producer) wrap(done func(*kgo.Record, error)) callback {
	return callback{done, func(r *kgo.Record, err error) { p.settle(r, err, done) }}
}

// carried is a callback in the place of a record's context. To all appearances it is [context.Background]: franz-go goes by the context that
// comes with the record, too.
type carried func(*kgo.Record, error)

func (carried) Deadline() (time.Time, bool) { return time.Time{}, false }
func (carried) Done() <-chan struct{}       { return nil }
func (carried) Err() error                  { return nil }
func (carried) Value(any) any               { return nil }

// usual is a context, and franz-go's callback of all records that have it.
type usual struct {
	ctx     context.Context
	promise func(*kgo.Record, error)
}

// rememberEvery is how often a context is remembered: with one of so many records. A prime, so that no pattern in who calls keeps one out.
const rememberEvery = 61

// promise is what franz-go is to call for a record that has a callback. The producer holds on to one context for that, and to no other.
func (p *Producer) promise(ctx context.Context, r *kgo.Record, done func(*kgo.Record, error)) func(*kgo.Record, error) {
	if p.seen || r.Context != nil && !same(r.Context, ctx) {
		return p.wrap(done).promise
	}
	u := p.usual.Load()
	if u == nil || !same(u.ctx, ctx) {
		if p.handed.Load()%rememberEvery != 1 {
			return p.wrap(done).promise
		}
		u = &usual{ctx, func(r *kgo.Record, err error) { p.settleCarried(ctx, r, err) }}
		p.usual.Store(u)
	}
	r.Context = carried(done)
	return u.promise
}

// settleCarried is for a record that carries its callback.
func (p *Producer) settleCarried(ctx context.Context, r *kgo.Record, err error) {
	done, ok := r.Context.(carried)
	if !ok {
		lost := errors.New("the record was changed while it was under way, and its callback is lost")
		p.report(r, &Error{Op: "produce to", Subject: r.Topic, Kind: ErrInvalid, Err: errors.Join(lost, err)}, nil)
		p.count()
		return
	}
	r.Context = ctx
	p.settle(r, err, done)
}

// same tells whether two contexts are the same one. It is stricter than ==, which panics for those that cannot be compared: they are of one
// type, and at one place in memory, which no other can have while one of them is held.
func same(a, b context.Context) bool {
	return *(*[2]unsafe.Pointer)(unsafe.Pointer(&a)) == *(*[2]unsafe.Pointer)(unsafe.Pointer(&b))
}
