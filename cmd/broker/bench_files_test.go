package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/bench/limit"
)

// What one command writes the next one reads: limits, a run beside them, its page, its ratios kept and checked.
func TestBenchFiles(t *testing.T) {
	c := newCLI(t)
	cell := bench.Cell{Scenario: "T1", Class: bench.ClassB, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1 << 20}
	r := &bench.Report{Schema: bench.Schema, Complete: true, Peers: []bench.Peer{{Name: "jetstream", Version: "v2"}}}
	save := func(name string, ours float64) string {
		r.Results = nil
		for round := 1; round <= 5; round++ {
			r.Results = append(r.Results, bench.Result{Cell: cell, System: bench.OurName, Round: round, RecordsSec: ours, MBSec: ours / 1e3},
				bench.Result{Cell: cell, System: "jetstream", Mode: "async", Round: round, RecordsSec: 10_000, MBSec: 10})
		}
		var b bytes.Buffer
		if err := r.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		return c.file(name, b.String())
	}
	fast, slow := save("fast.json", 50_000), save("slow.json", 24_000)
	limits, kept, to := filepath.Join(c.dir, "limits.json"), filepath.Join(c.dir, "ratios.json"), filepath.Join(c.dir, "a", "report")

	f := limit.Figure{Median: 100, Min: 90, Max: 110}
	w := limit.Wait{P50: f, P99: f}
	text, err := json.Marshal(limit.Machine{Host: bench.Machine{CPUs: 2}, PingPong: w, SyncMany: []limit.Syncs{{Files: 3, PerSec: f, Wait: w}}, AppendBuffered: limit.Stream{MBSec: f, NsPerByte: f}})
	if err != nil {
		t.Fatal(err)
	}
	c.file("limits.json", string(text))
	if out := c.must("bench", "limits", fast, "--from", limits); !strings.Contains(out, "balsa") || !strings.Contains(out, "%") {
		t.Errorf("how near:\n%s", out)
	}
	if out := c.must("bench", "report", fast, "--limits", limits, "--to", to); !strings.Contains(out, "report.html") {
		t.Error(out)
	}
	for _, name := range []string{"report.html", "report.md"} {
		text, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !bytes.Contains(text, []byte("jetstream async")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out := c.must("bench", "check", fast, "--keep", kept); !strings.Contains(out, "5.00 times jetstream async") {
		t.Error(out)
	}
	c.must("bench", "check", fast, "--against", kept)
	for _, x := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"check", slow, "--against", kept}, exitFailure, "slower than it was"}, // 2.4 of 5
		{[]string{"check", fast}, exitUsage, "--against or --keep"},
		{[]string{"check", fast, "--against", filepath.Join(c.dir, "none")}, exitNotFound, "none"},
		{[]string{"check", kept, "--against", kept}, exitUsage, "no report"},
		{[]string{"report"}, exitUsage, "missing"},
		{[]string{"report", filepath.Join(c.dir, "none")}, exitNotFound, "none"},
		{[]string{"report", fast, "--limits", fast}, exitUsage, "holds no limits"},
		{[]string{"limits", "--rounds", "0"}, exitUsage, "positive"},
		{[]string{"run", "G1", "--over", "colours"}, exitUsage, "colours"},
	} {
		if code, _, errs := c.run(append([]string{"bench"}, x.args...)...); code != x.code || !strings.Contains(errs, x.text) {
			t.Errorf("bench %v: exit code %d, want %d\n%s", x.args, code, x.code, errs)
		}
	}
}

