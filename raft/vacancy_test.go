// How long a group is without a leader when its leader dies, in simulated time: many kills, each in a cluster of its own. For figures:
//
//	go test ./raft -run TestVacancy -kills 2000 -v
//	go test ./raft -run 'TestVacancy/3_replicas,_busy' -seed 962 -show     one of them again

package raft

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"
)

var flagKills = flag.Int("kills", 150, "how many leaders TestVacancy kills in each kind of cluster")

// vacancyKind is a kind of cluster. One way takes 0.1 to 3 ms, and up to link more; a sync 0.1 to 5 ms, and up to disk more.
type vacancyKind struct {
	name       string
	voters     NodeID
	link, disk time.Duration
	within     time.Duration // a leader is back, each time
}

var vacancyKinds = []vacancyKind{
	{"3 replicas", 3, 0, 0, 2 * testET},
	{"3 replicas, busy", 3, 20 * time.Millisecond, 40 * time.Millisecond, 2 * testET},
	{"3 replicas, swamped", 3, 80 * time.Millisecond, 150 * time.Millisecond, 4 * testET},
	{"5 replicas", 5, 0, 0, 2 * testET},
	{"5 replicas, busy", 5, 20 * time.Millisecond, 40 * time.Millisecond, 2 * testET},
	{"5 replicas, swamped", 5, 80 * time.Millisecond, 150 * time.Millisecond, 4 * testET},
}

// vacancy is one kill: how long until a record could be acknowledged again, and how many terms it took.
type vacancy struct {
	took  time.Duration
	terms Term
}

// kill plays a cluster until it has a leader, kills it, and plays until there is another.
func (k *vacancyKind) kill(seed uint64) (vacancy, error) {
	w := emptyWorld(seed)
	w.quiet, w.rules = true, nil
	for id := NodeID(1); id <= k.voters; id++ {
		w.first.Voters = append(w.first.Voters, members(id)...)
		w.slowDisk[id] = k.disk
		for to := NodeID(1); to <= k.voters; to++ {
			w.slowLink[[2]NodeID{id, to}] = k.link
		}
	}
	w.populate(k.voters)
	w.after(0, w.client)
	opened := func() *memNode {
		if l := w.c.leader(); l != nil && l.r.commit >= l.r.termStart {
			return l
		}
		return nil
	}
	until := func(limit time.Duration, cond func() bool) error {
		for end := w.c.now + Time(limit); !cond(); {
			if err := w.step(); err != nil {
				return err
			}
			if w.c.now > end {
				return fmt.Errorf("no leader for %v", limit)
			}
		}
		return nil
	}
	if err := until(time.Minute, func() bool { return opened() != nil }); err != nil {
		return vacancy{}, err
	}
	at := w.c.now + Time(w.between(500*time.Millisecond, 1500*time.Millisecond))
	if err := until(time.Minute, func() bool { return w.c.now >= at && opened() != nil }); err != nil {
		return vacancy{}, err
	}
	dead, began := opened(), w.c.now
	w.show = *flagShow && *flagSeed == seed
	dead.crash(func(n int) int { return n - 1 })
	if err := until(time.Minute, func() bool { return opened() != nil }); err != nil {
		return vacancy{}, err
	}
	return vacancy{time.Duration(w.c.now - began), opened().r.term - dead.r.term}, nil
}

// TestVacancy holds the core to what it is for: two election timeouts where links and disks are quick beside them. How that was come by:
// docs/design/0002-raft-core.md, "Split votes".
func TestVacancy(t *testing.T) {
	first, last := uint64(1), uint64(*flagKills)
	if testing.Short() {
		last = min(last, 30)
	}
	if *flagSeed != 0 {
		first, last = *flagSeed, *flagSeed
	}
	for _, k := range vacancyKinds {
		t.Run(k.name, func(t *testing.T) {
			var took []time.Duration
			split := 0
			for seed := first; seed <= last; seed++ {
				v, err := k.kill(seed)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if took = append(took, v.took); v.took > k.within {
					t.Errorf("seed %d: %v without a leader, %d terms", seed, v.took, v.terms)
				}
				if v.terms > 1 {
					split++
				}
			}
			slices.Sort(took)
			at := func(p float64) time.Duration { return took[int(p*float64(len(took)-1))].Round(time.Millisecond) }
			t.Logf("%d kills: more than one term %.1f %%; without a leader: p50 %v, p90 %v, p99 %v, p99.9 %v, max %v", len(took),
				100*float64(split)/float64(len(took)), at(0.5), at(0.9), at(0.99), at(0.999), at(1))
		})
	}
}
