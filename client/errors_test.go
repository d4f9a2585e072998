// What a broker says of an error.

package client

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

func TestBrokersWords(t *testing.T) {
	err := explain("add partitions to topic", "orders", kerr.InvalidPartitions, "topic orders has 6 already")
	if got, want := err.Error(), "add partitions to topic orders: topic orders has 6 already (INVALID_PARTITIONS)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, kerr.InvalidPartitions) || !errors.Is(err, ErrInvalid) {
		t.Errorf("%v has lost its kind or its cause", err)
	}
	// Without words of its own, or with the ones that always go with it, it says those.
	for _, message := range []string{"", kerr.InvalidPartitions.Description} {
		if got, want := explain("op", "", kerr.InvalidPartitions, message).Error(), "op: "+kerr.InvalidPartitions.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
