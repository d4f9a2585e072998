// When a write of a map may say that nothing was written.

package client

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

func TestKVUncertain(t *testing.T) {
	conflict := &ConflictError{Key: "k", Expected: 1, Current: 2}
	for _, x := range []struct {
		name       string
		sent, open bool
		err        error
		want       bool
	}{
		{"no attempt got anywhere", false, false, context.DeadlineExceeded, false},
		{"refused at once", false, false, kerr.TopicAuthorizationFailed, false},
		{"a conflict at once", false, false, conflict, false},
		{"a conflict with the next leader", true, false, conflict, false},
		{"a conflict, while an attempt is out", true, true, conflict, true},
		{"no more time after a leader has lost its place", true, false, context.DeadlineExceeded, true},
		{"permission was taken away after a leader has lost its place", true, false, kerr.TopicAuthorizationFailed, true},
		{"the topic is gone after that", true, false, ErrNotFound, true},
		{"no more time while an attempt is out", true, true, context.DeadlineExceeded, true},
	} {
		w := &kvWrite{sent: x.sent, open: x.open, answered: !errors.Is(x.err, context.DeadlineExceeded)}
		if got := w.uncertain(x.err); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
}
