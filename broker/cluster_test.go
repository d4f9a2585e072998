package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/testport"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/transport"
)

// memStore is a hard-state store that outlives its broker's process, as a disk does.
type memStore struct {
	mu sync.Mutex
	m  map[raft.GroupID]raft.HardState
}

func (s *memStore) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	s.mu.Lock()
	s.m[g] = hs
	s.mu.Unlock()
	go done(nil)
}

func (s *memStore) Load(g raft.GroupID) (raft.HardState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hs, ok := s.m[g]
	return hs, ok
}

func (s *memStore) Delete(g raft.GroupID, done func(error)) {
	s.mu.Lock()
	delete(s.m, g)
	s.mu.Unlock()
	go done(nil)
}

var _ multi.HardStateStore = (*memStore)(nil)

// logBuffer keeps a broker's log, and shows its end if the test fails.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), s)
}

func testLogger(t *testing.T) (*slog.Logger, *logBuffer) {
	l := new(logBuffer)
	t.Cleanup(func() {
		if t.Failed() {
			l.mu.Lock()
			defer l.mu.Unlock()
			b := l.buf.Bytes()
			t.Logf("log:\n%s", b[max(0, len(b)-16<<10):])
		}
	})
	return slog.New(slog.NewTextHandler(l, nil)), l
}

// node is one broker of a test cluster through its lives.
type node struct {
	*Broker
	cfg Config
	log *logBuffer
}

// testCluster is a few brokers in this process, on loopback.
type testCluster struct {
	t     *testing.T
	nodes []*node
}

// newCluster makes n brokers, not started, on a file system in memory or on the real one.
func newCluster(t *testing.T, n int, mem bool) *testCluster {
	c := &testCluster{t: t}
	root := t.TempDir()
	for i := range n {
		logger, buf := testLogger(t)
		cfg := Config{DataDir: path.Join(root, fmt.Sprint("n", i+1)), Listen: "127.0.0.1:0", ListenRPC: "127.0.0.1:0", Logger: logger,
			ElectionTimeout: 300 * time.Millisecond, JoinTimeout: patience, CloseTimeout: -1, InternalTopicWait: -1, OffsetsPartitions: 2,
			SegmentBytes: 1 << 20, CacheBytes: 1 << 20, TxnPartitions: 2}
		if mem {
			cfg.DataDir = "/data"
			cfg.FS, cfg.HardStates = vfs.NewMem(uint64(i)), &memStore{m: make(map[raft.GroupID]raft.HardState)}
		}
		c.nodes = append(c.nodes, &node{cfg: cfg, log: buf})
	}
	t.Cleanup(func() { c.stop(c.nodes...) })
	return c
}

// calm makes elections rare, before a start: for tests in which nobody may come to lead unasked, however long a slow machine keeps a leader
// waiting. Elections that a test does bring about take longer.
func (c *testCluster) calm() {
	for _, n := range c.nodes {
		n.cfg.ElectionTimeout = 2 * time.Second
	}
}

