// Run with one worker, which is the goroutine that polls: in order, and without a lock, a map or an allocation per record.

package client

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// errInterrupted: a record was not processed because it is not to be any more. It has not failed.
var errInterrupted = errors.New("interrupted")

// process calls the handler for a partition's records, one after the other, as long as the partition is ours and Run goes on.
func (r *runner) process(ctx context.Context, f *flow, rs []*kgo.Record) {
	r.mu.Lock()
	if f.gone.Load() || r.stopping || ctx.Err() != nil {
		f.left += len(rs)
		r.mu.Unlock()
		return
	}
	f.running++
	r.mu.Unlock()

	var err error
	done, noted := 0, 0
	for done < len(rs) && !f.gone.Load() && !r.halted.Load() {
		rec := rs[done]
		if err = r.handler(f.ctx, rec); err != nil {
			r.note(f, rs, done, &noted) // what follows can take long
			if err = r.persist(f, rec, err); err != nil {
				break
			}
		}
		if done++; done-noted >= markEvery {
			r.note(f, rs, done, &noted)
		}
	}

	r.note(f, rs, done, &noted)
	r.mu.Lock()
	defer r.mu.Unlock()
	f.running--
	f.left += len(rs) - done
	if err != nil {
		r.failLocked(f, err)
	}
	r.cond.Broadcast()
}

// note says how many of rs are processed. Of a partition that is going, revoke makes the mark.
func (r *runner) note(f *flow, rs []*kgo.Record, done int, noted *int) {
	if done == *noted {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f.last = rs[done-1]
	f.since += done - *noted
	*noted = done
	if !f.gone.Load() {
		r.markLocked(f, true)
	}
}

// persist tries a record again for which the handler has failed once. Nil: it counts as processed.
func (r *runner) persist(f *flow, rec *kgo.Record, err error) error {
	for t := (&task{f: f, r: rec, attempts: 1}); ; {
		again, fatal := r.failure(f.ctx, t, err)
		if fatal != nil || again == 0 {
			return fatal
		}
		pause := time.NewTimer(again)
		select {
		case <-pause.C:
		case <-f.taken:
		case <-r.halt:
		}
		pause.Stop()
		if f.gone.Load() || r.halted.Load() {
			return errInterrupted
		}
		t.attempts++
		if err = r.handler(f.ctx, rec); err == nil {
			return nil
		}
	}
}
