package limit

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/bench"
)

// Everything is measured, and nothing is left behind.
func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	m, err := Measure(t.Context(), Options{Rounds: 2, Each: time.Millisecond, Bytes: 8 << 20, Dir: dir, Log: t.Logf, files: []int{1, 3, 300}, loads: 1})
	if err != nil {
		t.Fatal(err)
	}
	for what, v := range map[string]float64{
		"growing sync": m.SyncGrowing.P50.Median, "written sync": m.SyncWritten.P99.Median, "buffered append": m.AppendBuffered.MBSec.Median,
		"cached read": m.ReadCached.MBSec.Median, "open": m.OpenFile.Median, "CRC": m.CRC.MBSec.Median, "copy": m.Copy.MBSec.Median, "loopback": m.Loopback.MBSec.Median,
		"sendfile": m.SendFile.MBSec.Median, "ping-pong": m.PingPong.P50.Median, "hand over": m.HandOver.Median, "wake": m.Wake.Median,
	} {
		if v <= 0 {
			t.Errorf("%s was not measured: %v", what, v)
		}
	}
	if len(m.Producers) != 1 || m.Producers[0].MBSec.Median <= 0 || len(m.Consumers) != 1 || m.Consumers[0].MBSec.Median <= 0 {
		t.Errorf("the load generator: %+v, %+v", m.Producers, m.Consumers)
	}
	if directFlag != 0 && len(m.DirectMany) > 0 && (m.LeastSynced.P50.Median <= 0 || m.LeastCached.P99.Median <= 0) {
		t.Errorf("the least log: %+v, %+v", m.LeastSynced, m.LeastCached)
	}
	if len(m.SyncMany) != 3 {
		t.Errorf("syncs of %d numbers of files, want 3", len(m.SyncMany))
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	file := filepath.Join(dir, "limits.json")
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if back.Throughput(Load{bench.ClassB, 1, 1, 1024, 1 << 20, 3}).Value != m.Throughput(Load{bench.ClassB, 1, 1, 1024, 1 << 20, 3}).Value {
		t.Error("what was written gives another limit than what was measured")
	}
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file); err == nil {
		t.Error("an empty object was taken for measurements")
	}
}

// example is a machine with round figures: a byte costs 1 ns on the loopback, 0.5 ns on the disk.
func example() *Machine {
	f := func(v float64) Figure { return Figure{v, v, v} }
	w := func(p50, p99 float64) Wait { return Wait{f(p50), f(p99)} }
	return &Machine{
		Host:           bench.Machine{CPUs: 2},
		SyncMany:       []Syncs{{1, f(5000), w(200, 400)}, {3, f(10000), w(300, 900)}, {48, f(12000), w(4000, 8000)}},
		AppendBuffered: Stream{f(400), f(2.5)}, AppendDirect: Stream{f(1200), f(0.5)}, ReadDirect: Stream{f(1200), f(0.5)},
		Loopback: Stream{f(1000), f(1)}, CRC: Stream{f(20000), f(0.05)}, Copy: Stream{f(10000), f(0.1)},
		PingPong: w(20, 50), OpenFile: f(10),
	}
}