// start starts brokers, all at once; the first one founds the cluster if there is none.
func (c *testCluster) start(nodes ...*node) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if first := c.nodes[0]; first.Broker == nil && first.cfg.Join == nil && len(c.nodes) > 1 && c.nodes[1].cfg.Join == nil {
		b, err := Start(ctx, first.cfg)
		if err != nil {
			c.t.Fatal(err)
		}
		first.Broker = b
		for _, n := range c.nodes[1:] {
			n.cfg.Join = []string{b.RPCAddr()}
		}
		first.cfg.ListenRPC = b.RPCAddr()
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		if n.Broker != nil {
			continue
		}
		g.Go(func() error {
			b, err := Start(ctx, n.cfg)
			if err != nil {
				return err
			}
			n.Broker = b
			n.cfg.ListenRPC = b.RPCAddr() // as a real broker has the same port in each life
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

// stop closes brokers, all at once, without handing over.
func (c *testCluster) stop(nodes ...*node) {
	c.t.Helper()
	var g errgroup.Group
	for _, n := range nodes {
		if n.Broker != nil {
			g.Go(n.Close)
		}
	}
	if err := g.Wait(); err != nil {
		c.t.Errorf("close: %v", err)
	}
	for _, n := range nodes {
		n.Broker = nil
	}
}

func (c *testCluster) running() (out []*node) {
	for _, n := range c.nodes {
		if n.Broker != nil {
			out = append(out, n)
		}
	}
	return out
}

// metaLeader is the running broker that leads the metadata group.
func (c *testCluster) metaLeader() *node {
	c.t.Helper()
	var found *node
	soon(c.t, "the metadata group has a leader", func() bool {
		for _, n := range c.running() {
			if _, ready := n.meta.Leader(); ready {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// dead waits until the others know that a broker is gone.
func (c *testCluster) dead(id raft.NodeID) {
	c.t.Helper()
	soon(c.t, fmt.Sprintf("broker %d is fenced", id), func() bool {
		return !slices.ContainsFunc(c.running(), func(n *node) bool { return !n.Image().Broker(id).Fenced })
	})
}

func (c *testCluster) awaitVoters(want int) {
	c.t.Helper()
	soon(c.t, fmt.Sprint(want, " brokers vote"), func() bool {
		for _, n := range c.running() {
			g := n.meta.group.Load()
			if g == nil {
				return false
			}
			if conf := g.Status().Conf; len(conf.Voters) != want || conf.Joint() {
				return false
			}
		}
		return true
	})
}

func (n *node) ask(t *testing.T, topic newTopic) topicResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan []topicResult, 1)
	n.CreateTopics(ctx, []newTopic{topic}, false, func(r []topicResult) { done <- r })
	return (<-done)[0]
}

func (n *node) create(t *testing.T, name string, partitions, rf int) topicResult {
	t.Helper()
	return n.ask(t, newTopic{Name: name, Partitions: partitions, ReplicationFactor: rf})
}

// make creates a topic. A broker that lives may be taken for dead for a moment, on a slow machine: then it asks again.
func (n *node) make(t *testing.T, topic newTopic) (r topicResult) {
	t.Helper()
	soon(t, "topic "+topic.Name+" has brokers to be on", func() bool {
		r = n.ask(t, topic)
		return !errors.Is(r.Err, coordinator.ErrInvalidReplicationFactor) && !errors.Is(r.Err, coordinator.ErrInvalidAssignment)
	})
	if r.Err != nil {
		t.Fatalf("create %s: %v", topic.Name, r.Err)
	}
	return r
}

func (n *node) mustCreate(t *testing.T, name string, partitions, rf int) coordinator.TopicID {
	t.Helper()
	r := n.make(t, newTopic{Name: name, Partitions: partitions, ReplicationFactor: rf})
	if r.Partitions != partitions {
		t.Fatalf("create %s: %+v", name, r)
	}
	return r.ID
}

func (n *node) delete(t *testing.T, id coordinator.TopicID) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan []error, 1)
	n.DeleteTopics(ctx, []coordinator.TopicID{id}, func(e []error) { done <- e })
	return (<-done)[0]
}

// served: every partition of the topic has a leader in everyone's table, and that broker has it.
func (c *testCluster) served(id coordinator.TopicID) bool {
	for _, n := range c.running() {
		topic := n.Image().TopicByID(id)
		if topic == nil {
			return false
		}
		for p := range topic.Partitions {
			leader, _, ok := n.Leader(id, int32(p))
			if !ok {
				return false
			}
			for _, m := range c.running() {
				if m.NodeID() == leader {
					r := m.rec.replica(topic.Partitions[p].Group)
					if r == nil {
						return false
					}
					if _, _, ready := r.Leader(); !ready {
						return false
					}
				}
			}
		}
	}
	return true
}

func eachFS(t *testing.T, run func(t *testing.T, mem bool)) {
	t.Run("mem", func(t *testing.T) { run(t, true) })
	t.Run("disk", func(t *testing.T) { run(t, false) })
}

func TestSingleBroker(t *testing.T) {
	eachFS(t, func(t *testing.T, mem bool) {
		c := newCluster(t, 1, mem)
		c.start(c.nodes...)
		n := c.nodes[0]
		cluster, id := n.ClusterID(), n.mustCreate(t, "a", 3, 1)
		if n.NodeID() != 1 || cluster == "" || n.Image().ClusterID() != cluster || n.Image().Feature(metadataVersion) != coordinator.LevelLatest {
			t.Fatalf("node %d of %q", n.NodeID(), cluster)
		}
		if r := n.create(t, "a", 1, 1); !errors.Is(r.Err, coordinator.ErrTopicExists) {
			t.Fatalf("created twice: %v", r.Err)
		}
		if r := n.create(t, "b", 1, 2); !errors.Is(r.Err, coordinator.ErrInvalidReplicationFactor) {
			t.Fatalf("two replicas on one broker: %v", r.Err)
		}
		pid := n.producerID(t)
		for range 3 {
			c.stop(n)
			c.start(n)
			if n.ClusterID() != cluster || n.NodeID() != 1 {
				t.Fatal("another cluster after a restart")
			}
			soon(t, "topic is served again", func() bool { return c.served(id) })
			next := n.producerID(t)
			if next <= pid {
				t.Fatalf("producer id %d after %d", next, pid)
			}
			pid = next
		}
	})
}

func (n *node) producerID(t *testing.T) int64 {
	t.Helper()
	type answer struct {
		id  int64
		err error
	}
	done := make(chan answer, 1)
	n.NextProducerID(t.Context(), func(id int64, err error) { done <- answer{id, err} })
	a := <-done
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.id
}

func TestThreeBrokers(t *testing.T) {
	t.Parallel()
	eachFS(t, func(t *testing.T, mem bool) {
		c := newCluster(t, 3, mem)
		c.start(c.nodes...)
		c.awaitVoters(3)
		ids := map[raft.NodeID]bool{}
		for _, n := range c.nodes {
			ids[n.NodeID()] = true
			if n.ClusterID() != c.nodes[0].ClusterID() {
				t.Fatal("two clusters")
			}
		}
		if len(ids) != 3 || !ids[1] || !ids[2] || !ids[3] {
			t.Fatalf("node ids %v", ids)
		}

		// Asked of each broker in turn, whoever leads: when the answer is there, everyone has the topic and its leaders.
		var topics []coordinator.TopicID
		for i, n := range c.nodes {
			id := n.mustCreate(t, fmt.Sprint("t", i), 6, 3)
			for _, m := range c.nodes { // at once, unless it seems to be away, as it may on a slow machine
				soon(t, fmt.Sprintf("broker %d knows a topic that is created", m.NodeID()), func() bool { return m.Image().TopicByID(id) != nil })
			}
			for _, g := range n.groupsOf([]coordinator.TopicID{id}) {
				if !n.led(g) {
					t.Fatal("created without leaders")
				}
			}
			topics = append(topics, id)
		}
		soon(t, "everyone knows all leaders", func() bool { return c.served(topics[0]) && c.served(topics[1]) && c.served(topics[2]) })
		leaders := map[raft.NodeID]int{}
		for p := range 6 {
			l, _, _ := c.nodes[0].Leader(topics[0], int32(p))
			leaders[l]++
		}
		for id := range ids {
			if leaders[id] == 0 {
				t.Logf("broker %d leads nothing: %v", id, leaders) // an election may have gone another way
			}
		}

		// Deleting takes the files with it, on every broker.
		group := c.nodes[0].Image().TopicByID(topics[1]).Partitions[0].Group
		for _, n := range c.nodes {
			soon(t, fmt.Sprintf("broker %d has files of group %d", n.NodeID(), group), func() bool {
				_, err := n.store.fs.Stat(n.store.groupDir(group))
				return err == nil
			})
		}
		if err := c.nodes[2].delete(t, topics[1]); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			soon(t, fmt.Sprintf("broker %d serves a deleted topic no more", n.NodeID()), func() bool { return n.Replica(topics[1], 0) == nil })
		}
		soon(t, "the files are gone", func() bool {
			for _, n := range c.nodes {
				_, err := n.store.fs.Stat(n.store.groupDir(group))
				_, known := n.hardStates.Load(group)
				if !errors.Is(err, fs.ErrNotExist) || known {
					return false
				}
			}
			return true
		})
		if err := c.nodes[0].delete(t, topics[1]); !errors.Is(err, coordinator.ErrUnknownTopic) {
			t.Fatalf("deleted twice: %v", err)
		}

		// The metadata leader goes without a word; the others go on, fence it, and it comes back.
		dead := c.metaLeader()
		deadID := dead.NodeID()
		c.stop(dead)
		alive := c.running()
		c.dead(deadID) // else it may be given a replica, and of two both must be there
		id := alive[0].mustCreate(t, "after", 2, 2)
		for p := range 6 {
			soon(t, "a live broker leads", func() bool {
				l, _, ok := alive[0].Leader(topics[0], int32(p))
				return ok && l != deadID
			})
		}
		c.start(dead)
		if dead.NodeID() != deadID || dead.Image().TopicByID(id) == nil {
			t.Fatal("a returned broker has another id, or an old image")
		}
		soon(t, "it is unfenced", func() bool { return !alive[0].Image().Broker(deadID).Fenced })

		// All at once, without handing over.
		before := c.nodes[0].Image().Version()
		c.stop(c.nodes...)
		c.start(c.nodes...)
		for _, n := range c.nodes {
			if v := n.Image().Version(); v < before {
				t.Errorf("broker %d has version %d, it was %d", n.NodeID(), v, before)
			}
		}
		soon(t, "all is served again", func() bool { return c.served(topics[0]) && c.served(topics[2]) && c.served(id) })
		c.nodes[1].mustCreate(t, "last", 1, 3)
	})
}

// A topic that was deleted while a broker was away leaves no files there.
func TestDeletedWhileAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	c.start(c.nodes...)
	c.awaitVoters(3)
	keep, gone := c.nodes[0].mustCreate(t, "keep", 2, 3), c.nodes[0].mustCreate(t, "gone", 2, 3)
	away := c.nodes[2]
	soon(t, "all replicas are there", func() bool { return c.served(keep) && c.served(gone) && len(away.rec.replicas()) == 4 })
	group := away.Image().TopicByID(gone).Partitions[1].Group
	kept := away.Image().TopicByID(keep).Partitions[1].Group
	c.stop(away)
	if err := c.nodes[0].delete(t, gone); err != nil {
		t.Fatal(err)
	}
	c.start(away)
	soon(t, "the orphans are gone", func() bool {
		_, err := away.store.fs.Stat(away.store.groupDir(group))
		_, known := away.hardStates.Load(group)
		return errors.Is(err, fs.ErrNotExist) && !known
	})
	if _, err := away.store.fs.Stat(away.store.groupDir(kept)); err != nil {
		t.Fatalf("a living group's files: %v", err)
	}
}

// A broker that starts opens its replicas before there is a leader of the metadata: what it knows is in a snapshot, soon after it has changed.
func TestReplicasOpenWithoutALeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "orders", 2, 3)
	alone := c.nodes[2]
	soon(t, "all replicas are there", func() bool { return c.served(id) && len(alone.rec.replicas()) == 2 })
	version := alone.Image().Version()
	soon(t, "a snapshot has the topic", func() bool { return alone.meta.segments.Load().SnapshotIndex() >= version })
	var dirs []string
	for _, p := range alone.Image().TopicByID(id).Partitions {
		dirs = append(dirs, alone.store.groupDir(p.Group))
	}
	c.stop(c.nodes...)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg, seen := alone.cfg, &openedFiles{FS: alone.cfg.FS}
	cfg.FS = seen
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if b, err := Start(ctx, cfg); err == nil {
			t.Error("it is ready without the others")
			_ = b.Close()
		}
	}()
	soon(t, "its logs are open", func() bool { return !slices.ContainsFunc(dirs, func(dir string) bool { return !seen.below(dir) }) })
	cancel()
	<-ended
}

