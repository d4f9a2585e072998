package page

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/bench/limit"
)

var keep = flag.String("keep", "", "write the page of the invented run to this `FILE`, to be looked at")

// latency is one of many around a median in ms, with a tail.
func latency(rng *rand.Rand, median float64) bench.Latency {
	h := hdrhistogram.New(1000, int64(10*time.Minute), 3)
	for range 20_000 {
		v := median * math.Exp(0.3*rng.NormFloat64())
		if rng.IntN(200) == 0 {
			v *= 6 + 10*rng.Float64()
		}
		_ = h.RecordValue(int64(v * 1e6))
	}
	text, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		panic(err)
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e6 }
	return bench.Latency{Count: h.TotalCount(), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), P9999: at(99.99), Max: float64(h.Max()) / 1e6, HDR: string(text)}
}

// invented is a run with every scenario, of three systems; the figures are made up.
func invented() Run {
	rng := rand.New(rand.NewPCG(1, 2))
	r := &bench.Report{Schema: bench.Schema, Taken: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC), Complete: true, Command: []string{"bench", "run", "T1", "--peer", "jetstream,kafka"},
		Machine:  bench.Machine{OS: "linux/amd64", Kernel: "6.1", CPU: "A <fast> one", CPUs: 2, MemoryBytes: 24e9, FileSystem: "ext4", Load: 0.3},
		Balsa:    bench.Build{Version: "v0.1.0", Commit: "0123456789abcdef", Go: "go1.26"},
		Peers:    []bench.Peer{{Name: "jetstream", Version: "2.15.2", Configs: map[string]string{"nats-node.conf": "jetstream { <x> }"}}, {Name: "kafka", Version: "4.1"}},
		Settings: bench.Settings{Rounds: 3, WarmupSec: 2, MeasureSec: 8, Verify: true}}
	type system struct {
		name, mode string
		speed      float64
	}
	systems := []system{{"balsa", "", 1}, {"jetstream", "async", 0.08}, {"jetstream", "fast", 0.1}, {"kafka", "", 0.45}}
	add := func(c bench.Cell, fill func(x *bench.Result, s system)) {
		for round := range 3 {
			for _, s := range systems {
				x := bench.Result{Cell: c, System: s.name, Mode: s.mode, Round: round + 1, Seconds: 8, Verified: &bench.Verification{Acked: 1000, Read: 1000}}
				x.MBSec = 200 * s.speed * (0.95 + 0.1*rng.Float64()) / float64(c.Replicas) * 3
				x.Records = int64(x.MBSec * 1e6 / float64(max(c.RecordBytes, 1)) * 8)
				x.RecordsSec = float64(x.Records) / 8
				x.CPUSecGB, x.RSSSum = 4/s.speed, 300
				x.Latency = latency(rng, 2/s.speed)
				fill(&x, s)
				r.Results = append(r.Results, x)
			}
		}
	}
	none := func(*bench.Result, system) {}
	for _, class := range []bench.Class{bench.ClassB, bench.ClassA} {
		for _, partitions := range []int{1, 16} {
			add(bench.Cell{Scenario: "T1", Class: class, Replicas: 3, Partitions: partitions, Producers: 8, RecordBytes: 1024, InflightBytes: 1 << 20}, none)
		}
		add(bench.Cell{Scenario: "L1", Class: class, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1024}, none)
		add(bench.Cell{Scenario: "L2", Class: class, Replicas: 3, Partitions: 16, Producers: 4, Consumers: 1, RecordBytes: 1024, InflightBytes: 8 << 20, Rate: 10000}, func(x *bench.Result, s system) {
			l := latency(rng, 3/s.speed)
			x.EndToEnd = &l
		})
	}
	for _, n := range []int{1, 16, 128, 1024} {
		add(bench.Cell{Scenario: "M1", Class: bench.ClassB, Replicas: 3, Partitions: n, Producers: 8, RecordBytes: 1024, InflightBytes: 1 << 20}, func(x *bench.Result, s system) { x.MBSec /= 1 + math.Log10(float64(n))/2 })
	}
	for _, n := range []int{16, 1024} {
		add(bench.Cell{Scenario: "M1", Class: bench.ClassB, Replicas: 3, Partitions: n, Producers: 8, RecordBytes: 1024, InflightBytes: bench.WideWindow}, func(x *bench.Result, s system) { x.MBSec /= 1 + math.Log10(float64(n)) })
	}
	for _, n := range []int{1, 5} {
		add(bench.Cell{Scenario: "T1", Class: bench.ClassB, Replicas: n, Partitions: 16, Producers: 8, RecordBytes: 1024, InflightBytes: 1 << 20}, none)
	}
	open := bench.Cell{Class: bench.ClassB, Replicas: 3, Partitions: 16, Producers: 4, RecordBytes: 1024, InflightBytes: 8 << 20, Rate: 10000}
	series := func(x *bench.Result, gap float64) {
		for i := range 200 {
			at := float64(i+1) / 10
			p := bench.Point{Seconds: at, Acked: 1000 + rng.Int64N(50), Consumed: 990 + rng.Int64N(60)}
			if at > 5 && at < 5+gap {
				p.Acked = 330
			}
			x.Series = append(x.Series, p)
		}
		x.Marks = []bench.Mark{{Seconds: 5, What: "node 2 killed"}}
	}
	f1, f2, c1, r1 := open, open, open, open
	f1.Scenario, f2.Scenario, c1.Scenario, r1.Scenario = "F1", "F2", "C1", "R1"
	f2.Backlog, c1.Backlog, c1.Consumers, r1.Backlog, r1.Rate = 5e9, 10e9, 4, 16e9, 0
	add(f1, func(x *bench.Result, s system) {
		series(x, 1.4/s.speed)
		x.Failover = &bench.Failover{Node: 2, Orphaned: 5, GapSec: 1.4 / s.speed, FirstAckSec: 1.5 / s.speed, OthersGapSec: 0.1}
	})
	add(f2, func(x *bench.Result, s system) {
		series(x, 0)
		x.Return = &bench.Return{Node: 2, MissedBytes: 5e9, InSyncSec: 20 / s.speed, MissedMBSec: 250 * s.speed, P99Ratio: 2.5}
	})
	add(c1, func(x *bench.Result, s system) {
		series(x, 0)
		x.CatchUp = &bench.CatchUp{BacklogRecords: 1e7, Seconds: 30 / s.speed, RecordsSec: 3e5, MBSec: 300 * s.speed, Kept: 0.93, Cache: "dropped"}
	})
	add(r1, func(x *bench.Result, s system) {
		x.Restart = &bench.Restart{DiskBytes: 50e9, Clean: bench.Recovery{OpenSec: 0.5 / s.speed, LedSec: 2, AckSec: 2.5}, Unclean: bench.Recovery{OpenSec: 1.9 / s.speed, LedSec: 3, AckSec: 3.5}, Cache: "dropped"}
	})
	r.Results = append(r.Results, bench.Result{Cell: f1, System: "other", Round: 1, Skipped: "not <offered>"})
	r.Many = []bench.Many{
		{System: "balsa", Partitions: 1000, Wanted: 1000, Round: 1, IdleCPU: []float64{1, 2, 3}, RSS: []float64{40, 41, 42}, PerKB: 12, CreateSec: 3, StartSec: 2, Orphaned: 333, RecoverP50: 1.1, RecoverP99: 1.9, RecoverMax: 2,
			Curve: []bench.Left{{Seconds: 0.1, Left: 333}, {Seconds: 1, Left: 200}, {Seconds: 2}}},
		{System: "jetstream", Partitions: 1000, Wanted: 1000, Round: 1, IdleCPU: []float64{15, 20, 20}, RSS: []float64{140, 141, 142}, PerKB: 190, Orphaned: 333, RecoverMax: 6, Curve: []bench.Left{{Seconds: 0.1, Left: 333}, {Seconds: 6}}, Notes: []string{"a note"}},
	}
	f := func(v float64) limit.Figure { return limit.Figure{Median: v, Min: v * 0.9, Max: v * 1.2} }
	s := func(mb, ns float64) limit.Stream { return limit.Stream{MBSec: f(mb), NsPerByte: f(ns)} }
	w := func(a, b float64) limit.Wait { return limit.Wait{P50: f(a), P99: f(b)} }
	return Run{Name: "invented.json", Report: r, Limits: &limit.Machine{Taken: r.Taken, Host: r.Machine, Rounds: 5, SyncWritten: w(160, 300), SyncMany: []limit.Syncs{{Files: 1, PerSec: f(5000), Wait: w(160, 300)}, {Files: 3, PerSec: f(10000), Wait: w(300, 900)}},
		AppendBuffered: s(400, 2.4), AppendDirect: s(1400, 0.15), ReadDirect: s(1400, 0.1), Loopback: s(1300, 1), CRC: s(20000, 0.05), Copy: s(9000, 0.1), PingPong: w(11, 50), OpenFile: f(2)}}
}

