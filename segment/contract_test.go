// The contract with the runtime, checked from outside: this package never imports it.

package segment_test

import (
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

var _ multi.Log = (*segment.Log)(nil)
