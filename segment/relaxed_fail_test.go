// Relaxed logs, where something goes wrong at the wrong moment.

package segment

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// ahead is a log of four entries, the first durable and the others only written.
func ahead(t *testing.T, m *vfs.Mem, o Options) *Log {
	t.Helper()
	l := mustOpen(t, m, o)
	l.SetRelaxed(true)
	for range 4 {
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 3000))
		mustSync(t, l)
	}
	if l.SyncedIndex() != 4 || l.DurableIndex() != 1 {
		t.Fatalf("synced up to %d, durable up to %d", l.SyncedIndex(), l.DurableIndex())
	}
	return l
}

// The sync that a recovery of a killed process's log ends with may fail, too: then the next one must not go by the page cache.
func TestRecoveryOfARelaxedLogFails(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpSync, vfs.OpWrite} {
		m := vfs.NewMem(1)
		ahead(t, m, Options{}) // and killed
		failing := vfs.Inject(m, func(o vfs.Op, name string) error {
			if o == op && strings.HasSuffix(name, segmentSuffix) {
				return errors.New("bad disk")
			}
			return nil
		})
		if _, err := Open(failing, testDir, testGroup, Options{}); err == nil {
			t.Fatalf("%s failed, and the log is opened", op)
		}
		if _, err := m.Stat(path.Join(testDir, relaxedName)); err != nil {
			t.Fatal(err)
		}
		if h := mustOpen(t, m, Options{}).Health(); h.DamagedUpTo != raft.UntilTold || h.Recovery.RanAhead == "" {
			t.Errorf("after a failed %s what had been acknowledged may be lost, and the next open does not know: %+v", op, h)
		}
	}
}
