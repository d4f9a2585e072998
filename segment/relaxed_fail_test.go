// Relaxed logs, where something goes wrong at the wrong moment.

package segment

import (
	"errors"
	"math/rand/v2"
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

// A truncation that comes when an idle relaxed log is about to be synced takes synced down to what is durable. What was written above is void
// but not unwritten: the mark that follows speaks of it, so it is synced all the same.
func TestTruncateBeforeTheMark(t *testing.T) {
	for seed := range uint64(20) {
		o := Options{Direct: true}
		m := vfs.NewMem(seed)
		l := ahead(t, m, o)
		l.io.Lock() // as syncLocked: nothing is pending
		h := segmentHeader{first: l.last + 1, base: l.next, prevTerm: 1}.after(l.lastSeg())
		mustAppend(t, l, 2, records(l, 2, 2, 1, 50))
		err := errors.Join(l.settle(), l.writeMark(h), l.rest())
		l.io.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		found := mustOpen(t, m.CrashClone(rand.New(rand.NewPCG(seed, 1))), o)
		if h := found.Health(); h.Recovery.Corrupt || h.DamagedUpTo != 0 {
			t.Fatalf("seed %d: nothing is damaged, and a recovery says %+v", seed, h.Recovery)
		}
	}
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

// A relaxed log that is never at rest has a tip all the same, which ends where it was settled before the last time.
func TestTipOfABusyRelaxedLog(t *testing.T) {
	const between = 10 * 5 * 1100 // bytes, at most
	for _, direct := range []bool{false, true} {
		m := vfs.NewMem(1)
		o := Options{ScanBytes: 64 << 10, Direct: direct}
		l := mustOpen(t, m, o)
		l.SetRelaxed(true)
		for n := range 400 {
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 5, 1000))
			mustSync(t, l)
			if n%10 == 9 {
				if err := l.Settle(); err != nil {
					t.Fatal(err)
				}
			}
			if n%50 == 25 {
				found := mustOpen(t, m.CrashClone(rand.New(rand.NewPCG(uint64(n), 1))), o)
				if h := found.Health(); h.Recovery.Corrupt || h.Recovery.RanAhead == "" || found.LastIndex() < l.DurableIndex() {
					t.Fatalf("durable up to %d, power lost, and opened up to %d: %+v", l.DurableIndex(), found.LastIndex(), h)
				}
			}
		}
		size := l.Size()
		l = mustOpen(t, m, o) // killed
		mustBeSound(t, l)
		if got := l.Scanned(); got.Bytes > o.ScanBytes+2*between {
			t.Errorf("direct=%v: after a kill %+v of %d bytes were read", direct, got, size)
		}
		if n := len(eachEntry(t, l)); n != 2000 {
			t.Errorf("%d entries", n)
		}
	}
}
