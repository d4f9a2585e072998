// Hooks: what a program, or package telemetry, can be told of what Run, Transform and transactions do. What franz-go does, its own hooks tell.

package client

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// HookAttemptFailed is told of each handler's failure, in [Consumer.Run] and [Transform].
type HookAttemptFailed interface {
	// OnAttemptFailed is called on the goroutine of the handler, after so many attempts.
	OnAttemptFailed(r *kgo.Record, attempts int, err error)
}

// HookPutAside is told of each record that goes on to a retry topic or the dead-letter topic.
type HookPutAside interface {
	// OnPutAside is called on the goroutine of the handler. In Transform that is before the outcome of the transaction is known.
	OnPutAside(r *kgo.Record, to string, attempts int, err error)
}

// HookTransactionEnd is told of each transaction that has ended.
type HookTransactionEnd interface {
	// OnTransactionEnd is called on the goroutine of [Producer.Transact] or [Transform]. Without an error and not committed, it was aborted.
	OnTransactionEnd(committed bool, took time.Duration, err error)
}

// hooks are those of a configuration.
type hooks []kgo.Hook

// franzGo are those for franz-go, which refuses one that has none of its interfaces: such a one may have ours only.
func (hs hooks) franzGo() (out []kgo.Hook) {
	for _, h := range hs {
		switch h.(type) {
		case HookAttemptFailed, HookPutAside, HookTransactionEnd:
			if kgo.ValidateOpts(kgo.WithHooks(h)) != nil {
				continue
			}
		}
		out = append(out, h)
	}
	return out
}

func (hs hooks) attemptFailed(r *kgo.Record, attempts int, err error) {
	for _, h := range hs {
		if h, ok := h.(HookAttemptFailed); ok {
			h.OnAttemptFailed(r, attempts, err)
		}
	}
}

func (hs hooks) putAside(r *kgo.Record, to string, attempts int, err error) {
	for _, h := range hs {
		if h, ok := h.(HookPutAside); ok {
			h.OnPutAside(r, to, attempts, err)
		}
	}
}

func (hs hooks) transactionEnd(committed bool, began time.Time, err error) {
	for _, h := range hs {
		if h, ok := h.(HookTransactionEnd); ok {
			h.OnTransactionEnd(committed, time.Since(began), err)
		}
	}
}