func TestModel(t *testing.T) {
	m := example()
	want := func(what string, b Bound, value float64, by string) {
		t.Helper()
		if math.Abs(b.Value-value) > value*1e-6 || !strings.Contains(b.By, by) {
			t.Errorf("%s: %+v, want %v by %s", what, b, value, by)
		}
	}
	// 3 connections, 3 writes, 4 checksums, a copy: 3 + 1.5 + 0.2 + 0.1 ns a byte on 2 processors.
	// 4.8 ns a byte: 417 MB/s; the disk's 1,200 MB/s are a third for each replica, which is less.
	want("many bytes in flight", m.Throughput(Load{bench.ClassB, 1, 8, 1024, 1 << 20, 3}), 400, "disk")
	// Five replicas: 5 + 2.5 + 0.3 + 0.1 = 7.9 ns; the disk gives each a fifth.
	want("five replicas", m.Throughput(Load{bench.ClassB, 1, 8, 1024, 1 << 20, 5}), 240, "disk")
	// One replica: 1 + 0.5 + 0.1 + 0.1 = 1.7 ns.
	want("one replica", m.Throughput(Load{bench.ClassA, 1, 8, 1024, 1 << 20, 1}), 2e3/1.7, "CPU")
	// Four ways of 10 µs, twice a KiB at 1 ns, three syncs side by side.
	ack := 0.02 + 0.02 + 2*1024e-6 + 0.3
	median, worst := m.Latency(Load{bench.ClassB, 1, 1, 1024, 1024, 3})
	want("L1 p50", median, ack, "woken")
	want("L1 p99", worst, ack+0.6, "woken") // the sync is 0.9 rarely
	median, _ = m.Latency(Load{bench.ClassA, 1, 1, 1024, 1024, 3})
	want("L1 class A", median, ack-0.3, "woken")
	// Direct writes are faster, and the least log as a whole faster still; but what it wrote is not five replicas'.
	m.DirectMany = []Syncs{{1, Figure{}, Wait{}}, {3, Figure{}, Wait{P50: Figure{Median: 250}, P99: Figure{Median: 2000, Min: 2000}}}}
	median, worst = m.Latency(Load{bench.ClassB, 1, 1, 1024, 1024, 3})
	want("L1 p50, direct", median, ack-0.05, "woken")
	want("L1 p99, direct", worst, ack+0.6, "woken")
	m.LeastSynced = Wait{P50: Figure{Median: 260}, P99: Figure{Median: 5000, Min: 800}}
	median, worst = m.Latency(Load{bench.ClassB, 1, 1, 1024, 1024, 3})
	want("L1 p50, at once", median, 0.26, "nothing else")
	want("L1 p99, at once", worst, 0.8, "nothing else")
	if b, _ := m.Latency(Load{bench.ClassB, 1, 1, 1024, 1024, 5}); b.Value == 0.26 {
		t.Errorf("five replicas: %+v", b)
	}
	m.LeastSynced, m.DirectMany = Wait{}, nil
	// 10 KB in flight can be acknowledged once in that time.
	want("a small window", m.Throughput(Load{bench.ClassB, 1, 1, 1024, 10_000, 3}), 10/ack, "flight")
	// 16 partitions: 12,000 syncs a second are 4,000 rounds of a replica, each with a sixteenth of 1 MB.
	want("a sync per log", m.SyncPerLog(Load{bench.ClassB, 16, 1, 1024, 1_000_000, 3}), 4000./16, "a sync per log")
	want("F1", m.Failover(time.Second, 3), 1+5*20e-6-20e-6+2*200e-6, "election")
	want("M2", m.LeadAll(time.Second, 3000), 1.5, "election")
	want("F2", m.CatchUp(), 600, "disk")
	want("C1", m.Backlog(1, false), 1000, "connection")
	want("C1, two readers", m.Backlog(2, false), 1200, "disk")
	// The clients cost 3.5 ns a byte with their connections: with what is read past the cache 4 ns.
	m.Consumers = []Generator{{RecordBytes: 1024, Stream: Stream{NsPerByte: Figure{Median: 3.5}}}}
	want("C1, with the clients", m.Backlog(4, true), 500, "CPU")
	want("C1, brokers alone", m.Backlog(4, false), 1200, "disk")
	want("R1", m.Open(400), 0.002, "files")

	if s := (Bound{Value: 400, Unit: MBSec}).Share(100); s != 0.25 {
		t.Errorf("100 of 400 MB/s is a share of %v", s)
	}
	if s := (Bound{Value: 0.5, Unit: Millis}).Share(2); s != 0.25 {
		t.Errorf("2 ms where 0.5 are possible is a share of %v", s)
	}
}

