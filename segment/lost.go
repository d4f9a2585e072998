// What tells an empty log from one that was lost, and the last file from one behind which others have vanished. There is nothing in
// the files that are left that could; so whatever makes a log empty leaves a file that says so, and a file gets its index only when the
// file after it is durable. See docs/design/0016-repair.md.

package segment

import (
	"errors"
	"io/fs"
	"path"

	"github.com/balsamq/balsa/raft"
)

// judgeEmptiness tells a log that has no file yet from one that has none any more. Whatever makes a log empty leaves a file that says so,
// which goes when there is a segment.
func (r *recoverer) judgeEmptiness() error {
	switch {
	case len(r.live) > 0 || r.empty || r.opt.Past == PastUnknown:
	case r.opt.Past == NeverRan:
		return r.sayEmpty()
	default:
		why := errors.New("no segment file is left")
		m := r.meta
		m.damaged = raft.UntilTold // on record before anything could be taken for a log
		if err := r.writeMeta(&m); err != nil {
			return err
		}
		r.meta, r.damaged = m, m.damaged
		r.report(m.first, why)
	}
	return nil
}

// only: f is the only file, and its first block is known to have been durable.
func (r *recoverer) only(f *found) bool {
	return len(r.files) == 1 && r.files[0] == f && !r.saysEmpty && r.opt.Past == RanBefore
}

// sayEmpty makes the file that says that the log has no segment for a good reason, durably: before that is so.
func (l *Log) sayEmpty() error {
	l.empty = true
	f, err := l.fs.Create(path.Join(l.dir, emptyName))
	switch {
	case err == nil:
		err = f.Close()
	case errors.Is(err, fs.ErrExist):
		err = nil
	}
	if err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

// closedFile is a file that was left, with its index.
type closedFile struct {
	name string
	img  []byte
}

// writeIndexes stores the indexes of files that were left, once the file after them is durable: an index proves to a recovery that
// its file is not the last, and that the log is damaged if it is.
func (l *Log) writeIndexes() {
	l.mu.RLock()
	damaged := l.readDamage != nil
	l.mu.RUnlock()
	for _, f := range l.w.left {
		if _, err := l.fs.Stat(path.Join(l.dir, f.name)); err == nil && !damaged { // else it would hide the damage, or is of no use
			l.writeIndex(f.name, f.img)
			_ = l.fs.Remove(path.Join(l.dir, tipName(f.name)))
		}
	}
	l.w.left = nil
}

// leftBehind: s ends where it is intact, and what comes next goes to another file.
func (r *recoverer) leftBehind(s *seg) {
	if s.last >= s.first {
		r.w.left = append(r.w.left, closedFile{s.name, r.encodeIndexLocked(s)})
	}
}
