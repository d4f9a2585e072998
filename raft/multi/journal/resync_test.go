// A sync that failed leaves pages that the kernel holds for clean and that are not on the disk (fsyncgate). What a later
// Open reads from them must be on the disk before it is believed.

package journal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/balsamq/balsa/raft"
	"github.com/tidwall/wal"
)

// platter is the disk below the wal file, as forgetful as Linux: a sync writes what is dirty, and one that fails leaves
// everything clean.
type platter struct {
	path  string
	disk  []byte // what a power loss leaves
	clean int    // the file's bytes up to here are clean
	fail  error  // of the next syncs
	dirty []patch
}

type patch struct {
	off int64
	b   []byte
}

func (p *platter) write(off int64, b []byte) {
	if n := int(off) + len(b) - len(p.disk); n > 0 {
		p.disk = append(p.disk, make([]byte, n)...)
	}
	copy(p.disk[off:], b)
}

// sync writes what has been appended to the file, and what was written into it, since the last sync.
func (p *platter) sync() error {
	b, err := os.ReadFile(p.path)
	if err != nil {
		return err
	}
	from := min(p.clean, len(b))
	dirty := append(p.dirty, patch{int64(from), b[from:]})
	p.clean, p.dirty = len(b), nil
	if p.fail != nil {
		return p.fail
	}
	for _, d := range dirty {
		p.write(d.off, d.b)
	}
	p.disk = p.disk[:min(len(p.disk), len(b))]
	return nil
}

type platterLog struct {
	*wal.Log
	p *platter
}

func (l platterLog) Sync() error { return l.p.sync() }

type platterTail struct {
	*os.File
	p *platter
}

func (f platterTail) WriteAt(b []byte, off int64) (int, error) {
	f.p.dirty = append(f.p.dirty, patch{off, append([]byte(nil), b...)})
	return f.File.WriteAt(b, off)
}

func (f platterTail) Sync() error { return f.p.sync() }

func (p *platter) options() Options {
	return Options{
		ReserveBytes: -1, MarkAfter: 1 << 40,
		SyncDir: func(string) error { return nil },
		openWAL: func(path string, o *wal.Options) (walLog, error) {
			l, err := wal.Open(path, o)
			return platterLog{l, p}, err
		},
		openTail: func(path string) (tailFile, error) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			return platterTail{f, p}, err
		},
	}
}

// Whatever a journal knows when it opens after a failed sync, in the same boot, a power loss may not take away again: it
// may have voted by it.
func TestReopenAfterFailedSyncIsDurable(t *testing.T) {
	broken := errors.New("broken")
	for durable := range 4 { // saves before the one that fails
		t.Run(fmt.Sprint(durable), func(t *testing.T) {
			dir := filepath.Join(ramDir(t), "j")
			p := &platter{path: filepath.Join(dir, walName, segmentName(1))}
			j := mustOpen(t, dir, p.options())
			for i := range durable {
				save(t, j, raft.GroupID(i+1), 5, 1)
			}
			p.fail = broken
			if err := trySave(j, 9, 7, 2); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			_ = j.Close()

			p.fail = nil
			j = mustOpen(t, dir, p.options())
			loaded := statesOf(j)
			if loaded[9].Term != 7 {
				t.Fatalf("the page cache shows no save whose sync failed: this test shows nothing: %v", loaded)
			}
			left := append([]byte(nil), p.disk...) // power is lost now
			_ = j.Close()

			write(t, p.path, left)
			after, err := openStates(t, dir)
			if err != nil || !maps.Equal(after, loaded) {
				t.Fatalf("opened with %v, and after a power loss with %v, %v", loaded, after, err)
			}
		})
	}
}

func statesOf(j *Journal) map[raft.GroupID]raft.HardState {
	m := make(map[raft.GroupID]raft.HardState)
	for _, g := range j.Groups() {
		m[g], _ = j.Load(g)
	}
	return m
}