// openedFiles notes what is opened.
type openedFiles struct {
	vfs.FS
	mu    sync.Mutex
	names []string
}

func (o *openedFiles) Open(name string) (vfs.File, error) {
	o.mu.Lock()
	o.names = append(o.names, name)
	o.mu.Unlock()
	return o.FS.Open(name)
}

func (o *openedFiles) below(dir string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.names, func(name string) bool { return strings.HasPrefix(name, dir+"/") })
}

// Everybody comes back somewhere else; the seeds are all that anyone has.
func TestAllAddressesChange(t *testing.T) {
	c := newCluster(t, 3, true)
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "a", 1, 3)
	c.stop(c.nodes...)
	for _, n := range c.nodes {
		n.cfg.ListenRPC = "127.0.0.1:0"
	}
	// The seed of the new life must be known before it lives: take a port and give it back.
	seed := testport.Addr(t)
	c.nodes[0].cfg.ListenRPC = seed
	for _, n := range c.nodes {
		n.cfg.Join = []string{seed}
	}
	c.start(c.nodes...)
	soon(t, "the topic is served", func() bool { return c.served(id) })
	soon(t, "everyone has everyone's new address", func() bool {
		for _, n := range c.nodes {
			for _, m := range c.nodes {
				if n.Image().Broker(m.NodeID()).RPC != m.RPCAddr() {
					return false
				}
			}
		}
		return true
	})
}

