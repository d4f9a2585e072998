// How long a bridge waits: for an answer that is slow, and after a failure.

package bridge

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kerr"
)

// An answer that takes longer than the first question is waited for is waited for longer the next time.
func TestAskWaitsLonger(t *testing.T) {
	t.Parallel()
	var waits []time.Duration
	answer, err := ask(t.Context(), func(ctx context.Context) (string, error) {
		deadline, ok := ctx.Deadline()
		if !ok {
			t.Fatal("a question without an end")
		}
		waits = append(waits, time.Until(deadline))
		if len(waits) < 3 { // as if it took as long as that
			return "", context.DeadlineExceeded
		}
		return "here", nil
	})
	if err != nil || answer != "here" {
		t.Fatal(answer, err)
	}
	if waits[0] > askEvery || waits[1] <= askEvery || waits[1] > 2*askEvery || waits[2] <= 2*askEvery {
		t.Errorf("waited for %v", waits)
	}
}

// Who says at once that there is no leader may have one soon that does not answer what it was asked too early: it is asked as often as before.
func TestAskAfterNoLeader(t *testing.T) {
	t.Parallel()
	n := 0
	answer, err := ask(t.Context(), func(ctx context.Context) (string, error) {
		if n++; n <= 4 {
			return "", nats.ErrNoResponders
		}
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > askEvery {
			t.Errorf("a question has %v, until %v", ok, deadline)
		}
		return "here", nil
	})
	if err != nil || answer != "here" {
		t.Fatal(answer, err)
	}
}

// What the target topic refuses is looked for at once; every other failure, that of the ledger, too, is left alone for longer each time.
func TestPauses(t *testing.T) {
	t.Parallel()
	b := &Bridge{job: Job{Spec: &Spec{ToTopic: "orders"}}}
	refused := func(topic string) error { return fmt.Errorf("a batch: %w", &topicRefusal{topic, kerr.MessageTooLarge}) }
	for _, tc := range []struct {
		err   error
		state State
		grows bool
	}{
		{refused("orders"), StateWaiting, false},
		{refused(LedgerTopic), StateWaiting, true},
		{errors.New("no route"), StateWaiting, true},
		{stuck("a message"), StateStuck, false},
	} {
		wait := retryMin
		for range 20 {
			state, pause, next := b.after(tc.err, wait)
			if state != tc.state || tc.grows && (pause != wait || next != min(2*wait, retryMax)) || !tc.grows && next != wait {
				t.Errorf("%v: %s for %v, then %v after %v", tc.err, state, pause, next, wait)
			}
			wait = next
		}
		if want := retryMax; tc.grows && wait != want {
			t.Errorf("%v: in the end %v", tc.err, wait)
		}
	}
}
