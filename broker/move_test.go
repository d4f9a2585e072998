package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// load is a stock client that writes numbered records to a topic until it is stopped, and remembers what was acknowledged.
type load struct {
	t      *testing.T
	topic  string
	cl     *kgo.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	acked map[int32]map[int64]string // by partition and offset
	n     int
}

func (c *testCluster) startLoad(topic string) *load {
	var seeds []string
	for _, n := range c.running() {
		seeds = append(seeds, n.KafkaAddr())
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.MaxBufferedRecords(100), kgo.RecordRetries(1<<30))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	l := &load{t: c.t, topic: topic, cl: cl, cancel: cancel, acked: make(map[int32]map[int64]string)}
	l.wg.Go(func() {
		pace := time.NewTicker(30 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			value := fmt.Sprintf("%08d %s", i, strings.Repeat("x", 1000))
			cl.Produce(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}, func(r *kgo.Record, err error) {
				if err != nil {
					return // it may be there; nobody was promised anything
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				if l.acked[r.Partition] == nil {
					l.acked[r.Partition] = make(map[int64]string)
				}
				l.acked[r.Partition][r.Offset] = value[:8]
				l.n++
			})
			if i%20 == 0 {
				_ = cl.Flush(ctx)
				select { // at most 700 KB/s: what was written has to be copied too, at a MiB/s
				case <-pace.C:
				case <-ctx.Done():
				}
			}
		}
	})
	c.t.Cleanup(func() { cancel(); l.wg.Wait(); cl.Close() })
	return l
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// more waits until more records were acknowledged from now on: the partitions are written to, whatever has happened.
func (l *load) more(what string, n int) {
	l.t.Helper()
	want := l.count() + n
	soon(l.t, fmt.Sprintf("%d records are acknowledged %s", n, what), func() bool { return l.count() >= want })
}

// stop ends the load and reads everything back: what was acknowledged is there, at its offset.
func (l *load) stop(c *testCluster) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	l.cancel()
	l.wg.Wait()
	if err := l.cl.Flush(ctx); err != nil {
		l.t.Fatal(err)
	}
	offsets := make(map[int32]kgo.Offset)
	left := 0
	for p, acked := range l.acked {
		offsets[p] = kgo.NewOffset().AtStart()
		left += len(acked)
	}
	var seeds []string
	for _, n := range c.running() {
		seeds = append(seeds, n.KafkaAddr())
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.topic: offsets}))
	if err != nil {
		l.t.Fatal(err)
	}
	defer reader.Close()
	next := make(map[int32]int64)
	for left > 0 {
		fs := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			l.t.Fatalf("%d of %d acknowledged records are missing", left, l.n)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				l.t.Fatalf("partition %d: offset %d after %d", r.Partition, r.Offset, next[r.Partition]-1)
			}
			next[r.Partition]++
			if want, ok := l.acked[r.Partition][r.Offset]; ok {
				left--
				if got := string(r.Value[:8]); got != want {
					l.t.Fatalf("partition %d, offset %d: %s was acknowledged, %s is there", r.Partition, r.Offset, want, got)
				}
			}
		})
	}
}

func (n *node) move(t *testing.T, topic string, partition int32, to ...raft.NodeID) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan []error, 1)
	n.Reassign(ctx, []coordinator.Move{{Topic: n.Image().Topic(topic).ID, Partition: partition, Replicas: to, Cancel: to == nil}}, func(e []error) { done <- e })
	return (<-done)[0]
}

func (n *node) mustMove(t *testing.T, topic string, partition int32, to ...raft.NodeID) {
	t.Helper()
	var err error
	soon(t, fmt.Sprintf("%s-%d can move to %v", topic, partition, to), func() bool { // whose brokers may seem to be dead for a moment
		err = n.move(t, topic, partition, to...)
		return !errors.Is(err, coordinator.ErrInvalidAssignment)
	})
	if err != nil {
		t.Fatalf("move %s-%d to %v: %v", topic, partition, to, err)
	}
}

