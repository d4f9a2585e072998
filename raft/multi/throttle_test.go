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
