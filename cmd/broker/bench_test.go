package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/bench"
)

func TestBenchPlan(t *testing.T) {
	with := func(fn func(*benchOptions)) *benchOptions {
		o := &benchOptions{limit: time.Minute, batch: 1 << 20}
		fn(o)
		return o
	}
	p, err := with(func(o *benchOptions) { o.class, o.parts, o.replicas = "b", []int{16}, []int{1, 3, 5} }).plan([]string{"t1"})
	if err != nil || p.many || len(p.cells) != 6 || p.cells[0].Replicas != 1 || p.cells[5].Replicas != 5 {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, c := range p.cells {
		if c.Class != bench.ClassB || c.Partitions != 16 {
			t.Errorf("%v", c)
		}
	}
	p, err = with(func(o *benchOptions) { o.backlog, o.rate, o.consumers = 3, 500, []int{2} }).plan([]string{"R1", "C1", "M2", "L1"})
	if err != nil || !p.many || len(p.cells) != 4 {
		t.Fatalf("%+v, %v", p, err)
	}
	r1, c1, l1 := p.cells[0], p.cells[1], p.cells[2]
	if r1.Backlog != 1e9 || r1.Rate != 0 || c1.Backlog != 3e9 || c1.Rate != 500 || c1.Consumers != 2 || l1.Consumers != 0 || l1.Rate != 0 || l1.InflightBytes != l1.RecordBytes {
		t.Fatalf("%+v\n%+v\n%+v", r1, c1, l1)
	}
	for what, o := range map[string]*benchOptions{
		"unknown scenario": with(func(*benchOptions) {}), "unknown class": with(func(o *benchOptions) { o.class = "C" }),
		"--producers": with(func(o *benchOptions) { o.producers = []int{0} }), "0 are too few": with(func(o *benchOptions) { o.parts = []int{0} }),
		"out of range": with(func(o *benchOptions) { o.rate = -1 }),
	} {
		name := "T1"
		if what == "unknown scenario" {
			name = "T9"
		}
		if _, err := o.plan([]string{name}); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := with(func(o *benchOptions) { o.class = "A" }).plan([]string{"M2"}); err == nil {
		t.Error("M2 of class A went through")
	}
}

// Help lists every scenario, and JetStream is loaded in one mode where latency is what counts.
func TestBenchScenarios(t *testing.T) {
	help := scenarioHelp()
	modes := []string{bench.JetStreamAsync, bench.JetStreamFast}
	for _, s := range bench.Scenarios() {
		if !strings.Contains(help, "  "+s.ID+"  "+s.What) {
			t.Errorf("help lacks %s", s.ID)
		}
		if s.IsMany() {
			continue
		}
		want := modes
		switch s.ID {
		case "L1":
			want = []string{bench.JetStreamSync}
		case "L2", "F1", "F2", "C1", "R1":
			want = []string{bench.JetStreamAsync}
		}
		if got := jetStreamModes(s.Cells(1)[0], modes); !slices.Equal(got, want) {
			t.Errorf("%s loads JetStream in %v", s.ID, got)
		}
	}
}

func TestBenchFailure(t *testing.T) {
	r := &bench.Report{Results: []bench.Result{{System: "kafka", Failed: "fell over"}, {System: bench.OurName, Skipped: "not offered"}}}
	if err := benchFailure(r); err != nil {
		t.Fatal(err)
	}
	r.Results = append(r.Results, bench.Result{System: bench.OurName, Round: 2, Failed: "lost one"})
	if err := benchFailure(r); err == nil || !strings.Contains(fmt.Sprint(err), "lost one") {
		t.Fatal(err)
	}
}

// Without a peer there is nothing to be measured beside one, unless somebody asks for such a part by its name.
func TestSuiteWithoutPeers(t *testing.T) {
	beside := func(o *suiteOptions) (names []string) {
		o.within = time.Hour
		pieces, err := o.pieces()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			if p.Beside {
				names = append(names, p.Name)
			}
		}
		return names
	}
	for _, tc := range []struct{ peers, only, want []string }{
		{nil, nil, nil},
		{[]string{"kafka"}, nil, []string{"backlog-peers", "m1-wide-peers"}},
		{nil, []string{"backlog-peers"}, []string{"backlog-peers"}},
	} {
		if got := beside(&suiteOptions{peers: tc.peers, only: tc.only}); !slices.Equal(got, tc.want) {
			t.Errorf("with peers %q and only %q: %q, want %q", tc.peers, tc.only, got, tc.want)
		}
	}
}
