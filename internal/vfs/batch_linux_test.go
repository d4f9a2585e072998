//go:build linux && (amd64 || arm64)

package vfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What the system may say of a write that it took, short ones and interrupted ones, too.
func TestBatchOutcomes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := createDirect(t, name, 16384)
	o := f.(*osFile)
	w := &SyncWrite{File: f, Bufs: [][]byte{fill(4096, 'x'), fill(4096, 'x')}, Off: 4096}
	for _, c := range []struct {
		what    string
		res     int64
		is      error
		written int // bytes at the end that are written for it
	}{
		{"all of it", 8192, nil, 0},
		{"half of it", 4096, nil, 4096},
		{"nothing", 0, nil, 8192},
		{"interrupted", -int64(unix.EINTR), nil, 8192},
		{"refused", -int64(unix.EINVAL), nil, 8192},
		{"not known", -int64(unix.EOPNOTSUPP), nil, 8192},
		{"a full disk", -int64(unix.ENOSPC), ErrNoSpace, 0},
		{"a quota", -int64(unix.EDQUOT), ErrNoSpace, 0},
		{"a bad disk", -int64(unix.EIO), unix.EIO, 0},
	} {
		if err := os.WriteFile(name, make([]byte, 16384), 0); err != nil {
			t.Fatal(err)
		}
		if err := o.written(w, c.res); !errors.Is(err, c.is) {
			t.Errorf("%s: %v", c.what, err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 16384)
		copy(want[4096+8192-c.written:], fill(8192, 'x')[8192-c.written:])
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes are written, want %d", c.what, bytes.Count(got, []byte("x")), c.written)
		}
	}
}

// A queue that breaks says so of all that was under way, and the batch goes on one by one.
func TestBatchGivesUp(t *testing.T) {
	b, err := NewBatch(4)
	if err != nil {
		t.Skip(err)
	}
	f := createDirect(t, filepath.Join(t.TempDir(), "f"), 8192)
	writes := []SyncWrite{{Err: errUnderWay}, {Err: unix.EIO}, {Err: errUnderWay}}
	if at := b.q.giveUp(writes, 1, unix.EFAULT); len(at) != 1 || at[0] != 2 {
		t.Errorf("of %v it gave up %v", writes, at)
	}
	if writes[0].Err != errUnderWay || !errors.Is(writes[1].Err, unix.EIO) || !errors.Is(writes[2].Err, unix.EFAULT) {
		t.Errorf("%v", writes)
	}
	writes = []SyncWrite{{File: f, Bufs: [][]byte{fill(4096, 'x')}}}
	run(t, b, writes)
	if writes[0].Err != nil {
		t.Error(writes[0].Err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// A batch that the system has no room for is refused, as one that it forbids.
func TestNoBatch(t *testing.T) {
	if b, err := NewBatch(1 << 30); !errors.Is(err, ErrNoBatch) {
		t.Errorf("%v, %v", b, err)
	}
}
