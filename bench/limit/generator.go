// What the load generator costs: it shares the machine with what it loads, so that its processor time is nobody else's.

package limit

import (
	"context"
	"fmt"

	"github.com/balsamq/balsa/bench"
)

// producerLoads are those of the scenarios, by what decides what a byte costs a producer: the size of a record, and how many of them are on their
// way to one partition. With 16 MiB in flight each it is mostly new memory that costs, which differs from round to round by far more than it should:
// M1's wide window is priced by what is no dearer. consumerLoads is C1's.
var (
	producerLoads = []Generator{
		{RecordBytes: 1024, Partitions: 16, Clients: 8, InflightBytes: 1 << 20},
		{RecordBytes: 1024, Partitions: 1, Clients: 8, InflightBytes: 1 << 20},
		{RecordBytes: 100, Partitions: 16, Clients: 8, InflightBytes: 1 << 20},
		{RecordBytes: 16 << 10, Partitions: 16, Clients: 8, InflightBytes: 1 << 20},
		{RecordBytes: 128 << 10, Partitions: 16, Clients: 4, InflightBytes: 1 << 20},
		{RecordBytes: 1024, Partitions: 128, Clients: 8, InflightBytes: 1 << 20},
		{RecordBytes: 1024, Partitions: 1024, Clients: 8, InflightBytes: 1 << 20},
	}
	consumerLoads = []Generator{{RecordBytes: 1024, Partitions: 16, Clients: 4}}
)

const batchBytes = 1 << 20 // of the clients, as bench run has it by default

func generatorProbes(loads int) (probes []probe) {
	add := func(what string, g Generator, to func(*Machine) *[]Generator, cost func(context.Context, bench.Cell, *env) (bench.GeneratorCost, error)) {
		probes = append(probes, probe{
			name: fmt.Sprintf("%s, records of %d bytes, %d partitions", what, g.RecordBytes, g.Partitions),
			run: func(ctx context.Context, e *env) (sample, error) {
				cell := bench.Cell{Scenario: "T1", Class: bench.ClassB, Replicas: 1, Partitions: g.Partitions, Producers: g.Clients, Consumers: g.Clients, RecordBytes: g.RecordBytes, InflightBytes: max(g.InflightBytes, g.RecordBytes)}
				got, err := cost(ctx, cell, e)
				return sample{value: got.MBSec * 1e6, second: got.NsPerByte}, err
			},
			set: func(m *Machine, r []sample) {
				g.MBSec, g.NsPerByte = figure(r, func(s sample) float64 { return s.value / 1e6 }), figure(r, second)
				*to(m) = append(*to(m), g)
			},
		})
	}
	client := bench.Client{BatchBytes: batchBytes}
	for _, g := range producerLoads[:min(loads, len(producerLoads))] {
		add("producers", g, func(m *Machine) *[]Generator { return &m.Producers }, func(ctx context.Context, c bench.Cell, e *env) (bench.GeneratorCost, error) {
			return bench.ProducerCost(ctx, c, client, e.each)
		})
	}
	for _, g := range consumerLoads[:min(loads, len(consumerLoads))] {
		add("consumers", g, func(m *Machine) *[]Generator { return &m.Consumers }, func(ctx context.Context, c bench.Cell, e *env) (bench.GeneratorCost, error) {
			return bench.ConsumerCost(ctx, c, client, e.each)
		})
	}
	return probes
}

// producing is what a byte costs the producers of a load, in CPU nanoseconds with both ends of the connection to the leader; false if it was not
// measured. Where its own load was not, one that is no dearer for a byte stands for it, so that what follows stays the best possible: with records
// as large or as little larger as there are, and as much of them on its way to a partition or more, the cheapest of those.
func (m *Machine) producing(l Load) (ns float64, ok bool) {
	share := func(inflight, partitions int) float64 { return float64(inflight) / float64(max(partitions, 1)) }
	size := 0
	for _, g := range m.Producers {
		v := g.NsPerByte.Median
		switch {
		case v == 0 || g.RecordBytes < l.RecordBytes || share(g.InflightBytes, g.Partitions) < share(l.InflightBytes, l.Partitions):
		case g.RecordBytes == l.RecordBytes && g.Partitions == l.Partitions && g.InflightBytes == l.InflightBytes:
			return v, true
		case size == 0 || g.RecordBytes < size || g.RecordBytes == size && v < ns:
			size, ns = g.RecordBytes, v
		}
	}
	return ns, size > 0
}

// consuming is the same of consumers.
func (m *Machine) consuming() (ns float64, ok bool) {
	for _, g := range m.Consumers {
		ns = max(ns, g.NsPerByte.Median)
	}
	return ns, ns > 0
}
