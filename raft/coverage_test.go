package raft

import (
	"testing"
	"time"
)

// One follower answers all the time, so that there is always something to send to it; to another one, covered as well, all that may be on its way
// was lost. It is reminded all the same, though a turn of the leader takes what has come before it looks at the time.
func TestCoveredIsRemindedWhileAnotherAnswers(t *testing.T) {
	c := paperCluster(t, 1, 2, 3)
	l := c.elect(t, 1)
	for _, id := range []NodeID{2, 3} {
		l.r.SetCovered(l.now(), id, true)
		c.node(id).r.SetResting(l.now(), true)
	}
	write := func(lasts time.Duration) {
		for end := c.now + Time(lasts); c.now < end; {
			if err := l.propose("x"); err != nil {
				t.Fatal(err)
			}
			l.settle()
			c.now += Time(testHB / 10)
			c.stabilize() // the answers come
			for _, id := range []NodeID{2, 3} {
				l.r.PeerAcked(l.now(), id, l.r.term, l.now())
			}
			if l.r.Deadline() <= l.now() {
				l.tick()
			}
		}
	}
	c.cut[[2]NodeID{1, 3}] = true
	write(10 * testHB)
	p := l.r.peer(3)
	if p.Next > l.r.last {
		t.Fatal("there is room for more on its way to node 3")
	}
	delete(c.cut, [2]NodeID{1, 3})
	write(5 * testET)
	if p.Match+10 < l.r.last {
		t.Fatalf("node 3 has %d of %d", p.Match, l.r.last)
	}
}
