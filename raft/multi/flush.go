// The flush loop: a bounded pool of flushers that sync many logs side by side. A log stands in the queue at most once
// and is never with two flushers, so that Sync never runs concurrently with itself; appends that arrive during a Sync
// share the next one, which is what makes a busy group commit in batches. Snapshots are read, written and installed
// here as well, in the same slot of the same group, so that they stall no worker and meet no Sync.
//
// A Sync costs the same work whatever it writes, and what waits for it grows meanwhile. So a few flushers (eager) run whenever
// there is something to do, and the others only when a log has waited for as long as a Sync takes: on a disk that is fast
// next to its processors there are fewer and larger Syncs, and on a slow one as many at once as ever. A flusher that finds more logs than there
// are eager ones takes what waits as one batch (flush_batch.go); each log of it counts as one that runs.

package multi

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// flushState is a group's part in the flush loop; guarded by flusher.mu.
type flushState struct {
	want    bool // there are appends that no Sync has covered yet
	alone   bool // its Sync is not one of a batch
	queued  bool
	running bool
	since   raft.Time // when a Sync was asked for; 0: none is wanted or runs
	began   raft.Time // and when it began to run
	behind  raft.Time // since when a log with relaxed durability has been behind; 0: it is not. Of the flusher that has the group
	jobs    []job
	working bool // one of them runs; began is then when it counts as hanging, if a Sync waits behind it
}

// jobPatience times ElectionTimeout is how long a piece of snapshot work may take before what waits for a Sync behind it is taken
// to wait for a disk that hangs. The longest, which reads and writes a whole snapshot, takes some seconds.
const jobPatience = 10

// job is blocking work on a log other than Sync.
type job struct {
	run func(g *Group)
}

const (
	// eagerPerCore and eagerLeast say how many flushers run without waiting.
	eagerPerCore = 2
	eagerLeast   = 4
	// minPatience and maxPatience bound what the others wait for.
	minPatience = raft.Time(200 * time.Microsecond)
	maxPatience = raft.Time(10 * time.Millisecond)
)

type flusher struct {
	mu      sync.Mutex // protects all below, Group.fl and Host.snapshotSends
	cond    sync.Cond
	eager   int          // with fewer logs running, none waits
	typical raft.Time    // what a Sync takes, on average, most of all the last eight
	remind  bool         // a timer will signal cond
	queue   []*Group     // each at most once
	running []*Group     // at most maxSyncBatch for each of them
	logs    atomic.Int64 // how many are in queue or running, for who looks in passing
	closed  bool
	moved   raft.Time       // when a Sync last ended: a queue that moves is long, and nothing hangs
	waiting []*snapshotSend // sends over Options.SnapshotSends; at most one per group and follower
}

// init: flushers of them will run; 0: none, everything is done by hand.
func (f *flusher) init(flushers int) {
	f.cond.L = &f.mu
	f.eager = min(flushers, max(eagerLeast, eagerPerCore*runtime.GOMAXPROCS(0)))
}

func (f *flusher) enqueueLocked(g *Group, now raft.Time) {
	if g.fl.queued || g.fl.running {
		return // finish puts it back
	}
	g.fl.queued = true
	if g.fl.since = 0; g.fl.want {
		g.fl.since = now
	}
	f.queue = append(f.queue, g)
	f.logs.Add(1)
	f.wakeLocked(now)
}

// patienceLocked is how long a log waits for one of the eager flushers.
func (f *flusher) patienceLocked() raft.Time { return min(max(f.typical, minPatience), maxPatience) }

// dueLocked is in what time the first of the queue may be taken; 0: now. Snapshot work waits for nothing.
func (f *flusher) dueLocked(now raft.Time) raft.Time {
	since := f.queue[0].fl.since
	if len(f.running) < f.eager || since == 0 || f.closed {
		return 0
	}
	return max(0, since+f.patienceLocked()-now)
}

// wakeLocked sees to it that a flusher looks at the queue when it may take something. One that ends a Sync looks by itself.
func (f *flusher) wakeLocked(now raft.Time) {
	if due := f.dueLocked(now); due == 0 || f.eager == 0 {
		f.cond.Signal()
	} else {
		f.remindLocked(due)
	}
}

func (f *flusher) remindLocked(due raft.Time) {
	if f.remind {
		return
	}
	f.remind = true
	time.AfterFunc(time.Duration(due), func() {
		f.mu.Lock()
		f.remind = false
		f.mu.Unlock()
		f.cond.Signal()
	})
}

// requestSync asks for a Sync that begins from now on.
func (h *Host) requestSync(g *Group, now raft.Time) {
	h.flusher.mu.Lock()
	g.fl.want = true
	if (g.fl.queued || g.fl.working) && g.fl.since == 0 {
		g.fl.since = now
	}
	h.flusher.enqueueLocked(g, now)
	h.flusher.mu.Unlock()
}

func (h *Host) addJob(g *Group, run func(*Group)) {
	h.flusher.mu.Lock()
	g.fl.jobs = append(g.fl.jobs, job{run})
	h.flusher.enqueueLocked(g, h.now())
	h.flusher.mu.Unlock()
}

