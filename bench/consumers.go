// The consumers of a turn: clients that read along, or a group that reads what has piled up.

package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// consumers run until they are stopped.
type consumers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	all    []Consumer
	after  func() // called once they have stopped; nil: nothing is to be done

	first atomic.Pointer[time.Time] // when the first record came

	mu  sync.Mutex // guards err
	err error
}

// consumers makes those of the cell that read along from now on; they are there, each at the end of all partitions, when it returns.
func (t *turn) consumers(ctx context.Context) (*consumers, error) {
	return t.consumersOf(ctx, func(ctx context.Context, _ int) (Consumer, error) { return t.sys.Consumer(ctx) }, func([]byte) {})
}

// members makes the cell's consumers as members of one group. each is called with every record, from several goroutines.
func (t *turn) members(ctx context.Context, each func(rec []byte)) (*consumers, error) {
	before := debug.SetGCPercent(readersGC)
	cs, err := t.consumersOf(ctx, t.sys.Member, each)
	if err != nil {
		debug.SetGCPercent(before)
		return nil, err
	}
	cs.after = func() { debug.SetGCPercent(before) }
	return cs, nil
}

func (t *turn) consumersOf(ctx context.Context, open func(context.Context, int) (Consumer, error), each func([]byte)) (*consumers, error) {
	ctx, cancel := context.WithCancel(ctx)
	cs := &consumers{cancel: cancel}
	for i := range t.cell.Consumers {
		c, err := open(ctx, i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("consumer %d: %w", i, err), cs.stop())
		}
		cs.all = append(cs.all, c)
	}
	for i, c := range cs.all {
		reader := t.load.reader()
		cs.wg.Go(func() {
			err := c.Run(ctx, func(_ int, rec []byte) {
				if cs.first.Load() == nil {
					now := time.Now()
					cs.first.CompareAndSwap(nil, &now)
				}
				each(rec)
				reader.consume(rec)
			})
			if err != nil {
				cs.mu.Lock()
				cs.err = errors.Join(cs.err, fmt.Errorf("consumer %d: %w", i, err))
				cs.mu.Unlock()
			}
		})
	}
	return cs, nil
}

// failure is what has gone wrong so far.
func (cs *consumers) failure() error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.err
}

// stop ends them; it may be called again.
func (cs *consumers) stop() error {
	cs.once.Do(func() {
		cs.cancel()
		cs.wg.Wait()
		for _, c := range cs.all {
			c.Close()
		}
		if cs.after != nil {
			cs.after()
		}
	})
	return cs.failure()
}
