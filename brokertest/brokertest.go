// Package brokertest gives a Go test a real broker, or a cluster of them, in the test's own process: on free loopback ports and a
// temporary directory, ready in some tens of milliseconds, gone when the test ends.
//
//	func TestOrders(t *testing.T) {
//		b := brokertest.Start(t, brokertest.Topic("orders", 6))
//		p, err := client.NewProducer(t.Context(), client.ProducerConfig{Config: b.Config(), Topic: "orders"})
//		…
//	}
//
// It is the broker itself, with its logs on the disk and its syncs, and not a fake: what works here works outside. What is shortened are
// waits: an empty consumer group does not wait for more members, its members hear within half a second instead of five that one has come or gone, and
// an election takes half a second instead of one ([Configure] changes that).
//
// [Cluster] gives several brokers, and a [Broker] has ways to make it fail: [Broker.Kill] (as kill -9 does), [Broker.Stop], [Broker.Restart],
// [Broker.Pause] and [Broker.Resume] (as SIGSTOP and SIGCONT do), [Broker.Cut], [Broker.CutClients], [Brokers.Cut] and [Brokers.Heal].
// Addresses stay the same over all that.
//
// Outside of a test, in an example or a demonstration, [New] is the same without a [testing.TB].
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

const (
	// MaxBrokers bounds a cluster: what one process can reasonably run.
	MaxBrokers = 9
	// startTimeout bounds the start of everything. It is generous: machines that run tests are busy.
	startTimeout = time.Minute
)

// Start starts one broker and stops it when the test ends. It fails the test if it cannot.
func Start(t testing.TB, opts ...Option) *Broker {
	t.Helper()
	return Cluster(t, 1, opts...).Broker(1)
}

// Cluster starts a cluster of n brokers, of which as many hold the metadata as will (one, three or five), and stops it when the test
// ends. It fails the test if it cannot.
func Cluster(t testing.TB, n int, opts ...Option) *Brokers {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c, err := New(ctx, n, opts...)
	if err != nil {
		t.Fatalf("brokertest: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, b := range c.All() {
				t.Logf("the end of the log of broker %d:\n%s", b.id, b.log.tail())
			}
		}
		if err := c.Close(); err != nil {
			t.Errorf("brokertest: %v", err)
		}
	})
	return c
}

// Brokers is a cluster.
type Brokers struct {
	dir     string
	secure  *secure // nil: plaintext, and nobody is asked who they are
	brokers []*Broker
	wires   wires
	once    sync.Once
	err     error
}

