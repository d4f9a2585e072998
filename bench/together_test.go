package bench

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// C1, F2 and R1 stand on the same data: each has its figures, what the first ones wrote is there for R1, and all is read back once.
func TestTogether(t *testing.T) {
	var cells []Cell
	for _, id := range []string{"R1", "F2", "T1", "C1"} {
		cells = append(cells, cellOf(t, id))
	}
	cells[0].Backlog = 150_000
	cells = Together(cells)
	o := Options{Rounds: 2, Warmup: time.Millisecond, Measure: 20 * time.Millisecond, Verify: true, Together: true, Dir: t.TempDir(), Log: t.Logf, poll: time.Millisecond}
	f := &fake{}
	var got []Result
	if err := Run(t.Context(), o, cells, func(Cell) []System { return []System{f} }, func(r Result) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range got {
		names = append(names, r.Scenario)
		if r.Failed != "" || r.Verified == nil || !r.Verified.OK() || len(r.Wall) == 0 || r.Errors > 0 {
			t.Errorf("%+v", r)
		}
	}
	if all := strings.Join(names, " "); all != "C1 F2 R1 C1 F2 R1 T1 T1" {
		t.Fatalf("in the order %s", all)
	}
	if f.started != 8 { // three times in each of the first turns
		t.Errorf("%d starts", f.started)
	}
	c1, f2, r1 := got[0], got[1], got[2]
	if c1.CatchUp == nil || c1.CatchUp.BacklogRecords < 64_000/64 || f2.Return == nil || f2.Return.MissedBytes < 45_000 || r1.Restart == nil || r1.Restart.Clean.OpenSec <= 0 {
		t.Errorf("%+v, %+v, %+v", c1.CatchUp, f2.Return, r1.Restart)
	}
	if c1.Backlog != 64_000 || f2.Backlog != 45_000 || r1.Backlog != 150_000 { // of R1's at most so much
		t.Errorf("%d, %d, %d", c1.Backlog, f2.Backlog, r1.Backlog)
	}
	if r1.Verified.Acked*64 < r1.Backlog || *c1.Verified != *r1.Verified {
		t.Errorf("%+v, %+v", r1.Verified, c1.Verified)
	}
	if marks := r1.Marks; len(marks) != 4 || marks[0].Seconds > r1.Marks[1].Seconds || !slices.ContainsFunc(f2.Marks, func(m Mark) bool { return m.What == "in sync" }) {
		t.Errorf("%+v, %+v", r1.Marks, f2.Marks)
	}
}

// What comes after one that has failed was not tried; what came before stands.
func TestTogetherFails(t *testing.T) {
	cells := Together([]Cell{cellOf(t, "C1"), cellOf(t, "F2"), cellOf(t, "R1")})
	o := Options{Rounds: 1, Warmup: time.Millisecond, Measure: 20 * time.Millisecond, Together: true, Dir: t.TempDir(), Log: t.Logf, poll: time.Millisecond, Limit: time.Second}
	var got []Result
	if err := Run(t.Context(), o, cells, func(Cell) []System { return []System{&lame{&fake{}}} }, func(r Result) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Failed != "" || got[0].CatchUp == nil || !strings.Contains(got[1].Failed, "in sync") || !strings.Contains(got[2].Failed, "not tried, as F2 failed") {
		t.Errorf("%+v", got)
	}
}

// What is lost at the end may be of any of them: none has figures.
func TestTogetherLoses(t *testing.T) {
	cells := Together([]Cell{cellOf(t, "C1"), cellOf(t, "F2"), cellOf(t, "R1")})
	o := Options{Rounds: 1, Warmup: time.Millisecond, Measure: 20 * time.Millisecond, Verify: true, Together: true, Dir: t.TempDir(), Log: t.Logf, poll: time.Millisecond}
	f := &fake{name: OurName, tamper: func(p [][][]byte) { p[0] = p[0][1:] }}
	var got []Result
	if err := Run(t.Context(), o, cells, func(Cell) []System { return []System{f} }, func(r Result) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for _, r := range got {
		if !strings.Contains(r.Failed, "verification failed") || r.Verified == nil || r.Verified.Lost == 0 {
			t.Errorf("%s: failed %q, %+v", r.Scenario, r.Failed, r.Verified)
		}
	}
}

// lame is never in sync again.
type lame struct{ *fake }

func (l *lame) InSync(ctx context.Context, node int) (bool, error) { return false, nil }
