// Checkpoints: for a log whose records are the data, the snapshots that say from where on a follower can be given entries.
//
// A log of commands may be cut anywhere below its snapshot: the snapshot stands for all that goes. Records are not in any
// snapshot. So the log of a partition begins just behind a checkpoint that is as of a point at or below the first record
// that is left, and a follower that is behind it gets that checkpoint, and then every entry that there is:
//
//	                 start (of the records)
//	                   │
//	 files   ├─────────┼───┤├───────────────┤├────────────┤├──── …
//	 kept         c1 ▲ │         c2 ▲             c3 ▲        ▲ snapshot (for restarts)
//	                 │ first index = c1 + 1
//
// They are copies of what SaveSnapshot stored, kept about every half segment. See docs/design/0010-snapshots.md.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// maxCheckpoints bounds those of one log. Above it none is added until retention takes some away, and cuts get coarser.
const maxCheckpoints = 4096

// checkpoint is a kept snapshot.
type checkpoint struct {
	index raft.Index
	next  Offset // after index
}

func checkpointName(i raft.Index) string { return fmt.Sprintf("%s%020d", checkpoints, uint64(i)) }

func parseCheckpointName(name string) (raft.Index, bool) {
	digits, ok := strings.CutPrefix(name, checkpoints)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	i, err := strconv.ParseUint(digits, 10, 64)
	return raft.Index(i), err == nil && i > 0 && raft.Index(i) <= maxIndex
}

// Forget says that no record below o is wanted any more. It changes nothing by itself: Prune drops the files that hold
// nothing else.
func (l *Log) Forget(o Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget = max(l.forget, o)
}

// PruneDue reports that Prune may find something to drop, without looking at the disk.
func (l *Log) PruneDue() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.segs) > 0 && l.segs[0].next <= l.forget && l.segs[0].next > l.start || len(l.cleaned) > 0 && l.cleaned[0].end <= l.forget
}

// Prune implements multi.Log: it cuts the log behind the newest checkpoint that is as of a point at or below what Forget
// said, if a file goes thereby, and returns that checkpoint; nil if nothing was cut. One that has rotted is set aside, one
// that cannot be read passed over, and the next below it taken.
func (l *Log) Prune() (*raft.SnapshotMeta, error) {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.RLock()
	err := l.usable()
	first, forget, stored := l.first, l.forget, l.snap.index
	l.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	if m, err := l.adopt(); m != nil || err != nil {
		return m, err
	}
	if err := l.forgetCleaned(); err != nil {
		return nil, err
	}
	n := sort.Search(len(l.kept), func(k int) bool { return l.kept[k].next > forget || l.kept[k].index > stored })
	for ; n > 0 && l.kept[n-1].index >= first; n-- {
		c := l.kept[n-1]
		l.mu.RLock()
		active := l.w.seg != nil && l.cut == 0 && l.w.seg.last <= c.index && l.w.seg.next > l.w.seg.base
		gone := active || len(l.segs) > 0 && l.segs[0].last <= c.index && l.segs[0] != l.w.seg
		l.mu.RUnlock()
		if !gone {
			return nil, nil
		}
		// Before the cut, not after: what the checkpoint says of its offset decides which records go.
		f, err := l.openSnapshotFile(checkpointName(c.index))
		if errors.Is(err, ErrBadSnapshot) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errUnreadable) {
			l.giveUpCheckpoint(n-1, !errors.Is(err, errUnreadable))
			continue // it made room; the one below makes less
		}
		if err != nil {
			return nil, fmt.Errorf("prune group %d: checkpoint at %d: %w", l.group, c.index, err)
		}
		meta := f.snap.Meta
		if err := f.Close(); err != nil {
			return nil, err
		}
		if active {
			l.leave() // all that it holds is forgotten: its bytes go with the others
		}
		if err := l.truncatePrefix(c.index, nil); err != nil {
			return nil, err
		}
		l.dropCheckpoints(c.index)
		return &meta, nil
	}
	return nil, nil
}

