// What the brokers of a test promise: that they are real ones, and that each way to make them fail does what it says.

package brokertest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

var starts = flag.Int("starts", 3, "how many starts TestStartFigures measures")

// TestStartFigures says how long a start takes, and what it costs. It asserts no duration: machines that run tests differ.
func TestStartFigures(t *testing.T) {
	var took, stop []time.Duration
	var memory []uint64
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	for range *starts {
		before := heap()
		begin := time.Now()
		c, err := brokertest.New(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
		memory = append(memory, max(heap(), before)-before)
		begin = time.Now()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		stop = append(stop, time.Since(begin))
	}
	slices.Sort(took)
	slices.Sort(stop)
	slices.Sort(memory)
	at := func(p int) int { return min(len(took)-1, len(took)*p/100) }
	t.Logf("%d starts: p50 %v, p99 %v; stop p50 %v, p99 %v; memory of a broker p50 %d KiB, p99 %d KiB", len(took),
		took[at(50)].Round(time.Millisecond), took[at(99)].Round(time.Millisecond), stop[at(50)].Round(time.Millisecond), stop[at(99)].Round(time.Millisecond),
		memory[at(50)]>>10, memory[at(99)]>>10)
}

func write(t *testing.T, cfg client.Config, topic string, values ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(ctx)
	for _, v := range values {
		if err := p.Produce(ctx, kgo.StringRecord(v)); err != nil {
			t.Fatalf("write %q: %v", v, err)
		}
	}
}

func read(t *testing.T, cfg client.Config, topic string) (values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{topic}, StopAtEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if err := c.Each(ctx, func(r *kgo.Record) error { values = append(values, string(r.Value)); return nil }); err != nil {
		t.Fatal(err)
	}
	return values
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("the topic has %q, want %q", got, want)
	}
}

// One broker, killed and stopped: what was acknowledged is there again, at the same address.
func TestKillAndRestart(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1, "retention.ms", "-1"))
	addr := b.Addr()
	write(t, b.Config(), "t", "a", "b")
	b.Kill()
	b.Kill() // of one that does not run: nothing
	if b.Running() || b.Raw() != nil {
		t.Fatal("the broker runs after it was killed")
	}
	if nc, err := net.DialTimeout("tcp", addr, 10*time.Second); err == nil {
		// The port is kept; who connects is turned away.
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a killed broker's port answers %v", err)
		}
		nc.Close()
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.Addr() != addr {
		t.Fatalf("the broker was at %s and is now at %s", addr, b.Addr())
	}
	write(t, b.Config(), "t", "c")
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, read(t, b.Config(), "t"), "a", "b", "c")
}

// A cluster loses any one broker, its founder as well, and goes on.
func TestClusterSurvivesAKill(t *testing.T) {
	c := brokertest.Cluster(t, 3, brokertest.Topic("t", 1))
	write(t, c.Config(), "t", "a")
	c.Broker(1).Kill()
	write(t, c.Config(), "t", "b")
	leader, err := c.Leader(t.Context(), "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	if leader.ID() == 1 {
		t.Fatal("the broker that was killed leads")
	}
	if err := c.Broker(1).Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, read(t, c.Config(), "t"), "a", "b")
}

