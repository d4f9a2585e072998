// Package bench measures Balsa beside its peers: the same load on each, in turns, on the same machine in the same run.
//
// A scenario is a list of cells (scenario.go); a cell is one load (record size, partitions, producers, durability class). A system is
// what is loaded: it is started afresh for every cell and round, by processes of its own, and taken down again. run.go takes the systems
// through the cells in turns; load.go sends the records and keeps the account of them. What comes out is in result.go.
//
// Only the ratios within a run mean anything; absolute figures move from machine to machine.
package bench

import (
	"context"
	"errors"
	"time"
)

// Cluster is a system's nodes, processes of their own, numbered from 0.
type Cluster interface {
	Name() string
	// Start starts all nodes of the cell on what is below dir, where the last ones may have left data; it does not wait for them.
	Start(ctx context.Context, dir string, c Cell) error
	// Create makes the cell's partitions, and returns when they exist. It tells how many do, from any goroutine.
	Create(ctx context.Context, c Cell, made func(int)) error
	// Leaders asks the nodes that run which of n partitions they lead: a node's number, or -1. With n = 0 it returns without an
	// error once the cluster is there.
	Leaders(ctx context.Context, n int) ([]int, error)
	// Pids are the processes by node; one that does not run is 0.
	Pids() []int
	// Kill ends a node by SIGKILL.
	Kill(node int) error
	// Stop ends all nodes that run, gently first. They may be started again.
	Stop() error
	// Disconnect gives up what is still connected; nodes may have been stopped before.
	Disconnect()
}

// System is a cluster that can be loaded: Balsa or a peer.
type System interface {
	Cluster
	Mode() string
	// StartNode starts a node again that was killed; it does not wait for it.
	StartNode(ctx context.Context, node int) error
	// InSync reports whether a node that runs follows all partitions that it holds without being behind, by the system's own judgement.
	InSync(ctx context.Context, node int) (bool, error)
	// Opened reports whether a node has its logs open since it was started, and by what this was seen.
	Opened(ctx context.Context, node int) (open bool, by string, err error)
	// Producer makes the i-th producer.
	Producer(ctx context.Context, i int) (Producer, error)
	// Consumer makes one that has every record of every partition from now on.
	Consumer(ctx context.Context) (Consumer, error)
	// Member makes the i-th member of a group that shares all partitions from their start.
	Member(ctx context.Context, i int) (Consumer, error)
	// ReadBack calls fn with every stored record of every partition, each partition in its order.
	ReadBack(ctx context.Context, fn func(partition int, record []byte)) error
}

// warmer is a System that is not itself before some time under load.
type warmer interface{ LeastWarmup() time.Duration }

// Producer sends records and reports each one's fate. Send may block while the cell's bytes in flight are out; done is
// called once per record, from any goroutine.
type Producer interface {
	// The record's memory is another one's once done has been called without an error.
	Send(ctx context.Context, partition int, record []byte, done func(error))
	// Flush waits for everything sent.
	Flush(ctx context.Context) error
	Close()
}

// Consumer hands out records.
type Consumer interface {
	// Run calls fn for each record, from one goroutine, until ctx ends; that is no error. The record is fn's only until it returns.
	Run(ctx context.Context, fn func(partition int, record []byte)) error
	Close()
}

// Client is how clients of all systems are set up, as far as a system's clients know these things.
type Client struct {
	BatchBytes int           // the most of one batch
	Linger     time.Duration // how long a batch waits for more
}

// Options say how to run.
type Options struct {
	Rounds  int           // default 5
	Warmup  time.Duration // default 2 s, of every round of every system, or as long as a system needs (warmer); none if negative
	Measure time.Duration // default 8 s, of each phase that lasts by the clock
	Verify  bool
	// Together lets C1, F2 and R1 of one load follow each other on the same data, which is written, and read back, once.
	Together bool
	Dir      string                           // data goes below it; every system's is removed when its turn ends
	Log      func(format string, args ...any) // lines that stay
	// Status shows how it stands, and may be called often. nil: nobody wants to know.
	Status func(format string, args ...any)
	// Limit bounds each step that waits for a system: default 10 min.
	Limit time.Duration

	poll time.Duration // between two looks at a system; default pollLeast. Tests have no time
}

func (o *Options) setDefaults() {
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	if o.Warmup == 0 {
		o.Warmup = 2 * time.Second
	}
	o.Warmup = max(o.Warmup, 0)
	for d, v := range map[*time.Duration]time.Duration{&o.Measure: 8 * time.Second, &o.Limit: 10 * time.Minute, &o.poll: pollLeast} {
		if *d == 0 {
			*d = v
		}
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Status == nil {
		o.Status = func(string, ...any) {}
	}
}

// Settings are what a report says about how it was run.
func (o Options) Settings(c Client) Settings {
	o.setDefaults()
	return Settings{Rounds: o.Rounds, WarmupSec: o.Warmup.Seconds(), MeasureSec: o.Measure.Seconds(), Verify: o.Verify, BatchBytes: c.BatchBytes, LingerMs: float64(c.Linger.Microseconds()) / 1000}
}

// ErrNotOffered is returned by Cluster.Start or Create for a cell that the system has no mode for.
var ErrNotOffered = errors.New("not offered by this system")

// errEnded is what is returned when a node has ended that should run: there is nothing to wait for.
var errEnded = errors.New("a node has ended")

// retry repeats fn until it succeeds, ctx ends, or a node has ended.
func retry(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pollLeast):
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
