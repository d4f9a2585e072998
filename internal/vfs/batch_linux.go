//go:build linux && (amd64 || arm64)

// Linux takes direct writes asynchronously (io_submit, io_getevents). The requests of one io_submit reach the disk's driver together, and the
// thread sleeps once for all of them; that is where the time of small writes goes. io_uring does the same for the same price, but containers
// mostly forbid it, and its best mode ties a ring to a thread (docs/design/0030-batched-syncs.md).
//
// The kernel copies the requests and their lists of buffers while it takes them, and holds on to the pages that it writes from; that these keep their content until then is
// up to the caller, whose memory the collector does not move.

package vfs

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	iocbPwritev = 8 // IOCB_CMD_PWRITEV

	// lagging is how long writes that are done wait for the others of their batch. A disk of its time takes less for all of them.
	lagging = 2 * time.Millisecond
)

var errUnderWay = errors.New("the write is under way")

// iocb is a request: struct iocb of linux/aio_abi.h, where bytes are in little-endian order.
type iocb struct {
	data   uint64
	_      uint32
	flags  int32 // RWF_
	opcode uint16
	_      int16
	fd     uint32
	buf    uint64
	length uint64
	off    int64
	_      uint64
	_      uint32
	_      uint32
}

// ioEvent is a completion: struct io_event.
type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

type asyncQueue struct {
	ctx    uintptr
	cbs    []iocb
	ptrs   []*iocb
	iovs   []unix.Iovec // of all requests; kept for the next batch
	events []ioEvent
	at     []int
}

func newAsyncQueue(n int) (*asyncQueue, error) {
	q := new(asyncQueue)
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, uintptr(n), uintptr(unsafe.Pointer(&q.ctx)), 0); e != 0 {
		return nil, fmt.Errorf("%w: io_setup: %w", ErrNoBatch, e)
	}
	q.cbs, q.ptrs, q.events, q.at = make([]iocb, n), make([]*iocb, n), make([]ioEvent, n), make([]int, 0, n)
	for i := range q.cbs {
		q.ptrs[i] = &q.cbs[i]
	}
	return q, nil
}

// close waits for what is under way.
func (q *asyncQueue) close() error {
	ctx := q.ctx
	q.ctx = 0 // which is no queue: others may get this one's number
	if ctx == 0 {
		return nil
	}
	if _, _, e := unix.Syscall(unix.SYS_IO_DESTROY, ctx, 0, 0); e != 0 {
		return fmt.Errorf("io_destroy: %w", e)
	}
	return nil
}

func (q *asyncQueue) writeSync(writes []SyncWrite, done func([]int)) {
	for from := 0; from < len(writes); {
		n := min(len(writes)-from, len(q.cbs))
		q.writeSome(writes, from, from+n, done)
		from += n
	}
}

// writeSome does writes[from:to], which are not too many.
func (q *asyncQueue) writeSome(writes []SyncWrite, from, to int, done func([]int)) {
	alone, n := q.at[:0], 0 // alone: not for the queue, or refused by it
	pieces := 0
	for i := from; i < to; i++ {
		pieces += len(writes[i].Bufs)
	}
	iovs := slices.Grow(q.iovs[:0], pieces) // does not move any more: requests point into it
	for i := from; i < to; i++ {
		w := &writes[i]
		o, ok := w.File.(*osFile)
		if !ok || !o.direct || len(w.Bufs) > iovMax || lengthOf(w.Bufs) == 0 {
			alone = append(alone, i)
			continue
		}
		first := len(iovs)
		for _, b := range w.Bufs {
			v := unix.Iovec{Base: unsafe.SliceData(b)}
			v.SetLen(len(b))
			iovs = append(iovs, v)
		}
		q.cbs[n] = iocb{
			data: uint64(i), opcode: iocbPwritev, flags: unix.RWF_DSYNC,
			fd: uint32(o.f.Fd()), buf: uint64(uintptr(unsafe.Pointer(&iovs[first]))), length: uint64(len(w.Bufs)), off: w.Off,
		}
		n++
	}
	taken := 0
	for at := 0; at < n; {
		got, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, q.ctx, uintptr(n-at), uintptr(unsafe.Pointer(&q.ptrs[at])))
		switch {
		case e == unix.EINTR:
		case e != 0 || got == 0:
			alone = append(alone, int(q.cbs[at].data)) // the first of them, before anything happened to it
			at++
		default:
			for _, cb := range q.cbs[at : at+int(got)] {
				writes[cb.data].Err = errUnderWay
			}
			at, taken = at+int(got), taken+int(got)
		}
	}
	clear(iovs) // which keeps nothing that is long written
	q.iovs = iovs
	for _, i := range alone {
		w := &writes[i]
		w.Err = w.File.WriteSync(w.Bufs, w.Off)
	}
	if len(alone) > 0 {
		done(alone)
	}
	// All of them, if they come at about the same time, and then as they come.
	timeout := unix.NsecToTimespec(int64(lagging))
	wait, least := &timeout, taken
	for taken > 0 {
		got, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, q.ctx, uintptr(least), uintptr(taken),
			uintptr(unsafe.Pointer(unsafe.SliceData(q.events))), uintptr(unsafe.Pointer(wait)), 0)
		if e == unix.EINTR {
			continue // the runtime's signals, too
		}
		if e != 0 {
			done(q.giveUp(writes[:to], from, e))
			break
		}
		wait, least = nil, 1
		taken -= int(got)
		at := q.at[:0]
		for _, ev := range q.events[:got] {
			w := &writes[ev.data]
			w.Err = w.File.(*osFile).written(w, ev.res) // the type was looked at above
			at = append(at, int(ev.data))
		}
		if len(at) > 0 {
			done(at)
		}
	}
	runtime.KeepAlive(writes)
}

// giveUp ends the queue, which waits for what is under way, and says of that that nothing is known. It should never happen.
func (q *asyncQueue) giveUp(writes []SyncWrite, from int, e unix.Errno) []int {
	err := errors.Join(fmt.Errorf("io_getevents: %w", e), q.close())
	at := q.at[:0]
	for i := from; i < len(writes); i++ {
		if w := &writes[i]; w.Err == errUnderWay {
			w.Err = err
			at = append(at, i)
		}
	}
	return at
}

// written is the outcome of a write of which the system says res: bytes, or an error below 0.
func (o *osFile) written(w *SyncWrite, res int64) error {
	if res == lengthOf(w.Bufs) {
		return nil
	}
	n := int64(0)
	if res >= 0 {
		n = res // the system says what is wrong when asked for the rest
	} else if e := unix.Errno(-res); e != unix.EINTR && e != unix.EINVAL && e != unix.EOPNOTSUPP && e != unix.ENOSYS && e != unix.EAGAIN {
		return spaceErr(fmt.Errorf("write %s: %w", o.f.Name(), e)) // never again: see Sync
	}
	return o.writeRest(w.Bufs, w.Off, n)
}
