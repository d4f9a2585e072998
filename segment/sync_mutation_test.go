// Every sync is there for a reason: each call of Sync and SyncDir in this package is taken out in turn (it lies: reports
// success and does nothing), and the property test must notice. Sites are found by running it, not listed, so a new
// sync needs no entry here, and one that nothing depends on fails this test.

package segment

import (
	"flag"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
)

// syncSite names the line of this package that asked for a sync, and the kind of file.
func syncSite(op vfs.Op, name string) string {
	var pcs [24]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.Contains(f.File, "/segment/") && !strings.HasSuffix(f.File, "_test.go") {
			kind := path.Ext(name)
			if base := path.Base(name); strings.HasPrefix(base, metaName) || strings.HasPrefix(base, snapshotName) || strings.HasPrefix(base, relaxedName) {
				kind = base
			} else if op == vfs.OpSyncDir {
				kind = "" // directories differ by place only
			}
			return fmt.Sprintf("%s %s at %s:%d", op, kind, path.Base(f.File), f.Line)
		}
		if !more {
			return ""
		}
	}
}

// siteFault records sites, and makes the syncs of one of them lies.
type siteFault struct {
	mu   sync.Mutex
	seen map[string]int
	lie  string
}

func (s *siteFault) fault(op vfs.Op, name string) error {
	if op != vfs.OpSync && op != vfs.OpSyncDir {
		return nil
	}
	site := syncSite(op, name)
	if site == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[site]++
	if site == s.lie {
		return vfs.ErrSkip
	}
	return nil
}

var (
	flagMutations = flag.Bool("mutations", false, "take out each sync in turn and expect the property test to notice (minutes)")
	flagSite      = flag.String("site", "", "only those whose place contains this")
)

func TestEverySyncIsNeeded(t *testing.T) {
	if !*flagMutations {
		t.Skip("takes minutes: go test ./segment -run TestEverySyncIsNeeded -mutations -timeout 30m")
	}
	const steps, discover, tries = 300, 25, 1500
	// All kinds of history: with crashes only, with damage, and with compaction.
	histories := []func(uint64, int, func(vfs.Op, string) error) interface{ run() error }{
		func(seed uint64, steps int, f func(vfs.Op, string) error) interface{ run() error } {
			return newWorld(seed, steps, f)
		},
		func(seed uint64, steps int, f func(vfs.Op, string) error) interface{ run() error } {
			return newDamageWorld(seed, steps, f)
		},
		func(seed uint64, steps int, f func(vfs.Op, string) error) interface{ run() error } {
			return newRelaxedWorld(seed, steps, f)
		},
		func(seed uint64, steps int, f func(vfs.Op, string) error) interface{ run() error } {
			return newCleanWorld(seed, steps/3, f)
		},
	}
	all := siteFault{seen: map[string]int{}}
	for seed := range uint64(discover) {
		for _, h := range histories {
			if err := h(seed, steps, all.fault).run(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
	for _, site := range slices.Sorted(maps.Keys(all.seen)) {
		if !strings.Contains(site, *flagSite) {
			continue
		}
		var caught error
		s := siteFault{seen: map[string]int{}, lie: site}
		runs := 0
		for seed := uint64(0); seed < tries && caught == nil; seed++ {
			for _, h := range histories {
				if caught != nil {
					break
				}
				runs++
				lies := s.seen[site]
				if caught = h(seed, steps, s.fault).run(); caught != nil && s.seen[site] == lies {
					t.Fatalf("seed %d fails with every sync in place: %v", seed, caught)
				}
			}
		}
		if caught == nil {
			t.Errorf("%s: taken out in %d calls over %d histories, and nobody noticed", site, s.seen[site], runs)
			continue
		}
		msg, _, _ := strings.Cut(caught.Error(), "\n")
		t.Logf("%s: noticed in history %d: %.160s", site, runs, msg)
	}
}
