// Package journal keeps term and vote of every Raft group of a broker in one file, so that ten thousand votes cost one
// fsync. It satisfies multi.HardStateStore.
//
// It stands on github.com/tidwall/wal v1.2.1, which by itself has no checksums, cannot open a torn tail, reads a
// zero-filled tail as phantom entries, keeps a failed write in memory, races on concurrent reads, takes no lock and
// syncs no directory. A vote that is forgotten or invented elects two leaders, so none of these is bearable here:
//
//	no checksums            each payload carries CRC32C, journal id, own sequence and a synced mark (record.go)
//	torn tail               the file is read, judged and cut before wal.Open (scan.go, recover.go)
//	zero-filled tail        likewise; zeros are no records
//	failed write in memory  any write or sync error is final: it is reported to every later Save (ENOSPC alone is
//	                        survived, by reopening from what is known to be durable: reserve.go)
//	racing reads            nothing is ever read through tidwall/wal; Load is served from a map
//	no lock                 flock on a lock file
//	no directory sync       after creation, and around TruncateFront, where a guard also stands in for the syncs
//	                        that belong between its steps (checkpoint.go)
//
// One goroutine owns the file. Saves queue up while it syncs, and the next write takes all of them.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/tidwall/wal"
)

var (
	// ErrLocked is returned by Open when another process, or another Journal of this one, has the directory open.
	ErrLocked = errors.New("hard-state journal is in use")
	// ErrClosed goes to Saves and Deletes after Close.
	ErrClosed = errors.New("hard-state journal is closed")
	// ErrFailed is in every error after the first write or sync that failed. The broker must stop voting.
	ErrFailed = errors.New("hard-state journal has failed")
)

// Options tune a journal. The zero value is fit for use.
type Options struct {
	Logger *slog.Logger // nil: silent
	// MaxQueued bounds Saves and Deletes that wait for the disk; beyond it, callers wait. It is also the most that one
	// write holds. Default 65536 (4 MB on disk).
	MaxQueued int
	// CheckpointBytes is how far the file grows beyond its last checkpoint before the next one, at least: it also waits
	// until the file is four times the size of a checkpoint. Default 1 MiB.
	CheckpointBytes int64
	// ReserveBytes are written out in advance and given up when the disk is full, so that votes go on. Default 4 MiB;
	// negative for none.
	ReserveBytes int64
	// MarkAfter is how long the journal is idle before it notes on disk that its last write was durable. Until then,
	// damage to that write cannot be told from a torn one. Default 100 ms.
	MarkAfter time.Duration
	// SyncDir makes a directory's names durable. Default: fsync of the directory. A seam for tests.
	SyncDir func(dir string) error

	openWAL  func(path string, o *wal.Options) (walLog, error) // seams for tests
	openTail func(path string) (tailFile, error)
}

// walLog is what is used of *wal.Log.
type walLog interface {
	WriteBatch(*wal.Batch) error
	Sync() error
	TruncateFront(index uint64) error
	FirstIndex() (uint64, error)
	LastIndex() (uint64, error)
	Close() error
}

