// What goes wrong with disks, and what of it must be survived.
//
// Of any node, at any time: power cuts, which lose or tear what was not synced; writes and syncs that fail (and of which the
// disk then holds nobody knows how much, while the cache shows all: fsyncgate); disks that are slow, hang, or run full. None of
// these may cost an acknowledged entry, however many nodes they strike.
//
// Of one node per run, the weak one: bytes that were durable are damaged at rest (flipped bits; sectors that were never written,
// or that hold what belongs elsewhere; a closed segment file that is gone), or the whole disk is replaced by an empty one. One node
// is a minority: membership changes leave at least three voters in such runs. Again no acknowledged entry may be lost.
//
// Of a group with relaxed durability acknowledged entries may be lost if a majority loses power. So in runs with such groups it is the weak node
// alone that does, and while it is a minority; the others' processes are killed in its place, which must cost nothing however many. Syncs of
// such a group do not fail, as that is a loss like one of power (segment.TestRelaxedProperty).
//
// Never damaged is what nothing else proves to have been durable: the bytes of the last mark of a log, and what was written
// behind it. There a flipped bit cannot be told from a write that a power cut tore, and the design takes it for one. Nor is a log
// damaged a second time before the first damage has been found and repaired: the second might hit the proof of the first.

package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strings"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

var (
	errPowerCut = errors.New("power cut")
	errIO       = errors.New("input/output error")
)

const unlimited int64 = math.MaxInt64 / 2

type diskFaults struct {
	cutIn     int  // disk operations until a power cut; <0: none pending
	dead      bool // the process can do nothing more
	lostPower bool // and neither can the machine, until it boots
	failIn    int  // writes or syncs until one fails; 0: none pending
	failKind  vfs.Op
	room      int64 // bytes that the logs may take in all
	// By group. rotten: damaged, and not known to be repaired; found: a recovery has seen it; failed: an operation was
	// made to fail since the replica was opened.
	rotten, found, failed []bool
	// late: the power was lost under a group with relaxed durability, and no recovery has said yet what that has cost.
	late []bool
}

func groupDir(g int) string { return fmt.Sprintf("groups/%d", groupID(g)) }

// diskOp sees every operation on the disk before it happens.
func (n *node) diskOp(op vfs.Op, name string) error {
	d, w := &n.disks, n.w
	if d.dead {
		return errPowerCut
	}
	if d.cutIn == 0 {
		n.cutPower()
		w.tracef("n%d power cut at %v %s", n.id, op, name)
		w.rep.reach("power cut inside a disk operation")
		return errPowerCut
	}
	if d.cutIn > 0 && op != vfs.OpRead {
		d.cutIn--
	}
	if n.current != nil && n.current.flush {
		if t := n.diskTime(op); t > 0 && !n.sleep(t) {
			return errPowerCut
		}
	}
	if d.failIn > 0 && op == d.failKind {
		if d.failIn--; d.failIn == 0 {
			return n.failOp(op, name)
		}
	}
	if w.opts.Disk != nil {
		return w.opts.Disk(op, name)
	}
	return nil
}

// cutPower loses what was not synced; or it ends the process only, if some group could not bear that.
func (n *node) cutPower() {
	n.disks.dead = true
	if !n.mayForget() {
		n.w.rep.reach("killed in place of a power cut")
		return
	}
	for g, relaxed := range n.w.shape.relaxed {
		n.disks.late[g] = n.disks.late[g] || relaxed
	}
	n.disks.lostPower = true
	n.disk = n.disk.CrashClone(n.rng)
}

// mayForget: no group with relaxed durability may lose what it has acknowledged if this node loses power.
func (n *node) mayForget() bool {
	for g, relaxed := range n.w.shape.relaxed {
		if relaxed && (n != n.w.shape.weak || !n.w.mayDamage(g)) {
			return false
		}
	}
	return true
}

