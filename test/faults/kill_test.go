package faults_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

func createTopic(c *cluster) {
	c.eventually("the topic is made", func() error {
		r, err := c.admin.CreateTopic(c.t.Context(), partitions, nodes, nil, topic)
		if err == nil && !errors.Is(r.Err, kerr.TopicAlreadyExists) { // by an attempt whose answer came too late
			err = r.Err
		}
		return err
	})
	c.eventually("the topic is whole", c.whole)
}

func report(t *testing.T, what string, gaps []time.Duration) {
	if len(gaps) == 0 {
		t.Fatal("nothing was affected")
	}
	slices.Sort(gaps)
	t.Logf("%s: from the kill to the next acknowledgement of an affected partition: median %v, p90 %v, max %v (%d partitions)", what,
		gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)*9/10].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond), len(gaps))
}

// TestKillOne kills a leader, a follower and the metadata leader in turn, under a stream of acknowledged writes.
func TestKillOne(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	createTopic(c)
	ctx, stop := context.WithCancel(t.Context())
	streams, wait := c.write(ctx)
	gaps := map[string][]time.Duration{}
	for i := range *kills {
		c.eventually("whole before the next kill", c.whole)
		var ls []int32
		c.eventually("leaders known", func() (err error) { ls, err = c.leaders(t.Context()); return err })
		var controller int32
		c.eventually("the metadata has a leader", func() error {
			md, err := c.admin.BrokerMetadata(t.Context())
			if controller = md.Controller; err == nil && controller < 1 {
				err = fmt.Errorf("it is %d", controller)
			}
			return err
		})
		kind, victim := "leader", ls[i%partitions]
		switch i % 3 {
		case 1: // one that leads nothing if there is such, else the one that leads least
			kind = "follower"
			count := map[int32]int{}
			for _, l := range ls {
				count[l]++
			}
			victim = slices.MinFunc([]int32{1, 2, 3}, func(a, b int32) int { return count[a] - count[b] })
		case 2:
			kind, victim = "metadata leader", controller
		}
		began := time.Now()
		c.kill(c.procs[victim-1])
		for p, l := range ls {
			if l != victim && kind != "follower" {
				continue
			}
			var at time.Time
			c.eventually(fmt.Sprintf("partition %d acknowledges again after kill %d (%s, broker %d)", p, i, kind, victim), func() error {
				var ok bool
				if at, ok = streams[p].ackedAfter(began); !ok {
					return fmt.Errorf("no acknowledgement since")
				}
				return nil
			})
			gaps[kind] = append(gaps[kind], at.Sub(began))
			if l == victim {
				gaps["led by the victim"] = append(gaps["led by the victim"], at.Sub(began))
			}
		}
		c.start(c.procs[victim-1])
	}
	c.eventually("whole at the end", c.whole)
	stop()
	wait()
	for _, kind := range []string{"leader", "follower", "metadata leader", "led by the victim"} {
		if len(gaps[kind]) > 0 {
			report(t, kind, gaps[kind])
		}
	}
	c.verify(streams)
}

// TestKillAll kills all brokers at once, and starts them again.
func TestKillAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	createTopic(c)
	ctx, stop := context.WithCancel(t.Context())
	streams, wait := c.write(ctx)
	var gaps []time.Duration
	for i := range *allKills {
		c.eventually("whole before the next kill", c.whole)
		c.eventually("writes go on", func() error {
			for p, s := range streams {
				s.mu.Lock()
				n := len(s.acked)
				s.mu.Unlock()
				if n < 100*(i+1) {
					return fmt.Errorf("partition %d: %d acknowledged", p, n)
				}
			}
			return nil
		})
		for _, p := range c.procs {
			_ = p.cmd.Process.Kill()
		}
		for _, p := range c.procs {
			c.kill(p)
		}
		began := time.Now()
		var ready []func() error
		for _, p := range c.procs {
			ready = append(ready, c.begin(p))
		}
		for _, r := range ready {
			if err := r(); err != nil {
				t.Fatal(err)
			}
		}
		for p := range streams {
			c.eventually(fmt.Sprintf("partition %d acknowledges again", p), func() error {
				at, ok := streams[p].ackedAfter(began)
				if !ok {
					return fmt.Errorf("no acknowledgement since")
				}
				gaps = append(gaps, at.Sub(began))
				return nil
			})
		}
	}
	c.eventually("whole at the end", c.whole)
	stop()
	wait()
	report(t, "all at once, from the restart", gaps)
	c.verify(streams)
}
