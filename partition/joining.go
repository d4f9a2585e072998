// A replica that comes new to a group that has moved before.
//
// Raft counts on a server's log never going back. But a replica that moved away was deleted, and if its partition comes back it
// begins with an empty log. While that is filled, the newest membership in it is an old one: the founders', say, in which this very
// replica, and others that were deleted like it, are a majority. They could elect one of themselves with the beginning of the
// log and nothing more. So such a replica neither votes nor campaigns before a leader has given it everything up to the
// membership that was settled last: that came after each removal whose files were ever deleted.
//
// A file beside the log's directory says so over restarts, until the log has come so far:
//
//	groups/0000000000000007.joining    the index, in decimal

package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// JoiningSuffix ends the name of the file.
const JoiningSuffix = ".joining"

// markJoining writes the mark, durably, before there is a log that could be taken for more than it is.
func markJoining(fsys vfs.FS, dir string, after raft.Index) error {
	if err := unmarkJoining(fsys, dir); err != nil { // of an earlier try
		return err
	}
	f, err := fsys.Create(dir + JoiningSuffix)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(strconv.FormatUint(uint64(after), 10)), 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return fsys.SyncDir(path.Dir(dir))
}

// unmarkJoining removes the mark, if there is one.
func unmarkJoining(fsys vfs.FS, dir string) error {
	if err := fsys.Remove(dir + JoiningSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// joinAfter is up to where a replica with a log that ends at last must get before it votes; 0: it may.
func joinAfter(fsys vfs.FS, dir string, last raft.Index) (raft.Index, error) {
	name := dir + JoiningSuffix
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var b [20]byte // the largest index has 19 digits
	n, err := f.ReadAt(b[:], 0)
	_ = f.Close() // it was only read
	after, perr := strconv.ParseUint(string(b[:n]), 10, 62)
	if perr != nil {
		return 0, fmt.Errorf("%s: %w", name, errors.Join(perr, err))
	}
	if last < raft.Index(after) {
		return raft.Index(after), nil
	}
	return 0, unmarkJoining(fsys, dir) // not synced: the next start comes to the same result
}
