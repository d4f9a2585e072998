package bench

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// rounds are results of one system: one for each value.
func rounds(c Cell, system, mode string, values ...float64) (rs []Result) {
	for i, v := range values {
		rs = append(rs, Result{Cell: c, System: system, Mode: mode, Round: i + 1, RecordsSec: v, Latency: Latency{P50: 100 / v}})
	}
	return rs
}

func TestRatios(t *testing.T) {
	many := Cell{Scenario: "T1", Class: ClassB, Replicas: 3, Partitions: 16, Producers: 1, RecordBytes: 1024, InflightBytes: 1 << 20}
	one := Cell{Scenario: "L1", Class: ClassB, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1024}
	r := &Report{}
	r.Results = append(r.Results, rounds(many, OurName, "", 100, 400, 300, 500, 200)...)
	r.Results = append(r.Results, rounds(many, "jetstream", "async", 50, 100, 100, 100, 400)...) // 2, 4, 3, 5, 0.5
	r.Results = append(r.Results, rounds(one, OurName, "", 20)...)
	r.Results = append(r.Results, rounds(one, "jetstream", "sync", 10)...)
	r.Results = append(r.Results, Result{Cell: many, System: "kafka", Round: 1, Skipped: "not offered"})
	all := r.Ratios()
	if len(all) != 2 || all[0].Median != 3 || all[0].Rounds != 5 || all[0].Figure != figureRate || math.Abs(all[1].Median-2) > 1e-9 || all[1].Figure != figureP50 {
		t.Fatalf("%+v", all)
	}

	file := filepath.Join(t.TempDir(), "ratios.json")
	text, err := json.Marshal(r.Keep())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := ReadKept(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	if err := k.Check(r, func(string) { lines++ }); err != nil || lines != 2 {
		t.Fatalf("against itself: %v, %d lines", err, lines)
	}
	k.Ratios[0].Median = 6 // half of it is just reached
	if err := k.Check(r, func(string) {}); err != nil {
		t.Fatal(err)
	}
	k.Ratios[0].Median = 6.1
	if err := k.Check(r, func(string) {}); !errors.Is(err, ErrSlower) {
		t.Fatalf("less than half: %v", err)
	}
	k.Ratios[0].Median = 3
	k.Ratios[0].Peer = "kafka"
	if err := k.Check(r, func(string) {}); err == nil {
		t.Fatal("a ratio that was not measured passes")
	}
	if err := (&Kept{}).Check(r, func(string) {}); err == nil {
		t.Fatal("nothing to compare passes")
	}
}