// popLocked takes the group at position i of the queue, and what is to be done for it.
func (f *flusher) popLocked(i int, now raft.Time) (g *Group, sync bool, jobs []job) {
	g = f.queue[i]
	copy(f.queue[1:i+1], f.queue[:i]) // the first one is popped but in manual mode: thousands may stand behind it
	f.queue[0] = nil
	f.queue = f.queue[1:]
	g.fl.queued, g.fl.running = false, true
	sync, jobs = g.fl.want, g.fl.jobs
	if sync {
		g.fl.began = now
	}
	g.fl.want, g.fl.jobs = false, nil
	f.running = append(f.running, g)
	return g, sync, jobs
}

func (f *flusher) dropRunningLocked(g *Group) {
	for i, r := range f.running {
		if r == g {
			f.running[i] = f.running[len(f.running)-1]
			f.running[len(f.running)-1] = nil
			f.running = f.running[:len(f.running)-1]
			break
		}
	}
}

func (f *flusher) finishLocked(g *Group, now raft.Time) {
	f.dropRunningLocked(g)
	f.logs.Add(-1)
	g.fl.running, g.fl.alone = false, false
	if g.fl.want || len(g.fl.jobs) > 0 {
		f.enqueueLocked(g, now)
	}
}

func (h *Host) flushLoop() {
	f := &h.flusher
	b := batcher{h: h, off: h.o.NewSyncBatch == nil}
	w := &worker{h: h}
	defer b.close()
	f.mu.Lock()
	for {
		for !f.closed {
			if len(f.queue) > 0 {
				due := f.dueLocked(h.now())
				if due == 0 {
					break
				}
				f.remindLocked(due)
			}
			f.cond.Wait()
		}
		if len(f.queue) == 0 {
			f.mu.Unlock()
			return
		}
		now := h.now()
		g, sync, jobs := f.popLocked(0, now)
		many := sync && len(jobs) == 0 && b.gatherLocked(g, now)
		if len(f.queue) > 0 {
			f.wakeLocked(now) // there was one signal for this one, and others may be due by now
		}
		f.mu.Unlock()
		if many {
			b.flush()
		} else {
			h.flushOne(w, g, sync, jobs)
		}
		f.mu.Lock()
	}
}

// flushOne does what is to be done for a group that was popped. w, if it is not nil, is for the group's turn when it has been synced.
func (h *Host) flushOne(w *worker, g *Group, sync bool, jobs []job) {
	if sync {
		began, bytes := h.now(), g.log.Unsynced()
		ticket, err := g.log.Sync()
		if g.log.Behind() > 0 {
			bytes = 0 // written, and settle will say when they are durable
		}
		turn := h.synced(g, began, h.now(), bytes, ticket, err)
		settles := err == nil && h.settles(g)
		if turn && (w == nil || settles || len(jobs) > 0) {
			h.schedule(g)
			turn = false
		}
		if !turn {
			w = nil
		}
		if settles {
			h.settle(g)
		}
	} else {
		w = nil
	}
	for _, j := range jobs {
		h.startJob(g)
		j.run(g)
	}
	h.flusher.mu.Lock()
	g.fl.working = false
	h.flusher.finishLocked(g, h.now())
	closing := g.closing.Load()
	idle := len(h.flusher.queue) == 0
	h.flusher.mu.Unlock()
	switch {
	case w != nil && idle && h.calm():
		h.take(w, g)
	case w != nil || closing:
		h.schedule(g) // its shutdown waits for the log to be let go
	}
}

// synced tells the group, and whoever counts, how its Sync ended that took from then until now and was to write so much. The caller sees to it that the
// group has the turn that it may need for that.
func (h *Host) synced(g *Group, began, now raft.Time, bytes int64, ticket raft.Ticket, err error) (turn bool) {
	h.stats.syncs.Add(1)
	if h.o.Observer != nil {
		h.o.Observer.Synced(g.id, time.Duration(now-began), bytes, err)
	}
	if err != nil {
		if errors.Is(err, vfs.ErrNoSpace) {
			h.stats.noSpace.Add(1)
		} else {
			h.stats.syncErrors.Add(1)
		}
	}
	h.flusher.mu.Lock()
	g.fl.since = 0
	h.flusher.moved = now
	h.flusher.typical += (now - g.fl.began - h.flusher.typical) / 8
	h.flusher.mu.Unlock()
	turn, _ = g.in.addEvent(event{kind: evSynced, ticket: ticket, err: err}) // refused: the group has stopped
	return turn
}

const (
	// RelaxedDelay is for how long a log with relaxed durability that is written to may be behind with its syncs. One that is not is synced when
	// its mark is due.
	RelaxedDelay = time.Second
	// relaxedBytes is how many bytes it may be behind.
	relaxedBytes = 8 << 20
)

// settles reports whether a log with relaxed durability, which has been written to, is so far behind that it is to be synced.
func (h *Host) settles(g *Group) bool {
	bytes, now := g.log.Behind(), h.now()
	switch {
	case bytes == 0:
		g.fl.behind = 0
		return false
	case g.fl.behind == 0:
		g.fl.behind = now
	}
	return bytes >= relaxedBytes || now-g.fl.behind >= raft.Time(RelaxedDelay)
}

