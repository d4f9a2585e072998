// How a node works: in turns, which are instantaneous unless a pause is meant to strike inside one, and in flushes, which take
// the time that a disk takes. Both are coroutines of the one thread, so that everything else goes on while they wait, at places
// that no event loop over whole turns would reach: a process suspended between reading its clock and acting on it, entries
// cut off while their sync is under way, a sync that is done and not yet reported.

package sim

import (
	"iter"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// task is a coroutine of a node.
type task struct {
	flush bool // else a turn
	next  func() (time.Duration, bool)
	stop  func()
	yield func(time.Duration) bool
}

// spawn makes a coroutine of fn. It runs when it is resumed.
func spawn(flush bool, fn func()) *task {
	t := &task{flush: flush}
	t.next, t.stop = iter.Pull(func(yield func(time.Duration) bool) {
		t.yield = yield
		fn()
	})
	return t
}

// resume runs t until it waits, and reports for how long, or ends.
func (n *node) resume(t *task) (wait time.Duration, more bool) {
	before := n.current
	n.current = t
	wait, more = t.next()
	n.current = before
	return wait, more
}

// sleep lets time pass inside the coroutine that runs. It is false if the process died meanwhile.
func (n *node) sleep(d time.Duration) bool {
	t := n.current
	if t == nil {
		return true
	}
	life := n.life
	ok := t.yield(d)
	return ok && n.life == life && !n.disks.dead
}

// Now is the node's multi.Clock.
func (n *node) Now() raft.Time {
	now := n.clock.at(n.w.now)
	if n.mayPause() && !n.pauseAfter {
		now = n.clock.at(n.w.now)
	} // else it was read before the pause, and is used after it
	return now
}

// mayPause is called at places at which a turn may be suspended, and reports whether it was.
func (n *node) mayPause() bool {
	if n.pauseIn == 0 || n.current == nil || n.current.flush {
		return false
	}
	if n.pauseIn--; n.pauseIn > 0 {
		return false
	}
	n.w.rep.reach("suspended inside a turn")
	n.w.tracef("n%d suspended inside a turn for %v", n.id, n.pauseFor)
	n.preempted = clockReadByTurn() // only this worker stands still: what is asked meanwhile is queued
	n.sleep(n.pauseFor)
	n.preempted = false
	return true
}

// step takes a turn: fn, then all that the host can do.
func (n *node) step(fn func()) {
	if !n.up || n.turn != nil {
		return
	}
	body := func() {
		if fn != nil {
			fn()
		}
		n.host.Run()
	}
	if n.pauseIn == 0 {
		body()
		n.afterTurn()
		return
	}
	n.turn = spawn(false, body)
	n.goOn()
}

func (n *node) run() {
	if n.w.now < n.stalledUntil {
		return
	}
	n.step(nil)
}

// goOn resumes a turn that may be suspended in the middle; the whole process then is.
func (n *node) goOn() {
	wait, more := n.resume(n.turn)
	if !more {
		n.turn = nil
		n.afterTurn()
		return
	}
	n.stalledUntil = max(n.stalledUntil, n.w.now+raft.Time(wait)+1) // all else comes after
	n.wakeTurn(n.life, n.turn, wait)
}

func (n *node) wakeTurn(life int, t *task, wait time.Duration) {
	n.w.after(wait, func() {
		switch {
		case !n.up || n.life != life || n.turn != t:
		case n.w.now+1 < n.stalledUntil: // stopped once more, from outside
			n.wakeTurn(life, t, time.Duration(n.stalledUntil-1-n.w.now))
		default:
			n.goOn()
		}
	})
}

// afterTurn looks at what the turn has left, and schedules what the host waits for: syncs and its next deadline.
func (n *node) afterTurn() {
	if !n.up {
		return
	}
	if n.disks.dead {
		n.down()
		return
	}
	w := n.w
	w.check.observe(n)
	life := n.life
	for _, g := range n.host.PendingFlushes() {
		if n.flushing[g] {
			continue
		}
		n.flushing[g] = true
		// A moment until a flusher takes it on, so that some appends share a sync.
		w.after(w.between(0, flushDelay), func() {
			n.inLife(life, func() {
				n.flush(spawn(true, func() { n.host.FlushGroup(g) }), func() { n.flushing[g] = false })
			})
		})
	}
	if n.hard.Pending() && !n.hardFlushing {
		n.hardFlushing = true
		w.after(w.between(0, flushDelay), func() {
			n.inLife(life, func() {
				n.flush(spawn(true, n.hard.Flush), func() { n.hardFlushing = false })
			})
		})
	}
	if d := n.host.Deadline(); n.timerAt <= w.now || n.realTime(d) < n.timerAt {
		at := n.realTime(d)
		if at-w.now < raft.Time(time.Hour) {
			n.timerAt = at
			w.after(time.Duration(at-w.now)+n.timerLate(), func() {
				n.inLife(life, func() {
					if n.timerAt == at || n.timerAt <= w.now {
						n.timerAt = 0
						n.run()
					}
				})
			})
		}
	}
}

// realTime is when the node's clock will show at, if nothing happens to it.
func (n *node) realTime(at raft.Time) raft.Time {
	if d := at - n.clock.at(n.w.now); d > raft.Time(2*time.Hour) {
		return n.w.now + d
	}
	return n.w.now + max(raft.Time(n.clock.until(n.w.now, at)), 1)
}

// timerLate: timers come late, mostly a little.
func (n *node) timerLate() time.Duration {
	if n.w.chance(0.02) {
		return n.w.between(0, 30*time.Millisecond)
	}
	return n.w.between(0, 200*time.Microsecond)
}

// flush carries out work on the disk, step by step.
func (n *node) flush(t *task, done func()) {
	n.flushes = append(n.flushes, t)
	n.goOnFlushing(t, done)
}

func (n *node) goOnFlushing(t *task, done func()) {
	wait, more := n.resume(t)
	if more {
		life := n.life
		n.w.after(wait, func() { n.inLife(life, func() { n.goOnFlushing(t, done) }) })
		return
	}
	for i, o := range n.flushes {
		if o == t {
			n.flushes = append(n.flushes[:i], n.flushes[i+1:]...)
			break
		}
	}
	done()
	n.run()
}

// endTasks unwinds all coroutines of a process that is gone.
func (n *node) endTasks() {
	ts := n.flushes
	if n.turn != nil {
		ts = append([]*task{n.turn}, ts...) // it may hold locks that flushes want
	}
	n.flushes, n.turn = nil, nil
	for _, t := range ts {
		before := n.current
		n.current = nil // nothing waits any more
		t.stop()
		n.current = before
	}
}

// diskTime is what an operation takes, in a flush.
func (n *node) diskTime(op vfs.Op) time.Duration {
	w := n.w
	switch op {
	case vfs.OpSync, vfs.OpSyncDir:
		return w.between(minSync, maxSync) + n.syncSlow
	case vfs.OpWrite:
		if w.chance(0.2) {
			return w.between(0, minSync) + n.syncSlow/8
		}
	}
	return 0
}