// errUnreadable: the disk gave an error instead of a checkpoint's bytes. It may give them another day, so that the file stays
// where it is; until then there is no such checkpoint.
var errUnreadable = errors.New("cannot be read")

// giveUpCheckpoint does without a checkpoint: the log itself lacks nothing. One that has rotted is set aside. The caller holds io.
func (l *Log) giveUpCheckpoint(k int, rotten bool) {
	name := checkpointName(l.kept[k].index)
	l.kept = slices.Delete(l.kept, k, k+1)
	if rotten {
		_, _ = l.setAside(name, "") // if it stays where it is, the next open finds it, and it is given up again
	}
}

// dropCheckpoints removes those below i. The caller holds io.
func (l *Log) dropCheckpoints(i raft.Index) {
	n := sort.Search(len(l.kept), func(k int) bool { return l.kept[k].index >= i })
	for _, c := range l.kept[:n] {
		_ = l.fs.Remove(path.Join(l.dir, checkpointName(c.index))) // what stays behind goes at the next open
	}
	l.kept = slices.Clone(l.kept[n:])
}

// keepCheckpoint stores the snapshot that is about to be saved as a checkpoint too, if one is due. The caller holds io.
func (l *Log) keepCheckpoint(sm *raft.SnapshotMeta, next Offset, data []byte) error {
	l.mu.RLock()
	due := l.grown >= l.segmentBytes.Load()/2 || l.forget >= next && l.start < next || l.wanted
	l.mu.RUnlock()
	if n := len(l.kept); !due || n >= maxCheckpoints || n > 0 && l.kept[n-1].index >= sm.Index {
		return nil
	}
	if err := replaceFile(l.fs, l.dir, checkpointName(sm.Index), encodeSnapshotFile(l.group, sm, 0, data)...); err != nil {
		return fmt.Errorf("keep checkpoint of group %d: %w", l.group, err)
	}
	l.kept = append(l.kept, checkpoint{sm.Index, next})
	l.mu.Lock()
	l.grown, l.wanted = 0, false
	l.mu.Unlock()
	return nil
}

// keepBase makes a checkpoint of the stored snapshot before that is replaced, if the log begins behind it. (A log is put
// there by the installation of a leader's snapshot, and by a recovery.) The caller holds io.
func (l *Log) keepBase() error {
	l.mu.RLock()
	base := l.snap.index
	needed := base > 0 && l.first == base+1
	l.mu.RUnlock()
	if !needed || len(l.kept) > 0 && l.kept[0].index == base {
		return nil
	}
	f, err := l.openSnapshotFile(snapshotName)
	if errors.Is(err, ErrBadSnapshot) || errors.Is(err, errUnreadable) {
		return nil // the one that takes its place is needed all the more
	}
	if err != nil {
		return fmt.Errorf("keep the snapshot that the log of group %d begins behind: %w", l.group, err)
	}
	defer f.Close()
	name := checkpointName(base)
	if err := f.copyTo(l.fs, l.dir, name); err != nil {
		return fmt.Errorf("keep the snapshot that the log of group %d begins behind: %w", l.group, err)
	}
	l.kept = slices.Insert(l.kept, 0, checkpoint{base, f.next})
	return nil
}

// OpenSnapshot implements multi.Log: it opens the snapshot for a follower that is behind the first index, verified from
// end to end. It stays readable when a newer one takes its place. nil: there is none.
func (l *Log) OpenSnapshot() (raft.SnapshotReader, error) {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.RLock()
	err, first, stored := l.usable(), l.first, l.snap.index
	l.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	name := snapshotName
	switch {
	case stored == 0:
		return nil, nil
	case l.opt.Checkpoints && stored+1 != first:
		// Another one would leave out records that are still here.
		if len(l.kept) == 0 || l.kept[0].index+1 != first {
			return nil, fmt.Errorf("group %d: %w: the checkpoint at %d, behind which the log begins, is missing", l.group, ErrBadSnapshot, first-1)
		}
		name = checkpointName(l.kept[0].index)
	}
	f, err := l.openSnapshotFile(name)
	if err != nil {
		return nil, fmt.Errorf("open snapshot of group %d: %w", l.group, err)
	}
	return l.withCleaned(f)
}

