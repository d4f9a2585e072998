// Setting aside: damaged files are kept, in directories of their own, and never read.

package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// maxDamagedDirs bounds the names tried for a directory of damaged files.
const maxDamagedDirs = 1 << 16

// asideDir makes the directory for damaged files.
func (r *recoverer) asideDir() (err error) {
	if r.aside == "" {
		r.aside, err = r.newAsideDir()
	}
	return err
}

// newAsideDir makes a directory for damaged files.
func (l *Log) newAsideDir() (string, error) {
	for n := range maxDamagedDirs {
		dir := path.Join(l.dir, fmt.Sprintf("%s%08d", damagedPrefix, n+1))
		_, err := l.fs.Stat(dir)
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := l.fs.MkdirAll(dir); err != nil {
			return "", err
		}
		return dir, l.fs.SyncDir(l.dir)
	}
	return "", fmt.Errorf("%d directories of damaged files: somebody should look at them", maxDamagedDirs)
}

// setAside moves a file, if it is there, to where it is kept and never read.
func (r *recoverer) setAside(name string) error {
	dir, err := r.Log.setAside(name, r.aside)
	if dir != "" {
		r.aside = dir
	}
	if dir != "" && err == nil {
		r.recovery.SetAside = dir
	}
	return err
}

// setAside moves a file, if it is there, to dir, or to a new directory, which it returns.
func (l *Log) setAside(name, dir string) (string, error) {
	from := path.Join(l.dir, name)
	if _, err := l.fs.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return dir, nil
	}
	if dir == "" {
		var err error
		if dir, err = l.newAsideDir(); err != nil {
			return "", err
		}
	}
	l.removeShortcuts(name)
	if err := l.fs.Rename(from, path.Join(dir, name)); err != nil {
		return dir, err
	}
	return dir, l.fs.SyncDir(l.dir) // a rename is never durable by half: with the old name gone the new one is there
}

// copyAside keeps a copy of a file.
func (r *recoverer) copyAside(name string) error {
	src, err := r.fs.Open(path.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	size, err := src.Size()
	if err != nil {
		return err
	}
	if err := r.asideDir(); err != nil {
		return err
	}
	to := path.Join(r.aside, name)
	dst, err := r.fs.Create(to)
	if err != nil {
		return err
	}
	w := fileWindow{f: src, size: size}
	for pos := int64(0); pos < size && err == nil; {
		var b []byte
		if b, err = w.bytes(pos, scanWindow); err == nil {
			if len(b) == 0 {
				break
			}
			_, err = dst.WriteAt(b, pos)
			pos += int64(len(b))
		}
	}
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		_ = r.fs.Remove(to)
		return err
	}
	r.recovery.SetAside = r.aside
	return r.fs.SyncDir(r.aside)
}
