// Requests on their way in. Memory for a request is taken when its length is known, before its bytes are there: who announces much and sends
// little would hold it until StallTimeout at best, and with a byte now and then for ever. So while others wait for memory, a request has to get on.

package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// arrivalGrace is how long a request that others wait for may stand still.
	arrivalGrace = 2 * time.Second
	// arrivalTime is how long it may take in all, beside that: at each moment as much of it must be there as of this time has passed.
	arrivalTime = 30 * time.Second
	// arrivalLook is how often that is looked at, while somebody waits.
	arrivalLook = 500 * time.Millisecond
)

var errArrivesSlowly = errors.New("a request arrives too slowly, and others wait for the memory that it holds")

// arrival is a request that has its memory, and not all of its bytes. Guarded by arriving.mu, but for got.
type arrival struct {
	c     *conn
	of    *budget // where its memory is from
	size  int64
	began time.Time
	got   atomic.Int64
}

// late says that a is not where it should be.
func (a *arrival) late(now time.Time) bool {
	due := float64(now.Sub(a.began)-arrivalGrace) / float64(arrivalTime)
	return due > 0 && float64(a.got.Load()) < due*float64(a.size)
}

// arriving are the arrivals of all connections, each of which has one at most.
type arriving struct {
	mu      sync.Mutex
	all     map[*arrival]struct{}
	waiting map[*budget]int // who waits for memory
	timer   *time.Timer     // of the next look; nil: nobody waits
}

func newArriving() *arriving {
	return &arriving{all: make(map[*arrival]struct{}), waiting: make(map[*budget]int)}
}

func (r *arriving) begin(c *conn, of *budget, size int) *arrival {
	a := &c.arrival
	r.mu.Lock()
	a.c, a.of, a.size, a.began = c, of, int64(size), time.Now()
	a.got.Store(0)
	r.all[a] = struct{}{}
	r.mu.Unlock()
	return a
}

func (r *arriving) end(a *arrival) {
	r.mu.Lock()
	delete(r.all, a)
	r.mu.Unlock()
}

// acquire takes n bytes of b, and while it waits for them has late arrivals end that hold some.
func (r *arriving) acquire(ctx context.Context, b *budget, n int64) error {
	if b.TryAcquire(n) {
		return nil
	}
	r.mu.Lock()
	r.waiting[b]++
	if r.timer == nil {
		r.timer = time.AfterFunc(arrivalLook, r.look)
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		if r.waiting[b]--; r.waiting[b] == 0 {
			delete(r.waiting, b)
		}
		r.mu.Unlock()
	}()
	return b.Acquire(ctx, n)
}

// look closes the connections of late arrivals that others wait for.
func (r *arriving) look() {
	now := time.Now()
	var late []*conn
	r.mu.Lock()
	for a := range r.all {
		if r.waiting[a.of] > 0 && a.late(now) {
			late = append(late, a.c)
		}
	}
	if r.timer = nil; len(r.waiting) > 0 {
		r.timer = time.AfterFunc(arrivalLook, r.look)
	}
	r.mu.Unlock()
	for _, c := range late {
		c.close(errArrivesSlowly)
	}
}