// The load generator is priced by its own load, or by one that is no dearer.
func TestGeneratorInThePrice(t *testing.T) {
	m := example()
	ns := func(v float64) Stream { return Stream{NsPerByte: Figure{Median: v}} }
	m.Producers = []Generator{{1024, 16, 8, 1 << 20, ns(2)}, {1024, 1, 8, 1 << 20, ns(1.5)}, {100, 16, 8, 1 << 20, ns(9)}, {1024, 1024, 8, 1 << 20, ns(7)}}
	// To the followers 2 ns, three checksums 0.15, three writes 1.5.
	const rest = 2 + 0.15 + 1.5
	for _, x := range []struct {
		partitions, bytes, inflight int
		price                       float64
	}{
		{16, 1024, 1 << 20, 2 + rest}, {1, 1024, 1 << 20, 1.5 + rest}, {4, 1024, 1 << 20, 1.5 + rest}, {1024, 1024, 1 << 20, 7 + rest}, {1024, 1024, 16 << 20, 1.5 + rest},
		{16, 100, 1 << 20, 9 + rest}, {1024, 100, 1 << 20, 9 + rest},
		{16, 2048, 1 << 20, 1 + 0.1 + 0.05 + rest},                      // nothing that large was measured: sent and received, copied, checked
		{16, 512, 1 << 20, 1.5 + rest}, {16, 512, 16 << 20, 1.5 + rest}, // by those of 1 KiB: the cheapest that has as much on its way to a partition
	} {
		l := Load{bench.ClassB, x.partitions, 8, x.bytes, x.inflight, 3}
		if got := m.Price(l); math.Abs(got-x.price) > 1e-9 {
			t.Errorf("%+v: %v ns, want %v: %v", l, got, x.price, m.Parts(l))
		}
	}
	// What is written is synced in class B, where that was measured.
	m.AppendSynced = Stream{Figure{Median: 1100}, Figure{Median: 0.8}}
	b, a := Load{bench.ClassB, 16, 8, 1024, 1 << 20, 3}, Load{bench.ClassA, 16, 8, 1024, 1 << 20, 3}
	if d := m.Price(b) - m.Price(a); math.Abs(d-0.9) > 1e-9 {
		t.Errorf("a sync costs %v ns", d)
	}
	var out strings.Builder
	if err := m.WritePrices(&out); err != nil || !strings.Contains(out.String(), "load generator") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// A file system without direct I/O leaves the model with what there is.
func TestModelWithoutDirect(t *testing.T) {
	m := example()
	m.AppendDirect, m.ReadDirect = Stream{}, Stream{}
	if b := m.Throughput(Load{bench.ClassA, 1, 8, 1024, 1 << 20, 3}); math.Abs(b.Value-400./3) > 1e-6 {
		t.Errorf("%+v, want a third of 400 MB/s", b)
	}
	if b := m.CatchUp(); b.Value <= 0 || math.IsInf(b.Value, 0) {
		t.Errorf("%+v", b)
	}
	var out strings.Builder
	if err := m.WriteModel(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "Inf") || strings.Contains(out.String(), "NaN") {
		t.Error(out.String())
	}
}

func TestCompare(t *testing.T) {
	m := example()
	cell := bench.Cell{Scenario: "T1", Class: bench.ClassB, Replicas: 3, Partitions: 1, Producers: 8, RecordBytes: 1024, InflightBytes: 1 << 20}
	r := &bench.Report{Results: []bench.Result{
		{Cell: cell, System: "balsa", Round: 1, MBSec: 100}, {Cell: cell, System: "balsa", Round: 2, MBSec: 120}, {Cell: cell, System: "balsa", Round: 3, MBSec: 90},
		{Cell: cell, System: "balsa", Round: 4, MBSec: 1, Failed: "it did"},
		{Cell: cell, System: "other", Skipped: "not offered"},
		{Cell: bench.Cell{Scenario: "L1", Class: bench.ClassB, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1024}, System: "balsa", Latency: bench.Latency{P50: 0.684096, P99: 2}},
	}, Many: []bench.Many{{System: "balsa", Partitions: 9000, Orphaned: 3000, RecoverMax: 3}}}
	near := m.Compare(r)
	if len(near) != 4 {
		t.Fatalf("%d figures: %+v", len(near), near)
	}
	for i, want := range []float64{0.25, 0.5, 0.942048 / 2, 0.5} {
		if math.Abs(near[i].Share-want) > 1e-6 {
			t.Errorf("%s %s: %v of the limit, want %v", near[i].Cell.Scenario, near[i].What, near[i].Share, want)
		}
	}
	var out strings.Builder
	if err := WriteNear(&out, near); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "25.0 %") {
		t.Error(out.String())
	}
}
