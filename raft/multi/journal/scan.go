// Reading a journal file by ourselves, before tidwall/wal sees it: which records are whole, where the first bad byte
// is, and whether what follows is a torn tail (to be cut) or damage (to be refused).

package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/balsamq/balsa/raft"
)

// ErrCorrupt is what Open returns, as a [*CorruptError], when the journal holds damage that no torn write explains. The
// files are left as they are: a node whose votes are unknown must not vote, so it must not start.
var ErrCorrupt = errors.New("hard-state journal is corrupt")

// CorruptError says where the damage is.
type CorruptError struct {
	File   string
	Pos    int64  // byte position in File; 0 when the file as a whole is meant
	Reason string // for people
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s at byte %d: %s (votes of this node are unknown: restore the file, or remove the data "+
		"directory so that the node comes back as a new replica)", ErrCorrupt, e.File, e.Pos, e.Reason)
}

func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// tailKind is what follows the last good record.
type tailKind uint8

const (
	tailClean tailKind = iota // nothing
	tailZero                  // zeros: space that the file system had laid out for a write that never came
	tailTorn                  // part of a write that never finished
)

func (t tailKind) String() string { return [...]string{"clean", "zero-filled", "torn"}[t] }

// scanResult is what a file holds.
type scanResult struct {
	good int    // bytes up to the end of the last good record
	last uint64 // its sequence; first-1 if there is none
	// unvouched is where the last batch begins: no record says that it was synced.
	unvouched int
	tail      tailKind
}

// scan walks the entries of one file (tidwall/wal's binary format: uvarint length, payload) whose name says that its
// first entry has index first. apply is called with each good record in order. id is the journal's; 0 takes that of the
// first record.
func scan(file string, data []byte, first, id uint64, apply func(record) error) (scanResult, error) {
	res := scanResult{last: first - 1}
	for res.good < len(data) {
		want := res.last + 1
		r, n, err := nextEntry(data[res.good:])
		switch {
		case errors.Is(err, errNewVersion):
			return res, fmt.Errorf("%s at byte %d: %w", file, res.good, err)
		case err == nil && id == 0:
			id = r.id
		}
		if err != nil || r.seq != want || r.id != id {
			// A good record in the wrong place is as bad as a bad one: it is a phantom.
			reason := "bad record"
			if err == nil {
				reason = fmt.Sprintf("record %d of journal %016x where record %d of journal %016x belongs", r.seq, r.id, want, id)
			}
			return res, judgeTail(file, data, &res, id, reason)
		}
		if err := apply(r); err != nil {
			return res, &CorruptError{File: file, Pos: int64(res.good), Reason: err.Error()}
		}
		if r.synced+1 == r.seq { // the first of a batch
			res.unvouched = res.good
		}
		res.good += n
		res.last = r.seq
	}
	return res, nil
}

// nextEntry reads one entry, and requires that its length and the record's agree.
func nextEntry(p []byte) (record, int, error) {
	size, n := binary.Uvarint(p)
	if n <= 0 || size > MaxPayload || size < headerLen || int(size) > len(p)-n {
		return record{}, 0, errBadRecord
	}
	var canonical [binary.MaxVarintLen64]byte
	if binary.PutUvarint(canonical[:], size) != n {
		return record{}, 0, errBadRecord
	}
	r, m, err := decodeRecord(p[n : n+int(size)])
	if err != nil {
		return r, 0, err
	}
	if m != int(size) {
		return record{}, 0, errBadRecord
	}
	return r, n + m, nil
}

// judgeTail looks at everything from the first bad byte on. A write of several pages may reach the disk in any order,
// so good records behind bad bytes do not make these damage by themselves; a good record that says that the bad
// one was durable does.
func judgeTail(file string, data []byte, res *scanResult, id uint64, reason string) error {
	tail := data[res.good:]
	if len(bytes.Trim(tail, "\x00")) == 0 {
		res.tail = tailZero
		return nil
	}
	res.tail = tailTorn
	missing := res.last + 1
	for off := 0; ; off++ {
		i := bytes.Index(tail[off:], []byte(recordMagic))
		if i < 0 {
			return nil
		}
		off += i
		r, _, err := decodeRecord(tail[off:])
		if err != nil && !errors.Is(err, errNewVersion) {
			continue
		}
		if r.id == id && r.synced >= missing {
			return &CorruptError{File: file, Pos: int64(res.good), Reason: fmt.Sprintf(
				"%s, and record %d at byte %d says that everything up to record %d was on disk", reason, r.seq, res.good+off, r.synced)}
		}
	}
}

// replay folds records into states.
type replay struct {
	states   map[raft.GroupID]raft.HardState
	complete bool // a whole checkpoint has been seen: states is what the journal says, not a part of it
	// ckpt collects a checkpoint; nil outside of one. A checkpoint that was torn may be followed by ordinary
	// records: it counts for nothing, since what it replaces is still in front of it.
	ckpt  map[raft.GroupID]raft.HardState
	total uint32
}

func (p *replay) apply(r record) error {
	if p.ckpt != nil && r.kind != kindChunk && r.kind != kindEnd {
		p.ckpt = nil
	}
	if !p.complete && p.ckpt == nil && r.kind != kindBegin {
		return fmt.Errorf("record %d of kind %d before any checkpoint", r.seq, r.kind)
	}
	switch r.kind {
	case kindState:
		s := decodeState(r.body)
		p.states[s.group] = s.hs
	case kindDelete:
		delete(p.states, raft.GroupID(binary.LittleEndian.Uint64(r.body)))
	case kindBegin:
		p.ckpt = make(map[raft.GroupID]raft.HardState)
		p.total = binary.LittleEndian.Uint32(r.body)
	case kindChunk:
		if p.ckpt == nil {
			return fmt.Errorf("record %d: part of a checkpoint that never began", r.seq)
		}
		for b := r.body[4:]; len(b) > 0; b = b[stateLen:] {
			s := decodeState(b)
			p.ckpt[s.group] = s.hs
		}
	case kindEnd:
		if p.ckpt == nil {
			return fmt.Errorf("record %d: end of a checkpoint that never began", r.seq)
		}
		if n := binary.LittleEndian.Uint32(r.body); n != p.total || int(n) != len(p.ckpt) {
			return fmt.Errorf("record %d: checkpoint of %d groups holds %d", r.seq, n, len(p.ckpt))
		}
		p.states, p.ckpt, p.complete = p.ckpt, nil, true
	}
	return nil
}
