// The journal is what the runtime asks for.

package journal_test

import (
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/multi/journal"
)

var _ multi.HardStateStore = (*journal.Journal)(nil)
