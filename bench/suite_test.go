package bench

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSuiteTakes(t *testing.T) {
	takes := Takes(Suite())
	seen := map[string]bool{}
	for i, x := range takes {
		if seen[x.File()] {
			t.Errorf("%s twice", x.File())
		}
		seen[x.File()] = true
		if x.N > 1 && !seen[(Take{x.Piece, x.N - 1}).File()] {
			t.Errorf("%s comes before the take before it", x.File())
		}
		if i > 0 && takes[i-1].N > x.N {
			t.Errorf("%s comes too late: nothing comes twice before all came once", x.File())
		}
	}
	// Each scenario has its part, and the goals' own come first.
	for _, s := range Scenarios() {
		if !slices.ContainsFunc(takes, func(x Take) bool { return slices.Contains(x.Args, s.ID) }) {
			t.Errorf("nothing of %s", s.ID)
		}
	}
	var order []string
	for _, x := range takes[:10] {
		order = append(order, x.Name)
	}
	if got := strings.Join(order, " "); got != "t1 l1 f1 m2 l2 m1 m1-wide backlog backlog-peers m1-wide-peers" {
		t.Errorf("in the order %s", got)
	}
	// Forty minutes are enough for one round of what the goals ask for, an hour for one of all.
	all, goals := time.Duration(0), time.Duration(0)
	for i, x := range takes {
		if x.N == 1 {
			all += x.Estimate(Conditions{Peers: []string{"jetstream", "kafka"}, Disk: 65 * gigabyte})
		}
		if i < 9 {
			goals = all
		}
	}
	if goals > 35*time.Minute || all > time.Hour {
		t.Errorf("one round of all takes %v, of the goals %v", all, goals)
	}
}

// The open loops run at half of what the slowest system does in its best mode.
func TestSuiteRate(t *testing.T) {
	cell := Cell{Scenario: "T1", Class: ClassB, Replicas: 3}
	relaxed := cell
	relaxed.Class = ClassA
	r := &Report{Results: []Result{{Cell: cell, System: OurName, RecordsSec: 200_000}, {Cell: cell, System: "jetstream", Mode: "async", RecordsSec: 9_000}, {Cell: cell, System: "jetstream", Mode: "fast", RecordsSec: 43_000},
		{Cell: cell, System: "kafka", RecordsSec: 17_800}, {Cell: relaxed, System: "kafka", RecordsSec: 1}, {Cell: cell, System: "other", RecordsSec: 1, Failed: "it did"}}}
	if got := r.RateToTry(); got != 8900 {
		t.Errorf("%d/s", got)
	}
	if got := (&Report{Results: r.Results[:1]}).RateToTry(); got != 0 {
		t.Errorf("%d/s by ourselves alone", got)
	}
	if got := openRate(0); got != 1 {
		t.Errorf("%d/s", got)
	}
}

