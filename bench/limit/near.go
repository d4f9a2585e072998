// How near a run's figures are to the best possible ones.

package limit

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/balsamq/balsa/bench"
)

// Near is a figure of one system under one load, the median of its rounds, beside its bound.
type Near struct {
	Cell   bench.Cell `json:"cell"`
	System string     `json:"system"`
	Mode   string     `json:"mode,omitempty"`
	What   string     `json:"what"`
	Value  float64    `json:"value"`
	Bound  Bound      `json:"bound"`
	Share  float64    `json:"share"` // of the bound that is reached, 1 is all of it
}

// BrokersAlone marks a measure that is held against what the brokers' part costs at the least, as if the clients' cost nothing.
const BrokersAlone = ", brokers alone"

// ClientAsItWas marks a measure that is held against what is possible beside a load generator that takes what it took in the run.
const ClientAsItWas = ", the client as it was"

const throughput = "throughput"

func loadOf(c bench.Cell) Load {
	return Load{c.Class, c.Partitions, c.Producers, c.RecordBytes, c.InflightBytes, max(c.Replicas, 1)}
}

// clientNs is what a byte of records cost the load generator in a run.
func clientNs(r bench.Result) float64 {
	return r.ClientCPU * 1e9 / max(float64(r.Records)*float64(r.RecordBytes), 1)
}

// segmentBytes is the brokers' default, by which the files of a log of so many bytes are counted.
const segmentBytes = 128 << 20

// measure is a figure of a result, and its bound.
type measure struct {
	what  string
	value func(bench.Result) float64
	bound Bound
}

// measures are what there is to compare of a cell.
func (m *Machine) measures(c bench.Cell) []measure {
	l := loadOf(c)
	median, worst := m.Latency(l)
	switch c.Scenario {
	case "L1":
		return []measure{
			{"p50", func(r bench.Result) float64 { return r.Latency.P50 }, median},
			{"p99", func(r bench.Result) float64 { return r.Latency.P99 }, worst},
		}
	case "L2":
		end := func(of func(*bench.Latency) float64) func(bench.Result) float64 {
			return func(r bench.Result) float64 {
				if r.EndToEnd == nil {
					return 0
				}
				return of(r.EndToEnd)
			}
		}
		return []measure{
			{"p50 to the consumer", end(func(l *bench.Latency) float64 { return l.P50 }), median},
			{"p99 to the consumer", end(func(l *bench.Latency) float64 { return l.P99 }), worst},
		}
	case "F1":
		return []measure{{"time without acknowledgements", func(r bench.Result) float64 {
			if r.Failover == nil {
				return 0
			}
			return r.Failover.GapSec
		}, m.Failover(Election, c.Replicas)}}
	case "F2":
		return []measure{{"catching up", func(r bench.Result) float64 {
			if r.Return == nil {
				return 0
			}
			return r.Return.MissedMBSec
		}, m.CatchUp()}}
	case "C1":
		read := func(r bench.Result) float64 {
			if r.CatchUp == nil {
				return 0
			}
			return r.CatchUp.MBSec
		}
		return []measure{{"reading the backlog", read, m.Backlog(c.Consumers, true)}, {"reading the backlog" + BrokersAlone, read, m.Backlog(c.Consumers, false)}}
	case "R1":
		opening := m.Open(int(c.Backlog * int64(max(c.Replicas, 1)) / segmentBytes))
		return []measure{
			{"open, clean", func(r bench.Result) float64 {
				if r.Restart == nil {
					return 0
				}
				return r.Restart.Clean.OpenSec
			}, opening},
			{"open, unclean", func(r bench.Result) float64 {
				if r.Restart == nil {
					return 0
				}
				return r.Restart.Unclean.OpenSec
			}, opening},
		}
	}
	rate := func(r bench.Result) float64 { return r.MBSec }
	if c.Rate > 0 {
		return nil // what is sent at a fixed rate says nothing about the best one
	}
	all := []measure{{throughput, rate, m.Throughput(l)}}
	if c.Scenario == "M1" {
		all = append(all, measure{throughput + ", a sync per log", rate, m.SyncPerLog(l)})
	}
	return all
}

// Compare sets a run's figures beside their bounds, in the order of the run. Rounds that failed do not count.
func (m *Machine) Compare(r *bench.Report) []Near {
	type key struct {
		cell         bench.Cell
		system, mode string
	}
	var order []key
	rounds := map[key][]bench.Result{}
	for _, x := range r.Results {
		if x.Skipped != "" || x.Failed != "" {
			continue
		}
		k := key{x.Cell, x.System, x.Mode}
		if rounds[k] == nil {
			order = append(order, k)
		}
		rounds[k] = append(rounds[k], x)
	}
	var all []Near
	for _, k := range order {
		for _, x := range m.measures(k.cell) {
			v := median(rounds[k], x.value)
			if v > 0 && x.bound.Value > 0 {
				all = append(all, Near{k.cell, k.system, k.mode, x.what, v, x.bound, x.bound.Share(v)})
			}
			if client := median(rounds[k], clientNs); x.what == throughput && client > 0 && v > 0 {
				b := m.BesideClient(loadOf(k.cell), client)
				all = append(all, Near{k.cell, k.system, k.mode, x.what + ClientAsItWas, v, b, b.Share(v)})
			}
		}
	}
	return append(all, m.compareMany(r.Many)...)
}

// compareMany does so for M2: the time until all partitions of the dead node are led.
func (m *Machine) compareMany(many []bench.Many) (all []Near) {
	type key struct {
		partitions int
		system     string
	}
	var order []key
	rounds := map[key][]bench.Many{}
	for _, x := range many {
		if x.RecoverMax == 0 {
			continue
		}
		k := key{x.Partitions, x.System}
		if rounds[k] == nil {
			order = append(order, k)
		}
		rounds[k] = append(rounds[k], x)
	}
	for _, k := range order {
		v := median(rounds[k], func(x bench.Many) float64 { return x.RecoverMax })
		b := m.LeadAll(Election, int(median(rounds[k], func(x bench.Many) float64 { return float64(x.Orphaned) })))
		all = append(all, Near{bench.Cell{Scenario: "M2", Class: bench.ClassB, Replicas: 3, Partitions: k.partitions}, k.system, "", "all led again", v, b, b.Share(v)})
	}
	return all
}

func median[T any](rounds []T, of func(T) float64) float64 {
	var v []float64
	for _, r := range rounds {
		if f := of(r); f > 0 {
			v = append(v, f)
		}
	}
	slices.SortFunc(v, cmp.Compare)
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// WriteNear prints how near.
func WriteNear(out io.Writer, all []Near) error {
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "load\tsystem\twhat\tmeasured\tbest possible\tof it\tset by\t")
	for _, n := range all {
		system := n.System
		if n.Mode != "" {
			system += " " + n.Mode
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.4g %s\t%.4g\t%.1f %%\t%s\t\n", n.Cell, system, n.What, n.Value, n.Bound.Unit, n.Bound.Value, 100*n.Share, n.Bound.By)
	}
	return w.Flush()
}
