// Requests on their way in, and the memory for them. A request's length is known before its bytes are there: who announces much and sends little
// must not hold what others need, nor stand before them.
//
//   - Nothing is taken, and no queue joined, before entryBytes of a request have come, into the connection's own buffer.
//   - A request gets all that it announces at once only if that is little of what is free. Else it gets firstStep, and each time that is full as
//     much again: it holds in proportion to what it has sent.
//   - Requests that have only parts of their memory could block each other for ever, each waiting for what the others hold. So together they hold at
//     most what the largest request leaves of the budget; where that is used up, the one of them that is most complete, one at a time, waits for
//     all that it lacks. Whoever has all of its memory gives it back in the end, so this one gets it.
//   - While anybody waits, a request has to get on, or it costs its connection. Where nobody does, it may take its time.
//
// To take memory at once where it is plentiful keeps the copies of growing from requests of ordinary size.

package broker

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// entryBytes is what a connection has sent of a request before memory is taken for it. It is below readBuffer.
	entryBytes = 2 << 10
	// firstStep is what a request gets at first, if not all.
	firstStep = 16 << 10
	// plenty is which part of the free memory a request may get at once, as a divisor.
	plenty = 8
	// arrivalGrace is how long a request that others wait for may stand still: in so much time arrivalLeast of it has to come, as a divisor.
	arrivalGrace = 2 * time.Second
	arrivalLeast = 60
	// arrivalTime is how long it may take in all, beside that and its own waits for memory: at each moment as much of it must be there as of
	// this time has passed.
	arrivalTime = 30 * time.Second
	// arrivalLook is how often that is looked at, while somebody waits.
	arrivalLook = 500 * time.Millisecond
)

var errArrivesSlowly = errors.New("a request arrives too slowly, and others wait for the memory that it holds")

// arrival is a request that is being read. Its fields are guarded by arriving.mu, but for got, and but for held, which only the connection's
// reader changes.
type arrival struct {
	c        *conn
	size     int64
	held     int64     // of size
	partial  int64     // what of held, and of what is about to be, counts in arriving.partial
	progress float64   // which part of it was there when it began to wait
	began    time.Time // later by what it has waited for memory since
	seen     int64     // what was there of it
	seenAt   time.Time // at this time; later by what it has waited since
	waits    bool      // for memory
	ready    chan int64
	got      atomic.Int64
}

// late says that a is not where it should be, or stands still. r.mu is held.
func (a *arrival) late(now time.Time) bool {
	if a.waits {
		return false
	}
	got := a.got.Load()
	due := float64(now.Sub(a.began)-arrivalGrace) / float64(arrivalTime)
	still := false
	if now.Sub(a.seenAt) > arrivalGrace {
		still = got-a.seen < a.size/arrivalLeast
		a.seen, a.seenAt = got, now
	}
	return still || due > 0 && float64(got) < due*float64(a.size)
}

// arriving are the requests that arrive in one budget's memory.
type arriving struct {
	b    *budget
	most int64 // of partial: what the largest request leaves

	mu      sync.Mutex
	all     map[*arrival]struct{} // not all of whose bytes are there
	partial int64                 // what those hold that do not hold all they need
	queue   []*arrival            // who waits for a part
	last    *arrival              // who waits for all that it lacks, because there are no more parts
	waiting int                   // who waits for memory, in whichever way
	timer   *time.Timer           // of the next look; nil: nobody waits
}

// newArriving: no request may be larger than largest.
func newArriving(b *budget, largest int64) *arriving {
	return &arriving{b: b, most: b.size - largest, all: make(map[*arrival]struct{})}
}

// begin takes the first memory for a request of which there bytes are in the connection's buffer.
func (r *arriving) begin(c *conn, size, there int64) (*arrival, error) {
	a := &c.arrival
	r.mu.Lock()
	a.c, a.size, a.held, a.partial, a.began, a.progress = c, size, 0, 0, time.Now(), float64(there)/float64(size)
	a.seen, a.seenAt = 0, a.began
	a.got.Store(0)
	if there < size {
		r.all[a] = struct{}{}
	}
	r.mu.Unlock()
	if there < size {
		return a, r.grow(c.ctx, a)
	}
	if r.b.TryAcquire(size) {
		a.held = size
		return a, nil
	}
	r.mu.Lock()
	r.wait()
	r.mu.Unlock()
	err := r.b.Acquire(c.ctx, size)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
	if err == nil {
		a.held = size
	}
	return a, err
}

