// The inspector behind `broker log dump`: prints a segment file, an index, meta or snapshot file, or a whole log
// directory, without changing anything, and says where something is damaged.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// DumpOptions say what Dump prints.
type DumpOptions struct {
	// Group whose log it is. 0: taken from the segment headers, which are then believed.
	Group raft.GroupID
	// Frames prints a line for every frame, not only for every block.
	Frames bool
	// Payload prints up to so many bytes of each frame's payload.
	Payload int
}

// ErrDamaged: Dump met damage, and has printed where. A torn tail is not damage.
var ErrDamaged = errors.New("damage found")

// ErrNoGroup: Dump was not told the group, and no file header that it can read says it.
var ErrNoGroup = errors.New("no segment file tells whose log it is")

// Dump prints the log directory or the single file at p to w.
func Dump(f vfs.FS, p string, w io.Writer, o DumpOptions) error {
	st, err := f.Stat(p)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	d := dumper{fs: f, w: w, o: o}
	if !st.IsDir() {
		if o.Group == 0 && !strings.HasSuffix(p, segmentSuffix) {
			if d.o.Group, err = groupOf(f, path.Dir(p)); err != nil {
				return err
			}
		}
		err = d.file(p)
	} else {
		if o.Group == 0 {
			if d.o.Group, err = groupOf(f, p); err != nil {
				return err
			}
		}
		err = d.dir(p)
	}
	if err == nil {
		err = d.err
	}
	if err == nil && d.damage > 0 {
		err = fmt.Errorf("%s: %w in %d places", p, ErrDamaged, d.damage)
	}
	return err
}

// groupOf finds the group id in the header of any readable segment of a directory, or, where what is left of the log is a snapshot and a
// segment that nothing was written to, in the meta file.
func groupOf(f vfs.FS, dir string) (raft.GroupID, error) {
	names, err := f.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("dump: %w", err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		if g, ok := headerGroup(f, path.Join(dir, name)); ok {
			return g, nil
		}
	}
	if g, ok := metaGroup(f, path.Join(dir, metaName)); ok {
		return g, nil
	}
	return 0, fmt.Errorf("dump %s: %w", dir, ErrNoGroup)
}

func metaGroup(f vfs.FS, name string) (raft.GroupID, bool) {
	b, err := readFile(f, name, maxMetaFile)
	if err != nil || len(b) < metaHeaderSize {
		return 0, false
	}
	g := raft.GroupID(binary.LittleEndian.Uint64(b[16:]))
	_, err = decodeMeta(g, b)
	return g, err == nil
}

func headerGroup(f vfs.FS, name string) (raft.GroupID, bool) {
	file, err := f.Open(name)
	if err != nil {
		return 0, false
	}
	defer file.Close()
	var b [SegmentHeaderSize]byte
	if n, _ := file.ReadAt(b[:], 0); n < len(b) || frameWord(b[:]) != segmentMagic {
		return 0, false
	}
	g := raft.GroupID(frameWord(b[16:])) | raft.GroupID(frameWord(b[20:]))<<32
	_, err = decodeSegmentHeader(g, b[:])
	return g, err == nil
}

type dumper struct {
	fs     vfs.FS
	w      io.Writer
	o      DumpOptions
	damage int
	err    error // of w
}

func (d *dumper) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(d.w, format, args...); err != nil && d.err == nil {
		d.err = err
	}
}

func (d *dumper) damaged(format string, args ...any) {
	d.damage++
	d.printf("  DAMAGED: "+format+"\n", args...)
}

func (d *dumper) dir(dir string) error {
	names, err := d.fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	d.printf("%s: group %d\n", dir, d.o.Group)
	for _, name := range names {
		switch {
		case name == metaName || name == snapshotName || name == partName || name == relaxedName || strings.HasPrefix(name, checkpoints) || strings.HasSuffix(name, segmentSuffix) || strings.HasSuffix(name, indexSuffix) ||
			strings.HasSuffix(name, tipSuffix) || strings.HasSuffix(name, cleanedSuffix):
			if err := d.file(path.Join(dir, name)); err != nil {
				return err
			}
		case strings.HasPrefix(name, damagedPrefix):
			d.printf("%s: files that a recovery set aside\n", path.Join(dir, name))
		default:
			d.printf("%s: not a part of a log\n", path.Join(dir, name))
		}
	}
	return nil
}

