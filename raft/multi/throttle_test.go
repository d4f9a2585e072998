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

// A group draws from the second bucket only while it is named, and from the first always; a rate of none bounds nothing.
func TestGroupThrottle(t *testing.T) {
	const second = raft.Time(1e9)
	h := &Host{replication: newThrottle(0, second/10)}
	g := &Group{}
	g.throttle.all, g.throttle.listed = newThrottle(1000, second/10), h.replication
	th := &g.throttle
	now := second
	if !th.Allow(now) {
		t.Fatal("a full bucket")
	}
	th.Sent(500)
	if th.Allow(now) {
		t.Fatal("the host's rate does not count")
	}
	now += second
	h.SetReplicationRate(10)
	if !th.Allow(now) {
		t.Fatal("a rate for others counts")
	}
	g.SetThrottled(true)
	th.Allow(now)
	th.Sent(20) // ten of them in debt or more, by a rate of ten
	now += second / 2
	if th.Allow(now) {
		t.Fatal("its own rate does not count")
	}
	h.SetReplicationRate(0)
	if !th.Allow(now) {
		t.Fatal("a rate that is gone counts")
	}
	g.throttle.all = nil
	h.SetReplicationRate(1 << 40)
	if !th.Allow(now + second) {
		t.Fatal("no bound for all, and plenty for those that are named")
	}
}
