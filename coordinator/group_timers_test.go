package coordinator

import (
	"sync"
	"testing"
	"time"
)

// TestTimersFromManySides is for the race detector: members of many groups touch their timers while others fire.
func TestTimersFromManySides(t *testing.T) {
	ts := &timers{wake: make(chan struct{}, 1)}
	begin := time.Unix(0, 0)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			own := make([]timer, 8)
			for i := range 2000 {
				at := begin.Add(time.Duration(i*(g+1)) * time.Millisecond)
				ts.by(&own[i%len(own)], at)
				if i%3 == 0 {
					ts.stop(&own[(i+1)%len(own)])
				}
				ts.due(at.Add(-5 * time.Millisecond))
			}
			for i := range own {
				ts.stop(&own[i])
			}
		})
	}
	wg.Wait()
	if n := ts.count(); n != 0 {
		t.Fatalf("%d timers are left", n)
	}
}

func TestATimerIsNotPutOff(t *testing.T) {
	ts := &timers{wake: make(chan struct{}, 1)}
	var a timer
	early, late := time.Unix(10, 0), time.Unix(20, 0)
	ts.by(&a, early)
	ts.by(&a, late)
	if _, next := ts.due(time.Unix(0, 0)); !next.Equal(early) {
		t.Fatalf("due at %v, want %v", next, early)
	}
	ts.set(&a, late)
	ts.by(&a, early)
	if _, next := ts.due(time.Unix(0, 0)); !next.Equal(early) {
		t.Fatalf("due at %v, want %v", next, early)
	}
}