// New is [Cluster] for where there is no test: an example, a demonstration. ctx bounds the start. Close the result.
func New(ctx context.Context, n int, opts ...Option) (_ *Brokers, err error) {
	if n < 1 || n > MaxBrokers {
		return nil, fmt.Errorf("a cluster of %d brokers: it must be 1 to %d", n, MaxBrokers)
	}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	dir, err := os.MkdirTemp("", "brokertest-")
	if err != nil {
		return nil, err
	}
	c := &Brokers{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if o.secure {
		if c.secure, err = newSecure(dir); err != nil {
			return nil, err
		}
	}
	for i := range n {
		b, err := c.newBroker(int32(i+1), &o)
		if err != nil {
			return nil, err
		}
		c.brokers = append(c.brokers, b)
	}
	// The first one founds the cluster, the others join it, and each other again at restarts.
	for _, b := range c.brokers {
		if err := b.start(ctx); err != nil {
			return nil, err
		}
		for _, later := range c.brokers[1:] {
			if later.id > b.id {
				later.cfg.Join = append(later.cfg.Join, b.cfg.ListenRPC)
			}
		}
	}
	if n == 1 && len(o.topics) == 0 {
		return c, nil
	}
	return c, c.settle(ctx, o.topics)
}

// settle waits until the loss of one broker is one that the cluster survives, and makes the topics.
func (c *Brokers) settle(ctx context.Context, topics []client.TopicSpec) error {
	adm, err := client.NewAdmin(ctx, c.Config())
	if err != nil {
		return err
	}
	defer adm.Close()
	if err := awaitVoters(ctx, adm, broker.VotersOf(len(c.brokers))); err != nil {
		return err
	}
	for _, spec := range topics {
		if _, err := adm.CreateTopic(ctx, spec); err != nil {
			return err
		}
	}
	return nil
}

// Broker is the one with this id, from 1 on. It panics if there is none.
func (c *Brokers) Broker(id int) *Broker {
	if id < 1 || id > len(c.brokers) {
		panic(fmt.Sprintf("brokertest: there is no broker %d in a cluster of %d", id, len(c.brokers)))
	}
	return c.brokers[id-1]
}

// All are the brokers, by id.
func (c *Brokers) All() []*Broker { return slices.Clone(c.brokers) }

// Addrs are the addresses of all brokers: what other Kafka clients take as bootstrap servers.
func (c *Brokers) Addrs() []string {
	out := make([]string, len(c.brokers))
	for i, b := range c.brokers {
		out[i] = b.Addr()
	}
	return out
}

// Config is how a client reaches the cluster; of a [Secure] one as the user that may do everything.
func (c *Brokers) Config() client.Config {
	cfg := client.Config{Brokers: c.Addrs()}
	if c.secure != nil {
		cfg.Security = c.secure.client(adminUser, adminPassword)
	}
	return cfg
}

// ConfigFor is Config for a user of a [Secure] cluster, one that was made with client.Admin.
func (c *Brokers) ConfigFor(user, password string) client.Config {
	cfg := client.Config{Brokers: c.Addrs()}
	if c.secure != nil {
		cfg.Security = c.secure.client(user, password)
	}
	return cfg
}

// Leader is the broker that leads a partition. It waits until there is one, and asks those that run and are not paused.
func (c *Brokers) Leader(ctx context.Context, topic string, partition int32) (*Broker, error) {
	cfg := c.Config()
	cfg.Brokers, cfg.Options = nil, []kgo.Opt{kgo.RequestTimeoutOverhead(time.Second)} // one of those that are asked may be about to die
	for _, b := range c.brokers {
		if b.Running() {
			cfg.Brokers = append(cfg.Brokers, b.Addr())
		}
	}
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("no broker of the cluster is running")
	}
	adm, err := client.NewAdmin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	for {
		t, err := adm.Topic(ctx, topic)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(t.Partitions, func(p client.Partition) bool { return p.Partition == partition })
		if i < 0 {
			return nil, fmt.Errorf("topic %s has %d partitions, none of them %d", topic, len(t.Partitions), partition)
		}
		if id := t.Partitions[i].Leader; id >= 1 && int(id) <= len(c.brokers) && c.Broker(int(id)).Running() {
			return c.Broker(int(id)), nil
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("wait for a leader of %s/%d: %w", topic, partition, err)
		}
	}
}

// Cut cuts two brokers off from each other: their connections break, and new ones are refused, until [Brokers.Heal]. Clients still get
// through to both.
func (c *Brokers) Cut(a, b *Broker) {
	c.wires.cut(a.id, b.id)
	a.breakFrom(b)
	b.breakFrom(a)
}

// breakFrom breaks the connections that b has made to another broker.
func (b *Broker) breakFrom(other *Broker) {
	b.mu.Lock()
	l := b.life
	b.mu.Unlock()
	if l != nil {
		l.closeConns(func(c *conn) bool { return c.to == other.id })
	}
}

// Heal undoes every Cut, CutClients and Cut of a broker.
func (c *Brokers) Heal() {
	c.wires.heal()
	for _, b := range c.brokers {
		b.kafka.refuse(false)
	}
}

// Close stops all brokers, without ceremony, and removes their directories. A second call returns what the first did.
func (c *Brokers) Close() error {
	c.once.Do(func() {
		var wg sync.WaitGroup
		errs := make([]error, len(c.brokers))
		for i, b := range c.brokers {
			wg.Go(func() {
				b.Kill()
				errs[i] = errors.Join(b.kafka.close(), b.rpc.close())
			})
		}
		wg.Wait()
		c.err = errors.Join(append(errs, os.RemoveAll(c.dir))...)
	})
	return c.err
}

// Broker is one broker of a cluster, through all its lives.
type Broker struct {
	c          *Brokers
	id         int32
	cfg        broker.Config
	kafka, rpc *port
	log        *logTail

	mu   sync.Mutex // guards life; held while the broker starts and stops
	life *life      // nil: it does not run
}

