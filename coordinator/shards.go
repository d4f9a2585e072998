// What the coordinators of groups and of transactions have in common: which partitions of their topic this node leads, in which epoch, and how
// one comes to answer and stops.

package coordinator

import (
	"sync"
	"time"
)

// shards are those that this node leads. Its owner embeds it, and calls setUp.
type shards[S interface {
	comparable
	leaderEpoch() int32
	load()
	close()
}] struct {
	timers timers
	stop   chan struct{}
	wg     sync.WaitGroup // the clock's loop, and loads

	mu     sync.Mutex // guards the rest
	led    map[int32]S
	closed bool
}

func (c *shards[S]) setUp() {
	c.stop, c.led = make(chan struct{}), make(map[int32]S)
	c.timers.wake = make(chan struct{}, 1)
}

// run runs the clock until Close.
func (c *shards[S]) run(now func() time.Time) { c.wg.Go(func() { c.timers.run(now, c.stop) }) }

// Close resigns everything and waits for the loads to end.
func (c *shards[S]) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	led := c.led
	c.led = nil
	c.mu.Unlock()
	close(c.stop)
	for _, s := range led {
		s.close()
	}
	c.wg.Wait()
	return nil
}

// lead puts the shard that fresh makes in the place of the partition's, if that is of an earlier epoch. Its state is read by a goroutine.
func (c *shards[S]) lead(partition, epoch int32, fresh func() S) {
	c.mu.Lock()
	old, there := c.led[partition]
	if c.closed || there && old.leaderEpoch() >= epoch {
		c.mu.Unlock()
		return
	}
	s := fresh()
	c.led[partition] = s
	c.wg.Go(s.load)
	c.mu.Unlock()
	if there {
		old.close()
	}
}

// Resign says that this node no longer leads the partition in epoch, nor in any before.
func (c *shards[S]) Resign(partition, epoch int32) {
	c.mu.Lock()
	s, there := c.led[partition]
	if !there || s.leaderEpoch() > epoch {
		c.mu.Unlock()
		return
	}
	delete(c.led, partition)
	c.mu.Unlock()
	s.close()
}

// of finds the shard of an id in a topic of so many partitions. The caller locks it.
func (c *shards[S]) of(id string, partitions int) (s S, err error) {
	if partitions <= 0 {
		return s, ErrNotCoordinator
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, there := c.led[PartitionOf(id, partitions)]
	if !there {
		return s, ErrNotCoordinator
	}
	return s, nil
}

// all are the shards at this moment.
func (c *shards[S]) all() []S {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]S, 0, len(c.led))
	for _, s := range c.led {
		out = append(out, s)
	}
	return out
}

// ledPartition is what every shard is: one partition's coordinator in one leader epoch. The outbox's mutex guards what follows it, and the state.
type ledPartition struct {
	partition int32
	epoch     int32
	log       ReplicatedLog
	sweep     timer

	outbox
	loading bool
	closed  bool
}

func (s *ledPartition) leaderEpoch() int32 { return s.epoch }

// usable says why the shard may not answer, if it may not. mu is held.
func (s *ledPartition) usable() error {
	switch {
	case s.closed:
		return ErrNotCoordinator
	case s.loading:
		return ErrCoordinatorLoading
	}
	return nil
}

// enter locks the shard, if it may answer. The caller ends with unlock.
func (s *ledPartition) enter() error {
	s.mu.Lock()
	err := s.usable()
	if err != nil {
		s.mu.Unlock()
	}
	return err
}

// locked runs fn under mu unless the shard is closed or not loaded: what timers do.
func (s *ledPartition) locked(fn func()) {
	s.mu.Lock()
	if s.usable() == nil {
		fn()
	}
	s.unlock()
}

// write has submit hand records to the log. apply is called under mu once they are committed, and then after it, or with the error. mu is held.
func (s *ledPartition) write(submit func(done func(error)), apply func(), then func(error)) {
	s.later(func() {
		submit(func(err error) {
			s.mu.Lock()
			switch {
			case s.closed:
				err = ErrNotCoordinator
			case err == nil:
				apply()
			}
			then(err)
			s.unlock()
		})
	})
}
