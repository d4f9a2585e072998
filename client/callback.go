// What franz-go calls when the outcome of a record is known, in the stead of the program's own callback: errors must become this package's on
// the way, and records be counted. Made anew for each record that is an allocation, which costs more than all else that the producer does; a
// pool costs as much, since it is one goroutine that takes and another that gives back. But most programs give the same function with every record.

package client

import (
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"
)

// callback is a program's function for the outcomes of records, and franz-go's.
type callback struct {
	done    func(*kgo.Record, error) // nil: the program has none
	promise func(*kgo.Record, error)
}

// wrap makes the callback of a function.
func (p *Producer) wrap(done func(*kgo.Record, error)) callback {
	return callback{done, func(r *kgo.Record, err error) { p.settle(r, err, done) }}
}

// rememberEvery is how often a function is remembered: with one of so many records. A prime, so that no pattern in who calls keeps one out.
const rememberEvery = 61

// callbackOf is the callback of a record's function. It is not made again for one that is remembered: the producer holds on to that, and to no other.
func (p *Producer) callbackOf(done func(*kgo.Record, error)) callback {
	if done == nil {
		return p.silent
	}
	if c := p.usual.Load(); c != nil && identity(c.done) == identity(done) {
		return *c
	}
	c := p.wrap(done)
	if p.handed.Load()%rememberEvery == 0 {
		kept := c
		p.usual.Store(&kept)
	}
	return c
}

// identity tells functions apart, as == may not: a value of function type is a pointer to the code and to the variables of one closure, and
// those do not change. While one is alive, no other has its identity.
func identity(f func(*kgo.Record, error)) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&f))
}