// settled: the partition is on these brokers and no others: by everyone's Image, by the group's own membership, and by the files.
func (c *testCluster) settled(topic string, partition int32, on ...raft.NodeID) {
	c.t.Helper()
	why := ""
	defer func() {
		if c.t.Failed() {
			c.t.Log("last: ", why)
			for _, n := range c.running() {
				if rep := n.rec.replica(n.Image().Topic(topic).Partitions[partition].Group); rep != nil && rep.Raft() != nil {
					c.t.Logf("broker %d: %+v, peers %+v", n.NodeID(), rep.Raft().Status().Status, rep.Raft().Peers())
				}
			}
		}
	}()
	soon(c.t, fmt.Sprintf("%s-%d is on %v", topic, partition, on), func() bool {
		led := false
		for _, n := range c.running() {
			p := &n.Image().Topic(topic).Partitions[partition]
			if p.Moving() || !slices.Equal(raft.NodeIDs(p.Replicas), on) {
				why = fmt.Sprintf("broker %d: replicas %v, target %v", n.NodeID(), p.Replicas, p.Target)
				return false
			}
			rep := n.rec.replica(p.Group)
			_, err := n.store.fs.Stat(n.store.groupDir(p.Group))
			_, known := n.hardStates.Load(p.Group)
			if !slices.Contains(on, n.NodeID()) {
				if rep != nil || !errors.Is(err, fs.ErrNotExist) || known {
					why = fmt.Sprintf("broker %d still has it", n.NodeID())
					return false
				}
				continue
			}
			if rep == nil || rep.Raft() == nil {
				why = fmt.Sprintf("broker %d has not opened it", n.NodeID())
				return false
			}
			s := rep.Raft().Status()
			led = led || s.Ready
			want := slices.Clone(p.Replicas)
			slices.SortFunc(want, func(a, b raft.Member) int { return int(a.ID) - int(b.ID) })
			if s.Conf.Joint() || len(s.Conf.Learners) > 0 || !slices.Equal(s.Conf.Voters, want) || s.Applied < s.ConfIndex {
				why = fmt.Sprintf("broker %d: %v", n.NodeID(), s.Conf)
				return false
			}
		}
		why = "nobody leads"
		return led
	})
}

// leaderOf is the running broker that leads a partition.
func (c *testCluster) leaderOf(topic string, partition int32) (found *node) {
	c.t.Helper()
	soon(c.t, fmt.Sprintf("%s-%d has a leader", topic, partition), func() bool {
		for _, n := range c.running() {
			t := n.Image().Topic(topic)
			if t == nil {
				continue
			}
			if rep := n.rec.replica(t.Partitions[partition].Group); rep != nil {
				if _, _, ready := rep.Leader(); ready {
					found = n
					return true
				}
			}
		}
		return false
	})
	return found
}

// fixed keeps the Kafka addresses over restarts, as clients know them.
func (c *testCluster) fixed() {
	for _, n := range c.nodes {
		if n.Broker != nil {
			n.cfg.Listen = n.KafkaAddr()
		}
	}
}

func (c *testCluster) node(id raft.NodeID) *node {
	for _, n := range c.running() {
		if n.NodeID() == id {
			return n
		}
	}
	c.t.Fatalf("broker %d does not run", id)
	return nil
}

// assign makes a topic with one partition per list of brokers.
func (n *node) assign(t *testing.T, name string, replicas ...[]raft.NodeID) {
	t.Helper()
	n.make(t, newTopic{Name: name, Assignment: replicas})
}