func (o *Options) setDefaults() error {
	if o.MaxQueued < 0 || o.CheckpointBytes < 0 || o.MarkAfter < 0 {
		return errors.New("hard-state journal: negative option")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.MaxQueued == 0 {
		o.MaxQueued = 1 << 16
	}
	if o.CheckpointBytes == 0 {
		o.CheckpointBytes = 1 << 20
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 4 << 20
	}
	if o.MarkAfter == 0 {
		o.MarkAfter = 100 * time.Millisecond
	}
	if o.SyncDir == nil {
		o.SyncDir = syncDir
	}
	if o.openWAL == nil {
		o.openWAL = func(path string, wo *wal.Options) (walLog, error) { return wal.Open(path, wo) }
	}
	if o.openTail == nil {
		o.openTail = func(path string) (tailFile, error) { return os.OpenFile(path, os.O_RDWR, 0) }
	}
	return nil
}

// Journal is an open journal. Its methods are safe for concurrent use.
type Journal struct {
	dir    string
	o      Options
	log    *slog.Logger
	unlock func() error
	done   chan struct{} // closed when the owner is gone
	wake   chan struct{} // capacity 1: the queue has something, or Close was called

	// qmu guards what callers hand to the owner. It is never held during I/O or a callback.
	qmu       sync.Mutex
	room      sync.Cond // queue has shrunk, or callbacks run
	queue     []request
	notifying bool // the owner runs callbacks: Save must not wait for it then, since it may be called by one
	closing   bool

	// smu guards states, which hold what is durable.
	smu    sync.RWMutex
	states map[raft.GroupID]raft.HardState

	// The rest belongs to the owner goroutine (to Open, before it starts).
	id       uint64
	wal      walLog
	first    uint64    // index of the file's first entry
	seq      uint64    // last durable sequence
	size     int64     // bytes of the file that are durable
	ckptSize int64     // bytes of the checkpoint in front, roughly
	nextCkpt int64     // size at which to try a checkpoint
	reserved bool      // the reserve file is there
	released time.Time // when it was last given up
	marked   bool      // the last record says that all before it is durable, or is a mark
	batch    wal.Batch
	scratch  []byte
	err      error // sticky
}

type request struct {
	del   bool
	group raft.GroupID
	hs    raft.HardState
	done  func(error)
}

// Open opens the journal in dir, or makes one. [ErrLocked], [ErrCorrupt], or what the system said.
func Open(dir string, o Options) (*Journal, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, walName), 0o750); err != nil {
		return nil, err
	}
	unlock, err := lockFile(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir: dir, o: o, log: o.Logger, unlock: unlock,
		done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	j.room.L = &j.qmu
	if err := j.open(); err != nil {
		if j.wal != nil {
			err = errors.Join(err, j.wal.Close())
		}
		return nil, errors.Join(fmt.Errorf("open hard-state journal %s: %w", dir, err), unlock())
	}
	go j.own()
	return j, nil
}

func (j *Journal) open() error {
	for _, d := range []string{filepath.Dir(j.dir), j.dir} {
		if err := j.o.SyncDir(d); err != nil {
			return err
		}
	}
	if err := j.recover(); err != nil {
		return err
	}
	j.ckptSize = checkpointLen(len(j.states))
	j.planCheckpoint()
	j.ensureReserve()
	j.maybeCheckpoint()
	return j.err
}

// openLog opens tidwall/wal on a file that has been found whole, and makes sure that both mean the same.
func (j *Journal) openLog() error {
	l, err := j.o.openWAL(j.path(walName), &wal.Options{
		NoSync:      true, // synced by commit, so that a failed write is told from a failed sync
		SegmentSize: math.MaxInt32,
		AllowEmpty:  true,
		DirPerms:    0o750,
		FilePerms:   0o640,
	})
	if err != nil {
		return fmt.Errorf("tidwall/wal: %w", err)
	}
	first, err1 := l.FirstIndex()
	last, err2 := l.LastIndex()
	if err := errors.Join(err1, err2); err != nil || first != j.first || last != j.seq {
		return errors.Join(fmt.Errorf("tidwall/wal sees entries %d to %d, the journal %d to %d (%v)", first, last, j.first, j.seq, err), l.Close())
	}
	j.wal = l
	return nil
}

// Save makes hs the hard state of g. done is called from the journal's goroutine once it is durable, or with the error
// that ended the journal; it must not block. Saves become durable in the order of their calls.
func (j *Journal) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	j.enqueue(request{group: g, hs: hs, done: done})
}

// Delete forgets g. Like Save.
func (j *Journal) Delete(g raft.GroupID, done func(error)) {
	j.enqueue(request{del: true, group: g, done: done})
}

func (j *Journal) enqueue(r request) {
	j.qmu.Lock()
	for len(j.queue) >= j.o.MaxQueued && !j.notifying && !j.closing {
		j.room.Wait()
	}
	if j.closing {
		j.qmu.Unlock()
		if r.done != nil {
			go r.done(ErrClosed) // not on the caller's stack: it may hold what done wants
		}
		return
	}
	j.queue = append(j.queue, r)
	j.qmu.Unlock()
	j.poke()
}

func (j *Journal) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Load returns the last durable hard state of g.
func (j *Journal) Load(g raft.GroupID) (raft.HardState, bool) {
	j.smu.RLock()
	defer j.smu.RUnlock()
	hs, ok := j.states[g]
	return hs, ok
}

// Groups returns the groups that have a hard state, sorted.
func (j *Journal) Groups() []raft.GroupID {
	j.smu.RLock()
	defer j.smu.RUnlock()
	return j.sortedGroups()
}

// sortedGroups needs smu, or to be the owner.
func (j *Journal) sortedGroups() []raft.GroupID {
	gs := make([]raft.GroupID, 0, len(j.states))
	for g := range j.states {
		gs = append(gs, g)
	}
	slices.Sort(gs)
	return gs
}

