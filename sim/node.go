// A simulated broker: one multi.Host in manual mode over a fake disk, with a replica of every group.

package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

const (
	minSync    = 100 * time.Microsecond
	maxSync    = 4 * time.Millisecond
	flushDelay = 300 * time.Microsecond
	// Small files, so that a minute sees many rolls.
	segmentBytes = 16 << 10
	padFrom      = 300
	// A failed replica is opened again after a while, as the broker does.
	minReopen = 50 * time.Millisecond
	maxReopen = 2 * time.Second
	// A power cut strikes within this many disk operations or this time, whichever comes first.
	cutWithinOps  = 12
	cutWithinTime = 50 * time.Millisecond
	cutBurst      = 24
)

type node struct {
	w     *world
	id    raft.NodeID
	inc   raft.Incarnation // of its data directory
	disk  *vfs.Mem
	quota *vfs.QuotaFS
	rng   *rand.Rand // for disk faults
	clock clock

	up           bool
	life         int // counts starts; events of an earlier life do nothing
	boot         uint64
	host         *multi.Host
	hard         *HardStates
	fs           vfs.FS     // of this life
	replicas     []*replica // by group; nil: not open
	held         bool       // taken away: nothing starts it
	stalledUntil raft.Time
	loseStalled  bool // messages that come while it is stalled are lost
	syncSlow     time.Duration

	current    *task // that runs at this moment
	turn       *task // suspended in the middle of a turn
	flushes    []*task
	pauseIn    int  // clock readings until a turn is suspended; 0: never
	preempted  bool // a turn stands still, and nothing else of the process
	pauseFor   time.Duration
	pauseAfter bool // it goes on with the reading from before

	disks        diskFaults
	flushing     map[raft.GroupID]bool
	hardFlushing bool
	timerAt      raft.Time // true time
}

func newNode(w *world, id raft.NodeID) *node {
	n := &node{w: w, id: id, inc: raft.Incarnation(1000 + id), disk: vfs.NewMem(w.opts.Seed<<8 | uint64(id)), rng: newRand(w.opts.Seed, uint64(id))}
	groups := func() []bool { return make([]bool, w.opts.Groups) }
	n.disks = diskFaults{cutIn: -1, room: unlimited, rotten: groups(), found: groups(), failed: groups(), late: groups()}
	n.reboot()
	n.drawRate()
	return n
}

func groupID(g int) raft.GroupID { return raft.GroupID(g + 2) }

// bootstrap is a group's first membership, in the incarnations that the nodes began with.
func (w *world) bootstrap(g int) raft.ConfState {
	var c raft.ConfState
	for _, id := range w.initial[g] {
		c.Voters = append(c.Voters, raft.Member{ID: id, Incarnation: raft.Incarnation(1000 + id)})
	}
	return c
}

// start boots the process on whatever its disk holds.
func (n *node) start() {
	if n.up || n.held {
		return
	}
	w := n.w
	n.life++
	n.boot++
	n.up = true
	if n.disks.lostPower {
		n.reboot()
	}
	n.disks.dead, n.disks.lostPower, n.disks.cutIn = false, false, -1
	n.stalledUntil, n.loseStalled, n.pauseIn = 0, false, 0
	n.preempted = false
	n.timerAt, n.hardFlushing = 0, false
	n.flushing = map[raft.GroupID]bool{}
	n.replicas = make([]*replica, w.opts.Groups)
	w.tracef("n%d start, life %d, boot %d", n.id, n.life, n.boot)
	// Hard states live on a reserve that records cannot fill.
	hard, err := OpenHardStates(vfs.Inject(n.disk, n.diskOp), "hardstates")
	if err != nil {
		n.startFailed(fmt.Errorf("n%d: open hard states: %w", n.id, err))
		return
	}
	n.quota = vfs.Quota(n.disk, n.disks.room, "groups")
	n.fs = vfs.Inject(n.quota, n.diskOp)
	n.hard = hard
	life := n.life
	host, err := multi.NewHost(multi.Options{
		Self: raft.Member{ID: n.id, Incarnation: n.inc}, Boot: n.boot, Workers: -1,
		ElectionTimeout: electionTimeout, HeartbeatInterval: heartbeatInterval, ClockDrift: clockDrift,
		MaxMessageBytes: w.shape.maxMessageBytes, MaxInflightMsgs: w.shape.maxInflight,
		Crowd: w.shape.crowd, SnapshotChunk: w.shape.snapshotChunk, SnapshotRate: w.shape.snapshotRate,
		Clock: n, Transport: &link{net: w.net, node: n, life: n.life}, HardStates: hard,
		Logger: slog.New(slog.DiscardHandler), Seed: w.rng.Uint64(),
		OnFatal: func(err error) {
			if n.dead() || n.life != life {
				return
			}
			if !errors.Is(err, errIO) {
				w.fail(fmt.Errorf("n%d failed: %w", n.id, err))
			}
			w.rep.reach("broker stopped: hard states could not be synced")
			w.after(0, func() {
				if n.life == life {
					n.kill()
					n.startLater(minReopen, maxReopen)
				}
			})
		},
	})
	if err != nil {
		w.fail(fmt.Errorf("n%d: host: %w", n.id, err))
		return
	}
	n.host = host
	for g := range n.replicas {
		if n.open(g); n.dead() {
			n.startFailed(errPowerCut)
			return
		}
	}
	n.run()
}