func (d *dumper) file(name string) error {
	base := path.Base(name)
	switch {
	case strings.HasSuffix(base, segmentSuffix):
		return d.segment(name)
	case strings.HasSuffix(base, cleanedSuffix):
		return d.cleaned(name)
	case strings.HasSuffix(base, indexSuffix):
		return d.small(name, maxIndexFile, d.index)
	case strings.HasSuffix(base, tipSuffix):
		return d.tip(name)
	case base == metaName:
		return d.small(name, maxMetaFile, d.meta)
	case base == relaxedName:
		return d.small(name, noteHeaderSize+vfs.MaxBoot, d.note)
	case base == partName:
		return d.part(name)
	case base == snapshotName || strings.HasPrefix(base, checkpoints):
		return d.small(name, snapshotHeaderSize+3*maxMembers*memberSize+MaxSnapshotSize, d.snapshot)
	}
	return fmt.Errorf("dump %s: not a file of a log", name)
}

func (d *dumper) small(name string, limit int64, decode func([]byte) error) error {
	b, err := readFile(d.fs, name, limit)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	d.printf("%s: %d bytes\n", name, len(b))
	if err := decode(b); err != nil {
		d.damaged("%v", err)
	}
	return nil
}

func (d *dumper) meta(b []byte) error {
	m, err := decodeMeta(d.o.Group, b)
	if err != nil {
		return err
	}
	d.printf("  first index %d, previous term %d, start offset %d, generation floor %d, damaged up to %d\n",
		m.first, m.prevTerm, m.start, m.floor, m.damaged)
	d.epochs(m.epochs)
	for i := range m.cleaned {
		c := &m.cleaned[i]
		d.printf("  offsets [%d, %d) are in %s, %d bytes\n", c.base, c.end, c.name(), c.size)
	}
	if len(m.cleaned) > 0 {
		d.printf("  cleaned up to offset %d\n", m.dirty)
	}
	return nil
}

// note prints what says that a relaxed log may have acknowledged more than is on the disk.
func (d *dumper) note(b []byte) error {
	boot, err := decodeNote(d.o.Group, b)
	if err != nil {
		return err
	}
	if boot == "" {
		boot = "not known, or a sync has failed since"
	}
	d.printf("  entries without a mark may have been acknowledged and not be durable; boot of the machine: %s\n", boot)
	return nil
}

// cleaned prints a cleaned file.
func (d *dumper) cleaned(name string) error {
	dir := path.Dir(name)
	ref, err := refOf(d.fs, name)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	d.printf("%s: %d bytes\n", name, ref.size)
	l := &Log{fs: d.fs, dir: dir, group: d.o.Group}
	l.opt.setDefaults()
	f, err := l.openCleaned(ref)
	if err != nil {
		d.damaged("%v", err)
		return nil
	}
	d.printf("  offsets [%d, %d), %d batches, %d records, largest timestamp %d, something may go from %d on\n", f.base, f.end, f.batches, f.records, f.maxTime, f.horizon)
	pos := int64(cleanedHeaderSize)
	err = l.scanCleaned(f, 0, len(f.index), maxReadChunk, func(r *record) bool {
		d.frame(pos, r)
		pos += int64(len(r.Frame))
		return true
	})
	if err == nil {
		err = l.verifyCleaned(f)
	}
	if err != nil {
		d.damaged("%v", err)
	}
	return nil
}

func (d *dumper) epochs(es []epoch) {
	for _, e := range es {
		d.printf("  term %d begins at index %d, offset %d\n", e.term, e.first, e.start)
	}
}

func (d *dumper) snapshot(b []byte) error {
	s, floor, err := decodeSnapshotFile(d.o.Group, b)
	if err != nil {
		return err
	}
	d.printf("  index %d, term %d, generation floor %d, voters %v, outgoing %v, learners %v\n", s.Meta.Index, s.Meta.Term, floor,
		s.Meta.Conf.Voters, s.Meta.Conf.Outgoing, s.Meta.Conf.Learners)
	st, err := decodeLogState(d.o.Group, s.Data)
	if err != nil {
		return err
	}
	d.printf("  next offset %d, state %d bytes\n", st.next, len(st.state))
	d.epochs(st.epochs)
	return nil
}