// Partitions move under load: one replica replaced, all replaced, the leader removed, more and fewer replicas.
func TestMove(t *testing.T) {
	t.Parallel()
	eachFS(t, func(t *testing.T, mem bool) {
		c := newCluster(t, 4, mem)
		c.calm()
		c.start(c.nodes...)
		c.awaitVoters(3)
		n := c.nodes[0]
		n.assign(t, "a", []raft.NodeID{1, 2}, []raft.NodeID{1, 2}, []raft.NodeID{3, 2})
		l := c.startLoad("a")
		l.more("before the move", 200)
		n.mustMove(t, "a", 0, 4, 2)
		n.mustMove(t, "a", 1, 3, 4)
		c.nodes[2].mustMove(t, "a", 2, 3, 1, 2)
		c.settled("a", 0, 4, 2)
		c.settled("a", 1, 3, 4)
		c.settled("a", 2, 3, 1, 2)
		l.more("after the first moves", 200)
		n.mustMove(t, "a", 0, 1)                                 // fewer
		n.mustMove(t, "a", 1, c.leaderOf("a", 1).other(3, 4), 1) // the leader goes
		n.mustMove(t, "a", 2, 2, 3, 1)                           // the order only
		c.settled("a", 0, 1)
		c.settled("a", 2, 2, 3, 1)
		l.more("after the second moves", 200)
		l.stop(c)
		if err := n.move(t, "a", 0); !errors.Is(err, coordinator.ErrNoMove) {
			t.Errorf("cancelled what does not move: %v", err)
		}
		for _, bad := range [][]raft.NodeID{{1, 1}, {9}, {}} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			done := make(chan []error, 1)
			n.Reassign(ctx, []coordinator.Move{{Topic: n.Image().Topic("a").ID, Replicas: bad}}, func(e []error) { done <- e })
			if err := (<-done)[0]; !errors.Is(err, coordinator.ErrInvalidAssignment) {
				t.Errorf("moved to %v: %v", bad, err)
			}
			cancel()
		}
	})
}

// other is the one of two brokers that this one is not.
func (n *node) other(a, b raft.NodeID) raft.NodeID {
	if n.NodeID() == a {
		return b
	}
	return a
}

// A broker dies in the middle of a move, whichever: the move goes on, or waits for it and then goes on.
func TestMoveSurvives(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"controller", "leader", "target", "everybody"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 4, true)
			for _, n := range c.nodes {
				n.cfg.MoveRate = 1 << 20
			}
			c.start(c.nodes...)
			c.awaitVoters(3)
			c.fixed()
			n := c.nodes[0]
			n.assign(t, "a", []raft.NodeID{1, 2, 3})
			l := c.startLoad("a")
			l.burst(2 << 20) // two seconds at that rate
			group := n.Image().Topic("a").Partitions[0].Group
			n.mustMove(t, "a", 0, 2, 3, 4)
			target := c.node(4)
			soon(t, "the new replica has something", func() bool {
				rep := target.rec.replica(group)
				return rep != nil && rep.Raft() != nil && rep.Raft().Status().Last > 0
			})
			if !c.leaderOf("a", 0).Image().Partition(group).Moving() {
				t.Log("it was over before anybody could die: this run, on a slow machine, shows less") // at that rate it takes two seconds
			}
			victims := map[string][]*node{"controller": {c.metaLeader()}, "leader": {c.leaderOf("a", 0)}, "target": {target}, "everybody": c.running()}[who]
			c.stop(victims...)
			if who != "everybody" {
				l.more("while it is down", 50)
			}
			c.start(victims...)
			c.settled("a", 0, 2, 3, 4)
			l.more("after the move", 50)
			l.stop(c)
		})
	}
}

