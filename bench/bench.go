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

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Class is a durability class. Figures of different classes never stand in one chart.
type Class string

const (
	// ClassA acknowledges from the page cache of a quorum.
	ClassA Class = "A"
	// ClassB acknowledges once a quorum has synced to disk.
	ClassB Class = "B"
)

// Cell is one load. All systems get the same.
type Cell struct {
	Scenario      string `json:"scenario"`
	Class         Class  `json:"class"`
	Partitions    int    `json:"partitions"` // streams, for JetStream
	Producers     int    `json:"producers"`  // each with a connection of its own
	RecordBytes   int    `json:"record_bytes"`
	InflightBytes int    `json:"inflight_bytes"` // unacknowledged record bytes per producer; RecordBytes means one at a time
}

func (c Cell) String() string {
	return fmt.Sprintf("%s class %s, %d partitions, %d producers, %d B", c.Scenario, c.Class, c.Partitions, c.Producers, c.RecordBytes)
}

// Result is what one system did under one cell in one round.
type Result struct {
	Cell
	System string `json:"system"`
	Mode   string `json:"mode,omitempty"` // of the client, where a system has several
	Round  int    `json:"round"`

	Seconds    float64 `json:"seconds"`
	Records    int64   `json:"records"` // acknowledged while measuring
	RecordsSec float64 `json:"records_per_second"`
	MBSec      float64 `json:"mb_per_second"` // 10^6 bytes of records
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	P999       float64 `json:"p999_ms"`
	Max        float64 `json:"max_ms"`

	CPUSecGB float64 `json:"cpu_seconds_per_gb"` // all server processes together
	RSSMax   float64 `json:"rss_max_mb"`         // the largest server process

	Errors   int64         `json:"errors"` // records refused or timed out, after the client's own retries
	Verified *Verification `json:"verified,omitempty"`
	Skipped  string        `json:"skipped,omitempty"` // why there is no figure
}

// Verification is what reading everything back found.
type Verification struct {
	Acked      int64 `json:"acked"`
	Read       int64 `json:"read"`
	Lost       int64 `json:"lost"`
	Duplicated int64 `json:"duplicated"`
	OutOfOrder int64 `json:"out_of_order"`
}

// OK reports whether every acknowledged record came back once and in order.
func (v *Verification) OK() bool { return v.Lost == 0 && v.Duplicated == 0 && v.OutOfOrder == 0 }

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

const (
	maxLatency = int64(time.Minute)
	digits     = 3
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1000, maxLatency, digits) }

// T1 is the throughput scenario.
func T1() []Cell {
	var cells []Cell
	for _, class := range []Class{ClassB, ClassA} {
		for _, partitions := range []int{1, 16} {
			for _, producers := range []int{1, 8} {
				cells = append(cells, Cell{"T1", class, partitions, producers, 1024, 1 << 20})
			}
		}
	}
	return cells
}

// L1 is the latency of one synchronous producer.
func L1() []Cell {
	return []Cell{{"L1", ClassB, 1, 1, 1024, 1024}, {"L1", ClassA, 1, 1, 1024, 1024}}
}