// A leader that is paused is one that its group replaces; when it goes on, it finds out.
func TestPause(t *testing.T) {
	c := brokertest.Cluster(t, 3, brokertest.Topic("t", 1))
	write(t, c.Config(), "t", "a")
	old, err := c.Leader(t.Context(), "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	old.Pause()
	if old.Running() {
		t.Fatal("a broker that is paused counts as running")
	}
	// How long a client waits for an answer that does not come is its own business.
	impatient := []kgo.Opt{kgo.RequestTimeoutOverhead(time.Second)}
	awake := client.Config{Options: impatient}
	for _, b := range c.All() {
		if b != old {
			awake.Brokers = append(awake.Brokers, b.Addr())
		}
	}
	now, err := c.Leader(t.Context(), "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	if now == old {
		t.Fatal("a broker that is paused leads")
	}
	write(t, awake, "t", "b")
	old.Resume()
	write(t, c.Config(), "t", "c")
	want(t, read(t, c.Config(), "t"), "a", "b", "c")
}

// A leader cut off from the others can acknowledge nothing, though its clients get through to it; healed, all is as before.
func TestCut(t *testing.T) {
	c := brokertest.Cluster(t, 3, brokertest.Topic("t", 1))
	write(t, c.Config(), "t", "a")
	old, err := c.Leader(t.Context(), "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range c.All() {
		if b != old {
			c.Cut(old, b)
		}
	}
	write(t, c.Config(), "t", "b") // by another leader, as this one cannot
	c.Heal()
	old.CutClients()
	write(t, c.Config(), "t", "c")
	if _, err := client.NewAdmin(t.Context(), client.Config{Brokers: []string{old.Addr()}, ConnectTimeout: time.Second}); !errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("a client that was cut off got %v", err)
	}
	c.Heal()
	if adm, err := client.NewAdmin(t.Context(), client.Config{Brokers: []string{old.Addr()}}); err != nil {
		t.Fatal(err)
	} else {
		adm.Close()
	}
	want(t, read(t, c.Config(), "t"), "a", "b", "c")
}

// Users, certificates and ACLs are the broker's own.
func TestSecure(t *testing.T) {
	b := brokertest.Start(t, brokertest.Secure(), brokertest.Topic("t", 1))
	write(t, b.Config(), "t", "a")
	want(t, read(t, b.Config(), "t"), "a")
	if _, err := client.NewAdmin(t.Context(), b.Cluster().ConfigFor("mallory", "guess")); !errors.Is(err, client.ErrDenied) {
		t.Fatalf("an unknown user got %v", err)
	}
}

// What a test configures is what the broker has.
func TestConfigure(t *testing.T) {
	b := brokertest.Start(t, brokertest.Configure(func(id int, cfg *broker.Config) {
		if id == 1 {
			cfg.ClusterID = "of-a-test"
		}
	}))
	if got := b.Raw().ClusterID(); got != "of-a-test" {
		t.Fatalf("the cluster is %q", got)
	}
	for _, n := range []int{0, brokertest.MaxBrokers + 1} {
		if c, err := brokertest.New(t.Context(), n); err == nil {
			c.Close()
			t.Fatalf("a cluster of %d started", n)
		}
	}
}

// A broker that one record was written to and read from. In a test, use Start(t) instead of New.
func ExampleNew() {
	ctx := context.Background()
	c, err := brokertest.New(ctx, 1, brokertest.Topic("greetings", 1))
	if err != nil {
		panic(err)
	}
	defer c.Close()
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: c.Config(), Topic: "greetings"})
	if err != nil {
		panic(err)
	}
	defer p.Close(ctx)
	r := kgo.StringRecord("hello")
	if err := p.Produce(ctx, r); err != nil {
		panic(err)
	}
	fmt.Println("on disk at offset", r.Offset)
	// Output: on disk at offset 0
}

// The leader of a partition dies as by kill -9, and the program under test must not care.
func ExampleBroker_Kill() {
	ctx := context.Background()
	c, err := brokertest.New(ctx, 3, brokertest.Topic("orders", 1))
	if err != nil {
		panic(err)
	}
	defer c.Close()
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: c.Config(), Topic: "orders"})
	if err != nil {
		panic(err)
	}
	defer p.Close(ctx)
	if err := p.Produce(ctx, kgo.StringRecord("before")); err != nil {
		panic(err)
	}
	leader, err := c.Leader(ctx, "orders", 0)
	if err != nil {
		panic(err)
	}
	leader.Kill()
	if err := p.Produce(ctx, kgo.StringRecord("after")); err != nil {
		panic(err)
	}
	fmt.Println("both are written")
	// Output: both are written
}