// part prints how far the snapshot that is being received has come.
func (d *dumper) part(name string) error {
	f, err := d.fs.Open(name)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	defer f.Close()
	b := make([]byte, partHeaderSize)
	n, _ := f.ReadAt(b, 0)
	p, err := decodePart(d.o.Group, b[:n])
	if err != nil {
		d.printf("%s: nothing of a snapshot\n", name)
		return nil
	}
	d.printf("%s: %d of %d bytes of the leader's snapshot at index %d, term %d\n", name, p.got, p.snap.Size, p.snap.Meta.Index, p.snap.Meta.Term)
	return nil
}

func (d *dumper) index(b []byte) error {
	si, err := decodeIndex(d.o.Group, b)
	if err != nil {
		d.printf("  not usable, will be rebuilt: %v\n", err)
		return nil
	}
	d.printf("  generation %d, entries [%d, %d], next offset %d, %d index entries, largest timestamp %d\n",
		si.generation, si.first, si.last, si.next, len(si.index), si.maxTime)
	if d.o.Frames {
		for _, e := range si.index {
			d.printf("  %10d  index %d, offset %d, timestamps up to %d\n", e.pos, e.index, e.base, e.maxTime)
		}
	}
	return nil
}

// tip prints what a tip file says of its segment, whose header it goes with.
func (d *dumper) tip(name string) error {
	return d.small(name, maxIndexFile, func(b []byte) error {
		file, err := d.fs.Open(strings.TrimSuffix(name, tipSuffix) + segmentSuffix)
		if err != nil {
			d.printf("  of no use without its segment: %v\n", err)
			return nil
		}
		defer file.Close()
		head := make([]byte, SegmentHeaderSize)
		n, _ := file.ReadAt(head, 0)
		h, err := decodeSegmentHeader(d.o.Group, head[:n])
		if err != nil {
			d.printf("  of no use: %v\n", err)
			return nil
		}
		t := decodeTip(d.o.Group, &h, b, maxIndex)
		d.printf("  generation %d, entries [%d, %d] below %d, next offset %d, %d index entries, largest timestamp %d, durable up to %d\n",
			h.generation, h.first, t.last, t.pos, t.next, len(t.index), t.maxTime, t.synced)
		if rest := int64(len(b)) - t.size; rest > 0 {
			d.printf("  %10d  %d bytes that are no record: the next one goes there\n", t.size, rest)
		}
		return nil
	})
}

// segment prints a segment file. Behind a bad block it goes on at the next believable one, on its own terms.
func (d *dumper) segment(name string) error {
	file, err := d.fs.Open(name)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	w := &fileWindow{f: file, size: size}
	d.printf("%s: %d bytes\n", name, size)
	first, gen, ok := parseSegmentName(path.Base(name))
	if !ok {
		return fmt.Errorf("dump %s: the name is not that of a segment file", name)
	}
	group := d.o.Group
	if group == 0 {
		if group, ok = headerGroup(d.fs, name); !ok {
			return fmt.Errorf("dump %s: %w", name, ErrNoGroup)
		}
	}
	b, err := w.bytes(0, SegmentHeaderSize)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	h, err := decodeSegmentHeader(group, b)
	if err != nil {
		d.damaged("header: %v", err)
		h = segmentHeader{generation: gen, first: first, base: -1}
	} else {
		d.printf("  group %d, generation %d, first index %d, base offset %d, previous term %d\n", group, h.generation, h.first, h.base, h.prevTerm)
	}
	durable, err := durableBelow(d.fs, name, gen)
	if err != nil {
		return err
	}
	return d.blocks(w, group, &h, durable)
}

// durableBelow is what the files after a segment say of it: a file is only made when all that comes before its first
// entry is durable.
func durableBelow(f vfs.FS, name string, generation uint64) (raft.Index, error) {
	names, err := f.ReadDir(path.Dir(name))
	if err != nil {
		return 0, fmt.Errorf("dump: %w", err)
	}
	durable := raft.Index(0)
	for _, n := range names {
		if first, gen, ok := parseSegmentName(n); ok && gen > generation && first > 0 {
			durable = max(durable, first-1)
		}
	}
	return durable, nil
}

