// Disk faults, one after another, on one of three brokers that are written to: what each leads to, and that the replica is
// repaired from its peers without help. The table of docs/design/0016-repair.md names the faults below.

package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

var errDisk = errors.New("input/output error")

// sickDisk is a broker's file system, whose operations fail as somebody asks for, and which can be edited behind its back.
type sickDisk struct {
	*vfs.Mem
	fault atomic.Pointer[func(op vfs.Op, name string) error]
	lost  atomic.Bool // hard states are not saved
}

func (d *sickDisk) fs() vfs.FS {
	return vfs.Inject(d.Mem, func(op vfs.Op, name string) error {
		if f := d.fault.Load(); f != nil {
			return (*f)(op, name)
		}
		return nil
	})
}

// sickStates fails when the disk says so, and for good, as the journal does.
type sickStates struct {
	*memStore
	d      *sickDisk
	failed atomic.Bool
}

func (s *sickStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	if s.d.lost.Load() {
		s.failed.Store(true)
	}
	if s.failed.Load() {
		go done(errDisk)
		return
	}
	s.memStore.Save(g, hs, done)
}

var _ multi.HardStateStore = (*sickStates)(nil)

// flip flips a bit of a file, durably.
func (d *sickDisk) flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := d.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatalf("%s at %d: %v", name, at, err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func (d *sickDisk) content(t *testing.T, name string) []byte {
	t.Helper()
	f, err := d.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func (d *sickDisk) remove(t *testing.T, name string) {
	t.Helper()
	if err := errors.Join(d.RemoveAll(name), d.SyncDir(path.Dir(name))); err != nil {
		t.Fatal(err)
	}
}

// files are those of a directory with a suffix, in order.
func (d *sickDisk) files(t *testing.T, dir, suffix string) (out []string) {
	t.Helper()
	names, err := d.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, suffix) {
			out = append(out, path.Join(dir, n))
		}
	}
	return out
}

// repairs is a cluster under load, and its disks.
type repairs struct {
	*testCluster
	t     *testing.T
	disks map[*node]*sickDisk
	group raft.GroupID
	load  *load
}

const repairTopic = "a"

func newRepairs(t *testing.T, change ...func(*Config)) *repairs {
	c := newCluster(t, 3, true)
	r := &repairs{testCluster: c, t: t, disks: make(map[*node]*sickDisk)}
	for i, n := range c.nodes {
		d := &sickDisk{Mem: vfs.NewMem(uint64(i))}
		r.disks[n] = d
		n.cfg.FS = d.fs()
		n.cfg.HardStates = &sickStates{memStore: n.cfg.HardStates.(*memStore), d: d}
		n.cfg.ElectionTimeout = 500 * time.Millisecond
		for _, fn := range change {
			fn(&n.cfg)
		}
	}
	c.start(c.nodes...)
	for _, n := range c.nodes {
		n.cfg.Listen = n.KafkaAddr()
	}
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, repairTopic, 1, 3)
	soon(t, "the topic is served", func() bool { return c.served(id) })
	r.group = c.nodes[0].Image().Topic(repairTopic).Partitions[0].Group
	r.load = r.trickle()
	r.load.burst(5 << 20)
	for n, d := range r.disks { // what is acknowledged a majority has
		soon(t, fmt.Sprintf("the replica of broker %d has enough files for a middle", n.NodeID()), func() bool { return len(d.files(t, r.dir(), ".log")) >= 5 })
	}
	return r
}

