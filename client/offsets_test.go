// What half an answer about offsets is taken for.

package client

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
)

// kadm asks for the end of a partition that has no record since a time, by a second request: where that fails it leaves -1 there, without an error. That
// is no offset: who read from it would skip whatever comes until the consumer is at the end.
func TestHalfAnAnswerIsNoOffset(t *testing.T) {
	asked := 0
	offsets, err := new(Admin).offsetsOf(t.Context(), "t", func(context.Context, ...string) (kadm.ListedOffsets, error) {
		if asked++; asked == 1 {
			return kadm.ListedOffsets{"t": {0: {Topic: "t", Offset: -1}}}, &kadm.ShardErrors{Name: "ListOffsets", AllFailed: true, Errs: []kadm.ShardError{{Err: io.EOF}}}
		}
		return kadm.ListedOffsets{"t": {0: {Topic: "t", Offset: 10}}}, nil
	}, 0)
	if err == nil && offsets[0] != 10 || err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("%v, %v", offsets, err)
	}
}