// SnapshotFile is an open, verified snapshot. It is not written to any more, and may be read while the log goes on.
type SnapshotFile struct {
	snap raft.Snapshot // without data
	next Offset
	file vfs.File
	at   int64 // of the data
}

// Snapshot is what it is, without data.
func (f *SnapshotFile) Snapshot() raft.Snapshot { return f.snap }

// ReadAt fills p with data from off on.
func (f *SnapshotFile) ReadAt(p []byte, off int64) error {
	if off < 0 || int64(len(p)) > f.snap.Size-off {
		return fmt.Errorf("%w: bytes %d to %d of %d", ErrBadSnapshot, off, off+int64(len(p)), f.snap.Size)
	}
	n, err := f.file.ReadAt(p, f.at+off)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("read snapshot at %d: %w", off, err)
}

// Close closes the file.
func (f *SnapshotFile) Close() error { return f.file.Close() }

// openSnapshotFile opens and verifies a snapshot's file, reading it once.
func (l *Log) openSnapshotFile(name string) (_ *SnapshotFile, err error) {
	file, err := l.fs.Open(path.Join(l.dir, name))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	f, size, err := readSnapshotHead(l.group, file)
	if err != nil {
		return nil, err
	}
	if size != f.at+f.snap.Size {
		return nil, fmt.Errorf("%w: %s is %d bytes long, its header says %d", ErrBadSnapshot, name, size, f.at+f.snap.Size)
	}
	sum, err := fileSum(file, f.at, size, groupSeed(l.group)^snapshotMagic)
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", name, err)
	}
	if sum != f.snap.Sum {
		return nil, fmt.Errorf("%w: checksum of %s", ErrBadSnapshot, name)
	}
	return f, nil
}