func TestPage(t *testing.T) {
	var b strings.Builder
	if err := Write(&b, []Run{invented()}); err != nil {
		t.Fatal(err)
	}
	html := b.String()
	if *keep != "" {
		if err := os.WriteFile(*keep, []byte(html), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing from outside, no script, nothing that was not escaped.
	for _, bad := range []string{"<script", "http:", "https:", "@import", "url(", "src=", "<fast>", "<offered>", "<x>", "NaN", "Inf", "ZgotmplZ", "%!"} {
		if i := strings.Index(html, bad); i >= 0 {
			t.Errorf("%q in the page: … %s …", bad, html[max(0, i-80):min(len(html), i+80)])
		}
	}
	for _, want := range []string{"jetstream fast", "kafka", "0123456789ab", "2.15.2", "bench run T1 --peer jetstream,kafka", "node 2 killed", "By partitions, class B", "By replicas, class B", "a note", "not &lt;offered&gt;", "nats-node.conf", "What the machine would allow"} {
		if !strings.Contains(html, want) {
			t.Errorf("%q is not in the page", want)
		}
	}
	for id := range titles {
		if id == "T2" || id == "G1" { // are drawn as T1 and M1 are
			continue
		}
		if !strings.Contains(html, `id="0-`+id+`"`) {
			t.Errorf("no section of %s", id)
		}
	}
	drawings := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(html, -1)
	if len(drawings) < 20 {
		t.Errorf("%d drawings", len(drawings))
	}
	for _, d := range drawings {
		for dec := xml.NewDecoder(strings.NewReader(d)); ; {
			if _, err := dec.Token(); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatalf("a drawing is not well-formed: %v\n%s", err, d[:min(len(d), 300)])
				}
				break
			}
		}
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := WriteMarkdown(&b, []Run{invented()}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| T1 | throughput, ours of class B |", "| jetstream fast |", "## F1", "0123456789ab", "1,024 partitions, 8 producers, 1 KiB, 16 MiB in flight each\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	// A figure stands under its head.
	_, after, _ := strings.Cut(b.String(), "| records/s |")
	head, after, _ := strings.Cut(after, "\n")
	_, peer, _ := strings.Cut(after, "| jetstream fast |")
	peer, _, _ = strings.Cut(peer, "\n")
	heads, figures := strings.Split(head, "|"), strings.Split(peer, "|")
	for i, h := range heads { // two fewer than figures has: rounds and records/s were cut away
		if want := strings.Contains(h, "ours is"); want != strings.Contains(figures[i+2], "×") {
			t.Errorf("under %q stands %q", h, figures[i+2])
		}
		if strings.Contains(h, "verified") && !strings.Contains(figures[i+2], "3,000") {
			t.Errorf("under %q stands %q", h, figures[i+2])
		}
	}
	columns := -1
	for l := range strings.Lines(b.String()) { // all rows of a table are as long as its head
		if !strings.HasPrefix(l, "|") {
			columns = -1
			continue
		}
		n := strings.Count(l, "|") - strings.Count(l, `\|`)
		if columns >= 0 && n != columns {
			t.Errorf("%d columns after %d: %s", n, columns, l)
		}
		columns = n
	}
}

func TestGoals(t *testing.T) {
	r := invented()
	near := r.Limits.Compare(r.Report)
	all := goals(r.Report, tables(r.Report), r.Limits, near, false)
	verdicts := map[string]string{}
	for _, g := range all {
		if len(g.Figures) != 3 {
			t.Errorf("%s %s: %d figures of 3 systems", g.ID, g.What, len(g.Figures))
		}
		verdicts[g.ID+" "+g.What] = g.Verdict
	}
	for what, want := range map[string]string{
		"T1 throughput, ours of class B":                    "missed", // 10 times JetStream's best mode, but 2.2 times Kafka's class A; see below
		"T1 CPU for a GB, class B":                          "met",    // 0.45
		"L1 p50, ours of class B":                           "met",
		"L1 p99, class B":                                   "missed",
		"L2 p99.9 to the consumer, ours of class B":         "met",
		"M1 1,024 active partitions":                        "met",
		"M1 1,024 active partitions, 16 MiB in flight each": "met",
		"M2 idle CPU of a broker, 1,000 partitions":         "", // the goal speaks of 10,000
		"F1 without acknowledgements":                       "met",
		"F2 catching up, 5 GB":                              "missed",
		"F2 p99 meanwhile, to before, 5 GB":                 "missed",
		"C1 producers keep, 10 GB":                          "met",
		"C1 reading a backlog, 10 GB":                       "missed",
		"R1 logs open, clean, 48 GB":                        "met",
		"R1 logs open, unclean, 48 GB":                      "met",
	} {
		if got, ok := verdicts[what]; !ok || got != want {
			t.Errorf("%s: %q (%v), want %q", what, got, ok, want)
		}
	}
}

// What a goal asks for and nobody measured is neither met nor missed, and of a suite all goals are told.
func TestGoalsNotMeasured(t *testing.T) {
	r := invented().Report
	r.Results = slices.DeleteFunc(r.Results, func(x bench.Result) bool { return x.Class == bench.ClassA || x.Scenario == "R1" })
	r.Many = nil
	of := func(whole bool) map[string]goal {
		all := map[string]goal{}
		for _, g := range goals(r, tables(r), nil, nil, whole) {
			all[g.ID+" "+g.What] = g
		}
		return all
	}
	some, all := of(false), of(true)
	if g := all["T1 throughput, ours of class B"]; g.Verdict == metGoal || !strings.Contains(g.Why, "Kafka's class A was not measured") {
		t.Errorf("%+v", g)
	}
	if g := all["L1 p50, ours of class B"]; g.Verdict != "" || g.Figures[0] == absent {
		t.Errorf("%+v", g)
	}
	for _, what := range []string{"R1 logs open, clean", "M2 idle CPU of a broker, 10,000 partitions"} {
		if g, ok := all[what]; !ok || g.Verdict != "" || g.Why != "not measured" || g.Figures[0] != absent {
			t.Errorf("%s: %+v", what, g)
		}
		if _, ok := some[what]; ok {
			t.Errorf("%s is told of a run that did not ask", what)
		}
	}
	// Peers have less on their disks than ours: it is said.
	for i, x := range r.Results {
		if x.Scenario == "F2" && x.System != ours {
			r.Results[i].Backlog = 3e8
		}
	}
	if g := of(false)["F2 catching up, 5 GB"]; !strings.HasSuffix(g.Figures[1], " (0.3 GB)") || strings.Contains(g.Figures[0], "(") {
		t.Errorf("%+v", g)
	}
	// How many rounds it rests on is said, of each where they differ.
	if g := of(false)["M1 1,024 active partitions"]; g.On() != "3" {
		t.Errorf("on %q", g.On())
	}
	if on := (goal{Rounds: []int{10, 0, 10}}).On() + "; " + (goal{Rounds: []int{5, 0, 1}}).On(); on != "10; 5 / – / 1" {
		t.Error(on)
	}
	// A round that lost something is not outvoted.
	for i, x := range r.Results {
		if x.Scenario == "F1" && x.System == ours && x.Round == 3 {
			r.Results[i].Verified = &bench.Verification{Acked: 1000, Read: 999, Lost: 1}
		}
	}
	if g := of(false)["F1 without acknowledgements"]; g.Verdict != missedGoal || !strings.Contains(g.Why, "1 lost") {
		t.Errorf("%+v", g)
	}
}

// A suite is one page with an index; that ours has no class A is said.
func TestSuite(t *testing.T) {
	whole := invented()
	var names []string
	var takes []*bench.Report
	for round := 1; round <= 3; round++ {
		r := *whole.Report
		r.Results = slices.DeleteFunc(slices.Clone(r.Results), func(x bench.Result) bool { return x.Round != round || x.Class == bench.ClassA && x.System == ours })
		for i := range r.Results {
			r.Results[i].Round = 1
		}
		r.Many, r.Settings.Rounds = nil, 1
		names, takes = append(names, fmt.Sprintf("all-%d.json", round)), append(takes, &r)
	}
	one, err := bench.Join(names, takes)
	if err != nil {
		t.Fatal(err)
	}
	run := Run{Report: one, Limits: whole.Limits}
	var page, index strings.Builder
	if err := errors.Join(Write(&page, []Run{run}), WriteIndex(&index, run)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Balsa has no class A", "all-2", "3 takes", "not measured"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("%q is not in the page", want)
		}
	}
	for _, want := range []string{"Balsa has no class A", "(report.html)", "| T1 | throughput, ours of class B |", "JetStream's class A", "0123456789ab", "rounds: all 3", "| R1 |", "| M2 |", "## Every load at full speed", "Class A, MB/s"} {
		if !strings.Contains(index.String(), want) {
			t.Errorf("%q is not in the index:\n%s", want, index.String())
		}
	}
}

// A run that says little still makes a page: no results, failures only, zeros.
func TestPageOfLittle(t *testing.T) {
	cell := bench.Cell{Scenario: "T1", Class: bench.ClassB, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1 << 20}
	for _, r := range []*bench.Report{
		{},
		{Results: []bench.Result{{Cell: cell, System: "balsa", Failed: "it did"}}},
		{Results: []bench.Result{{Cell: cell, System: "balsa"}, {Cell: cell, System: "kafka", Latency: bench.Latency{HDR: "broken"}}}, Many: []bench.Many{{System: "balsa", Failed: "no"}, {System: "x", Skipped: "why"}}},
	} {
		for _, m := range []*limit.Machine{nil, {}} {
			var b strings.Builder
			if err := Write(&b, []Run{{Report: r, Limits: m}, {Report: r}}); err != nil {
				t.Error(err)
			}
			if err := WriteMarkdown(&b, []Run{{Report: r, Limits: m}}); err != nil {
				t.Error(err)
			}
			if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
				t.Errorf("%+v gives no numbers", r)
			}
		}
	}
}

func TestTicks(t *testing.T) {
	for _, x := range []struct {
		lo, hi float64
		log    bool
		want   []float64
	}{
		{0, 100, false, []float64{0, 20, 40, 60, 80, 100}},
		{0, 0.9, false, []float64{0, 0.2, 0.4, 0.6, 0.8}},
		{0.9, 110, true, []float64{1, 2, 5, 10, 20, 50, 100}},
		{0.01, 2000, true, []float64{0.01, 0.1, 1, 10, 100, 1000}},
	} {
		got := ticks(x.lo, x.hi, x.log)
		if len(got) != len(x.want) {
			t.Errorf("%v to %v: %v, want %v", x.lo, x.hi, got, x.want)
			continue
		}
		for i := range got {
			if math.Abs(got[i]-x.want[i]) > 1e-9*math.Abs(x.want[i]) {
				t.Errorf("%v to %v: %v, want %v", x.lo, x.hi, got, x.want)
				break
			}
		}
	}
}