// All brokers ask at once for the internal topic; there is one, with three replicas, and everyone has it.
func TestInternalTopicIsMadeOnce(t *testing.T) {
	c := newCluster(t, 3, true)
	for _, n := range c.nodes {
		n.cfg.InternalTopicWait = patience // until the third is there
	}
	c.calm()
	c.start(c.nodes...)
	var g errgroup.Group
	ids := make([]coordinator.TopicID, 3)
	for i, n := range c.nodes {
		g.Go(func() error {
			topic, err := n.ensureInternal(t.Context(), coordinator.ConsumerOffsetsTopic, n.cfg.OffsetsPartitions)
			if err == nil {
				ids[i] = topic.ID
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	topic := c.nodes[0].Image().Topic(coordinator.ConsumerOffsetsTopic)
	if ids[0] != ids[1] || ids[1] != ids[2] || len(topic.Partitions) != 2 || len(topic.Partitions[0].Replicas) != 3 || !topic.Internal() {
		t.Fatalf("ids %v, topic %+v", ids, topic)
	}
}

func TestJoinRefusals(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, true)
	c.start(c.nodes[:1]...)
	seed := c.nodes[0].RPCAddr()
	try := func(change func(*Config)) error {
		logger, _ := testLogger(t)
		cfg := c.nodes[1].cfg
		cfg.FS, cfg.HardStates, cfg.Logger = vfs.NewMem(9), &memStore{m: make(map[raft.GroupID]raft.HardState)}, logger
		cfg.Join = []string{seed}
		change(&cfg)
		b, err := Start(t.Context(), cfg)
		if err == nil {
			t.Error("it joined")
			b.Close()
		}
		return err
	}
	if err := try(func(c *Config) { c.ClusterID = "other" }); !errors.Is(err, coordinator.ErrWrongCluster) {
		t.Errorf("another cluster: %v", err)
	}
	if err := try(func(c *Config) { c.NodeID = 1 }); !errors.Is(err, coordinator.ErrBrokerIDTaken) {
		t.Errorf("a taken id: %v", err)
	}
	dead := testport.Addr(t)
	err := try(func(c *Config) { c.Join = []string{dead}; c.JoinTimeout = 300 * time.Millisecond })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), dead) || !strings.Contains(err.Error(), "JoinTimeout") {
		t.Errorf("nobody there: %v", err)
	}
	if err := try(func(c *Config) { c.Listen = c.Listen[:0] + seed }); err == nil || !strings.Contains(err.Error(), "stop what has the port") {
		t.Errorf("a port in use: %v", err)
	}
}

// Whoever has not joined can ask to join, and for nothing else.
func TestStrangersMayOnlyJoin(t *testing.T) {
	c := newCluster(t, 1, true)
	c.start(c.nodes...)
	n := c.nodes[0]
	stranger, err := transport.New(transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	id := n.mustCreate(t, "a", 1, 1)
	body, err := encodeJSON(&coordinator.Intent{Request: "r", Command: &coordinator.Command{DeleteTopics: &coordinator.DeleteTopics{IDs: []coordinator.TopicID{id}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []uint16{methodHeartbeat, methodForward, methodReadIndex} {
		if _, err := stranger.CallAddr(t.Context(), n.RPCAddr(), method, body); err == nil || !strings.Contains(err.Error(), "members") {
			t.Errorf("method %d for a stranger: %v", method, err)
		}
	}
	if n.Image().TopicByID(id) == nil {
		t.Error("a stranger deleted a topic")
	}
	for _, junk := range [][]byte{nil, {9}, []byte("\x01{"), make([]byte, 100)} {
		if _, err := stranger.CallAddr(t.Context(), n.RPCAddr(), methodJoin, junk); err == nil {
			t.Errorf("joined by %q", junk)
		}
	}
}

// A broker that is closed with grace leads nothing at its end, and the others lead before an election could have ended.
func TestCloseHandsOver(t *testing.T) {
	c := newCluster(t, 3, true)
	for _, n := range c.nodes {
		n.cfg.CloseTimeout = patience
	}
	c.calm()
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "a", 6, 3)
	leader := c.metaLeader()
	leaderID := leader.NodeID()
	if err := leader.Close(); err != nil {
		t.Fatal(err)
	}
	if !leader.log.contains("leadership is handed over") || leader.log.contains("not all leadership could be handed over") {
		t.Error("not all was handed over")
	}
	leader.Broker = nil
	for _, n := range c.running() {
		defer n.Abort() // two that left together would wait for each other until CloseTimeout is over
		for p := range 6 {
			soon(t, "another broker leads", func() bool {
				l, _, ok := n.Leader(id, int32(p))
				return ok && l != leaderID
			})
		}
	}
}

// A log whose disk fails is closed, and opened again when the disk is well; the broker goes on meanwhile.
func TestFailedLogIsReopened(t *testing.T) {
	c := newCluster(t, 1, true)
	n := c.nodes[0]
	var failing atomic.Pointer[string] // the directory whose files do not sync
	n.cfg.FS = vfs.Inject(n.cfg.FS, func(op vfs.Op, name string) error {
		if dir := failing.Load(); dir != nil && op == vfs.OpSync && strings.HasPrefix(name, *dir) {
			return errors.New("the disk has failed")
		}
		return nil
	})
	fail := func(dir string) { failing.Store(&dir) }
	c.start(n)
	id := n.mustCreate(t, "a", 1, 1)
	g, _ := n.group(id, 0)
	rep := n.rec.replica(g)
	fail(n.store.groupDir(g))
	rep.Append(&partition.AppendRequest{Batch: protocol.BuildBatch([]protocol.Record{{Value: []byte("x")}}, protocol.NewBatchOptions()), Acks: -1,
		Done: func(partition.AppendResult) {}})
	soon(t, "the replica has failed", func() bool { return n.log.contains("a replica has failed") })
	failing.Store(nil)
	soon(t, "it serves again", func() bool { _, _, ready := rep.Leader(); return ready })

	fail(n.store.groupDir(raft.MetadataGroup))
	b := make(chan topicResult, 1)
	go func() { b <- n.create(t, "b", 1, 1) }()
	soon(t, "the metadata log has failed", func() bool { return n.log.contains("the metadata log has failed") })
	failing.Store(nil)
	if r := <-b; r.Err != nil { // asked again under the same request id, it is done exactly once
		t.Fatalf("create over a failure: %v", r.Err)
	}
	n.mustCreate(t, "c", 1, 1)
}

// What a retry was given up for is said once, also where the only try has failed of that.
func TestGaveUpSaysWhyOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for want, failure := range map[string]error{"context canceled": ctx.Err(), "context canceled: no leader": errors.New("no leader")} {
		if err := retry(ctx, time.Millisecond, time.Millisecond, func() (bool, error) { return false, failure }); err == nil || err.Error() != want || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
