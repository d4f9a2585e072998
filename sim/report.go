// What a run did: counts, and which states it reached, so that a schedule that reaches nothing is noticed.

package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is the tally of one run, or of many added up.
type Report struct {
	Seed      uint64
	Runs      int
	Simulated time.Duration

	Events, Messages, Lost, Duplicated uint64
	Faults, Elections                  int
	Ops, Acked, Refused, Reads         int

	Reached map[string]int
}

func (r *Report) reach(what string) {
	if r.Reached == nil {
		r.Reached = map[string]int{}
	}
	r.Reached[what]++
}

// Add folds another report into r.
func (r *Report) Add(o Report) {
	r.Runs++
	r.Simulated += o.Simulated
	r.Events += o.Events
	r.Messages += o.Messages
	r.Lost += o.Lost
	r.Duplicated += o.Duplicated
	r.Faults += o.Faults
	r.Elections += o.Elections
	r.Ops += o.Ops
	r.Acked += o.Acked
	r.Refused += o.Refused
	r.Reads += o.Reads
	for what, n := range o.Reached {
		if r.Reached == nil {
			r.Reached = map[string]int{}
		}
		r.Reached[what] += n
	}
}

// String prints the tally, a line of figures and a line per state reached.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %.0f simulated s, %d events, %d messages (%d lost, %d doubled), %d faults, %d leaderships, %d ops (%d acknowledged, %d refused, %d reads)\n",
		r.Runs, r.Simulated.Seconds(), r.Events, r.Messages, r.Lost, r.Duplicated, r.Faults, r.Elections, r.Ops, r.Acked, r.Refused, r.Reads)
	names := make([]string, 0, len(r.Reached))
	for what := range r.Reached {
		names = append(names, what)
	}
	slices.Sort(names)
	for _, what := range names {
		fmt.Fprintf(&b, "  %9d  %s\n", r.Reached[what], what)
	}
	return b.String()
}

// coverage are the states that a dozen seeds must reach, or the schedule has become blind.
var coverage = []string{
	"a leader was deposed", "burst of writes", "power cut inside a disk operation", "snapshot taken", "snapshot restored", "snapshot sent", "snapshot installed",
	"lease read", "read through ReadIndex", "group rests under a pair heartbeat", "resting groups woken by a dead peer",
	"log tail truncated", "proposal outcome unknown", "acknowledged after the leader's own sync", "torn tail cut at recovery",
}

// addCoverage collects what hosts counted; it is called before a host goes away.
func (n *node) addCoverage() {
	if n.host == nil {
		return
	}
	s, r := n.host.Stats(), &n.w.rep
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{s.SnapshotsSent, "snapshot sent"}, {s.SnapshotsInstalled, "snapshot installed"}, {s.LeaseReads, "lease read"},
		{s.Reads - min(s.Reads, s.LeaseReads), "read through ReadIndex"}, {s.GroupsWoken, "resting groups woken by a dead peer"},
	} {
		if c.n > 0 {
			r.reachN(c.what, int(c.n))
		}
	}
}

func (r *Report) reachN(what string, n int) {
	r.reach(what)
	r.Reached[what] += n - 1
}
