// What was measured and what follows from it as lines of tables, and how `broker bench limits` prints them.

package limit

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/balsamq/balsa/bench"
)

// Line is one figure of a machine.
type Line struct {
	What string
	Figure
	Unit string
}

// Figures are all that were measured.
func (m *Machine) Figures() (all []Line) {
	row := func(what string, f Figure, unit string) {
		if f.Median > 0 {
			all = append(all, Line{what, f, unit})
		}
	}
	waits := func(what string, x Wait) {
		row(what+", p50", x.P50, "µs")
		row(what+", p99", x.P99, "µs")
	}
	streams := func(what string, s Stream) {
		row(what, s.MBSec, "MB/s")
		row("  CPU", s.NsPerByte, "ns/byte")
	}
	waits("4 KiB append + fdatasync, growing file", m.SyncGrowing)
	waits("4 KiB write + fdatasync, written extents", m.SyncWritten)
	waits("4 KiB direct, synced write, written extents", m.SyncDirect)
	for _, s := range m.SyncMany {
		row(fmt.Sprintf("syncs of %d files at once", s.Files), s.PerSec, "/s")
		row("  one, p50", s.P50, "µs")
		row("  one, p99", s.P99, "µs")
	}
	for _, s := range m.DirectMany {
		row(fmt.Sprintf("direct, synced writes of %d files at once", s.Files), s.PerSec, "/s")
		row("  one, p50", s.P50, "µs")
		row("  one, p99", s.P99, "µs")
	}
	streams("append, buffered", m.AppendBuffered)
	streams("append, direct, laid-out file", m.AppendDirect)
	streams("the same, each MiB synced", m.AppendSynced)
	streams("read, cached", m.ReadCached)
	streams("read, direct", m.ReadDirect)
	row("open a file, read its end", m.OpenFile, "µs")
	streams("CRC32C", m.CRC)
	streams("memcpy", m.Copy)
	streams("TCP loopback, one connection", m.Loopback)
	streams("the same by sendfile", m.SendFile)
	waits("round trip over the loopback", m.PingPong)
	waits("three replicas that do nothing but write a record, synced", m.LeastSynced)
	waits("the same, not synced", m.LeastCached)
	for _, g := range m.Producers {
		streams(fmt.Sprintf("producers, %d B, %d partitions, %.4g MiB in flight each", g.RecordBytes, g.Partitions, float64(g.InflightBytes)/(1<<20)), g.Stream)
	}
	for _, g := range m.Consumers {
		streams(fmt.Sprintf("consumers, %d B, %d partitions", g.RecordBytes, g.Partitions), g.Stream)
	}
	row("to another goroutine and back", m.HandOver, "µs")
	row("to another thread and back", m.Wake, "µs")
	return all
}

// WriteMachine prints what was measured.
func (m *Machine) WriteMachine(out io.Writer) error {
	fmt.Fprintf(out, "%s, %s, %d processors (%s), %s; median of %d rounds, machine load %.1f before\n", m.Host.OS, m.Go, m.Host.CPUs, m.Host.CPU, m.Host.FileSystem, m.Rounds, m.Host.Load)
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tmedian\tmin\tmax\t")
	for _, l := range m.Figures() {
		fmt.Fprintf(w, "%s\t%.4g %s\t%.4g\t%.4g\t\n", l.What, l.Median, l.Unit, l.Min, l.Max)
	}
	return w.Flush()
}

// Election is the brokers' default election timeout, which some bounds consist of.
const Election = time.Second