// settle does so. What it has written has been reported; what is appended meanwhile waits.
func (h *Host) settle(g *Group) {
	bytes, now := g.log.Behind(), h.now()
	h.flusher.mu.Lock()
	g.fl.working, g.fl.began = true, now // it may hang like any sync
	if g.fl.want && g.fl.since == 0 {
		g.fl.since = now
	}
	h.flusher.mu.Unlock()
	h.stats.syncs.Add(1)
	err := g.log.Settle()
	if h.o.Observer != nil {
		h.o.Observer.Synced(g.id, time.Duration(h.now()-now), bytes, err)
	}
	g.fl.behind = 0
	if err != nil {
		h.stats.syncErrors.Add(1)
		_ = g.in.pushEvent(h, g, event{kind: evSynced, err: err})
	}
	h.flusher.mu.Lock()
	h.flusher.moved = h.now()
	h.flusher.mu.Unlock()
}

// startJob notes that one begins: it may hang as a Sync may, and then what is proposed meanwhile waits behind it.
func (h *Host) startJob(g *Group) {
	h.flusher.mu.Lock()
	defer h.flusher.mu.Unlock()
	now := h.now()
	g.fl.working, g.fl.began = true, now+jobPatience*raft.Time(h.o.ElectionTimeout)
	if g.fl.want && g.fl.since == 0 {
		g.fl.since = now // asked for while the Sync before it ran
	}
}

// flushIdle reports that no flusher has the group, and takes it out of the queue.
func (h *Host) flushIdle(g *Group) bool {
	f := &h.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	if g.fl.running || len(g.fl.jobs) > 0 {
		return false
	}
	if g.fl.queued {
		for i, q := range f.queue {
			if q == g {
				f.queue = append(f.queue[:i], f.queue[i+1:]...)
				f.logs.Add(-1)
				break
			}
		}
		g.fl.queued, g.fl.want = false, false
	}
	return true
}

// A Sync hangs since it began to run, or, while it waits, since it was asked for or any other Sync ended: when ten thousand
// groups elect leaders at once, the last one's Sync waits for seconds behind a disk that does what it can. Had such a
// queue counted as a hanging disk, a broker's death would have silenced the others, and each would have woken all groups
// of the other, whose elections make the queue longer still (docs/design/0015-many-groups.md).
func (f *flusher) hangsSinceLocked(g *Group) raft.Time {
	switch {
	case g.fl.since == 0:
		return 0
	case g.fl.running:
		return g.fl.began
	}
	return max(g.fl.since, f.moved)
}

// oldest is since when the disk has been hanging, if it does: the first moment of the longest Sync that runs, or waits in a
// queue that does not move; 0 if there is none. Snapshot work is long by nature: it counts when it has had its time, and a
// Sync waits behind it.
func (f *flusher) oldest() (at raft.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.running {
		if since := f.hangsSinceLocked(g); since != 0 && (at == 0 || since < at) {
			at = since
		}
	}
	for _, g := range f.queue { // in the order of asking, but for those with snapshot work only
		if since := f.hangsSinceLocked(g); since != 0 {
			if at == 0 || since < at {
				at = since
			}
			break
		}
	}
	return at
}

// syncRunsFor is for how long this group's own Sync has been hanging.
func (h *Host) syncRunsFor(g *Group, now raft.Time) raft.Time {
	h.flusher.mu.Lock()
	defer h.flusher.mu.Unlock()
	since := h.flusher.hangsSinceLocked(g)
	if since == 0 {
		return 0
	}
	return now - since
}

// crowded: more logs wait than flushers can take at once.
func (f *flusher) crowded(flushers int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queue) > flushers
}

func (f *flusher) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cond.Broadcast()
}

// PendingFlushes lists, in manual mode, the groups whose logs wait for FlushGroup, in the order in which they asked.
func (h *Host) PendingFlushes() []raft.GroupID {
	h.flusher.mu.Lock()
	defer h.flusher.mu.Unlock()
	ids := make([]raft.GroupID, len(h.flusher.queue))
	for i, g := range h.flusher.queue {
		ids[i] = g.id
	}
	return ids
}

// FlushGroup, in manual mode, does what the flush loop would do for a group: its pending sync and snapshot work.
// It reports whether there was any.
func (h *Host) FlushGroup(id raft.GroupID) bool {
	if !h.manual {
		panic("multi: Host.FlushGroup outside manual mode")
	}
	return h.flushGroup(id)
}

func (h *Host) flushGroup(id raft.GroupID) bool {
	f := &h.flusher
	f.mu.Lock()
	for i, g := range f.queue {
		if g.id == id {
			_, sync, jobs := f.popLocked(i, h.now())
			f.mu.Unlock()
			h.flushOne(nil, g, sync, jobs)
			return true
		}
	}
	f.mu.Unlock()
	return false
}

// Flush, in manual mode, is FlushGroup for the group that asked first.
func (h *Host) Flush() bool {
	ids := h.PendingFlushes()
	return len(ids) > 0 && h.FlushGroup(ids[0])
}
