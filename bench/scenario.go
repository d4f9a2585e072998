// The scenarios: what each loads, and which part of the harness runs it. Their text is shared with the command's help.

package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Scenario is a set of cells: all combinations of its lists, or with Star one list after the other, while of the others the first values
// stand.
type Scenario struct {
	ID   string
	What string // one line

	Classes     []Class
	Replicas    []int
	RecordBytes []int
	Partitions  []int
	Producers   []int
	Consumers   []int // nil: none
	Inflight    int   // record bytes per producer; 0: one record
	Open        bool  // an open loop: at a fixed rate
	Star        bool
	Backlog     int64

	run func(ctx context.Context, t *turn) error // nil: M2, which loads nothing
}

const (
	manyScenario = "M2"
	gigabyte     = 1_000_000_000
	closedWindow = 1 << 20
	// WideWindow is M1's other one: half of what a producer of Kafka's own client may have in flight by default. With 1 MiB and 1,024 partitions a
	// batch is one record.
	WideWindow = 16 << 20
	// openWindow lets a stall of a system pile up in the client for a while before the sender has to wait; what waits counts all the same.
	openWindow = 8 << 20
)

// Scenarios are all that there are, in the order in which they are told.
func Scenarios() []Scenario {
	both, three := []Class{ClassB, ClassA}, []int{3}
	synced := []Class{ClassB}
	return []Scenario{
		{ID: "T1", What: "throughput: 1 KiB records; 1 and 16 partitions, 1 and 8 producers", Classes: both, Replicas: three, RecordBytes: []int{1024},
			Partitions: []int{1, 16}, Producers: []int{1, 8}, Inflight: closedWindow, run: steady},
		{ID: "T2", What: "throughput with records of 100 B and of 16 KiB", Classes: both, Replicas: three, RecordBytes: []int{100, 16384},
			Partitions: []int{1, 16}, Producers: []int{1, 8}, Inflight: closedWindow, run: steady},
		{ID: "L1", What: "latency of one synchronous producer", Classes: both, Replicas: three, RecordBytes: []int{1024}, Partitions: []int{1},
			Producers: []int{1}, run: steady},
		{ID: "L2", What: "latency from produce to consume at a fixed rate", Classes: both, Replicas: three, RecordBytes: []int{1024}, Partitions: []int{16},
			Producers: []int{4}, Consumers: []int{1}, Inflight: openWindow, Open: true, run: steady},
		{ID: "M1", What: "throughput as active partitions grow: 1, 16, 128, 1,024", Classes: synced, Replicas: three, RecordBytes: []int{1024},
			Partitions: []int{1, 16, 128, 1024}, Producers: []int{8}, Inflight: closedWindow, run: steady},
		{ID: manyScenario, What: "partitions that nobody uses, 0, 1,000 and 10,000: CPU and memory at rest, time to start, time until all are led again after kill -9 of a broker",
			Classes: synced, Replicas: three, Partitions: []int{0, 1000, 10000}},
		{ID: "F1", What: "kill -9 of a leader under load: time without acknowledgements, records lost, duplicated", Classes: synced, Replicas: three,
			RecordBytes: []int{1024}, Partitions: []int{16}, Producers: []int{4}, Inflight: openWindow, Open: true, run: failover},
		{ID: "F2", What: "a broker returns after missing 5 GB: time to in-sync, p99 meanwhile", Classes: synced, Replicas: three, RecordBytes: []int{1024},
			Partitions: []int{16}, Producers: []int{4}, Inflight: openWindow, Open: true, Backlog: 5 * gigabyte, run: comeBack},
		{ID: "C1", What: "a group of 4 reads 10 GB from the disk while producers go on", Classes: synced, Replicas: three, RecordBytes: []int{1024},
			Partitions: []int{16}, Producers: []int{4}, Consumers: []int{4}, Inflight: openWindow, Open: true, Backlog: 10 * gigabyte, run: catchUp},
		{ID: "R1", What: "restart with 50 GB on the disks of all brokers, clean and after kill -9: time until the logs are open", Classes: synced, Replicas: three,
			RecordBytes: []int{1024}, Partitions: []int{16}, Producers: []int{4}, Inflight: openWindow, Backlog: 50 * gigabyte / 3, run: restart},
		{ID: "G1", What: "how throughput and p99 grow with record size, partitions, producers, consumers, replicas: one at a time (--over)", Classes: synced,
			Replicas: []int{3, 1, 5}, RecordBytes: []int{1024, 100, 16384, 131072}, Partitions: []int{16, 1, 4, 64, 256}, Producers: []int{4, 1, 2, 8, 16},
			Consumers: []int{0, 1, 2, 4}, Inflight: closedWindow, Star: true, run: steady},
	}
}

// The lists of a Scenario that grow one after the other with Star.
const (
	OverReplicas    = "replicas"
	OverRecordBytes = "record-bytes"
	OverPartitions  = "partitions"
	OverProducers   = "producers"
	OverConsumers   = "consumers"
)