func (c *Brokers) newBroker(id int32, o *options) (*Broker, error) {
	b := &Broker{c: c, id: id, log: new(logTail)}
	for _, p := range []**port{&b.kafka, &b.rpc} {
		var err error
		if *p, err = newPort(); err != nil {
			if b.kafka != nil {
				_ = b.kafka.close()
			}
			return nil, err
		}
	}
	b.cfg = broker.Config{
		DataDir: filepath.Join(c.dir, fmt.Sprintf("node-%d", id)),
		Listen:  b.kafka.addr(), ListenRPC: b.rpc.addr(), NodeID: id,
		ElectionTimeout: 500 * time.Millisecond,
		CacheBytes:      16 << 20, SegmentBytes: 16 << 20,
		// A test is alone with its brokers, and waits for nobody.
		InternalTopicWait: -1, GroupInitialRebalanceDelay: -1, GroupConsumerHeartbeat: 500 * time.Millisecond,
		OffsetsPartitions: 4, TxnPartitions: 4,
		Logger: o.logger,
	}
	if c.secure != nil {
		c.secure.broker(&b.cfg)
	}
	for _, change := range o.configure {
		change(int(id), &b.cfg)
	}
	c.wires.add(id, b.rpc.addr())
	return b, nil
}

// start begins a life. The caller holds mu, or nobody else knows of b yet.
func (b *Broker) start(ctx context.Context) error {
	l, err := newLife(b)
	if err != nil {
		return fmt.Errorf("start broker %d: %w", b.id, err)
	}
	if l.broker, err = broker.Start(ctx, l.cfg); err != nil {
		return errors.Join(fmt.Errorf("start broker %d: %w", b.id, err), l.end())
	}
	b.life = l
	return nil
}

// ID is the broker's id, from 1 on.
func (b *Broker) ID() int32 { return b.id }

// Addr is the address for Kafka clients, host:port. It stays the same.
func (b *Broker) Addr() string { return b.kafka.addr() }

// DataDir is where the broker keeps everything.
func (b *Broker) DataDir() string { return b.cfg.DataDir }

// Config is how a client reaches the cluster that the broker is of: see [Brokers.Config].
func (b *Broker) Config() client.Config { return b.c.Config() }

// Cluster is what the broker is one of.
func (b *Broker) Cluster() *Brokers { return b.c }

// Raw is the broker itself, for what this package does not offer; nil while it does not run.
func (b *Broker) Raw() *broker.Broker {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life == nil {
		return nil
	}
	return b.life.broker
}

// Running says whether the broker runs and is not paused.
func (b *Broker) Running() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.life != nil && !b.life.paused()
}

// Kill ends the broker as kill -9 does: from one moment to the next nothing more is written, sent or said. What it had written is there for
// [Broker.Restart]. It does nothing to one that does not run.
func (b *Broker) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life == nil {
		return
	}
	b.life.kill()
	_ = b.life.broker.Abort() // it cannot do any of what it would like to
	_ = b.life.end()
	b.life = nil
}

// Stop ends the broker as an operator would: it hands its leadership over first, as far as others take it.
func (b *Broker) Stop() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life == nil {
		return nil
	}
	b.life.resume()
	err := errors.Join(b.life.broker.Close(), b.life.end())
	b.life = nil
	return err
}

// Restart starts the broker again on what it has on its disk, after a Kill if it runs. It returns when the broker serves, for which a
// majority of the metadata's voters must run. ctx bounds the start.
func (b *Broker) Restart(ctx context.Context) error {
	b.Kill()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.start(ctx)
}

// Pause holds the broker still as SIGSTOP does: it reads and writes nothing, on no connection and no disk, and its clock stands; who connects
// gets a connection and no answer. Goroutines of it that need none of these go on, which nobody can see. It does nothing to one that
// does not run.
func (b *Broker) Pause() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life != nil {
		b.life.pause()
	}
}

// Resume ends a Pause: the broker goes on where it was, and finds that it is later than it thought.
func (b *Broker) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life != nil {
		b.life.resume()
	}
}

// Cut cuts the broker off from all others and from clients, until [Brokers.Heal].
func (b *Broker) Cut() {
	b.CutClients()
	for _, o := range b.c.brokers {
		if o != b {
			b.c.Cut(b, o)
		}
	}
}

// CutClients cuts clients off from the broker: their connections break, and new ones are refused, until [Brokers.Heal]. Other brokers
// still get through.
func (b *Broker) CutClients() { b.kafka.refuse(true) }
