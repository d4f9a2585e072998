//go:build linux

// Consumer groups: members that come and go, of both protocols, and a group to which somebody commits by hand.

package campaign_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// committed is how far one group, or reader, has come in a partition.
type committed struct {
	tried int64 // the highest that was sent
	done  int64 // and acknowledged; of a reader, read up to
}

// groups is what is known of all.
type groups struct {
	mu sync.Mutex
	of map[string]*committed
}

func (g *groups) with(who, topic string, p int32, do func(c *committed)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := fmt.Sprintf("%s of %s/%d", who, topic, p)
	c := g.of[key]
	if c == nil {
		c = new(committed)
		g.of[key] = c
	}
	do(c)
}

func (g *groups) reached(who, topic string, p int32, offset int64) {
	g.with(who, topic, p, func(c *committed) { c.done = max(c.done, offset) })
}

func (g *groups) tries(who, topic string, p int32, offset int64) {
	g.with(who, topic, p, func(c *committed) { c.tried = max(c.tried, offset) })
}

func (g *groups) readUpTo(who, topic string, p int32) (offset int64) {
	g.with(who, topic, p, func(c *committed) { offset = c.done })
	return offset
}

// member is one member of a group, for some seconds at a time, that commits what it has read. It never begins behind what was committed, or may have been.
func (w *work) member(ctx context.Context, group string, k int) {
	rng := rand.New(rand.NewPCG(uint64(k), 11))
	for ctx.Err() == nil {
		w.memberLife(ctx, group, time.Duration(10+rng.IntN(60))*time.Second)
	}
}

func (w *work) memberLife(ctx context.Context, group string, d time.Duration) {
	life, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	opts := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(plainTopic), kgo.DisableAutoCommit(), kgo.SessionTimeout(10 * time.Second), kgo.HeartbeatInterval(time.Second),
		kgo.RebalanceTimeout(20 * time.Second), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(300 * time.Millisecond), kgo.BlockRebalanceOnPoll()}
	if group == "consumer-protocol" {
		//lint:ignore SA1029 franz-go looks for this very string
		opts = append(opts, kgo.WithContext(context.WithValue(context.Background(), "opt_in_kafka_next_gen_balancer_beta", true)))
	}
	cl := w.client(opts...)
	defer cl.CloseAllowingRebalance()
	for life.Err() == nil {
		poll, cancel := context.WithTimeout(life, 2*time.Second)
		fs := cl.PollRecords(poll, 500)
		cancel()
		first, next := make(map[int32]int64), make(map[int32]int64)
		fs.EachRecord(func(r *kgo.Record) {
			if _, ok := first[r.Partition]; !ok {
				first[r.Partition] = r.Offset
			}
			next[r.Partition] = r.Offset + 1
			w.see("group "+group, r.Topic, r.Partition, r.Offset, r.Value)
		})
		for p, at := range first {
			w.groups.with(group, plainTopic, p, func(c *committed) {
				if at > c.tried {
					w.rep.violation("group %s goes on at %d of %s/%d, and at most %d was committed", group, at, plainTopic, p, c.tried)
				}
			})
		}
		if len(next) > 0 {
			for p, at := range next {
				w.groups.tries(group, plainTopic, p, at)
			}
			commit, cancel := context.WithTimeout(life, 10*time.Second)
			if cl.CommitRecords(commit, fs.Records()...) == nil {
				w.commits.Add(1)
			}
			cancel()
		}
		cl.AllowRebalance()
	}
}

// commitAlone commits higher and higher offsets, and reads them back: none that was acknowledged is forgotten, as long as no commit's fate is unknown.
func (w *work) commitAlone(ctx context.Context, group string) {
	cl := w.client()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var tried, done int64
	for known := true; ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		limit, cancel := context.WithTimeout(ctx, 8*time.Second)
		if rand.IntN(2) == 0 {
			tried++
			var offsets kadm.Offsets
			offsets.Add(kadm.Offset{Topic: plainTopic, At: tried, LeaderEpoch: -1})
			resp, err := adm.CommitOffsets(limit, group, offsets)
			if err == nil {
				err = resp.Error()
			}
			if err == nil {
				done = tried
				w.commits.Add(1)
			} else {
				known = false // it may come at any time, behind a later one
			}
		} else if done > 0 {
			resp, err := adm.FetchOffsets(limit, group)
			if err == nil {
				err = resp.Error()
			}
			if o, ok := resp.Lookup(plainTopic, 0); err == nil && (!ok || o.At > tried || known && o.At < done) {
				w.rep.violation("group %s: %d was committed, %d sent, and %d is read (%v)", group, done, tried, o.At, ok)
			}
		}
		cancel()
	}
}