func (n *node) failOp(op vfs.Op, name string) error {
	for g, relaxed := range n.w.shape.relaxed {
		if relaxed && strings.HasPrefix(name, groupDir(g)) {
			return nil
		}
	}
	n.w.rep.reach(fmt.Sprintf("failed %v", op))
	n.w.tracef("n%d %v %s fails", n.id, op, name)
	for g := range n.disks.failed {
		if strings.HasPrefix(name, groupDir(g)) {
			n.disks.failed[g] = true
		}
	}
	switch op {
	case vfs.OpSync:
		if err := n.disk.FailSync(name, n.rng); err != nil {
			n.w.fail(err)
		}
	case vfs.OpWrite:
		return &vfs.ShortWriteError{N: n.rng.IntN(2000), Err: errIO}
	}
	return errIO
}

// excuses says whether a replica may have failed: its disk was made to.
func (n *node) excuses(g int, err error) bool {
	return n.disks.failed[g] || errors.Is(err, errIO) || errors.Is(err, vfs.ErrNoSpace) || n.disks.rotten[g] &&
		(errors.Is(err, segment.ErrCorrupt) || errors.Is(err, segment.ErrBadSnapshot) || errors.Is(err, fs.ErrNotExist))
}

// noteRecovery looks at what the opening of a log has found. Corruption where nothing was damaged is a verdict that costs a
// replica its vote for nothing.
func (n *node) noteRecovery(g int, h segment.Health) {
	d, rec := &n.disks, h.Recovery
	d.failed[g] = false
	if d.late[g] {
		// What lies in wait elsewhere in the log is not found by that, nor repaired with it.
		if d.late[g] = false; h.DamagedUpTo > 0 && !d.rotten[g] {
			d.rotten[g], d.found[g] = true, true
		}
	}
	for _, c := range []struct {
		is   bool
		what string
	}{
		{rec.Torn, "torn tail cut at recovery"}, {rec.Corrupt, "damage found at recovery"}, {rec.SnapshotLost, "snapshot lost at recovery"},
		{h.DamagedUpTo > 0, "replica does not vote until it is repaired"},
		{rec.RanAhead != "", "may have lost what it acknowledged ahead of a sync"},
	} {
		if c.is {
			n.w.rep.reach(c.what)
		}
	}
	if rec.Corrupt || rec.SnapshotLost {
		n.w.tracef("n%d group %d damage from %d up to %d: %s", n.id, g, rec.CorruptFrom, h.DamagedUpTo, rec.Reason)
		if !d.rotten[g] {
			n.w.fail(&FalseDamageError{n.id, g, rec.Reason})
		}
		d.found[g] = true
	}
}

// sound says whether the damage of g, if there was any, has been repaired.
func (n *node) sound(g int) bool {
	d := &n.disks
	if r := n.replica(g); d.rotten[g] && d.found[g] && r != nil && r.log.Health().DamagedUpTo == 0 {
		d.rotten[g], d.found[g] = false, false
	}
	return !d.rotten[g] && !d.late[g]
}

// mayDamage: the weak node is a minority of every membership of g that anybody knows, and g is not about to go on with less.
func (w *world) mayDamage(g int) bool {
	ok := !w.resetting(g)
	w.eachConf(g, func(c *raft.ConfState) {
		if len(c.Voters) < 3 || c.Joint() && len(c.Outgoing) < 3 {
			ok = false
		}
	})
	return ok
}

// eachConf calls fn with every membership of g that a node holds, and the latest that is known to be committed.
func (w *world) eachConf(g int, fn func(*raft.ConfState)) {
	for _, n := range w.nodes {
		if r := n.replica(g); r != nil {
			c := r.group.Status().Conf
			fn(&c)
		}
	}
	if c := w.check.conf[g]; c != nil {
		fn(c)
	}
}

// faultRot damages something durable on the weak node.
func (w *world) faultRot() {
	n := w.shape.weak
	if n == nil || !n.up || n.disks.dead {
		return
	}
	if n.rot(w.rng.IntN(w.opts.Groups)) {
		if w.chance(0.7) { // else it lies in wait until somebody reads it
			switch life := n.life; w.rng.IntN(2) {
			case 0:
				w.after(w.between(0, 3*time.Second), func() { n.inLife(life, n.kill) })
			case 1:
				w.after(w.between(0, 3*time.Second), func() { n.inLife(life, n.lose) })
			}
			n.startLater(3*time.Second, 6*time.Second)
		}
	}
}

