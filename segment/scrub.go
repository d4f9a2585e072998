// Scrubbing: verifying what nobody reads, while there are still peers to repair it from. See docs/design/0022-scrubbing.md.

package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// Scrub is a walk through a log that verifies every block and frame which is known to be durable. It holds no file open
// between two steps, and what a truncation or retention takes away meanwhile is passed over. One goroutine at a time.
type Scrub struct {
	l    *Log
	from Offset     // the next of the cleaned part, which comes first
	at   raft.Index // the next entry to verify
	gen  uint64     // of the file under way; 0: none
	head bool       // its header has been verified
	scan segmentScan
	w    fileWindow
}

// Scrub begins a walk with the file that holds entry from; 0, or what is compacted: with the first one of all.
func (l *Log) Scrub(from raft.Index) *Scrub {
	s := &Scrub{l: l, at: from}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if from > l.first {
		s.from = l.start
	}
	return s
}

// At is the next entry to verify: what another walk can be begun with.
func (s *Scrub) At() raft.Index { return s.at }

// Step verifies about n bytes more, and returns how many; 0 without an error at the end of the log. Damage is [ErrCorrupt], and
// has been reported as if a read had met it (Options.OnDamage): the walk ends there. After an I/O error, the next step goes on with
// the next file. [ErrClosed] when the log is.
func (s *Scrub) Step(n int64) (int64, error) {
	if read, err := s.cleaned(n); read > 0 || err != nil {
		return read, err
	}
	for range maxRelocate {
		sg, size, upTo, err := s.file()
		if err != nil || sg == nil {
			return 0, err
		}
		read, err := s.blocks(sg, size, upTo, n)
		s.at = max(s.at, s.scan.last+1)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // removed since; what is there instead is found by looking again
		case errors.Is(err, ErrCorrupt):
			return read, s.l.readError(sg.name, err)
		case err != nil:
			s.at = upTo + 1
			return read, fmt.Errorf("scrub group %d: %w", s.l.group, err)
		case read > 0:
			return read, nil
		}
	}
	return 0, nil
}

// cleaned verifies about n bytes of the cleaned part; 0: it is through with that.
func (s *Scrub) cleaned(n int64) (read int64, err error) {
	for range maxRelocate {
		l := s.l
		l.mu.RLock()
		usable := !l.closed && l.readDamage == nil && l.failed == nil
		files := l.cleanedAt(s.from)
		l.mu.RUnlock()
		if !usable || len(files) == 0 {
			return 0, nil // file says why
		}
		f := files[0]
		k := f.stretchOf(s.from)
		last := k + 1
		for last < len(f.index) && f.index[last].pos-f.index[k].pos < n {
			last++
		}
		read, next := f.frames-f.index[k].pos, f.end
		if last < len(f.index) {
			read, next = f.index[last].pos-f.index[k].pos, f.index[last].base
		}
		if file, err := l.fs.Open(path.Join(l.dir, f.name())); err == nil {
			vfs.Forget(file, f.index[k].pos, read) // from the disk and not from memory
			_ = file.Close()
		}
		switch err := l.scanCleaned(f, k, last, scanWindow, func(*record) bool { return true }); {
		case errors.Is(err, fs.ErrNotExist):
			continue // cleaned again since
		case errors.Is(err, ErrCorrupt):
			return 0, l.cleanedError(f, err)
		case err != nil:
			s.from = next
			return 0, fmt.Errorf("scrub group %d: %w", l.group, err)
		}
		s.from = next
		return read, nil
	}
	return 0, nil
}

// file is the one that holds the next entry, the length of its blocks, and the last entry to be verified in it; nil at the end.
// What no mark on the disk proves to have been durable is left out: damage there could not be told from a torn write.
func (s *Scrub) file() (sg *seg, size int64, upTo raft.Index, err error) {
	l := s.l
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return nil, 0, 0, ErrClosed
	}
	if l.readDamage != nil || l.failed != nil {
		return nil, 0, 0, nil // about to be opened again, which looks at everything from there on
	}
	s.at = max(s.at, l.first)
	k := sort.Search(len(l.segs), func(k int) bool { return l.segs[k].last >= s.at })
	if k == len(l.segs) {
		return nil, 0, 0, nil
	}
	sg = l.segs[k]
	upTo = sg.last
	if k == len(l.segs)-1 {
		upTo = min(upTo, l.marked)
	}
	if upTo < s.at {
		return nil, 0, 0, nil
	}
	if sg.generation != s.gen {
		s.gen, s.head = sg.generation, false
		s.scan = segmentScan{end: SegmentHeaderSize, last: sg.first - 1, next: sg.base, term: sg.prevTerm}
	}
	return sg, sg.size, upTo, nil
}

// blocks verifies blocks of a file from where the walk is in it, until that was about n bytes.
func (s *Scrub) blocks(sg *seg, size int64, upTo raft.Index, n int64) (read int64, err error) {
	f, err := s.l.fs.Open(path.Join(s.l.dir, sg.name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	damaged := func(err error) error {
		return fmt.Errorf("%w: %s at %d: %w", ErrCorrupt, sg.name, s.scan.end, err)
	}
	if !s.head {
		if err := s.header(f, sg); err != nil {
			return 0, err
		}
		s.head = true
	}
	// From the disk and not from memory, and without driving out of memory what somebody wants.
	from := s.scan.end
	vfs.Forget(f, from, min(n+scanWindow, size-from))
	s.w = fileWindow{f: f, size: size, buf: s.w.buf[:0]}
	for s.scan.last < upTo && s.scan.end-from < n {
		b, err := s.w.bytes(s.scan.end, blockHeaderSize)
		if err != nil {
			return s.scan.end - from, err
		}
		err = s.scan.block(&s.w, s.l.group, &sg.segmentHeader, b, upTo, func(int64, *record) {})
		if ioErr, ok := errors.AsType[*scanIOError](err); ok {
			return s.scan.end - from, ioErr.err
		}
		if err != nil {
			return s.scan.end - from, damaged(err)
		}
		s.scan.unmarked = s.scan.unmarked[:0] // of interest to a recovery only
	}
	vfs.Forget(f, from, s.scan.end-from)
	return s.scan.end - from, nil
}

// header verifies the header of a file.
func (s *Scrub) header(f vfs.File, sg *seg) error {
	w := fileWindow{f: f, size: SegmentHeaderSize}
	got, err := w.bytes(0, SegmentHeaderSize)
	if err != nil {
		return err
	}
	h, err := decodeSegmentHeader(s.l.group, got)
	if err == nil && h != sg.segmentHeader {
		err = errors.New("bad segment header: it is not the one that was written")
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, sg.name, err)
	}
	return nil
}