// A move is taken back while the new replica is being filled, replaced by another target, and again.
func TestMoveIsCancelled(t *testing.T) {
	c := newCluster(t, 4, true)
	for _, n := range c.nodes {
		n.cfg.MoveRate = 1000 // one message of a megabyte, and then nothing for a quarter of an hour
	}
	c.calm()
	c.start(c.nodes...)
	c.awaitVoters(3)
	n := c.nodes[0]
	n.assign(t, "a", []raft.NodeID{1, 2, 3})
	l := c.startLoad("a")
	l.burst(3 << 20)
	group := n.Image().Topic("a").Partitions[0].Group
	open := func(id raft.NodeID) {
		soon(t, "the new replica is a learner", func() bool {
			rep := c.node(id).rec.replica(group)
			return rep != nil && rep.Raft() != nil && len(c.leaderOf("a", 0).rec.replica(group).Raft().Status().Conf.Learners) > 0
		})
	}
	n.mustMove(t, "a", 0, 2, 3, 4)
	open(4)
	n.mustMove(t, "a", 0)
	c.settled("a", 0, 1, 2, 3)
	n.mustMove(t, "a", 0, 4, 3)
	open(4)
	n.mustMove(t, "a", 0, 3, 1)
	c.settled("a", 0, 3, 1)
	// To a broker that is dead before it has anything.
	dead := c.node(4)
	n.mustMove(t, "a", 0, 3, 4)
	open(4)
	c.stop(dead)
	n.mustMove(t, "a", 0)
	soon(t, "it is taken back without the dead broker", func() bool { return !n.Image().Partition(group).Moving() })
	c.start(dead)
	c.settled("a", 0, 3, 1)
	l.more("after all", 50)
	l.stop(c)
}

// A partition moves away and back. While the brokers that it comes back to are being filled, what they have of the log ends in
// the days when they were its members: they must not take themselves for that, though they are a majority of it.
func TestMoveBackIsNoElection(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4, true)
	for _, n := range c.nodes {
		n.cfg.MoveRate = 1 << 30
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.fixed()
	n := c.nodes[0]
	n.assign(t, "a", []raft.NodeID{1, 2, 3})
	l := c.startLoad("a")
	l.more("before the moves", 3000)
	n.mustMove(t, "a", 0, 4)
	c.settled("a", 0, 4)
	last := c.node(4)
	c.stop(last)
	last.cfg.MoveRate = 1000 // one message for each of the three, at most
	c.start(last)
	l.more("after the first move", 50)
	n.mustMove(t, "a", 0, 1, 2, 3)
	group := n.Image().Topic("a").Partitions[0].Group
	back := []*node{c.node(1), c.node(2), c.node(3)}
	member := func(n *node) *multi.Group {
		if rep := n.rec.replica(group); rep != nil {
			return rep.Raft()
		}
		return nil
	}
	soon(t, "they have the beginning", func() bool {
		some := 0
		for _, n := range back {
			g := member(n)
			if g == nil {
				return false
			}
			if s := g.Status(); s.Last > 0 && s.Conf.Joint() == false && len(s.Conf.Voters) == 3 {
				some++
			}
		}
		return some > 0
	})
	c.stop(last)
	check := func(when string) {
		t.Helper()
		for _, n := range back {
			for range 3 {
				g := member(n)
				if g == nil {
					continue
				}
				g.Campaign()
				done := make(chan error, 1)
				g.Read(func(_ raft.Index, err error) { done <- err }) // after the campaign's turn
				if err := <-done; err == nil {
					t.Fatalf("broker %d leads with the beginning of the log, %s", n.NodeID(), when)
				}
				if s := g.Status(); s.Role != raft.Follower || s.VoteAfter == 0 && s.Last < 1000 {
					t.Fatalf("broker %d is %v, %s: %+v", n.NodeID(), s.Role, when, s)
				}
			}
		}
	}
	check("while they are filled")
	c.stop(back...)
	c.start(back...)
	check("after a restart")
	last.cfg.MoveRate = 0
	c.start(last)
	c.settled("a", 0, 1, 2, 3)
	l.more("after all", 50)
	l.stop(c)
}