// rot damages a group's files if all that the replica holds is proven, and stays so: it is idle, and its mark is on the disk.
// See above.
func (n *node) rot(g int) bool {
	w, r := n.w, n.replica(g)
	if r == nil || !n.sound(g) || !w.mayDamage(g) || n.flushing[groupID(g)] || r.log.MarkPending() || r.log.Unsynced() > 0 ||
		r.log.SyncedIndex() != r.log.LastIndex() || r.log.LastIndex() == 0 || r.log.Health().DamagedUpTo != 0 {
		return false
	}
	what := n.damage(g)
	if what == "" {
		return false
	}
	n.disks.rotten[g], n.disks.found[g] = true, false
	w.rep.reach("damage: " + what)
	w.tracef("n%d group %d damaged: %s", n.id, g, what)
	return true
}

// besideWeak are the two others of a group of three that the weak node follows in, nil if it is not so.
func (w *world) besideWeak(g int) (leader, third *node) {
	n := w.shape.weak
	leader = w.check.leader(g)
	if n == nil || leader == nil || leader == n {
		return nil, nil
	}
	conf := leader.replicas[g].group.Status().Conf
	for _, m := range conf.Voters {
		if m.ID != n.id && m.ID != leader.id {
			third = w.nodes[m.ID-1]
		}
	}
	if len(conf.Voters) != 3 || conf.Joint() || !isVoter(&conf, n) || third == nil {
		return nil, nil
	}
	return leader, third
}

// faultRotElection damages the weak node where that tells: it and the leader alone have the latest entries, and when it comes
// back with what is left of them the leader goes, and who has less returns.
func (w *world) faultRotElection() {
	n, g := w.shape.weak, w.rng.IntN(w.opts.Groups)
	leader, late := w.besideWeak(g)
	if leader == nil {
		return
	}
	write := func(most int, within time.Duration) {
		for range w.rng.IntN(most) {
			w.after(w.between(0, within), func() {
				if leader.leads(g) {
					w.writeTo(leader, g, w.newOp(), 0)
				}
			})
		}
	}
	strike := w.between(900*time.Millisecond, 2*time.Second)
	back := strike + w.between(0, 150*time.Millisecond)
	gone := back + w.between(0, 120*time.Millisecond)
	w.isolate(late, gone+w.between(0, time.Second))
	write(10, 200*time.Millisecond)
	w.after(strike-w.between(0, 60*time.Millisecond), func() {
		if n.rot(g) {
			w.rep.reach("damage before an election")
			write(12, 60*time.Millisecond)
		}
	})
	w.after(strike, func() {
		if w.chance(0.5) {
			n.kill()
		} else {
			n.lose()
		}
	})
	w.after(back, n.start)
	w.after(gone, func() {
		leader.kill()
		leader.startLater(3*time.Second, 6*time.Second)
	})
}

// damage does one of the things that disks do to a group's files, and says which.
func (n *node) damage(g int) string {
	dir := groupDir(g)
	names, err := n.disk.ReadDir(dir)
	if err != nil {
		return ""
	}
	var logs, small []string
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, ".log"):
			logs = append(logs, name)
		case name == "meta" || name == "snapshot" || strings.HasSuffix(name, ".idx"):
			small = append(small, name)
		}
	}
	newest := newestOf(logs)
	switch k := n.rng.IntN(10); {
	case k == 0 && len(small) > 0:
		name := small[n.rng.IntN(len(small))]
		b := n.contents(path.Join(dir, name))
		if len(b) == 0 {
			return ""
		}
		at := n.rng.IntN(len(b))
		if n.put(path.Join(dir, name), at, []byte{b[at] ^ 1<<n.rng.IntN(8)}) {
			return "bit of " + strings.TrimLeft(name, "0123456789-abcdef") + " flipped"
		}
	case k == 1 && len(logs) > 1:
		name := logs[n.rng.IntN(len(logs))]
		if name == newest {
			return ""
		}
		if n.disk.Remove(path.Join(dir, name)) == nil && n.disk.SyncDir(dir) == nil {
			return "closed segment gone"
		}
	case len(logs) > 0:
		name := logs[n.rng.IntN(len(logs))]
		b := n.contents(path.Join(dir, name))
		end, where := len(b), "closed"
		if name == newest {
			// Not the last mark, which proves the rest.
			end, where = len(bytes.TrimRight(b, "\x00"))-64, "hot"
		}
		if end <= 0 {
			return ""
		}
		return n.damageLog(path.Join(dir, name), b[:end], where)
	}
	return ""
}