// A suite plans by what is there and by the time it has, and makes its page of what is there.
func TestBenchSuite(t *testing.T) {
	c := newCLI(t)
	to := filepath.Join(c.dir, "results")
	if err := os.MkdirAll(filepath.Join(to, "runs"), 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	save := func(name, commit string) {
		cell := bench.Cell{Scenario: "L1", Class: bench.ClassB, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1024}
		r := &bench.Report{Schema: bench.Schema, Taken: began, Finished: began.Add(31 * time.Second), Complete: true, Command: []string{"bench", "run", "L1", "--peer", "jetstream,kafka"}, Balsa: bench.Build{Commit: commit}, Settings: bench.Settings{Rounds: 1},
			Results: []bench.Result{{Cell: cell, System: bench.OurName, Round: 1, Records: 10, RecordsSec: 10, Latency: bench.Latency{P50: 1, P99: 2}}}}
		if err := r.Save(filepath.Join(to, "runs", name)); err != nil {
			t.Fatal(err)
		}
	}
	save("l1-1.json", "a")
	type step struct {
		Take    string
		Seconds float64
		Do      string
	}
	var steps []step
	if err := json.Unmarshal([]byte(c.must("bench", "suite", "--to", to, "--only", "l1,t1", "--takes", "2", "--time", "7m", "--plan", "-o", "json")), &steps); err != nil {
		t.Fatal(err)
	}
	got := map[string]step{}
	for _, s := range steps {
		got[s.Take] = s
	}
	// The second take of a part is thought to last as long as the first one did.
	if len(steps) != 4 || got["l1-1"].Do != "there" || got["t1-1"].Do != "run" || got["l1-2"] != (step{"l1-2", 31, "run"}) || got["t1-2"].Do != "no time" {
		t.Errorf("%+v", steps)
	}
	out := c.must("bench", "suite", "--to", to, "--time", "1s") // for nothing
	index, err := os.ReadFile(filepath.Join(to, "README.md"))
	if err != nil || !strings.Contains(out, "report.html") || !bytes.Contains(index, []byte("| L1 | p99, class B | below 3 ms |")) || !bytes.Contains(index, []byte("| T1 |")) {
		t.Errorf("%v\n%s\n%s", err, out, index)
	}
	if out := c.must("bench", "report", filepath.Join(to, "runs", "l1-1.json"), "--join", "--to", filepath.Join(c.dir, "again")); !strings.Contains(out, "README.md") {
		t.Error(out)
	}
	for _, x := range []struct {
		args []string
		text string
	}{{[]string{"--only", "z9"}, "no part"}, {[]string{"--peer", "redis"}, "unknown peer"}, {[]string{"--time", "-1s"}, "out of range"}} {
		if code, _, errs := c.run(append([]string{"bench", "suite", "--to", to}, x.args...)...); code != exitUsage || !strings.Contains(errs, x.text) {
			t.Errorf("%v: exit code %d\n%s", x.args, code, errs)
		}
	}
	// A test's binary has no commit.
	if code, _, errs := c.run("bench", "suite", "--to", to, "--only", "t1"); code != exitFailure || !strings.Contains(errs, "-buildvcs=true") {
		t.Errorf("without a commit: exit code %d\n%s", code, errs)
	}
	// The takes of another build are told at once, and their times are still of use; the latest tells which build is ours.
	began = began.Add(-time.Hour)
	save("l1-2.json", "b")
	save("f1-1.json", "b")
	if code, _, errs := c.run("bench", "suite", "--to", to, "--time", "1s"); code != exitUsage || !strings.Contains(errs, "2 files of different builds, commit a and commit b: f1-1.json, l1-2.json") || !strings.Contains(errs, "--fresh") {
		t.Errorf("takes of two commits: exit code %d\n%s", code, errs)
	}
	if code, _, errs := c.run("bench", "suite", "--to", to, "--time", "1s", "--fresh"); code != exitFailure || !strings.Contains(errs, "-buildvcs=true") {
		t.Errorf("what does not know its commit removes nothing: exit code %d\n%s", code, errs)
	}
	var rows []struct{ Take, Do, Alien string }
	if err := json.Unmarshal([]byte(c.must("bench", "suite", "--to", to, "--only", "l1,f1", "--takes", "2", "--peer", "", "--plan", "-o", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		want := map[string]string{"l1-1": "there", "l1-2": "run", "f1-1": "run", "f1-2": "run"}[r.Take]
		if alien := r.Take == "l1-2" || r.Take == "f1-1"; r.Do != want || alien != strings.Contains(r.Alien, "builds") {
			t.Errorf("%+v", r)
		}
	}
}
