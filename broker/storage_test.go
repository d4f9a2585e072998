package broker

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

func mustOpenStorage(t *testing.T, fsys vfs.FS, dir string) *storage {
	t.Helper()
	s, err := openStorage(fsys, dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDataDirectoryRemembers(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"mem": vfs.NewMem(1), "os": vfs.OS()} {
		t.Run(name, func(t *testing.T) {
			dir := "/data"
			if name == "os" {
				dir = path.Join(t.TempDir(), "data")
			}
			s := mustOpenStorage(t, fsys, dir)
			first := s.id
			if first.Incarnation == 0 || first.Boots != 1 || first.joined() {
				t.Fatalf("a new directory is %+v", first)
			}
			if _, err := openStorage(fsys, dir); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "in use") {
				t.Fatalf("opened twice: %v", err)
			}
			if err := s.join("c", 7, raft.Member{ID: 1, Incarnation: 2}); err != nil {
				t.Fatal(err)
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpenStorage(t, fsys, dir)
			defer s.close()
			if s.id.Life == 0 || s.id.Life == first.Life {
				t.Fatalf("drew %x after %x: two starts with one count would be the same", s.id.Life, first.Life)
			}
			want := identity{Format: metaFormat, ClusterID: "c", NodeID: 7, Incarnation: first.Incarnation, Boots: 2, Life: s.id.Life, Founder: raft.Member{ID: 1, Incarnation: 2}}
			if s.id != want {
				t.Fatalf("remembers %+v, want %+v", s.id, want)
			}
			for i, cfg := range []Config{{}, {ClusterID: "c", NodeID: 7}, {ClusterID: "other"}, {NodeID: 8}} {
				ok := i < 2
				if err := s.check(&cfg); (err == nil) != ok || (err != nil && (!errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), dir))) {
					t.Errorf("%+v: %v", cfg, err)
				}
			}
		})
	}
}

// The boot count and the identity are on the disk before openStorage and join return, whatever is lost after that.
func TestIdentitySurvivesPowerLoss(t *testing.T) {
	for seed := range uint64(20) {
		identitySurvives(t, seed)
	}
}

func identitySurvives(t *testing.T, seed uint64) {
	mem := vfs.NewMem(seed)
	s := mustOpenStorage(t, mem, "/some/where/data")
	inc := s.id.Incarnation
	for boots := uint64(2); boots < 6; boots++ {
		mem = mem.CrashClone(nil)
		s = mustOpenStorage(t, mem, "/some/where/data")
		if s.id.Boots != boots || s.id.Incarnation != inc {
			t.Fatalf("after a power loss: %+v, want incarnation %x and boot %d", s.id, inc, boots)
		}
	}
	if err := s.join("c", 3, raft.Member{ID: 3, Incarnation: inc}); err != nil {
		t.Fatal(err)
	}
	mem = mem.CrashClone(nil)
	if s = mustOpenStorage(t, mem, "/some/where/data"); s.id.ClusterID != "c" || s.id.NodeID != 3 {
		t.Fatalf("after a power loss: %+v", s.id)
	}
}

