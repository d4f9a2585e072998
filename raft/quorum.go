// Majorities, of one configuration or of both halves of a joint one (§6).

package raft

import "cmp"

// majorityValue is the largest value that a majority of members has reached.
func majorityValue[T cmp.Ordered](members []Member, f func(Member) T) T {
	var few [9]T // no allocation for groups of ordinary size
	vals := few[:0]
	for _, m := range members {
		v := f(m)
		i := len(vals)
		vals = append(vals, v)
		for ; i > 0 && vals[i-1] < v; i-- { // descending
			vals[i] = vals[i-1]
		}
		vals[i] = v
	}
	if len(vals) == 0 {
		var none T
		return none
	}
	return vals[len(vals)/2]
}

// quorumValue is the largest value that every decision's quorum has reached: in a joint configuration, both halves.
func quorumValue[T cmp.Ordered](c *ConfState, f func(Member) T) T {
	v := majorityValue(c.Voters, f)
	if c.Joint() {
		v = min(v, majorityValue(c.Outgoing, f))
	}
	return v
}

type ballot struct {
	id      NodeID
	granted bool
}

type voteResult int

const (
	votePending voteResult = iota
	voteWon
	voteLost
)

func tallyHalf(members []Member, votes []ballot) voteResult {
	yes, no := 0, 0
	for _, m := range members {
		for _, b := range votes {
			if b.id == m.ID {
				if b.granted {
					yes++
				} else {
					no++
				}
			}
		}
	}
	switch n := len(members); {
	case yes > n/2:
		return voteWon
	case no >= n-n/2: // a majority can no longer be reached
		return voteLost
	}
	return votePending
}

func tally(c *ConfState, votes []ballot) voteResult {
	res := tallyHalf(c.Voters, votes)
	if !c.Joint() {
		return res
	}
	switch out := tallyHalf(c.Outgoing, votes); {
	case res == voteLost || out == voteLost:
		return voteLost
	case res == voteWon && out == voteWon:
		return voteWon
	}
	return votePending
}
