package sim

import (
	"path"
	"regexp"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
)

// digits make the names of files of one kind differ; a generation's are hexadecimal.
var digits = regexp.MustCompile(`[0-9]+(-[0-9a-f]{8})?`)

// syncKind names a sync by what it makes durable, or is "" for everything else.
func syncKind(op vfs.Op, name string) string {
	switch op {
	case vfs.OpSyncDir:
		return "directory " + digits.ReplaceAllString(name, "N")
	case vfs.OpSync:
		return "file " + digits.ReplaceAllString(path.Base(name), "N")
	}
	return ""
}

// TestLostSyncsAreSeen leaves out one kind of sync at a time: the disk says "done" and has done nothing. If no seed
// notices, either that sync is not needed or the checker is blind.
func TestLostSyncsAreSeen(t *testing.T) {
	if testing.Short() {
		t.Skip("searches many seeds")
	}
	kinds := map[string]bool{}
	for s := uint64(1); s <= 4; s++ {
		if _, err := Run(Options{Seed: s, Disk: func(op vfs.Op, name string) error {
			if k := syncKind(op, name); k != "" {
				kinds[k] = true
			}
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
	}
	// It takes the loss of the last file after a power loss to miss it, which no simulated disk does: segment.TestEverySyncIsNeeded does.
	delete(kinds, "file N.idx")
	const tries = 300
	// A replica whose snapshot is lost right after its installation is refilled by its peers, which is as it should be: only the
	// log's own tests can see that sync.
	delete(kinds, "file snapshot.part")
	// Damaged files that were set aside are for people: that they stay is seen by segment.TestDamage. A snapshot and a meta file that are not
	// among these are synced under the names that they have before they are whole.
	delete(kinds, "directory groups/N/damaged-N")
	delete(kinds, "file snapshot")
	delete(kinds, "file meta")
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			for s := uint64(1); s <= tries; s++ {
				_, err := Run(Options{Seed: s, Disk: func(op vfs.Op, name string) error {
					if syncKind(op, name) == kind {
						return vfs.ErrSkip
					}
					return nil
				}})
				if err != nil {
					t.Logf("seen with seed %d: %.300v", s, err)
					return
				}
			}
			t.Errorf("%d seeds ran without this sync, and nothing noticed", tries)
		})
	}
}