// trickle writes a small record every few milliseconds.
func (r *repairs) trickle() *load {
	var seeds []string
	for _, n := range r.nodes {
		seeds = append(seeds, n.KafkaAddr())
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MetadataMinAge(20*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.RecordRetries(1<<30))
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	l := &load{t: r.t, topic: repairTopic, cl: cl, cancel: cancel, acked: make(map[int32]map[int64]string)}
	l.wg.Go(func() {
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for ctx.Err() == nil {
			l.one(ctx, 100)
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
	})
	r.t.Cleanup(l.abandon)
	return l
}

// abandon ends the load whatever becomes of its last record. To cancel it is not enough: a record that may have reached a broker is tried until
// the client is closed, and there may be no leader to try it with.
func (l *load) abandon() {
	l.cancel()
	l.cl.Close()
	l.wg.Wait()
}

var serial atomic.Int64

// one writes a record and waits for what becomes of it.
func (l *load) one(ctx context.Context, size int) {
	value := fmt.Sprintf("%08d %s", serial.Add(1), strings.Repeat("x", size))
	rec, err := l.cl.ProduceSync(ctx, &kgo.Record{Topic: l.topic, Value: []byte(value)}).First()
	if err != nil {
		return // it may be there; nobody was promised anything
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked[rec.Partition] == nil {
		l.acked[rec.Partition] = make(map[int64]string)
	}
	l.acked[rec.Partition][rec.Offset] = value[:8]
	l.n++
}

// burst writes so many bytes, in large records.
func (l *load) burst(bytes int) {
	const size = 100 << 10
	for range bytes / size {
		l.one(l.t.Context(), size)
	}
}

func (r *repairs) dir() string { return path.Join("/data/groups", groupDirName(r.group)) }

// victim is the leader, or a follower.
func (r *repairs) victim(leads bool) *node {
	var found *node
	soon(r.t, "a victim is found", func() bool {
		for _, n := range r.running() {
			rep := n.rec.replica(r.group)
			if rep == nil || rep.Raft() == nil {
				return false
			}
			if s := rep.Raft().Status(); s.Ready == leads && s.Leader != 0 {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// said: the broker's log says so, behind a place in it.
func (n *node) said(from int, what string) bool {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	return bytes.Contains(n.log.buf.Bytes()[from:], []byte(what))
}

func (n *node) logged() int {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	return n.log.buf.Len()
}

// sound waits until a broker's replica is open, votes, and has everything that was committed when this was called.
func (r *repairs) sound(n *node) {
	r.t.Helper()
	var want raft.Index
	last := ""
	defer func() {
		if r.t.Failed() {
			r.t.Logf("last: %s", last)
		}
	}()
	soon(r.t, "the replica is repaired", func() bool {
		for _, o := range r.running() {
			if rep := o.rec.replica(r.group); rep != nil && rep.Raft() != nil {
				if s := rep.Raft().Status(); s.Ready {
					want = max(want, s.Commit)
				}
			}
		}
		rep := n.rec.replica(r.group)
		if rep == nil {
			last = "not open"
			return false
		}
		d := rep.Describe()
		last = fmt.Sprintf("%+v, wanted up to %d", d, want)
		return want > 0 && d.State == partition.StateOpen && d.DamagedUpTo == 0 && d.Log.DamagedUpTo == 0 && d.Log.Err == nil && d.Log.ReadErr == nil && d.Applied >= want
	})
	// And it can be read from its beginning to its end.
	rep := n.rec.replica(r.group)
	d := rep.Describe()
	for at := d.LogStart; at < d.HighWatermark; {
		res, err := rep.Read(partition.ReadQuery{Offset: at, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
		if err != nil || len(res.Batches) == 0 {
			r.t.Fatalf("offset %d of [%d, %d) cannot be read after the repair: %v", at, d.LogStart, d.HighWatermark, err)
		}
		for _, b := range res.Batches {
			at = protocol.Batch(b).NextOffset()
		}
	}
	if d.LogStart != 0 {
		r.t.Fatalf("the log begins at offset %d after the repair", d.LogStart)
	}
}

// lead makes a broker the leader.
func (r *repairs) lead(n *node) {
	soon(r.t, fmt.Sprintf("broker %d leads", n.NodeID()), func() bool {
		for _, o := range r.running() {
			rep := o.rec.replica(r.group)
			if rep == nil || rep.Raft() == nil {
				continue
			}
			if s := rep.Raft().Status(); s.Ready {
				if o == n {
					return true
				}
				rep.Raft().Transfer(n.NodeID(), func(error) {})
			}
		}
		return false
	})
}

// fault is a row of the table.
type fault struct {
	name string
	// live breaks the disk of a running broker, stopped that of one that is started again afterwards.
	live, stopped func(r *repairs, n *node, d *sickDisk)
	says          string // what the log says then; "": nothing
	silent        string // and what it must not say
}

const (
	saysDamaged = "the log is damaged"
	saysFailed  = "a replica has failed and will be opened again"
	saysLost    = "neither votes nor campaigns until a leader has told"
	saysTold    = "a leader has told how far the lost log went"
)

// segments are the files of the log. There are enough for a middle.
func (r *repairs) segments(d *sickDisk) []string {
	r.t.Helper()
	files := d.files(r.t, r.dir(), ".log")
	if len(files) < 4 {
		r.t.Fatalf("too few segment files: %q", files)
	}
	return files
}

// flipClosed flips a bit in the middle of what the last closed segment holds that holds much. It is not one that an earlier repair has left the
// beginning of, where a bit may be in what is no longer part of the log: that one is the second.
func (r *repairs) flipClosed(d *sickDisk) string {
	r.t.Helper()
	files := r.segments(d)
	for _, name := range slices.Backward(files[2 : len(files)-1]) {
		if held := bytes.TrimRight(d.content(r.t, name), "\x00"); len(held) >= 64<<10 {
			at := len(held) / 2
			for held[at] == 0 { // between two blocks, maybe
				at++
			}
			d.flip(r.t, name, int64(at))
			return name
		}
	}
	r.t.Fatalf("no closed segment holds much: %q", files)
	return ""
}

func (r *repairs) failSyncs(n *node, d *sickDisk, times int64) {
	var left atomic.Int64
	left.Store(times)
	f := func(op vfs.Op, name string) error {
		if op == vfs.OpSync && path.Dir(name) == r.dir() && strings.HasSuffix(name, ".log") && left.Add(-1) >= 0 {
			return errDisk
		}
		return nil
	}
	d.fault.Store(&f)
	soon(r.t, "syncs have failed", func() bool { return left.Load() <= 0 })
	d.fault.Store(nil)
}

var faults = []fault{
	{name: "a sync fails", says: saysFailed, silent: saysDamaged,
		live: func(r *repairs, n *node, d *sickDisk) { r.failSyncs(n, d, 1) }},
	{name: "syncs fail for a while", says: saysFailed, silent: saysDamaged,
		live: func(r *repairs, n *node, d *sickDisk) { r.failSyncs(n, d, 4) }},
	{name: "a bit of a closed segment, met by a read", says: saysDamaged,
		live: func(r *repairs, n *node, d *sickDisk) {
			d.flip(r.t, r.segments(d)[1], 300<<10)
			at := n.logged()
			soon(r.t, "a read meets the damage", func() bool {
				rep := n.rec.replica(r.group)
				for off := int64(0); rep != nil; {
					res, err := rep.Read(partition.ReadQuery{Offset: off, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
					if err != nil || len(res.Batches) == 0 {
						break
					}
					for _, b := range res.Batches {
						off = protocol.Batch(b).NextOffset()
					}
				}
				return n.said(at, saysDamaged)
			})
		}},
	{name: "a bit of a closed segment without an index, met by the next open", says: saysDamaged,
		stopped: func(r *repairs, n *node, d *sickDisk) {
			name := r.flipClosed(d)
			d.remove(r.t, strings.TrimSuffix(name, ".log")+".idx")
		}},
	{name: "a bit of the hot tail, below the synced mark", says: saysDamaged,
		stopped: func(r *repairs, n *node, d *sickDisk) {
			files := r.segments(d)
			tail := files[len(files)-1]
			at := 200
			for held := d.content(r.t, tail); held[at] == 0; { // padding, maybe
				at++
			}
			d.flip(r.t, tail, int64(at))
			for _, name := range d.files(r.t, r.dir(), ".tip") { // what it covers is left to reads, as in a closed segment
				d.remove(r.t, name)
			}
		}},
	{name: "a segment file in the middle is missing", says: saysDamaged,
		stopped: func(r *repairs, n *node, d *sickDisk) { d.remove(r.t, r.segments(d)[1]) }},
	{name: "the last segment file is missing", says: saysTold,
		stopped: func(r *repairs, n *node, d *sickDisk) {
			files := r.segments(d)
			d.remove(r.t, files[len(files)-1])
		}},
	{name: "index files are missing", silent: saysDamaged,
		stopped: func(r *repairs, n *node, d *sickDisk) {
			for _, name := range d.files(r.t, r.dir(), ".idx") {
				d.remove(r.t, name)
			}
		}},
	{name: "the log's meta is damaged", says: saysTold,
		stopped: func(r *repairs, n *node, d *sickDisk) {
			name := path.Join(r.dir(), "meta")
			if f, err := d.Create(name); err == nil { // a log that was never damaged has none
				_, err = f.WriteAt(make([]byte, 100), 0)
				if err = errors.Join(err, f.Sync(), f.Close(), d.SyncDir(r.dir())); err != nil {
					r.t.Fatal(err)
				}
			}
			d.flip(r.t, name, 30)
		}},
	{name: "the snapshot is damaged", silent: saysDamaged,
		stopped: func(r *repairs, n *node, d *sickDisk) { d.flip(r.t, path.Join(r.dir(), "snapshot"), 60) }},
	{name: "the group's directory is deleted while the broker is down", says: saysTold,
		stopped: func(r *repairs, n *node, d *sickDisk) { d.remove(r.t, r.dir()) }},
	{name: "the group's directory is emptied while the broker is down", says: saysTold,
		stopped: func(r *repairs, n *node, d *sickDisk) {
			for _, name := range d.files(r.t, r.dir(), "") {
				d.remove(r.t, name)
			}
		}},
	{name: "the group's directory is deleted under a running broker", says: saysTold,
		live: func(r *repairs, n *node, d *sickDisk) {
			at := n.logged()
			d.remove(r.t, r.dir())
			soon(r.t, "it is noticed", func() bool {
				if !n.said(at, saysLost) {
					r.load.burst(200 << 10) // up to the next file
				}
				return n.said(at, saysLost)
			})
		}},
	{name: "the metadata group's directory is deleted while the broker is down", says: saysTold,
		stopped: func(r *repairs, n *node, d *sickDisk) {
			d.remove(r.t, path.Join("/data/groups", groupDirName(raft.MetadataGroup)))
		}},
	{name: "the hard states cannot be saved", says: "the broker is of no more use and must be restarted",
		live: func(r *repairs, n *node, d *sickDisk) {
			d.lost.Store(true)
			r.t.Cleanup(func() { d.lost.Store(false) })
			// Terms are saved when they change.
			for _, o := range r.nodes {
				if o != n {
					r.lead(o)
				}
			}
			soon(r.t, "the broker says that it is of no more use", func() bool {
				select {
				case err := <-n.Fatal():
					return err != nil
				default:
					return false
				}
			})
			_ = n.Close() // whoever runs it
			n.Broker = nil
			d.lost.Store(false)
			n.cfg.HardStates = &sickStates{memStore: n.cfg.HardStates.(*sickStates).memStore, d: d}
			r.start(n)
		}},
}

// TestRepair breaks one disk after another: followers' in one cluster, leaders' in another.
func TestRepair(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"follower", "leader"} {
		if role == "leader" && testing.Short() {
			break
		}
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			r := newRepairs(t)
			for _, f := range faults {
				ok := t.Run(f.name, func(t *testing.T) {
					r.t, r.testCluster.t, r.load.t = t, t, t
					r.repair(f, r.victim(role == "leader"))
				})
				r.t, r.testCluster.t, r.load.t = t, t, t
				if !ok {
					return
				}
			}
			r.load.stop(r.testCluster)
		})
	}
}

// repair is a row of the table, for one victim.
func (r *repairs) repair(f fault, n *node) {
	r.t.Helper()
	d := r.disks[n]
	rep := n.rec.replica(r.group)
	rep.Raft().Snapshot() // so that there is one to damage
	soon(r.t, "there is a snapshot", func() bool { return rep.Describe().Snapshot > 0 })
	from, began := n.logged(), time.Now()
	if f.live != nil {
		f.live(r, n, d)
	} else {
		r.stop(n)
		f.stopped(r, n, d)
		r.load.more("while it is down", 20)
		r.start(n)
	}
	if f.says != "" {
		soon(r.t, "the log says: "+f.says, func() bool { return n.said(from, f.says) })
	}
	r.sound(n)
	took := time.Since(began)
	if f.silent != "" && n.said(from, f.silent) {
		r.t.Errorf("the log says: %s", f.silent)
	}
	r.lead(n) // it has its vote, and all that it takes to lead
	r.load.more("with the repaired replica in the lead", 20)
	r.t.Logf("%v", took.Round(10*time.Millisecond))
}

// loseTwo takes the group's log from two of three brokers, all of which are down, and starts all again. It returns the third.
func (r *repairs) loseTwo() *node {
	r.t.Helper()
	intact := r.nodes[1]
	r.stop(r.nodes...)
	for _, n := range r.nodes {
		if n != intact {
			r.disks[n].remove(r.t, r.dir())
		}
	}
	r.start(r.nodes...)
	return intact
}

// Two of three replicas lose their logs while the leader lives on: it has all that they ever acknowledged, and refills both.
func TestRepairBothFollowers(t *testing.T) {
	r := newRepairs(t)
	leader := r.victim(true)
	for _, n := range r.nodes {
		if n != leader {
			at := n.logged()
			r.disks[n].remove(t, r.dir())
			soon(t, "it is noticed", func() bool {
				if !n.said(at, saysLost) {
					r.load.burst(200 << 10)
				}
				return n.said(at, saysLost)
			})
		}
	}
	for _, n := range r.nodes {
		r.sound(n)
	}
	r.load.stop(r.testCluster)
}

// Two of three lose their logs, and nobody leads: the third may not know what the two had acknowledged, so that nobody may be elected.
// It is for an operator to say that the third is all there is.
func TestRepairWithoutMajorityIsRefused(t *testing.T) {
	t.Parallel()
	r := newRepairs(t)
	r.load.more("before", 50)
	r.load.abandon()
	for _, n := range r.nodes {
		r.sound(n)
	}
	intact := r.loseTwo()
	_ = r.metaLeader()
	soon(t, "the third replica stands for election, and the two say why they do not vote", func() bool {
		for _, n := range r.nodes {
			rep := n.rec.replica(r.group)
			if rep == nil || rep.Raft() == nil {
				return false
			}
			switch s := rep.Raft().Status(); {
			case s.Leader != 0:
				t.Fatalf("broker %d leads", s.Leader)
			case n == intact && s.Role != raft.PreCandidate || n != intact && s.VoteAfter != raft.UntilTold:
				return false
			}
		}
		return true
	})
	plan := r.nodes[0].plan(t, &resetRequest{Topic: repairTopic})
	if plan.Leader != intact.NodeID() {
		t.Fatalf("plan %+v", plan)
	}
	r.nodes[0].execute(t, plan)
	for _, n := range r.nodes {
		r.sound(n)
	}
	r.load = r.trickle()
	r.load.more("after the reset", 20)
	r.load.stop(r.testCluster)
}

// A journal that is gone has taken the votes with it: nobody may vote a second time in a term that it has voted in.
func TestMissingJournalIsRefused(t *testing.T) {
	c := newCluster(t, 1, false)
	c.start(c.nodes...)
	n := c.nodes[0]
	n.mustCreate(t, "a", 1, 1)
	c.stop(n)
	journal := path.Join(n.cfg.DataDir, "journal")
	if err := os.Rename(journal, journal+".away"); err != nil {
		t.Fatal(err)
	}
	if b, err := Start(t.Context(), n.cfg); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "--node-id 1") {
		if b != nil {
			n.Broker = b
		}
		t.Fatalf("start without the journal: %v", err)
	}
	if err := os.Rename(journal+".away", journal); err != nil {
		t.Fatal(err)
	}
	c.start(n)
}