// end forgets a: its bytes are there, or will never be. What it holds is its connection's to give back.
func (r *arriving) end(a *arrival) {
	r.mu.Lock()
	delete(r.all, a)
	r.settle(a)
	r.mu.Unlock()
}

// grow takes more memory for a, all that it has being full.
func (r *arriving) grow(ctx context.Context, a *arrival) error {
	lacks := a.size - a.held
	if lacks <= (r.b.size-r.b.used.Load())/plenty && r.b.TryAcquire(lacks) {
		r.mu.Lock()
		a.held = a.size
		r.settle(a)
		r.mu.Unlock()
		return nil
	}
	r.mu.Lock()
	if a.held > 0 {
		a.progress = float64(a.held) / float64(a.size)
	}
	a.waits, a.ready = true, make(chan int64, 1)
	since := time.Now()
	r.wait()
	r.queue = append(r.queue, a)
	r.next()
	r.mu.Unlock()

	var step int64
	var err error
	select {
	case step = <-a.ready:
		err = r.b.Acquire(ctx, step)
	case <-ctx.Done():
		err = ctx.Err()
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
	waited := time.Since(since)
	a.waits, a.began, a.seenAt = false, a.began.Add(waited), a.seenAt.Add(waited)
	if err == nil {
		a.held += step
	}
	r.queue = slices.DeleteFunc(r.queue, func(o *arrival) bool { return o == a })
	if r.last == a {
		r.last = nil
		r.next()
	}
	if err != nil || a.held == a.size {
		r.settle(a)
	}
	return err
}

// settle takes a from those that hold a part. r.mu is held.
func (r *arriving) settle(a *arrival) {
	if a.partial > 0 {
		r.partial -= a.partial
		a.partial = 0
		r.next()
	}
}

// next says to those in the queue what they may take, the most complete first. r.mu is held.
func (r *arriving) next() {
	for len(r.queue) > 0 {
		i := 0
		for k, a := range r.queue {
			if a.progress > r.queue[i].progress {
				i = k
			}
		}
		a := r.queue[i]
		lacks := a.size - a.held
		step := min(max(a.held, firstStep), lacks)
		switch {
		case r.partial+step <= r.most:
			a.partial += step
			r.partial += step
		case r.last == nil:
			r.last, step = a, lacks
		default:
			return
		}
		r.queue = slices.Delete(r.queue, i, i+1)
		a.ready <- step
	}
}

// wait counts somebody who waits, for whom late arrivals have to go. r.mu is held.
func (r *arriving) wait() {
	r.waiting++
	if r.timer == nil {
		r.timer = time.AfterFunc(arrivalLook, r.look)
	}
}

// look closes the connections of late arrivals, if others wait.
func (r *arriving) look() {
	now := time.Now()
	var late []*conn
	r.mu.Lock()
	if r.timer = nil; r.waiting > 0 {
		for a := range r.all {
			if a.late(now) {
				late = append(late, a.c)
			}
		}
		r.timer = time.AfterFunc(arrivalLook, r.look)
	}
	r.mu.Unlock()
	for _, c := range late {
		c.close(errArrivesSlowly)
	}
}

// readParts reads a request into the memory that a has and gets. pooled is as readPooled's, nil unless pool.
func (r *arriving) readParts(ctx context.Context, in io.Reader, a *arrival, pool bool) (frame []byte, pooled *[]byte, err error) {
	frame = make([]byte, a.held)
	for read := 0; ; {
		m, err := io.ReadFull(in, frame[read:])
		if read += m; err != nil || int64(read) == a.size {
			if err != nil && pooled != nil {
				giveFrame(pooled)
				pooled = nil
			}
			return frame, pooled, err
		}
		if err := r.grow(ctx, a); err != nil {
			return nil, nil, err
		}
		full := frame
		if frame = nil; pool && a.held == a.size {
			if pooled = takeFrame(int(a.size)); pooled != nil {
				frame = (*pooled)[:a.size:a.size]
			}
		}
		if frame == nil {
			frame = make([]byte, a.held)
		}
		copy(frame, full)
	}
}