func TestDamagedDirectoryIsRefused(t *testing.T) {
	write := func(fsys vfs.FS, b []byte) {
		_ = fsys.Remove("/data/meta.json")
		f, err := fsys.Create("/data/meta.json")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	mem := vfs.NewMem(1)
	s := mustOpenStorage(t, mem, "/data")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	good, _ := encodeChecked(&s.id)
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	newer, _ := encodeChecked(&identity{Format: metaFormat + 1, Incarnation: 1})
	half, _ := encodeChecked(&identity{Format: metaFormat, Incarnation: 1, ClusterID: "c"})
	for name, c := range map[string]struct {
		content []byte
		advice  string
	}{
		"flipped": {flipped, "restore"}, "empty": {nil, "restore"}, "truncated": {good[:len(good)-5], "restore"},
		"newer": {newer, "newer broker"}, "half joined": {half, "restore"},
	} {
		write(mem, c.content)
		_, err := openStorage(mem, "/data")
		if !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "/data") || !strings.Contains(err.Error(), c.advice) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Logs without an identity are somebody's data.
	if err := mem.Remove("/data/meta.json"); err != nil {
		t.Fatal(err)
	}
	if err := mem.MkdirAll("/data/groups/" + groupDirName(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := openStorage(mem, "/data"); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "meta.json is gone") {
		t.Errorf("logs without meta.json: %v", err)
	}
	// Whatever was refused has been unlocked.
	write(mem, good)
	mustOpenStorage(t, mem, "/data")
}

// A broker starts on a full disk, and has its reserve again when there is room.
func TestStartOnAFullDisk(t *testing.T) {
	const limit = 4 << 20
	quota := vfs.Quota(vfs.NewMem(1), limit)
	s := mustOpenStorage(t, quota, "/data")
	fill, err := quota.Create("/data/fill")
	if err != nil {
		t.Fatal(err)
	}
	free, err := quota.Free("/data")
	if err != nil || free > limit-reserveBytes {
		t.Fatalf("%d bytes free beside a reserve of %d, %v", free, reserveBytes, err)
	}
	if err := fill.Allocate(0, free); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpenStorage(t, quota, "/data")
	if s.id.Boots != 2 {
		t.Fatalf("boot %d on a full disk", s.id.Boots)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	fill.Close()
	if err := quota.Remove("/data/fill"); err != nil {
		t.Fatal(err)
	}
	s = mustOpenStorage(t, quota, "/data")
	defer s.close()
	if free, err = quota.Free("/data"); err != nil || free > limit-reserveBytes {
		t.Fatalf("%d bytes free, no reserve, %v", free, err)
	}
}

func TestGroupDirectories(t *testing.T) {
	mem := vfs.NewMem(1)
	s := mustOpenStorage(t, mem, "/data")
	for _, n := range []string{groupDirName(1), groupDirName(42), "42", "lost+found", groupDirName(3) + ".removed", "0000000000000000"} {
		if err := mem.MkdirAll(path.Join(s.groupsDir(), n)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.groupDirs()
	if err != nil || !slices.Equal(got, []raft.GroupID{1, 42}) {
		t.Fatalf("groups %v, %v", got, err)
	}
}

func TestPeersCache(t *testing.T) {
	s := mustOpenStorage(t, vfs.NewMem(1), "/data")
	if got := s.loadPeers(); got != nil {
		t.Fatalf("peers from nowhere: %v", got)
	}
	want := []knownPeer{{peerAddr: peerAddr{1, "a:1"}}, {peerAddr{2, "b:2"}, 1<<63 + 7, 3, 1<<64 - 1}}
	for range 2 {
		if err := s.savePeers(want); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.loadPeers(); !slices.Equal(got, want) {
		t.Fatalf("peers %v", got)
	}
}

// A file that cannot be written whole leaves the old one.
func TestCheckedFileIsReplacedAtomically(t *testing.T) {
	mem := vfs.NewMem(1)
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	if err := writeChecked(mem, "/d", "f", "old"); err != nil {
		t.Fatal(err)
	}
	quota := vfs.Quota(mem, 100)
	if err := writeChecked(quota, "/d", "f", strings.Repeat("new", 10_000)); err == nil {
		t.Fatal("wrote without room")
	}
	var got string
	if err := readChecked(mem, "/d/f", &got); err != nil || got != "old" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := readChecked(mem, "/d/none", &got); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func FuzzDecodeChecked(f *testing.F) {
	good, _ := encodeChecked(&identity{Format: 1, Incarnation: 5})
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var id identity
		if decodeChecked(b, &id) == nil {
			again, err := encodeChecked(&id)
			if err != nil {
				t.Fatal(err)
			}
			var id2 identity
			if err := decodeChecked(again, &id2); err != nil || id2 != id {
				t.Fatalf("%+v became %+v, %v", id, id2, err)
			}
		}
	})
}

// A directory that is an older copy, of a time before the metadata group was reset, hears of both from two brokers at once.
func TestIdentityIsWrittenByOneAtATime(t *testing.T) {
	mem := vfs.NewMem(1)
	s := mustOpenStorage(t, mem, "/data")
	for i := range uint64(200) {
		var g errgroup.Group
		g.Go(func() error { return s.age(i + 1) })
		g.Go(func() error { return s.outlive(raft.GroupEpoch(i + 1)) })
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		mem = mem.CrashClone(nil)
		var id identity
		if err := readChecked(mem, "/data/meta.json", &id); err != nil {
			t.Fatal(err)
		}
		if id.Past != i+1 || id.MetadataEpoch != raft.GroupEpoch(i+1) {
			t.Fatalf("round %d: %+v", i, id)
		}
		s.fs = mem
	}
}
