// What a transformation's function remembers of partitions: the program is told when to load it, and when to forget it.
//
// The group's callbacks only note what has changed. The program's are called by Transform's own goroutine between two transactions, so that no
// handler runs meanwhile. What was revoked by then is with another member already, and the transaction that had records of it was aborted. An
// aborted transaction has not happened, so what handlers have remembered of it must go: everything is revoked then, and assigned again.

package client

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
)

// state is which partitions the program knows of.
type state struct {
	group    string
	assigned func(context.Context, map[string][]int32) error // nil: nobody wants to know
	revoked  func(map[string][]int32)

	told map[topicPartition]int64 // of Transform's goroutine: those the program has, by the number of their assignment

	wake atomic.Pointer[context.CancelFunc] // ends the wait for records

	mu    sync.Mutex // guards what follows; the group's callbacks write it
	count int64      // assignments so far
	have  map[topicPartition]int64
}

func newState(cfg *TransformConfig) *state {
	return &state{group: cfg.Group, assigned: cfg.OnAssigned, revoked: cfg.OnRevoked, told: make(map[topicPartition]int64), have: make(map[topicPartition]int64)}
}

// wanted says whether anybody wants to know.
func (s *state) wanted() bool { return s.assigned != nil || s.revoked != nil }

// reset is for a new session, which has none.
func (s *state) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.have)
}

// came is for partitions that are ours from now on.
func (s *state) came(parts map[string][]int32) {
	s.mu.Lock()
	s.count++
	for t, ps := range parts {
		for _, p := range ps {
			s.have[topicPartition{t, p}] = s.count
		}
	}
	s.mu.Unlock()
	s.changed()
}

// went is for partitions that are not ours any more.
func (s *state) went(parts map[string][]int32) {
	s.mu.Lock()
	for t, ps := range parts {
		for _, p := range ps {
			delete(s.have, topicPartition{t, p})
		}
	}
	s.mu.Unlock()
	s.changed()
}

func (s *state) changed() {
	if wake := s.wake.Load(); wake != nil {
		(*wake)()
	}
}

// waiting says how to end the wait for records when there is something to tell, until what it returns is called.
func (s *state) waiting(wake context.CancelFunc) (over func()) {
	if !s.wanted() {
		return func() {}
	}
	s.wake.Store(&wake)
	if s.pending() {
		wake()
	}
	return func() { s.wake.Store(nil) }
}

// pending says whether there is something to tell.
func (s *state) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !maps.Equal(s.told, s.have)
}

// tell tells the program what has changed since the last time.
func (s *state) tell(ctx context.Context) error {
	if !s.wanted() {
		return nil
	}
	gone, come, numbers := make(map[string][]int32), make(map[string][]int32), make(map[topicPartition]int64)
	s.mu.Lock()
	for tp, n := range s.told {
		if s.have[tp] != n {
			gone[tp.topic] = append(gone[tp.topic], tp.partition)
			delete(s.told, tp)
		}
	}
	for tp, n := range s.have {
		if _, ok := s.told[tp]; !ok {
			come[tp.topic] = append(come[tp.topic], tp.partition)
			numbers[tp] = n
		}
	}
	s.mu.Unlock()
	s.forget(gone)
	if len(come) == 0 {
		return nil
	}
	if s.assigned != nil {
		if err := s.assigned(ctx, come); err != nil {
			return wrap("OnAssigned of group", s.group, err)
		}
	}
	maps.Copy(s.told, numbers)
	return nil
}

// forgetAll is for the end of a session, and of a transaction that has not happened.
func (s *state) forgetAll() {
	gone := make(map[string][]int32)
	for tp := range s.told {
		gone[tp.topic] = append(gone[tp.topic], tp.partition)
	}
	clear(s.told)
	s.forget(gone)
}

func (s *state) forget(gone map[string][]int32) {
	if s.revoked != nil && len(gone) > 0 {
		s.revoked(gone)
	}
}
