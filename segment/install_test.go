// A leader's snapshot on a disk that runs full while it takes the log's place.

package segment

import (
	"bytes"
	"errors"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// However little room there is, an installation is refused and leaves the log, and what was received, as they were; or it succeeds.
func TestInstallOnAFullDisk(t *testing.T) {
	st := logState{next: 40, epochs: []epoch{{1, 1, 0}, {3, 20, 30}}, state: []byte("a leader's state")}
	plain := st.encode(testGroup)
	for _, c := range []struct {
		name string
		snap raft.Snapshot
		data []byte
	}{
		{name: "plain", data: plain, snap: raft.Snapshot{Meta: raft.SnapshotMeta{Index: 50, Term: 3, Conf: raft.ConfState{Voters: []raft.Member{{ID: 1}}}},
			Size: int64(len(plain)), Sum: snapshotSum(testGroup, plain)}},
		{name: "with a cleaned part"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.data == nil {
				s, err := mustCompacted(t, vfs.NewMem(1), Options{}).OpenSnapshot()
				if err != nil {
					t.Fatal(err)
				}
				c.snap = s.Snapshot()
				c.data = make([]byte, c.snap.Size)
				if err := errors.Join(s.ReadAt(c.data, 0), s.Close()); err != nil {
					t.Fatal(err)
				}
			}
			refused, installed := 0, false
			for room := int64(0); !installed; room += 8 {
				if room > 1<<20 {
					t.Fatal("refused with a mebibyte free")
				}
				if installed = installWithin(t, room, c.snap, c.data); !installed {
					refused++
				}
			}
			if refused == 0 {
				t.Fatal("the disk was never full")
			}
		})
	}
}

// installWithin installs s over a log with some entries, with that many bytes left on the disk; false if it was refused, and succeeded
// when there was room.
func installWithin(t *testing.T, room int64, s raft.Snapshot, data []byte) bool {
	t.Helper()
	m := vfs.NewMem(1)
	q := vfs.Quota(m, 1<<30, "data")
	o := Options{Checkpoints: true}
	l := mustOpen(t, q, o)
	es := records(l, 1, 1, 9, 200)
	mustAppend(t, l, 1, es)
	mustSync(t, l)
	mustSync(t, l)
	receive := func() int64 {
		got, err := l.ReceiveSnapshot(&s)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	receive()
	if err := l.WriteSnapshot(0, data); err != nil {
		t.Fatal(err)
	}
	q.SetLimit(q.Used() + room)
	_, err := l.InstallSnapshot(&s)
	if err != nil {
		if !errors.Is(err, vfs.ErrNoSpace) || l.Health().Err != nil {
			t.Fatalf("with %d bytes free: %v; the log: %v", room, err, l.Health().Err)
		}
		for what, l := range map[string]*Log{"the log": l, "opened after a crash": mustOpen(t, crash(m), o)} {
			got, err := l.Entries(1, 10, 1<<20)
			if err != nil || l.FirstIndex() != 1 || l.LastIndex() != 9 || len(got) != len(es) || !bytes.Equal(got[8].Frame, es[8].Frame) || l.Health().Recovery.Corrupt {
				t.Fatalf("with %d bytes free, %s: %d to %d, %v", room, what, l.FirstIndex(), l.LastIndex(), err)
			}
		}
		q.SetLimit(1 << 30)
		if got := receive(); got != s.Size {
			t.Fatalf("with %d bytes free: %d of %d bytes are still here", room, got, s.Size)
		}
		if _, err := l.InstallSnapshot(&s); err != nil {
			t.Fatalf("with room again: %v", err)
		}
	}
	for what, l := range map[string]*Log{"the log": l, "opened after a crash": mustOpen(t, crash(m), o)} {
		if h := l.Health(); l.FirstIndex() != s.Meta.Index+1 || l.LastIndex() != s.Meta.Index || h.Recovery.Corrupt || h.Err != nil {
			t.Fatalf("with %d bytes free, %s after the installation: from %d on, %+v", room, what, l.FirstIndex(), h)
		}
	}
	return err == nil
}