func TestSuiteCommand(t *testing.T) {
	find := func(name string) Take {
		all := Suite()
		return Take{all[slices.IndexFunc(all, func(p Piece) bool { return p.Name == name })], 2}
	}
	c := Conditions{Peers: []string{"kafka"}, Rate: 5000, Disk: 30 * gigabyte, Dir: "/data"}
	for name, want := range map[string]string{
		"t1":            "bench run T1 --partitions 16 --producers 8 --peer kafka --dir /data --warmup 2s --measure 5s --rounds 1 --verify --json x",
		"m2":            "bench run M2 --partitions 10000 --peer-partitions 1000 --measure 10s --peer kafka --dir /data --rounds 1 --verify --json x",
		"m1-wide-peers": "bench run M1 --partitions 16,1024 --inflight-bytes 16777216 --jetstream-modes async --peer kafka --dir /data --warmup 2s --measure 5s --rounds 1 --verify --json x",
		"backlog":       "bench run C1 F2 R1 --together --backlog 20 --rate 5000 --dir /data --warmup 2s --measure 5s --rounds 1 --verify --json x", // 26 GB of room, laid out
		"backlog-peers": "bench run C1 F2 R1 --together --limit 3m --peer kafka --backlog 1.8 --rate 5000 --dir /data --warmup 2s --measure 5s --rounds 1 --verify --json x",
	} {
		if got := strings.Join(find(name).Command(c, "x"), " "); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
	// What the take needs of the disk is there: R1's backlog is of all brokers.
	if gb := find("backlog").backlog(c); gb <= 10 || gb*1e9*laidOut > float64(c.Disk-suiteReserve) {
		t.Errorf("%v GB", gb)
	}
	if gb := find("backlog").backlog(Conditions{}); gb != 50 {
		t.Errorf("where the disk is not known: %v GB", gb)
	}
	all, alone := find("t1").Estimate(Conditions{Peers: []string{"jetstream", "kafka"}}), find("t1").Estimate(Conditions{})
	if all <= alone || alone <= 0 {
		t.Errorf("%v with peers, %v without", all, alone)
	}
}

// How long a take takes is told by another one of its piece, if it was beside the same systems.
func TestTakeAfter(t *testing.T) {
	take := func(name string) Take {
		all := Suite()
		return Take{all[slices.IndexFunc(all, func(p Piece) bool { return p.Name == name })], 1}
	}
	c := Conditions{Peers: []string{"jetstream"}}
	for _, x := range []struct {
		name, command string
		want          time.Duration
	}{{"t1", "bench run T1 --peer jetstream", time.Minute}, {"t1", "bench run T1 --peer jetstream,kafka", 0}, {"t1", "bench run T1", 0}, {"backlog", "bench run C1 --backlog 25 --rate 9", 2 * time.Minute}, {"backlog", "bench run C1 --backlog", 0}} {
		r := &Report{Command: strings.Fields(x.command), Finished: time.Time{}.Add(time.Minute)}
		if got, ok := take(x.name).After(r, c); got != x.want || ok != (x.want > 0) {
			t.Errorf("%s after %s: %v", x.name, x.command, got)
		}
	}
}

func TestJoin(t *testing.T) {
	at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	cell := Cell{Scenario: "T1", Class: ClassB, Replicas: 3, Partitions: 1, Producers: 1, RecordBytes: 1024, InflightBytes: 1 << 20}
	take := func(n int, ours, peer float64) *Report {
		return &Report{Schema: Schema, Taken: at.Add(time.Duration(n) * time.Minute), Finished: at.Add(time.Duration(n+1) * time.Minute), Complete: true, Balsa: Build{Commit: "a"},
			Peers: []Peer{{Name: "jetstream", Version: "v2"}}, Settings: Settings{Rounds: 1, Verify: true},
			Results: append(rounds(cell, OurName, "", ours), rounds(cell, "jetstream", "async", peer)...), Many: []Many{{System: OurName, Round: 1}}}
	}
	r, err := Join([]string{"1", "2", "3"}, []*Report{take(0, 100, 50), take(1, 300, 10), take(2, 10, 10)})
	if err != nil {
		t.Fatal(err)
	}
	// 2, 30 and 1: what was measured in different takes is not paired.
	if all := r.Ratios(); len(all) != 1 || all[0].Rounds != 3 || all[0].Median != 2 {
		t.Errorf("%+v", all)
	}
	if len(r.Parts) != 3 || len(r.Peers) != 1 || !r.Complete || r.Many[2].Round != 3 || r.Finished.Sub(r.Taken) != 3*time.Minute {
		t.Errorf("%+v", r)
	}
	other, moved, newer := take(3, 1, 1), take(3, 1, 1), take(3, 1, 1)
	other.Balsa.Commit, moved.Machine.CPUs, newer.Peers[0].Version = "b", 64, "v3"
	for _, x := range []*Report{other, moved, newer} {
		if _, err := Join([]string{"1", "2"}, []*Report{take(0, 1, 1), x}); !errors.Is(err, ErrUnlike) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	if _, err := Join(nil, nil); !errors.Is(err, ErrUnlike) {
		t.Error(err)
	}
}
