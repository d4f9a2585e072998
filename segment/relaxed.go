// Relaxed durability: a log that acknowledges what it has written, before it has synced it. See docs/design/0028-relaxed-durability.md.
//
//	index:   first             durable            synced        handed            last
//	          |----- on the disk --|- written only -|- being written -|- pending -|
//
// synced, what readers and Raft see as held, runs ahead of durable; what a recovery takes for proof (marks, files that have been left, snapshots)
// goes by durable alone. While it may run ahead a note is in the directory, the file relaxed, with the boot of the machine:
//
//	magic | crc | ver, flags | group | length, boot
//
// An open that finds the note of this boot knows that the system's memory has outlived the process. Of another boot, or if it cannot be read: the
// end of the log may be lost, and nothing tells where it was (raft.UntilTold).

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	relaxedName = "relaxed"
	// RelaxedBytes may be written ahead of a sync before its owner is to ask for one (Behind, Settle). Twice that, and the log syncs before it
	// acknowledges more.
	RelaxedBytes = 8 << 20

	noteMagic      = 0xBA535201
	noteHeaderSize = 32
)

// SetRelaxed says whether what is written from now on may be acknowledged before it is synced. Taking it back makes the next Sync one of all that
// is behind, before it counts.
func (l *Log) SetRelaxed(relaxed bool) { l.relaxed.Store(relaxed) }

// Relaxed is what SetRelaxed has said.
func (l *Log) Relaxed() bool { return l.relaxed.Load() }

// DurableIndex is the last index that no power loss can take; SyncedIndex may be ahead of it while the log is relaxed.
func (l *Log) DurableIndex() raft.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.durable
}

// Behind implements multi.Log.
func (l *Log) Behind() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.behind
}

// Settle implements multi.Log.
func (l *Log) Settle() error {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.RLock()
	err := l.usable()
	l.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := l.settle(); err != nil {
		return l.failSync(err)
	}
	l.tipSettled()
	return nil
}

// settledEnd is the end of a file all of which is durable, the last entry there, and what follows it.
type settledEnd struct {
	pos  int64
	last raft.Index
	next Offset
	term raft.Term
}

// tipSettled extends the tip of a log that is settled and never idle, up to where it was settled before: what has been written behind that begins
// with a block that notes it as durable, and is durable by now. The caller holds io.
func (l *Log) tipSettled() {
	w := &l.w
	if w.seg == nil || w.fresh || w.seal {
		return
	}
	if at := w.settled; at.pos != 0 && at.pos < w.pos {
		l.extendTip(at.pos, at.last, at.next, at.term, l.opt.ScanBytes)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.cut != 0 || l.lastSeg() != w.seg {
		return
	}
	if term, err := l.termLocked(l.synced); err == nil {
		w.settled = settledEnd{w.pos, l.synced, w.seg.next, term}
	}
}

// settle makes all that was written durable, what a truncation has made void, too. It is in the file that is being written: one is left only when it
// is durable. The caller holds io.
func (l *Log) settle() error {
	w := &l.w
	if w.ahead {
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("sync %s: %v", w.seg.name, err)
		}
		w.ahead = false
	}
	l.mu.Lock()
	l.durable, l.behind = l.synced, 0 // a truncation may have lowered synced meanwhile; nothing else moves it
	l.mu.Unlock()
	return nil
}

// mayRunAhead: what is written now may be acknowledged before it is synced. A log that was at rest begins with a sync, as the note costs more
// than that: it is worth it for one that is busy. The caller holds io.
func (l *Log) mayRunAhead() (bool, error) {
	if !l.relaxed.Load() || !l.busy {
		return false, nil
	}
	l.mu.RLock()
	noted, behind := l.noted, l.behind
	l.mu.RUnlock()
	if behind >= 2*RelaxedBytes {
		return false, nil
	}
	if noted {
		return true, nil
	}
	switch err := l.writeNote(l.fs.Boot()); {
	case errors.Is(err, vfs.ErrNoSpace):
		return false, nil
	case err != nil:
		return false, err
	}
	l.setNoted(true)
	return true, nil
}

func (l *Log) setNoted(noted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted = noted
}

