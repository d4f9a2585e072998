// Syncs of many logs at once. What a Sync costs is mostly not its bytes: a system call, the disk's notification and interrupt, a thread that
// sleeps and wakes. So a flusher that finds several logs waiting takes all of them (up to maxSyncBatch): each makes its write ready in its part
// of one buffer, the disk does them side by side, and each is published when it is done. A flusher never waits for more to come: while it is with
// the disk, what comes is the next batch. What is no single write, and a log that is alone, is synced as ever.

package multi

import (
	"slices"
	"sync"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	// maxSyncBatch bounds the logs of a batch.
	maxSyncBatch = 64
	// syncBatchBytes bounds what they write together: the size of the buffer that a flusher holds meanwhile.
	syncBatchBytes = 4 << 20
)

// SplitLog is a Log whose Sync comes apart, so that the writes of many logs reach the disk together.
type SplitLog interface {
	Log
	// BeginSync makes ready what a Sync would write, with memory from the beginning of buf, which the log does not touch after EndSync, and returns
	// the rest of that. false: it is nothing, or more than one durable write to one file; then Sync is to be called. After true, EndSync follows, and
	// nothing else of what excludes a Sync.
	BeginSync(buf []byte) (w vfs.SyncWrite, rest []byte, ok bool)
	// EndSync does what follows the write, whose outcome is err, and returns what Sync would.
	EndSync(err error) (raft.Ticket, error)
}

// SyncBatch does many writes side by side: vfs.Batch. It is used by one goroutine.
type SyncBatch interface {
	// WriteSync tells soon after they are done which of the writes are, and returns after all.
	WriteSync(writes []vfs.SyncWrite, done func(at []int))
	Close() error
}

var syncBuffers = sync.Pool{New: func() any {
	b := vfs.Aligned(syncBatchBytes)
	return &b
}}

// batcher is a flusher's means to sync many logs at once.
type batcher struct {
	h      *Host
	batch  SyncBatch // nil: none yet, or none to be had
	off    bool
	groups []*Group
	syncs  []startedSync
	writes []vfs.SyncWrite // one for each of syncs
	back   []*Group
}

// startedSync is a log between BeginSync and EndSync.
type startedSync struct {
	g     *Group
	log   SplitLog
	bytes int64
}

// ready makes the batch on first use.
func (b *batcher) ready() bool {
	if b.batch == nil && !b.off {
		var err error
		if b.batch, err = b.h.o.NewSyncBatch(maxSyncBatch); err != nil {
			b.batch, b.off = nil, true
			b.h.o.Logger.Debug("a flusher syncs one log at a time", "error", err)
		}
	}
	return !b.off
}

func (b *batcher) close() {
	if b.batch == nil {
		return
	}
	if err := b.batch.Close(); err != nil {
		b.h.o.Logger.Debug("the end of a flusher", "error", err)
	}
}

// gatherLocked takes what waits behind g, which is to be synced and nothing else, as far as the same holds for it; false: g is alone.
func (b *batcher) gatherLocked(g *Group, now raft.Time) bool {
	f := &b.h.flusher
	if b.off || g.fl.alone || len(f.running)+len(f.queue) <= f.eager || !f.joinsLocked() || !b.ready() {
		return false
	}
	b.groups = append(b.groups[:0], g)
	for len(b.groups) < maxSyncBatch && f.joinsLocked() {
		next, _, _ := f.popLocked(0, now)
		b.groups = append(b.groups, next)
	}
	return true
}

// joinsLocked: the first of the queue can be synced with others.
func (f *flusher) joinsLocked() bool {
	if len(f.queue) == 0 {
		return false
	}
	fl := &f.queue[0].fl
	return fl.want && !fl.alone && len(fl.jobs) == 0
}

// flush syncs the logs that were gathered. Those that cannot be synced so are left to another flusher.
func (b *batcher) flush() {
	h := b.h
	pooled := syncBuffers.Get().(*[]byte)
	defer syncBuffers.Put(pooled)
	buf := *pooled
	b.syncs, b.writes, b.back = b.syncs[:0], b.writes[:0], b.back[:0]
	began := h.now()
	for _, g := range b.groups {
		s := startedSync{g: g, bytes: g.log.Unsynced()}
		later := len(b.syncs) > 0 && s.bytes > int64(len(buf))/2 // perhaps too much for what is left, and not for another batch
		split, ok := g.log.(SplitLog)
		if ok && !later {
			var w vfs.SyncWrite
			if w, buf, ok = split.BeginSync(buf); ok {
				s.log = split
				b.syncs, b.writes = append(b.syncs, s), append(b.writes, w)
				continue
			}
		}
		g.fl.alone = !later // nobody else looks at it while it runs
		b.back = append(b.back, g)
	}
	if len(b.back) > 0 {
		h.flusher.mu.Lock()
		h.flusher.putBackLocked(b.back, h.now())
		h.flusher.mu.Unlock()
	}
	b.batch.WriteSync(b.writes, func(at []int) {
		now := h.now()
		for _, i := range at {
			s := &b.syncs[i]
			ticket, err := s.log.EndSync(b.writes[i].Err)
			if h.synced(s.g, began, now, s.bytes, ticket, err) {
				h.scheduleAt(s.g, now)
			}
		}
		b.letGo(at, now)
	})
	clear(b.groups)
	clear(b.syncs)
	clear(b.writes)
	clear(b.back)
}

// letGo ends this flusher's work for logs whose Sync is done: for all at once, so that they can be a batch again.
func (b *batcher) letGo(at []int, now raft.Time) {
	h := b.h
	h.flusher.mu.Lock()
	for _, i := range at {
		h.flusher.finishLocked(b.syncs[i].g, now)
	}
	h.flusher.mu.Unlock()
	for _, i := range at {
		if g := b.syncs[i].g; g.closing.Load() {
			h.schedule(g)
		}
	}
}

// putBackLocked gives groups that were taken to another flusher, before all that wait.
func (f *flusher) putBackLocked(gs []*Group, now raft.Time) {
	for _, g := range gs {
		f.dropRunningLocked(g)
		g.fl.running, g.fl.queued, g.fl.want = false, true, true
	}
	f.queue = slices.Insert(f.queue, 0, gs...)
	f.wakeLocked(now)
}
