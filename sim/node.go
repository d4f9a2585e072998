// A simulated broker: one multi.Host in manual mode over a fake disk, with every group on it.

package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

const (
	minSync = 100 * time.Microsecond
	maxSync = 4 * time.Millisecond
	// Small files and snapshots, so that a minute sees many rolls, compactions and installs.
	segmentBytes  = 16 << 10
	snapshotEvery = 8 << 10
	keepEntries   = 20
	// A power cut strikes within this many disk operations or this time, whichever comes first.
	cutWithinOps  = 12
	cutWithinTime = 50 * time.Millisecond
	cutBurst      = 24
)

var errPowerCut = errors.New("power cut")

type node struct {
	w    *world
	id   raft.NodeID
	disk *vfs.Mem
	rng  *rand.Rand // for disk crashes

	up           bool
	life         int // counts starts; events of an earlier life do nothing
	boot         uint64
	host         *multi.Host
	hard         *HardStates
	replicas     []*replica
	stalledUntil raft.Time
	syncSlow     time.Duration

	cutIn      int // disk operations until a power cut; <0: none pending
	diskDead   bool
	flushing   map[raft.GroupID]bool
	hardSyncAt bool
	timerAt    raft.Time
}

func newNode(w *world, id raft.NodeID) *node {
	return &node{w: w, id: id, disk: vfs.NewMem(w.opts.Seed<<8 | uint64(id)), cutIn: -1, rng: rand.New(rand.NewPCG(w.opts.Seed, uint64(id)))}
}

func groupID(g int) raft.GroupID { return raft.GroupID(g + 2) }

func (n *node) members() raft.ConfState {
	var c raft.ConfState
	for _, o := range n.w.nodes {
		c.Voters = append(c.Voters, raft.Member{ID: o.id, Incarnation: incarnation(o.id)})
	}
	return c
}

func incarnation(id raft.NodeID) raft.Incarnation { return raft.Incarnation(1000 + id) }

// start boots the process on whatever its disk holds.
func (n *node) start() {
	if n.up {
		return
	}
	n.life++
	n.boot++
	n.up = true
	n.diskDead = false
	n.cutIn = -1
	n.stalledUntil = 0
	n.timerAt = 0
	n.hardSyncAt = false
	n.flushing = map[raft.GroupID]bool{}
	n.w.tracef("n%d start, life %d", n.id, n.life)
	fs := vfs.Inject(n.disk, n.diskOp)
	hard, err := OpenHardStates(fs, "hardstates")
	if err != nil {
		n.w.fail(fmt.Errorf("n%d: open hard states: %w", n.id, err))
		return
	}
	n.hard = hard
	host, err := multi.NewHost(multi.Options{
		Self: raft.Member{ID: n.id, Incarnation: incarnation(n.id)}, Boot: n.boot, Workers: -1,
		ElectionTimeout: electionTimeout, HeartbeatInterval: heartbeatInterval, ClockDrift: clockDrift,
		Clock: n, Transport: &link{net: n.w.net, node: n, life: n.life}, HardStates: hard,
		Logger: slog.New(slog.DiscardHandler), Seed: n.w.rng.Uint64(),
	})
	if err != nil {
		n.w.fail(fmt.Errorf("n%d: host: %w", n.id, err))
		return
	}
	n.host = host
	n.replicas = nil
	for g := range n.w.opts.Groups {
		r, err := openReplica(n, fs, g)
		if err != nil {
			if n.diskDead {
				return
			}
			n.w.fail(fmt.Errorf("n%d: open group %d: %w", n.id, g, err))
			return
		}
		n.replicas = append(n.replicas, r)
	}
	n.run()
}

// Now is the node's multi.Clock.
func (n *node) Now() raft.Time { return n.w.now }

// diskOp sees every operation on the disk before it happens.
func (n *node) diskOp(op vfs.Op, name string) error {
	if n.diskDead {
		return errPowerCut
	}
	if n.cutIn == 0 {
		n.diskDead = true
		n.disk = n.disk.CrashClone(n.rng)
		n.w.tracef("n%d power cut at %v %s", n.id, op, name)
		n.w.rep.reach("power cut inside a disk operation")
		return errPowerCut
	}
	if n.cutIn > 0 && op != vfs.OpRead {
		n.cutIn--
	}
	if n.w.opts.Disk != nil {
		return n.w.opts.Disk(op, name)
	}
	return nil
}