// rest takes the note away when nothing is behind. The caller holds io.
func (l *Log) rest() error {
	l.busy = false
	l.mu.RLock()
	due := l.noted && l.durable == l.synced
	l.mu.RUnlock()
	if !due {
		return nil
	}
	if err := l.dropNote(); err != nil {
		return err
	}
	l.setNoted(false)
	return nil
}

// failSync fails the log. What a failed sync, or one before it, was to keep may be gone although it was acknowledged, so the note is no longer
// one of this boot.
func (l *Log) failSync(err error) error {
	l.mu.RLock()
	noted := l.noted
	l.mu.RUnlock()
	if noted {
		_ = l.writeNote("") // if that fails, too, there is nothing left to try
	}
	return l.fail(err)
}

// failResume is failSync for an Open: the next one must not go by what the system's memory has, as the system says only once that it lost something.
func (r *recoverer) failResume(err error) error {
	if r.noted {
		_ = r.writeNote("")
	}
	return err
}

func (l *Log) writeNote(boot string) error {
	// Its name is made durable, its content need not be: one that a power loss has made unreadable says the same as one of another boot.
	unsynced := func(vfs.File) error { return nil }
	err := putFile(l.fs, path.Join(l.dir, relaxedName+tempSuffix), unsynced, encodeNote(l.group, boot))
	if err == nil {
		err = rename(l.fs, l.dir, relaxedName)
	}
	if err != nil {
		return fmt.Errorf("note that the log runs ahead of its syncs: %w", err)
	}
	return nil
}

// dropNote removes the note, durably: else a power loss could bring it back, and the log would be taken for one that has lost something.
func (l *Log) dropNote() error {
	if err := l.fs.Remove(path.Join(l.dir, relaxedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the note that the log ran ahead of its syncs: %w", err)
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("sync directory %s: %v", l.dir, err)
	}
	return nil
}

func encodeNote(group raft.GroupID, boot string) []byte {
	le := binary.LittleEndian
	b := make([]byte, noteHeaderSize, noteHeaderSize+len(boot))
	le.PutUint32(b[0:], noteMagic)
	le.PutUint16(b[8:], fileVersion)
	le.PutUint64(b[16:], uint64(group))
	le.PutUint32(b[24:], uint32(len(boot)))
	b = append(b, boot...)
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^noteMagic, castagnoli, b[8:]))
	return b
}

func decodeNote(group raft.GroupID, b []byte) (boot string, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < noteHeaderSize || le.Uint32(b) != noteMagic:
		return "", errors.New("bad note: no header")
	case le.Uint32(b[4:]) != crc32.Update(groupSeed(group)^noteMagic, castagnoli, b[8:]):
		return "", errors.New("bad note: checksum")
	case le.Uint16(b[8:]) != fileVersion:
		return "", fmt.Errorf("note %q: %w: version %d, this program knows %d", relaxedName, ErrVersion, le.Uint16(b[8:]), fileVersion)
	case le.Uint64(b[16:]) != uint64(group) || uint64(le.Uint32(b[24:])) != uint64(len(b)-noteHeaderSize):
		return "", errors.New("bad note: range")
	}
	return string(b[noteHeaderSize:]), nil
}

// readNote says whether the log ran ahead of its syncs when it was last written to, and if so, whether that may have cost it something.
func (r *recoverer) readNote() error {
	b, err := readFile(r.fs, path.Join(r.dir, relaxedName), noteHeaderSize+vfs.MaxBoot)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	default:
		boot, err := decodeNote(r.group, b)
		switch {
		case errors.Is(err, ErrVersion):
			return err
		case err != nil:
			r.recovery.RanAhead = err.Error()
		case boot == "":
			r.recovery.RanAhead = "a sync failed, or the system does not name its boots"
		case boot != r.fs.Boot():
			r.recovery.RanAhead = "the machine has been restarted"
		}
	}
	r.noted = true
	return nil
}

// noteLoss puts on record that the end of the log may be lost, before anything can be taken for the log.
func (r *recoverer) noteLoss() error {
	if r.recovery.RanAhead == "" || r.meta.damaged == raft.UntilTold {
		return nil
	}
	m := r.meta
	m.damaged = raft.UntilTold
	if err := r.writeMeta(&m); err != nil {
		return err
	}
	r.meta = m
	return nil
}