// priced are loads whose price is told part by part.
var priced = []struct {
	what string
	load Load
}{
	{"T1 class B, 1 KiB, 16 partitions", Load{bench.ClassB, 16, 8, 1024, 1 << 20, 3}},
	{"T1 class A, 1 KiB, 16 partitions", Load{bench.ClassA, 16, 8, 1024, 1 << 20, 3}},
	{"T1 class B, 1 KiB, 1 partition", Load{bench.ClassB, 1, 8, 1024, 1 << 20, 3}},
	{"T2 class B, 100 B, 16 partitions", Load{bench.ClassB, 16, 8, 100, 1 << 20, 3}},
	{"T2 class B, 16 KiB, 16 partitions", Load{bench.ClassB, 16, 8, 16 << 10, 1 << 20, 3}},
	{"M1, 1,024 partitions", Load{bench.ClassB, 1024, 8, 1024, 1 << 20, 3}},
	{"M1, 1,024 partitions, 16 MiB in flight each", Load{bench.ClassB, 1024, 8, 1024, bench.WideWindow, 3}},
}

// Price is what a byte of a load costs at the least, and what that allows.
type Price struct {
	What  string
	Parts []Part // in CPU nanoseconds a byte, which is seconds a GB
	Sum   float64
	MBSec float64 // that all processors can do of it
}

// Prices are those of T1, T2, M1 and C1.
func (m *Machine) Prices() (all []Price) {
	add := func(what string, parts []Part) {
		p := Price{What: what, Parts: parts, Sum: sumOf(parts)}
		if p.MBSec = float64(m.Host.CPUs) * 1e3 / p.Sum; p.Sum > 0 { // else nothing was measured
			all = append(all, p)
		}
	}
	for _, x := range priced {
		add(x.what, m.Parts(x.load))
	}
	add("C1", m.BacklogParts(true))
	add("C1"+BrokersAlone, m.BacklogParts(false))
	return all
}

// WritePrices prints them.
func (m *Machine) WritePrices(out io.Writer) error {
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "scenario\twhat a byte costs at the least\tCPU s/GB\t")
	for _, p := range m.Prices() {
		for _, x := range p.Parts {
			fmt.Fprintf(w, "%s\t%s\t%.3f\t\n", p.What, x.What, x.Ns)
		}
		fmt.Fprintf(w, "%s\tall, which %d processors can do %.4g MB/s of\t%.3f\t\n", p.What, m.Host.CPUs, p.MBSec, p.Sum)
	}
	return w.Flush()
}

// Best is the bound of a scenario's load.
type Best struct {
	What string
	Bound
}

// Model are the best possible figures of all scenarios.
func (m *Machine) Model() (all []Best) {
	row := func(what string, b Bound) { all = append(all, Best{what, b}) }
	for _, x := range priced {
		row(x.what, m.Throughput(x.load))
	}
	for _, class := range []bench.Class{bench.ClassB, bench.ClassA} {
		median, worst := m.Latency(Load{class, 1, 1, 1024, 1024, 3})
		row(fmt.Sprintf("L1, L2 class %s, p50", class), median)
		row(fmt.Sprintf("L1, L2 class %s, p99", class), worst)
	}
	for _, n := range []int{16, 128, 1024} {
		row(fmt.Sprintf("M1, %d partitions, with a sync per log", n), m.SyncPerLog(Load{bench.ClassB, n, 8, 1024, 1 << 20, 3}))
	}
	row("M2, 3,333 partitions led again", m.LeadAll(Election, 3333))
	row("F1, time without acknowledgements", m.Failover(Election, 3))
	row("F2, catching up", m.CatchUp())
	row("C1, reading a backlog", m.Backlog(4, true))
	row("C1, reading a backlog"+BrokersAlone, m.Backlog(4, false))
	row("R1, 400 files of 128 MiB", m.Open(400))
	return all
}

// WriteModel prints them.
func (m *Machine) WriteModel(out io.Writer) error {
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(w, "scenario\tbest possible\tset by\tof\t")
	for _, b := range m.Model() {
		fmt.Fprintf(w, "%s\t%.4g %s\t%s\t%s\t\n", b.What, b.Value, b.Unit, b.By, strings.Join(b.Parts, ", "))
	}
	return w.Flush()
}
