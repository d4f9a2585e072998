// Package bench measures Balsa beside its peers: the same load on each, in turns, on the same machine in the same run.
//
// A scenario is a list of cells; a cell is one load (record size, partitions, producers, durability class). A system
// is what is loaded: it is started afresh for every cell and round, by processes of its own, and taken down again.
// Only the ratios within a run mean anything; absolute figures move from machine to machine.
package bench

import (
	"context"
	"fmt"
	"time"
)

// System is something to load: Balsa or a peer.
type System interface {
	Name() string
	Mode() string
	// Start brings up three nodes for the cell with data below dir, and its topic or streams.
	Start(ctx context.Context, dir string, c Cell) error
	// Pids are the server processes.
	Pids() []int
	// Producer makes the i-th producer.
	Producer(ctx context.Context, i int) (Producer, error)
	// ReadBack calls fn with every stored record of every partition, each partition in its order.
	ReadBack(ctx context.Context, fn func(partition int, record []byte)) error
	// Stop takes everything down; it is called exactly once, also after a failed Start.
	Stop() error
}

// Producer sends records and reports each one's fate. Send may block while the cell's bytes in flight are out; done is
// called once per record, from any goroutine.
type Producer interface {
	Send(ctx context.Context, partition int, record []byte, done func(error))
	// Flush waits for everything sent.
	Flush(ctx context.Context) error
	Close()
}

// Options say how to run.
type Options struct {
	Rounds  int           // default 5
	Warmup  time.Duration // default 2 s, of every round of every system
	Measure time.Duration // default 8 s
	Verify  bool
	Dir     string // data goes below it; every system's is removed when its turn ends
	Log     func(format string, args ...any)
}

func (c Cell) String() string {
	return fmt.Sprintf("%s class %s, %d partitions, %d producers, %d B", c.Scenario, c.Class, c.Partitions, c.Producers, c.RecordBytes)
}

// T1 is the throughput scenario.
func T1() []Cell {
	var cells []Cell
	for _, class := range []Class{ClassB, ClassA} {
		for _, partitions := range []int{1, 16} {
			for _, producers := range []int{1, 8} {
				cells = append(cells, Cell{Scenario: "T1", Class: class, Replicas: 3, Partitions: partitions, Producers: producers, RecordBytes: 1024, InflightBytes: 1 << 20})
			}
		}
	}
	return cells
}

// L1 is the latency of one synchronous producer.
func L1() []Cell {
	l1 := Cell{Scenario: "L1", Class: ClassB, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1024}
	relaxed := l1
	relaxed.Class = ClassA
	return []Cell{l1, relaxed}
}