// blocks prints a file's blocks. durable is what is known from elsewhere to have been durable once.
func (d *dumper) blocks(w *fileWindow, group raft.GroupID, h *segmentHeader, durable raft.Index) error {
	pos, index, term, next := int64(SegmentHeaderSize), h.first, h.prevTerm, h.base
	bad := ""                                  // of the block at badAt, until it is known whether it is a torn tail
	badAt, badIndex := int64(0), raft.Index(0) // its place, and the first entry that is not intact
	for pos < w.size {
		at, bh, ok, err := w.findBlock(group, h.generation, pos)
		if err != nil {
			return fmt.Errorf("dump: %w", err)
		}
		if bad == "" && (!ok || at != pos) {
			zero, err := w.zeroFrom(pos)
			if err != nil {
				return fmt.Errorf("dump: %w", err)
			}
			if zero {
				d.printf("  %10d  %d bytes of preallocated zeros\n", pos, w.size-pos)
				return nil
			}
			bad, badAt, badIndex = "no block header", pos, index
		}
		if !ok {
			break
		}
		durable = max(durable, bh.synced)
		if bh.count == 0 {
			d.printf("  %10d  mark: synced %d\n", at, bh.synced)
		} else {
			d.printf("  %10d  block: %d frames, %d bytes, from index %d, synced %d", at, bh.count, bh.length, bh.first, bh.synced)
			if bh.pad > 0 {
				d.printf(", %d bytes of padding", bh.pad)
			}
			d.printf("\n")
		}
		body, err := w.bytes(at+int64(bh.body()), int(bh.length))
		if err != nil {
			return fmt.Errorf("dump: %w", err)
		}
		err = errBadBlock
		if len(body) == int(bh.length) {
			if bh.first != index || next < 0 { // behind a gap: the block's own word for where it begins
				if bad == "" {
					bad, badAt, badIndex = fmt.Sprintf("begins at index %d where %d belongs", bh.first, index), at, index
				}
				term, next = 0, 0
				if r, err := decodeFirst(group, body); err == nil {
					next = r.base
				}
			}
			err = decodeBlock(group, &bh, body, term, next, maxIndex, func(off int, r *record) {
				d.frame(at+int64(bh.body()+off), r)
				index, term, next = r.Index+1, r.Term, r.next()
			})
			if bh.count == 0 {
				index = bh.first
			}
		}
		if err != nil {
			if bad == "" {
				bad, badAt, badIndex = err.Error(), at, index
			}
			d.printf("  %10d  not accepted: %v\n", at, err)
			next = -1
			pos = at + 1
			continue
		}
		pos = at + int64(bh.body()) + int64(bh.length)
	}
	switch {
	case bad == "":
	case durable >= badIndex:
		d.damaged("at %d: %s (durable up to %d)", badAt, bad, durable)
	default:
		d.printf("  %10d  torn tail: %s\n", badAt, bad)
	}
	return nil
}

// decodeFirst decodes the first frame of a block's body.
func decodeFirst(group raft.GroupID, body []byte) (record, error) {
	if len(body) < FrameHeaderSize {
		return record{}, ErrBadFrame
	}
	n := int64(frameWord(body))
	if n > int64(len(body)) {
		return record{}, ErrBadFrame
	}
	return decodeFrame(group, body[:n])
}

func (d *dumper) frame(pos int64, r *record) {
	if !d.o.Frames {
		return
	}
	d.printf("  %10d    %-7s term %d, index %d, offset %d, records %d, %d bytes", pos, r.Type, r.Term, r.Index, r.base, r.records, len(r.Frame))
	if b, ok := batchOf(r.Payload); ok && r.records > 0 {
		d.printf(", timestamps %d to %d, producer %d/%d/%d, %v", b.BaseTimestamp(), b.MaxTimestamp(), b.ProducerID(), b.ProducerEpoch(),
			b.BaseSequence(), b.Codec())
	}
	if d.o.Payload > 0 {
		d.printf(", %q", r.Payload[:min(len(r.Payload), d.o.Payload)])
	}
	d.printf("\n")
}