// readSnapshotHead reads what stands before the state machine's part, and verifies only the header.
func readSnapshotHead(group raft.GroupID, file vfs.File) (*SnapshotFile, int64, error) {
	size, err := file.Size()
	if err != nil {
		return nil, 0, err
	}
	head := make([]byte, min(size, maxSnapshotHead))
	if n, err := file.ReadAt(head, 0); n < len(head) {
		return nil, 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	f := &SnapshotFile{file: file}
	if f.snap, _, err = decodeSnapshotHeader(group, head); err != nil {
		return nil, 0, err
	}
	f.at = dataAt(&f.snap.Meta.Conf)
	state := make([]byte, stateHeaderSize)
	if f.snap.Size < stateHeaderSize || size < f.at+stateHeaderSize {
		return nil, 0, fmt.Errorf("%w: data has no header", ErrBadSnapshot)
	}
	if n, err := file.ReadAt(state, f.at); n < len(state) {
		return nil, 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	f.next = Offset(binary.LittleEndian.Uint64(state[16:]))
	if binary.LittleEndian.Uint32(state) != stateMagic || f.next < 0 || uint64(f.next) > maxOffset {
		return nil, 0, fmt.Errorf("%w: data header", ErrBadSnapshot)
	}
	return f, size, nil
}

// fileSum is the checksum over a part of a file.
func fileSum(file vfs.File, from, to int64, seed uint32) (uint32, error) {
	buf := make([]byte, min(to-from, scanWindow))
	for from < to {
		b := buf[:min(int64(len(buf)), to-from)]
		if n, err := file.ReadAt(b, from); n < len(b) {
			return 0, fmt.Errorf("%w: %w", errUnreadable, err)
		}
		seed = crc32.Update(seed, castagnoli, b)
		from += int64(len(b))
	}
	return seed, nil
}

// copyTo makes a file of the same content, durably and never by half.
func (f *SnapshotFile) copyTo(fsys vfs.FS, dir, name string) error {
	tmp := path.Join(dir, name+tempSuffix)
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	end := f.at + f.snap.Size
	buf := make([]byte, min(end, scanWindow))
	for pos := int64(0); pos < end && err == nil; {
		b := buf[:min(int64(len(buf)), end-pos)]
		n, rerr := f.file.ReadAt(b, pos)
		if n < len(b) {
			err = rerr
			break
		}
		_, err = dst.WriteAt(b, pos)
		pos += int64(len(b))
	}
	if err == nil {
		err = dst.Sync()
	}
	err = errors.Join(err, dst.Close())
	if err == nil {
		err = fsys.Rename(tmp, path.Join(dir, name))
	}
	if err != nil {
		_ = fsys.Remove(tmp)
		return err
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync directory %s: %v", dir, err) // not wrapped: never one to wait out
	}
	return nil
}

// loadCheckpoints finds the kept snapshots again. Those that the log has left behind, or that it has not reached (a crash
// came between the checkpoint and the snapshot), are removed.
func (r *recoverer) loadCheckpoints(names []string) error {
	if !r.opt.Checkpoints {
		return nil
	}
	r.grown = r.segmentBytes.Load() // how much has come since the last one is not known: the next is due
	if r.last < r.first && r.snap.index == 0 {
		r.grown = 0
	}
	for _, name := range names { // sorted, and so by index
		i, ok := parseCheckpointName(name)
		switch {
		case !ok:
		case (i+1 < r.first || i > r.snap.index) && r.damaged == 0:
			if err := r.fs.Remove(path.Join(r.dir, name)); err != nil {
				return err
			}
		case i+1 < r.first || i > r.snap.index: // while damage is on record nothing is removed
		default:
			file, err := r.fs.Open(path.Join(r.dir, name))
			if err != nil {
				return err
			}
			f, _, err := readSnapshotHead(r.group, file)
			err = errors.Join(err, file.Close())
			switch {
			case errors.Is(err, errUnreadable): // not among them until an open can read it
			case errors.Is(err, ErrVersion):
				return fmt.Errorf("%s: %w", name, err)
			case errors.Is(err, ErrBadSnapshot) || err == nil && f.snap.Meta.Index != i:
				if err := r.setAside(name); err != nil {
					return err
				}
			case err != nil:
				return err
			default:
				r.kept = append(r.kept, checkpoint{i, f.next})
			}
		}
	}
	return nil
}

// standIn is the newest checkpoint at or below last, for a log whose snapshot speaks of entries that corruption took. The log
// must not go on behind that snapshot: it holds records between its first entry and there, which a follower of it would then
// lack. nil: there is none that is intact.
func (r *recoverer) standIn(last raft.Index) (*SnapshotFile, error) {
	names, err := r.fs.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Backward(names) { // sorted, and so by index
		i, ok := parseCheckpointName(name)
		if !ok || i+1 < r.first || i > last {
			continue
		}
		f, err := r.openSnapshotFile(name)
		switch {
		case errors.Is(err, ErrBadSnapshot) || errors.Is(err, errUnreadable):
		case err != nil:
			return nil, err
		case f.snap.Meta.Index != i:
			_ = f.Close()
		default:
			return f, nil
		}
	}
	return nil, nil
}

// stepIn puts a checkpoint in the place of the stored snapshot, of which a copy is kept.
func (r *recoverer) stepIn(f *SnapshotFile) error {
	if err := r.copyAside(snapshotName); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
		return err
	}
	if err := f.copyTo(r.fs, r.dir, snapshotName); err != nil {
		return err
	}
	r.snap, r.snapIdx = snapshotInfo{index: f.snap.Meta.Index, term: f.snap.Meta.Term}, f.snap.Meta.Index
	return nil
}