func (n *node) damageLog(name string, b []byte, where string) string {
	sectors := len(b) / vfs.SectorSize
	sector := func(i int) []byte { return b[i*vfs.SectorSize : (i+1)*vfs.SectorSize] }
	switch k := n.rng.IntN(4); {
	case k == 0 && sectors > 1:
		i := 1 + n.rng.IntN(sectors-1)
		if len(bytes.TrimLeft(sector(i), "\x00")) > 0 && n.put(name, i*vfs.SectorSize, make([]byte, vfs.SectorSize)) {
			return "lost write in a " + where + " segment"
		}
	case k == 1 && sectors > 2:
		i, j := 1+n.rng.IntN(sectors-1), 1+n.rng.IntN(sectors-1)
		from := bytes.Clone(sector(i))
		if i != j && !bytes.Equal(from, sector(j)) && n.put(name, j*vfs.SectorSize, from) && n.put(name, i*vfs.SectorSize, make([]byte, vfs.SectorSize)) {
			return "misdirected write in a " + where + " segment"
		}
	default:
		at := n.rng.IntN(len(b))
		if n.put(name, at, []byte{b[at] ^ 1<<n.rng.IntN(8)}) {
			return "bit of a " + where + " segment flipped"
		}
	}
	return ""
}

// newestOf is the segment file of the highest generation.
func newestOf(logs []string) string {
	newest, gen := "", ""
	for _, name := range logs {
		_, g, _ := strings.Cut(strings.TrimSuffix(name, ".log"), "-")
		if newest == "" || len(g) > len(gen) || len(g) == len(gen) && g > gen {
			newest, gen = name, g
		}
	}
	return newest
}

func (n *node) contents(name string) []byte {
	f, err := n.disk.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size == 0 {
		return nil
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil
	}
	return b
}

func (n *node) put(name string, at int, p []byte) bool {
	return n.disk.Damage(name, int64(at), p) == nil
}

// faultFailedIO makes a write or a sync fail soon. The replica, or the broker, must stop and open what the disk really holds.
func (w *world) faultFailedIO() {
	n := w.target()
	n.disks.failIn = 1 + w.rng.IntN(6)
	n.disks.failKind = []vfs.Op{vfs.OpSync, vfs.OpSync, vfs.OpSync, vfs.OpWrite, vfs.OpSyncDir}[w.rng.IntN(5)]
	if w.chance(0.3) { // what the cache showed after it must not be believed after a power cut
		w.after(w.between(200*time.Millisecond, 4*time.Second), func() {
			n.lose()
			n.startLater(10*time.Millisecond, time.Second)
		})
	}
}

// faultFullDisk leaves room for a little more.
func (w *world) faultFullDisk() {
	n := w.target()
	if !n.up || n.quota == nil {
		return
	}
	n.disks.room = n.quota.Used() + w.rng.Int64N(128<<10)
	n.quota.SetLimit(n.disks.room)
	w.after(w.between(time.Second, 10*time.Second), n.makeRoom)
}

func (n *node) makeRoom() {
	n.disks.room = unlimited
	if n.quota != nil {
		n.quota.SetLimit(unlimited)
	}
}

// faultSlowDisk makes syncs slow, or so slow that the disk as good as hangs.
func (w *world) faultSlowDisk() {
	n := w.target()
	n.syncSlow = w.between(20*time.Millisecond, 800*time.Millisecond)
	if w.chance(0.15) {
		n.syncSlow = w.between(3*time.Second, 15*time.Second)
	}
	w.after(w.between(time.Second, 8*time.Second), func() { n.syncSlow = 0 })
}