// Close writes what is queued and closes the journal. It returns the error that ended the journal, if one did.
func (j *Journal) Close() error {
	j.qmu.Lock()
	if j.closing {
		j.qmu.Unlock()
		<-j.done
		return nil
	}
	j.closing = true
	j.room.Broadcast()
	j.qmu.Unlock()
	j.poke()
	<-j.done
	err := j.err
	if j.wal != nil {
		if cerr := j.wal.Close(); err == nil {
			err = cerr
		}
	}
	return errors.Join(err, j.unlock())
}

// own is the journal's one goroutine. Its invariant: states, seq and size speak of exactly what is durable, whenever a
// callback runs.
func (j *Journal) own() {
	defer close(j.done)
	idle := time.NewTimer(time.Hour)
	if j.marked {
		idle.Stop()
	} else {
		idle.Reset(j.o.MarkAfter)
	}
	var spare []request
	for {
		select {
		case <-j.wake:
		case <-idle.C:
			j.mark()
			j.ensureReserve()
		}
		j.qmu.Lock()
		batch := j.queue
		j.queue = spare[:0]
		closing := j.closing
		j.room.Broadcast()
		j.qmu.Unlock()
		if len(batch) > 0 {
			err := j.commit(batch)
			j.notify(batch, err)
			j.maybeCheckpoint()
			idle.Reset(j.o.MarkAfter)
		}
		clear(batch)
		spare = batch
		if closing {
			j.qmu.Lock()
			empty := len(j.queue) == 0
			j.qmu.Unlock()
			if empty {
				j.mark()
				idle.Stop()
				return
			}
			j.poke()
		}
	}
}

// notify runs the callbacks of a batch.
func (j *Journal) notify(batch []request, err error) {
	j.qmu.Lock()
	j.notifying = true
	j.room.Broadcast()
	j.qmu.Unlock()
	for i := range batch {
		if batch[i].done != nil {
			batch[i].done(err)
		}
	}
	j.qmu.Lock()
	j.notifying = false
	j.qmu.Unlock()
}

// commit makes a batch durable and then visible.
func (j *Journal) commit(batch []request) error {
	recs := make([]record, len(batch))
	bodies := make([]byte, 0, len(batch)*stateLen)
	for i, r := range batch {
		at := len(bodies)
		if r.del {
			bodies = binary.LittleEndian.AppendUint64(bodies, uint64(r.group))
			recs[i] = record{kind: kindDelete, body: bodies[at:]}
		} else {
			bodies = appendState(bodies, groupState{r.group, r.hs})
			recs[i] = record{kind: kindState, body: bodies[at:]}
		}
	}
	if err := j.writeRecords(recs); err != nil {
		return err
	}
	j.marked = false
	j.smu.Lock()
	defer j.smu.Unlock()
	for _, r := range batch {
		if r.del {
			delete(j.states, r.group)
		} else {
			j.states[r.group] = r.hs
		}
	}
	return nil
}

// writeRecords gives records their sequences and makes them durable with one write and one sync. An error is final.
func (j *Journal) writeRecords(recs []record) error {
	if j.err != nil {
		return j.err
	}
	size := j.size
	j.batch.Clear()
	for i, r := range recs {
		r.id, r.seq, r.synced = j.id, j.seq+uint64(i)+1, j.seq
		j.scratch = appendRecord(j.scratch[:0], r)
		j.batch.Write(r.seq, j.scratch)
		size += int64(uvarintLen(len(j.scratch)) + len(j.scratch))
	}
	err := j.wal.WriteBatch(&j.batch)
	if err != nil && isNoSpace(err) {
		err = j.retryOnReserve(err)
	}
	if err != nil {
		return j.fail("write", err)
	}
	if err := j.wal.Sync(); err != nil {
		return j.fail("sync", err) // never retried: the pages may be gone and clean (fsyncgate)
	}
	j.seq += uint64(len(recs))
	j.size = size
	return nil
}

func uvarintLen(n int) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}

// mark notes on disk that everything before it is durable.
func (j *Journal) mark() {
	if j.marked || j.err != nil {
		return
	}
	if j.writeRecords([]record{{kind: kindMark}}) == nil {
		j.marked = true
	}
}

// fail ends the journal's life.
func (j *Journal) fail(doing string, err error) error {
	j.err = fmt.Errorf("%w: %s %s: %w", ErrFailed, doing, j.path(walName), err)
	j.log.Error("hard-state journal has failed; this broker can no longer vote", "err", j.err)
	return j.err
}
