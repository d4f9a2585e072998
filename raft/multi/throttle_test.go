package multi

import (
	"testing"

	"github.com/balsamq/balsa/raft"
)

// What goes out over a long time is the rate, whatever the size of the messages, and a pause saves up no more than the burst.
func TestThrottleKeepsItsRate(t *testing.T) {
	const second = raft.Time(1e9)
	for _, tc := range []struct{ rate, message int64 }{{1, 1}, {1000, 1}, {1000, 300}, {1000, 5000}, {1 << 40, 1 << 20}} {
		th := newThrottle(tc.rate, second/10)
		now, sent := second*1e6, int64(0)
		th.Allow(now)
		for end := now + 100*second; now < end; now += second / 10 {
			for th.Allow(now) && sent < tc.rate*200 {
				th.Sent(tc.message)
				sent += tc.message
			}
			if tc.rate > 1<<30 {
				break // no need to send a hundred terabytes
			}
		}
		if tc.rate > 1<<30 {
			if sent < tc.rate/5 || sent > tc.rate/5+tc.message {
				t.Errorf("rate %d: a burst of %d", tc.rate, sent)
			}
			continue
		}
		if low, high := tc.rate*100, tc.rate*100+tc.rate/5+tc.message+1; sent < low-tc.rate || sent > high {
			t.Errorf("rate %d, messages of %d: %d bytes in 100 s", tc.rate, tc.message, sent)
		}
		th.Allow(now + 1000*second)
		if burst := th.left; burst != max(float64(tc.rate)/5, 1) {
			t.Errorf("rate %d: %v saved up in a pause", tc.rate, burst)
		}
	}
}

// A group draws from the bucket of all always, and from those of its leader and of a follower only where they are named; a rate of none
// bounds nothing.
func TestGroupThrottle(t *testing.T) {
	const second = raft.Time(1e9)
	h := &Host{replication: newReplicationRates(second / 10)}
	g, other := &Group{}, &Group{}
	for _, g := range []*Group{g, other} {
		g.throttle.rates = h.replication
	}
	g.throttle.all = newThrottle(1000, second/10)
	now := second
	allow := func(what string, g *Group, to raft.NodeID, want bool) {
		t.Helper()
		if got := g.throttle.Allow(to, now); got != want {
			t.Errorf("%s: allowed: %v", what, got)
		}
	}
	allow("a full bucket", g, 2, true)
	g.throttle.Sent(2, 500)
	allow("the rate for all", g, 2, false)
	now += second
	h.SetReplicationRates(10, map[raft.NodeID]int64{2: 20, 3: 1 << 40})
	allow("rates for others", g, 2, true)

	g.SetThrottled(Throttled{Leader: true})
	other.SetThrottled(Throttled{Followers: []raft.NodeID{2, 4}})
	allow("a leader's full bucket", g, 2, true)
	g.throttle.Sent(2, 30)
	allow("a leader's rate", g, 2, false)
	allow("a leader's rate, whoever the follower", g, 3, false)
	allow("a follower of a group whose leader is not named", other, 2, true)
	other.throttle.Sent(2, 40)
	allow("a follower's rate", other, 2, false)
	allow("another follower's rate, which does not name this one", other, 3, true)
	other.throttle.Sent(4, 1<<40)
	allow("a follower without a rate", other, 4, true)

	// All groups together have one rate.
	g.SetThrottled(Throttled{Followers: []raft.NodeID{2, 3}})
	g.throttle.all = nil
	allow("a follower that another group has filled", g, 2, false)
	allow("a follower with plenty", g, 3, true)
	now += 3 * second / 2 // 40 bytes less 4 in the bucket, at 20 a second, take 1.8 seconds
	allow("too early", g, 2, false)
	now += second / 2
	allow("in time", g, 2, true)
	other.throttle.Sent(2, 1000)
	h.SetReplicationRates(0, map[raft.NodeID]int64{2: 30})
	allow("another rate pays no debt", g, 2, false)
	h.SetReplicationRates(0, nil)
	allow("a rate that is gone", g, 2, true)
	g.SetThrottled(Throttled{Leader: true})
	allow("a leader's rate that is gone", g, 2, true)
}
