// Reading a coordinator's log from its start, and an outbox for what must not happen under a mutex: what the coordinators have in
// common.

package coordinator

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/balsamq/balsa/protocol"
)

// errUnreadable: a batch of a coordinator's log is none. Nobody may answer from half a log.
var errUnreadable = errors.New("a batch of the coordinator's log cannot be read")

// errStopped: the coordinator is not wanted any more.
var errStopped = errors.New("stopped")

// replay reads log from its start to where it ends and calls fn for each batch, in order. A read that fails is tried again until stop is
// closed or stopped says so.
func replay(log ReplicatedLog, stop <-chan struct{}, stopped func() bool, logger *slog.Logger, fn func(protocol.Batch) error) (next int64, err error) {
	at := log.Start()
	for {
		if stopped() {
			return at, errStopped
		}
		batches, err := log.Read(at, loadChunk)
		if err != nil {
			if errors.Is(err, ErrNotCoordinator) {
				logger.Debug("gave up loading", "err", err)
			} else {
				logger.Error("cannot load; trying again", "offset", at, "err", err)
			}
			select {
			case <-stop:
				return at, errStopped
			case <-time.After(loadRetry):
			}
			continue
		}
		if len(batches) == 0 {
			return at, nil
		}
		for _, raw := range batches {
			b, err := protocol.ParseBatch(raw)
			if err == nil {
				err = fn(b)
			}
			if err != nil {
				return at, fmt.Errorf("%w: offset %d: %w", errUnreadable, at, err)
			}
			at = b.NextOffset()
		}
	}
}

// outbox collects effects, calls to a log and of replies, under a mutex, and carries them out in order after it was released.
type outbox struct {
	mu       sync.Mutex
	out      []func()
	draining bool
}

// later adds an effect. mu is held.
func (o *outbox) later(fn func()) { o.out = append(o.out, fn) }

// unlock releases mu and carries the effects out. If another goroutine is at it, that one does these too: they must not overtake each
// other.
func (o *outbox) unlock() {
	if o.draining {
		o.mu.Unlock()
		return
	}
	o.draining = true
	for len(o.out) > 0 {
		out := o.out
		o.out = nil
		o.mu.Unlock()
		for _, fn := range out {
			fn()
		}
		o.mu.Lock()
	}
	o.draining = false
	o.mu.Unlock()
}