// startFailed: the world was in the way. It is tried again.
func (n *node) startFailed(err error) {
	if !n.dead() && !errors.Is(err, errIO) {
		n.w.fail(err)
		return
	}
	if n.dead() {
		n.down() // the power cut in the middle of the start has its own restart coming, or the fault that made it
	} else {
		n.kill()
	}
	n.startLater(minReopen, maxReopen)
}

func (n *node) startLater(lo, hi time.Duration) { n.w.after(n.w.between(lo, hi), n.start) }

// dead: the disk is gone, or the process was killed: what still runs of it does nothing.
func (n *node) dead() bool { return n.disks.dead || !n.up }

// lose is a power cut now.
func (n *node) lose() {
	if !n.up {
		return
	}
	if !n.disks.dead {
		n.cutPower()
	}
	n.down()
}

// kill ends the process; the kernel keeps what it wrote.
func (n *node) kill() {
	if !n.up {
		return
	}
	n.w.tracef("n%d killed", n.id)
	n.disks.dead = true // the old process can do nothing more
	n.down()
}

// down ends a process.
func (n *node) down() {
	n.w.tracef("n%d down", n.id)
	n.up = false
	n.endTasks()
	n.addCoverage()
	n.w.check.lifeEnded(n)
}

// stall stops the process for a while, as SIGSTOP or a suspend of the machine does: its clock goes on.
func (n *node) stall(d time.Duration) {
	if n.up {
		n.stalledUntil = max(n.stalledUntil, n.w.now+raft.Time(d))
		life := n.life
		n.w.after(d, func() { n.inLife(life, n.run) })
	}
}

// inLife calls fn unless the process it was meant for is gone; a stalled process does it on waking, in order.
func (n *node) inLife(life int, fn func()) {
	if !n.up || n.life != life {
		return
	}
	if n.w.now < n.stalledUntil {
		n.w.after(time.Duration(n.stalledUntil-n.w.now), func() { n.inLife(life, fn) })
		return
	}
	fn()
}

func (n *node) deliver(m raft.Message) {
	if n.w.now < n.stalledUntil && n.loseStalled {
		n.w.rep.Lost++
		return
	}
	n.inLife(n.life, func() {
		n.noteOffer(&m)
		n.step(func() { n.host.Deliver([]raft.Message{m}) })
	})
}

func (n *node) deliverPair(from raft.NodeID, m *multi.PairMessage) {
	if n.w.now < n.stalledUntil && n.loseStalled {
		n.w.rep.Lost++
		return
	}
	n.inLife(n.life, func() {
		n.step(func() { n.host.DeliverPair(from, m) })
	})
}

func (n *node) deliverChunk(from raft.NodeID, m *multi.ChunkMessage) {
	if n.w.now < n.stalledUntil && n.loseStalled {
		n.w.rep.Lost++
		return
	}
	n.inLife(n.life, func() {
		n.step(func() { n.host.DeliverChunk(from, m) })
	})
}

// replica is g's, if it is open and has not failed.
func (n *node) replica(g int) *replica {
	if !n.up || n.disks.dead {
		return nil
	}
	if r := n.replicas[g]; r != nil && !r.failed {
		return r
	}
	return nil
}

func (n *node) leads(g int) bool {
	r := n.replica(g)
	return r != nil && r.group.Status().Role == raft.Leader
}