// Over are the names of those lists.
func Over() []string {
	return []string{OverRecordBytes, OverPartitions, OverProducers, OverConsumers, OverReplicas}
}

// Only leaves of a Star only the lists of these names to grow.
func (s Scenario) Only(over []string) Scenario {
	for name, list := range map[string]*[]int{OverReplicas: &s.Replicas, OverRecordBytes: &s.RecordBytes, OverPartitions: &s.Partitions, OverProducers: &s.Producers, OverConsumers: &s.Consumers} {
		if !slices.Contains(over, name) && len(*list) > 1 {
			*list = (*list)[:1]
		}
	}
	return s
}

// star are the cells of a Star, each once.
func (s Scenario) star(rate int) (cells []Cell) {
	for _, class := range s.Classes {
		for _, over := range Over() {
			one := s.Only([]string{over})
			one.Star, one.Classes = false, []Class{class}
			for _, c := range one.Cells(rate) {
				if !slices.Contains(cells, c) {
					cells = append(cells, c)
				}
			}
		}
	}
	return cells
}

// Find is the scenario of that id, in whatever case.
func Find(id string) (Scenario, bool) {
	all := Scenarios()
	i := slices.IndexFunc(all, func(s Scenario) bool { return strings.EqualFold(s.ID, id) })
	if i < 0 {
		return Scenario{}, false
	}
	return all[i], true
}

// IsMany reports whether it is M2, which RunMany runs.
func (s Scenario) IsMany() bool { return s.ID == manyScenario }

// Cells are the scenario's loads. Those of one class follow each other, so that no chart mixes them.
func (s Scenario) Cells(rate int) []Cell {
	if s.Star {
		return s.star(rate)
	}
	consumers := s.Consumers
	if len(consumers) == 0 {
		consumers = []int{0}
	}
	var cells []Cell
	for _, class := range s.Classes {
		for _, replicas := range s.Replicas {
			for _, size := range s.RecordBytes {
				for _, partitions := range s.Partitions {
					for _, producers := range s.Producers {
						for _, n := range consumers {
							c := Cell{Scenario: s.ID, Class: class, Replicas: replicas, Partitions: partitions, Producers: producers, Consumers: n,
								RecordBytes: size, InflightBytes: max(s.Inflight, size), Backlog: s.Backlog}
							if s.Inflight == 0 {
								c.InflightBytes = size
							}
							if s.Open {
								c.Rate = rate
							}
							cells = append(cells, c)
						}
					}
				}
			}
		}
	}
	return cells
}

func (c Cell) String() string {
	s := fmt.Sprintf("%s class %s, %d partitions, %d producers, %d B", c.Scenario, c.Class, c.Partitions, c.Producers, c.RecordBytes)
	if c.Consumers > 0 {
		s += fmt.Sprintf(", %d consumers", c.Consumers)
	}
	if c.Replicas != 3 {
		s += fmt.Sprintf(", %d replicas", c.Replicas)
	}
	if c.Rate > 0 {
		s += fmt.Sprintf(", %d/s", c.Rate)
	}
	if text := c.Window(); text != "" {
		s += ", " + text
	}
	if c.Backlog > 0 {
		s += fmt.Sprintf(", %s behind", gigabytes(c.Backlog))
	}
	return s
}

// Window says how much is in flight where that is not what the scenario has by itself.
func (c Cell) Window() string {
	s, ok := Find(c.Scenario)
	if !ok || c.InflightBytes == max(s.Inflight, c.RecordBytes) {
		return ""
	}
	if n := c.InflightBytes; n >= 1<<20 && n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB in flight each", n>>20)
	}
	return fmt.Sprintf("%d B in flight each", c.InflightBytes)
}

// String is of a result what it is of: else it would be taken for its cell.
func (r Result) String() string {
	s := fmt.Sprintf("%s: %s %s, round %d: %s", r.Cell, r.System, r.Mode, r.Round, r.Line())
	if r.Failed != "" || r.Skipped != "" {
		s += r.Failed + r.Skipped
	}
	return s
}

func gigabytes(n int64) string { return fmt.Sprintf("%.3g GB", float64(n)/gigabyte) }

// Faults reports whether nodes are killed while records are on their way.
func (c Cell) Faults() bool { return c.Scenario == "F1" || c.Scenario == "F2" || c.Scenario == "R1" }

// DiskBytes is about what a system needs of the disk for the cell, logs and what is laid out in advance.
func (c Cell) DiskBytes() int64 { return c.Backlog * int64(c.Replicas) * 5 / 4 }

// scenarioOf is the one that a cell belongs to.
func scenarioOf(c Cell) (Scenario, error) {
	s, ok := Find(c.Scenario)
	if !ok || s.run == nil {
		return s, fmt.Errorf("no scenario %q", c.Scenario)
	}
	return s, nil
}
