// C1, F2 and R1 on the same data. Each begins with much on the disks, and to write it, and to read it back, is most of their time: what C1 reads and
// what F2's broker misses is what R1 starts on. In this order, since after F2 the broker that was away may lead nothing, and C1 reads from leaders.

package bench

import (
	"slices"
	"strings"
)

// together is the order.
var together = []string{"C1", "F2", "R1"}

// The parts of R1's backlog that C1 reads and F2's broker misses, where their own are not smaller.
const (
	readShare   = 0.6
	missedShare = 0.3 // what is sent meanwhile is the rest
)

// Together are the cells of C1, F2 and R1 with backlogs that fit into R1's.
func Together(cells []Cell) []Cell {
	cells = slices.Clone(cells)
	for _, r1 := range cells {
		if r1.Scenario != "R1" {
			continue
		}
		for i := range cells {
			if c := &cells[i]; sameData(*c, r1) {
				switch share := float64(r1.Backlog); c.Scenario {
				case "C1":
					c.Backlog = min(c.Backlog, int64(share*readShare))
				case "F2":
					c.Backlog = min(c.Backlog, int64(share*missedShare))
				}
			}
		}
	}
	return cells
}

// sameData: the cells differ only in what is done with what the producers have sent.
func sameData(a, b Cell) bool {
	for _, c := range []*Cell{&a, &b} {
		c.Scenario, c.Backlog, c.Consumers, c.Rate = "", 0, 0, 0
	}
	return a == b
}

// turns are the cells by turn.
func (o *Options) turns(cells []Cell) (all [][]Cell) {
	for _, c := range cells {
		at := -1
		if o.Together && slices.Contains(together, c.Scenario) {
			at = slices.IndexFunc(all, func(turn []Cell) bool {
				return slices.Contains(together, turn[0].Scenario) && sameData(turn[0], c) && !slices.ContainsFunc(turn, func(x Cell) bool { return x.Scenario == c.Scenario })
			})
		}
		if at < 0 {
			all = append(all, []Cell{c})
			continue
		}
		all[at] = append(all[at], c)
		slices.SortFunc(all[at], func(a, b Cell) int { return slices.Index(together, a.Scenario) - slices.Index(together, b.Scenario) })
	}
	return all
}

// allOf is a cell with what the nodes have to know of all cells of a turn: whether they are asked for figures (R1), and how many share a group (C1).
func allOf(cells []Cell) Cell {
	c := cells[len(cells)-1]
	for _, x := range cells {
		c.Consumers = max(c.Consumers, x.Consumers)
	}
	return c
}

func titles(cells []Cell) string {
	all := make([]string, len(cells))
	for i, c := range cells {
		all[i] = c.String()
	}
	return strings.Join(all, "; ")
}