// open opens one group, or sees to it that it is tried again.
func (n *node) open(g int) {
	r, err := n.openReplica(g)
	switch {
	case err == nil:
		n.replicas[g] = r
		life := n.life
		n.w.after(0, func() { n.inLife(life, func() { n.follow(g, life) }) })
	case n.dead():
	case n.excuses(g, err):
		n.w.rep.reach("replica could not be opened, and was tried again")
		n.w.tracef("n%d group %d cannot be opened: %v", n.id, g, err)
		n.reopenLater(g, nil)
	default:
		n.w.fail(fmt.Errorf("n%d: open group %d: %w", n.id, g, err))
	}
}

func (n *node) openReplica(g int) (*replica, error) {
	if n.outlived(g) {
		if err := n.setAside(g); err != nil {
			return nil, err
		}
	}
	past := segment.NeverRan
	_, voted := n.hard.Load(groupID(g))
	if voted {
		past = segment.RanBefore
	}
	log, err := segment.Open(n.fs, groupDir(g), groupID(g),
		segment.Options{SegmentBytes: segmentBytes, ZeroAhead: n.w.shape.zeroAhead, ScanBytes: n.w.shape.scanBytes, Direct: n.w.shape.direct,
			Pads: func() bool { return n.w.shape.pads }, PadFrom: padFrom, PadShare: 1, Checkpoints: n.w.shape.data[g], Past: past})
	if err != nil {
		return nil, err
	}
	log.SetRelaxed(n.w.shape.relaxed[g])
	r := &replica{node: n, g: g, log: log}
	life := n.life
	h := log.Health()
	fresh := !voted && log.LastIndex() == 0 && h.DamagedUpTo == 0
	bootstrap, epoch := n.w.bootstrap(g), raft.GroupEpoch(0)
	if s := n.w.resets[g]; s != nil {
		epoch = s.Epoch
		if fresh { // it learns the membership from its leader
			bootstrap = raft.ConfState{}
		}
	}
	n.noteRecovery(g, h)
	keep := n.w.shape.keepEntries
	if n.w.shape.data[g] {
		keep = -1
	}
	r.group, err = n.host.CreateGroup(multi.GroupConfig{
		ID: groupID(g), Log: &timedLog{log, n}, Stager: r, StateMachine: r, Bootstrap: bootstrap, Fresh: fresh, Epoch: epoch, Priorities: slices.Clone(n.w.prefer[g]),
		VoteAfter: h.DamagedUpTo, CommitDelay: n.w.shape.commitDelay, Throttle: n.w.opts.Paced, SnapshotEvery: n.w.shape.snapshotEvery, KeepEntries: keep,
		OnFatal: func(err error) {
			if n.dead() || n.life != life {
				return
			}
			r.failed = true
			if !n.excuses(g, err) {
				n.w.fail(fmt.Errorf("n%d group %d failed: %w", n.id, g, err))
			}
			n.w.rep.reach("replica failed, and was opened again")
			n.w.tracef("n%d group %d failed: %v", n.id, g, err)
			n.reopenLater(g, r)
		},
	})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return r, nil
}

// reopenLater closes what is left of a failed replica, if anything is, and opens it anew.
func (n *node) reopenLater(g int, old *replica) {
	life := n.life
	n.w.after(n.w.between(minReopen, maxReopen), func() { n.inLife(life, func() { n.reopen(g, old) }) })
}

func (n *node) reopen(g int, old *replica) {
	if n.replicas[g] != old {
		return
	}
	if n.hardFlushing && n.outlived(g) { // its hard state has to go
		n.reopenLater(g, old)
		return
	}
	if old != nil {
		if n.flushing[groupID(g)] { // the flusher has its log: later
			n.reopenLater(g, old)
			return
		}
		_ = old.group.Close() // of a failed log: nothing is promised of it
		n.w.check.replicaEnded(n, g)
		n.replicas[g] = nil
	}
	if !n.dead() {
		n.open(g)
	}
	if n.dead() {
		n.down()
		return
	}
	n.run()
}

// timedLog is a log whose syncs are reported a moment after they are done.
type timedLog struct {
	*segment.Log
	n *node
}

// Sync implements multi.Log.
func (l *timedLog) Sync() (raft.Ticket, error) {
	t, err := l.Log.Sync()
	if l.Behind() > 0 {
		l.n.w.rep.reach("acknowledged ahead of the disk")
	}
	if err == nil && l.n.w.chance(0.3) {
		l.n.sleep(l.n.w.between(0, maxSync) + l.n.syncSlow/2)
	}
	return t, err
}
