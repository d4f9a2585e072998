// Opening the journal's directory: every state that a crash, or a power loss that kept an arbitrary part of the
// directory operations, can have left, brought back to one file that tidwall/wal can open without surprises.

package journal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/balsamq/balsa/raft"
)

// The directory:
//
//	LOCK              held while the journal is open
//	ID                the journal's id; written once the first checkpoint is durable, so from then on a missing wal file
//	                  is a loss and not a beginning
//	wal/<20 digits>   the one file of tidwall/wal, named by the index of its first entry, which begins a checkpoint
//	wal/*.START       an interrupted TruncateFront: the file as it will be
//	guard-<20 digits> a second name of the old wal file during TruncateFront
//	cut/              bytes that were cut from a torn tail, for whoever wants to look
//	reserve           space for the day on which the disk is full
const (
	lockName    = "LOCK"
	idName      = "ID"
	walName     = "wal"
	cutName     = "cut"
	reserveName = "reserve"
	guardPrefix = "guard-"
	idMagic     = "BHJI"
	idLen       = 20

	// maxFile bounds what is read into memory at boot. Checkpoints keep the file thousands of times smaller.
	maxFile = 1 << 30
)

func segmentName(first uint64) string { return fmt.Sprintf("%020d", first) }

func (j *Journal) path(parts ...string) string {
	return filepath.Join(append([]string{j.dir}, parts...)...)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeDurably creates a file as a whole or not at all.
func (j *Journal) writeDurably(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return j.o.SyncDir(filepath.Dir(path))
}

func (j *Journal) readID() (id uint64, ok bool, err error) {
	b, err := os.ReadFile(j.path(idName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if len(b) != idLen || string(b[:4]) != idMagic || binary.LittleEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return 0, false, &CorruptError{File: j.path(idName), Reason: "not a journal id"}
	}
	if b[4] != recordVersion {
		return 0, false, fmt.Errorf("%s: %w: version %d", j.path(idName), errNewVersion, b[4])
	}
	return binary.LittleEndian.Uint64(b[8:]), true, nil
}

func (j *Journal) writeID() error {
	b := append([]byte(idMagic), recordVersion, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, j.id)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return j.writeDurably(j.path(idName), b)
}

// walFiles is what lies in the wal directory.
type walFiles struct {
	segments []uint64 // sorted
	starts   []uint64
	temps    []string // half-written files of tidwall/wal, worth nothing
}

func (j *Journal) listWAL() (walFiles, error) {
	var w walFiles
	ents, err := os.ReadDir(j.path(walName)) // sorted by name, hence by index
	if err != nil {
		return w, err
	}
	for _, e := range ents {
		name := e.Name()
		if len(name) < 20 {
			continue
		}
		index, err := strconv.ParseUint(name[:20], 10, 64)
		if err != nil || index == 0 || e.IsDir() {
			continue
		}
		switch name[20:] {
		case "":
			w.segments = append(w.segments, index)
		case ".START":
			w.starts = append(w.starts, index)
		case ".START.TEMP", ".END.TEMP":
			w.temps = append(w.temps, name)
		case ".END":
			return w, &CorruptError{File: j.path(walName, name), Reason: "the tail was being truncated, which the journal never does"}
		}
	}
	return w, nil
}

// check reads a file and wants it whole: a complete checkpoint in front, nothing unfinished behind.
func (j *Journal) check(path string, first uint64) error {
	data, err := readBounded(path)
	if err != nil {
		return err
	}
	rep := replay{states: make(map[raft.GroupID]raft.HardState)}
	res, err := scan(path, data, first, j.id, rep.apply)
	if err != nil {
		return err
	}
	if !rep.complete {
		return &CorruptError{File: path, Pos: int64(res.good), Reason: "no complete checkpoint in front"}
	}
	if res.tail != tailClean {
		return &CorruptError{File: path, Pos: int64(res.good), Reason: "a checkpoint was whole before this file got its name; something bad follows it"}
	}
	return nil
}

func readBounded(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxFile {
		return nil, &CorruptError{File: path, Reason: fmt.Sprintf("%d bytes long; no journal grows beyond %d", fi.Size(), maxFile)}
	}
	return os.ReadFile(path)
}

// settle brings the wal directory to exactly one file and returns the index of its first entry; 0 when there is none.
//
// TruncateFront(b) writes START(b), removes the old file and renames START(b) to its final name, without one sync of
// the directory. A power loss may keep any of these steps and lose any other, so that all of these are possible:
// the old file alone; old and START; START alone; old and final; final alone; nothing at all. The guard, a
// second and durable name of the old file, is for the last.
func (j *Journal) settle() (uint64, error) {
	w, err := j.listWAL()
	if err != nil {
		return 0, err
	}
	guards, err := filepath.Glob(j.path(guardPrefix + "*"))
	if err != nil {
		return 0, err
	}
	changed := false
	switch {
	case len(w.starts) > 1:
		return 0, &CorruptError{File: j.path(walName), Reason: "two truncations at once"}
	case len(w.starts) == 1:
		b := w.starts[0]
		start := j.path(walName, segmentName(b)+".START")
		if n := len(w.segments); n > 0 && w.segments[n-1] >= b {
			return 0, &CorruptError{File: start, Reason: "beside a file that is as new"}
		}
		if err := j.check(start, b); err != nil {
			return 0, err
		}
		j.log.Info("hard-state journal: finishing an interrupted truncation", "file", start)
		if err := j.o.SyncDir(j.path(walName)); err != nil { // START must be durable before the old file goes
			return 0, err
		}
		for _, s := range w.segments {
			if err := os.Remove(j.path(walName, segmentName(s))); err != nil {
				return 0, err
			}
		}
		if err := os.Rename(start, j.path(walName, segmentName(b))); err != nil {
			return 0, err
		}
		w.segments, changed = []uint64{b}, true
	case len(w.segments) > 1:
		// Renamed, but the removal of the old file was lost. tidwall/wal would take both for one log.
		newest := w.segments[len(w.segments)-1]
		if err := j.check(j.path(walName, segmentName(newest)), newest); err != nil {
			return 0, err
		}
		for _, s := range w.segments[:len(w.segments)-1] {
			if err := os.Remove(j.path(walName, segmentName(s))); err != nil {
				return 0, err
			}
		}
		w.segments, changed = []uint64{newest}, true
	case len(w.segments) == 0 && len(guards) == 1:
		name := strings.TrimPrefix(filepath.Base(guards[0]), guardPrefix)
		first, err := strconv.ParseUint(name, 10, 64)
		if err != nil || first == 0 || name != segmentName(first) {
			return 0, &CorruptError{File: guards[0], Reason: "not the name of a guard"}
		}
		j.log.Warn("hard-state journal: a truncation lost the file, taking its guard", "file", guards[0])
		if err := linkOrCopy(guards[0], j.path(walName, name)); err != nil {
			return 0, err
		}
		w.segments, changed = []uint64{first}, true
	}
	for _, t := range w.temps {
		if err := os.Remove(j.path(walName, t)); err != nil {
			return 0, err
		}
		changed = true
	}
	if changed {
		if err := j.o.SyncDir(j.path(walName)); err != nil {
			return 0, err
		}
	}
	if len(w.segments) == 0 {
		return 0, nil
	}
	for _, g := range guards {
		if err := os.Remove(g); err != nil {
			return 0, err
		}
	}
	if len(guards) > 0 {
		if err := j.o.SyncDir(j.dir); err != nil {
			return 0, err
		}
	}
	return w.segments[0], nil
}

// linkOrCopy gives a file a second name, or a synced copy where the file system knows no links.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// recover finds the journal's states and leaves one clean file, or makes a new journal. It returns with j.wal open.
func (j *Journal) recover() error {
	id, existed, err := j.readID()
	if err != nil {
		return err
	}
	j.id = id
	first, err := j.settle()
	if err != nil {
		return err
	}
	if !existed {
		if adopted, err := j.beginAnew(first); err != nil || !adopted {
			return err
		}
	}
	if first == 0 {
		return &CorruptError{File: j.path(walName), Reason: "the file is gone"}
	}
	path := j.path(walName, segmentName(first))
	data, err := readBounded(path)
	if err != nil {
		return err
	}
	rep := replay{states: make(map[raft.GroupID]raft.HardState)}
	res, err := scan(path, data, first, j.id, rep.apply)
	if err != nil {
		return err
	}
	if !rep.complete {
		// The checkpoint in front is durable before the file gets its name. No torn write reaches it.
		return &CorruptError{File: path, Pos: int64(res.good), Reason: "no complete checkpoint in front"}
	}
	if res.tail != tailClean {
		if err := j.keepTail(path, data, res); err != nil {
			return fmt.Errorf("keep the %v tail of %s: %w", res.tail, path, err)
		}
	}
	// Even when nothing is cut: what is loaded here must be as durable as what was acknowledged. A process that was killed
	// between write and sync leaves records that are only in memory, and one whose sync failed leaves them in pages that
	// the kernel may hold for clean (fsyncgate): written again, or this sync would mean nothing.
	if err := j.settleTail(path, data[:res.good], res.unvouched); err != nil {
		return fmt.Errorf("rewrite, cut and sync %s: %w", path, err)
	}
	if err := j.o.SyncDir(j.path(walName)); err != nil {
		return err
	}
	if !existed { // adopted: only now is there a file that the ID may say cannot be missing
		if err := j.writeID(); err != nil {
			return err
		}
	}
	j.states = rep.states
	j.first, j.seq, j.size = first, res.last, int64(res.good)
	return j.openLog()
}

// beginAnew makes a journal where there is no ID yet. If the wal file is whole nevertheless (the crash came between the
// first checkpoint and the ID, or somebody lost the ID file), it is adopted: nothing that was promised is lost by that, and
// recover writes the ID once the file is durable.
func (j *Journal) beginAnew(first uint64) (adopted bool, err error) {
	if first != 0 {
		path := j.path(walName, segmentName(first))
		data, err := readBounded(path)
		if err != nil {
			return false, err
		}
		rep := replay{states: make(map[raft.GroupID]raft.HardState)}
		var id uint64
		_, err = scan(path, data, first, 0, func(r record) error { id = r.id; return rep.apply(r) })
		if err != nil && (len(data) > genesisLen || errors.Is(err, errNewVersion)) {
			return false, err
		}
		if err == nil && rep.complete {
			j.id = id
			return true, nil
		}
		if len(data) > genesisLen {
			return false, &CorruptError{File: path, Reason: "no id file, and no checkpoint in front"}
		}
		if err := os.Remove(path); err != nil { // the first checkpoint never became durable; nobody was promised anything
			return false, err
		}
	}
	var b [8]byte
	for j.id == 0 {
		if _, err := rand.Read(b[:]); err != nil {
			return false, err
		}
		j.id = binary.LittleEndian.Uint64(b[:])
	}
	j.states = make(map[raft.GroupID]raft.HardState)
	j.first, j.seq, j.size = 1, 0, 0
	if err := j.openLog(); err != nil {
		return false, err
	}
	if err := j.writeRecords(j.checkpointRecords()); err != nil {
		return false, err
	}
	if err := j.o.SyncDir(j.path(walName)); err != nil {
		return false, err
	}
	return false, j.writeID()
}

// genesisLen is the length of a file with nothing but an empty checkpoint.
const genesisLen = 2 * (1 + headerLen + 4)

// keepTail saves the bytes that are about to be cut, but for the zeros at their end.
func (j *Journal) keepTail(path string, data []byte, res scanResult) error {
	if keep := bytes.TrimRight(data[res.good:], "\x00"); len(keep) > 0 {
		if err := os.MkdirAll(j.path(cutName), 0o750); err != nil {
			return err
		}
		base := j.path(cutName, fmt.Sprintf("%s-%d-%d", filepath.Base(path), res.good, len(data)-res.good))
		to := base
		for n := 1; ; n++ {
			if _, err := os.Stat(to); errors.Is(err, fs.ErrNotExist) {
				break
			} else if err != nil {
				return err
			}
			to = base + "." + strconv.Itoa(n)
		}
		if err := j.writeDurably(to, keep); err != nil {
			return err
		}
		if err := j.o.SyncDir(j.dir); err != nil {
			return err
		}
		j.log.Warn("hard-state journal: cut an unfinished write", "file", path, "at", res.good, "bytes", len(data)-res.good, "kept", to)
	} else {
		j.log.Info("hard-state journal: cut a zero-filled tail", "file", path, "at", res.good, "bytes", len(data)-res.good)
	}
	return nil
}

// tailFile is what is used of *os.File to settle the end of the wal file.
type tailFile interface {
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// settleTail makes a file end as data does, and durable: what data holds from byte from on is written again, in place, for
// which even a full disk has room.
func (j *Journal) settleTail(path string, data []byte, from int) error {
	f, err := j.o.openTail(path)
	if err != nil {
		return err
	}
	if from < len(data) {
		_, err = f.WriteAt(data[from:], int64(from))
	}
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// cut truncates a file, of which everything up to size is durable, and syncs it.
func (j *Journal) cut(path string, size int64) error {
	f, err := j.o.openTail(path)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