// powerCut arms a cut that strikes within the next disk operations, or soon.
func (n *node) powerCut() {
	if !n.up || n.cutIn >= 0 {
		return
	}
	n.cutIn = n.rng.IntN(cutWithinOps)
	// Give it something to strike.
	for i := range n.w.rng.IntN(cutBurst) {
		n.w.after(n.w.between(0, cutWithinTime), func() { n.w.operation(1<<62|uint64(n.w.seq)<<8|uint64(i), 0) })
	}
	life := n.life
	n.w.after(n.w.between(0, cutWithinTime), func() {
		if n.up && n.life == life {
			n.lose()
		}
	})
}

// lose is a power cut now.
func (n *node) lose() {
	if !n.diskDead {
		n.diskDead = true
		n.disk = n.disk.CrashClone(n.rng)
	}
	n.dead()
}

// dead ends a process whose machine lost power.
func (n *node) dead() {
	n.w.tracef("n%d down", n.id)
	n.up = false
	n.addCoverage()
	n.w.check.lifeEnded(n)
}

// kill ends the process; the kernel keeps what it wrote.
func (n *node) kill() {
	if !n.up {
		return
	}
	n.w.tracef("n%d killed", n.id)
	n.diskDead = true // the old process can do nothing more
	n.dead()
}

func (n *node) healDisk() { n.syncSlow = 0 }

func (n *node) stall(d time.Duration) {
	if n.up {
		n.stalledUntil = n.w.now + raft.Time(d)
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
	n.inLife(n.life, func() {
		n.host.Deliver([]raft.Message{m})
		n.run()
	})
}

func (n *node) deliverPair(from raft.NodeID, m multi.PairMessage) {
	n.inLife(n.life, func() {
		n.host.DeliverPair(from, &m)
		n.run()
	})
}

// run lets the host do all that it can, then schedules what it waits for: syncs and its next deadline.
func (n *node) run() {
	w := n.w
	if !n.up || w.now < n.stalledUntil {
		return
	}
	n.host.Run()
	if n.diskDead {
		n.dead()
		return
	}
	w.check.observe(n)
	life := n.life
	for _, g := range n.host.PendingFlushes() {
		if n.flushing[g] {
			continue
		}
		n.flushing[g] = true
		w.after(w.between(minSync, maxSync)+n.syncSlow, func() {
			n.inLife(life, func() {
				n.flushing[g] = false
				n.host.FlushGroup(g)
				n.run()
			})
		})
	}
	if n.hard.Pending() && !n.hardSyncAt {
		n.hardSyncAt = true
		w.after(w.between(minSync, maxSync)+n.syncSlow/2, func() {
			n.inLife(life, func() {
				n.hardSyncAt = false
				n.hard.Flush()
				n.run()
			})
		})
	}
	if d := n.host.Deadline(); n.timerAt <= w.now || d < n.timerAt {
		n.timerAt = max(d, w.now+1)
		at := n.timerAt
		if at-w.now < raft.Time(time.Hour) {
			w.after(time.Duration(at-w.now), func() {
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

func (n *node) leads(g int) bool {
	return n.up && g < len(n.replicas) && n.replicas[g].group.Status().Role == raft.Leader
}

// openReplica opens one group.
func openReplica(n *node, fs vfs.FS, g int) (*replica, error) {
	dir := fmt.Sprintf("groups/%d", groupID(g))
	log, err := segment.Open(fs, dir, groupID(g), segment.Options{SegmentBytes: segmentBytes})
	if err != nil {
		return nil, err
	}
	_, voted := n.hard.Load(groupID(g))
	r := &replica{node: n, g: g, log: log}
	fresh := !voted && log.LastIndex() == 0
	if log.Health().Recovery.Torn {
		n.w.rep.reach("torn tail cut at recovery")
	}
	r.group, err = n.host.CreateGroup(multi.GroupConfig{
		ID: groupID(g), Log: log, Stager: r, StateMachine: r, Bootstrap: n.members(), Fresh: fresh,
		VoteAfter: log.Health().DamagedUpTo, SnapshotEvery: snapshotEvery, KeepEntries: keepEntries,
		OnFatal: func(err error) {
			if !n.diskDead {
				n.w.fail(fmt.Errorf("n%d group %d failed: %w", n.id, g, err))
			}
		},
	})
	return r, err
}