// A broker starts on an empty directory under its old id, and an operator has said that the old one is gone: it is a new replica
// everywhere, and all partitions and the metadata group come back to full strength unasked.
func TestWipedBroker(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.fixed()
	n := c.nodes[0]
	n.assign(t, "a", []raft.NodeID{1, 2, 3}, []raft.NodeID{2, 3, 1}, []raft.NodeID{3, 1, 2})
	l := c.startLoad("a")
	l.more("before", 300)
	wiped := c.node(3)
	old := wiped.self()
	c.stop(wiped)
	for i := range c.nodes { // n1 founds, and must not be asked to found again
		if c.nodes[i] == wiped && wiped.cfg.Join == nil {
			t.Skip("broker 3 is the founder")
		}
	}
	wiped.cfg.FS, wiped.cfg.HardStates, wiped.cfg.NodeID = vfs.NewMem(77), &memStore{m: make(map[raft.GroupID]raft.HardState)}, 3
	l.more("while it is down", 100)
	c.dead(old.ID) // another disk takes nobody's place who may be alive
	// It might as well be a directory in which nothing is mounted: somebody must say that the disk is gone.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want := fmt.Sprintf("%016x", uint64(old.Incarnation))
	for _, named := range []string{"", "0123456789abcdef"} {
		wiped.cfg.ReplaceDisk = named
		b, err := Start(ctx, wiped.cfg)
		if err == nil {
			wiped.Broker = b
		}
		if !errors.Is(err, ErrOtherDisk) || !strings.Contains(err.Error(), want) {
			t.Fatalf("started with ReplaceDisk %q: %v", named, err)
		}
	}
	if r := n.Image().Topic("a").Partitions[0].Replicas; !slices.Contains(r, old) {
		t.Fatalf("nobody said that it may take the other one's place, and the replicas are %v", r)
	}
	wiped.cfg.ReplaceDisk = want
	c.start(wiped)
	if wiped.NodeID() != 3 || wiped.self() == old {
		t.Fatalf("it is %v, it was %v", wiped.self(), old)
	}
	c.settled("a", 0, 1, 2, 3)
	c.settled("a", 1, 2, 3, 1)
	c.settled("a", 2, 3, 1, 2)
	for p := range 3 {
		soon(t, fmt.Sprintf("%v is a replica of partition %d", wiped.self(), p), func() bool {
			return slices.Contains(n.Image().Topic("a").Partitions[p].Replicas, wiped.self())
		})
	}
	c.awaitVoters(3)
	soon(t, "the new disk votes in the metadata group", func() bool {
		return slices.Contains(n.meta.group.Load().Status().Conf.Voters, wiped.self())
	})
	// It really has everything: the others go, one of them for good.
	c.stop(c.node(2))
	l.more("with one broker less", 100)
	l.stop(c)
}

// __consumer_offsets, made when there was one broker, has three replicas once there are three.
func TestInternalTopicGrows(t *testing.T) {
	c := newCluster(t, 3, true)
	c.calm()
	c.start(c.nodes[0])
	n := c.nodes[0]
	if _, err := n.ensureInternal(t.Context(), coordinator.ConsumerOffsetsTopic, n.cfg.OffsetsPartitions); err != nil {
		t.Fatal(err)
	}
	n.mustCreate(t, "other", 1, 1)
	if got := len(n.Image().Topic(coordinator.ConsumerOffsetsTopic).Partitions[0].Replicas); got != 1 {
		t.Fatalf("made with %d replicas", got)
	}
	for i, m := range c.nodes[1:] {
		c.start(m)
		if i == 0 {
			soon(t, "two brokers are there", func() bool { return len(n.Image().LiveBrokers()) == 2 })
			if n.Image().Topic(coordinator.ConsumerOffsetsTopic).Partitions[0].Moving() {
				t.Fatal("two replicas are worse than one")
			}
		}
	}
	soon(t, "it has three replicas", func() bool {
		for _, p := range n.Image().Topic(coordinator.ConsumerOffsetsTopic).Partitions {
			if len(p.Replicas) != 3 || p.Moving() {
				return false
			}
		}
		return true
	})
	if len(n.Image().Topic("other").Partitions[0].Replicas) != 1 {
		t.Fatal("a topic that is not internal has grown")
	}
}
