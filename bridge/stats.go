// What a bridge says of itself.

package bridge

import (
	"sync"
	"sync/atomic"
	"time"
)

// State is what a bridge is at.
type State string

// The states of a bridge that this process runs.
const (
	StateStarting State = "starting"
	StateRunning  State = "running"
	StateWaiting  State = "waiting" // it has failed and tries again by itself
	StateStuck    State = "stuck"   // it cannot go on until somebody does something; it looks again now and then
)

// Status is a bridge at one moment.
type Status struct {
	State State     `json:"state"`
	Error string    `json:"error,omitempty"` // of the last failure; empty while all is well
	Since time.Time `json:"since"`           // of the state
	// Position is where it is: a position that seek takes; empty: not known yet.
	Position string `json:"position,omitempty"`
	// Lag is the number of messages or records that the source has and the target has not; -1: not known.
	Lag int64 `json:"lag"`
	Counts
}

// Counts count since the bridge was begun by this process.
type Counts struct {
	Records     uint64 `json:"records"` // taken over, dead letters and what was left out not among them
	Bytes       uint64 `json:"bytes"`   // of keys, values and headers
	DeadLetters uint64 `json:"dead_letters"`
	Skipped     uint64 `json:"skipped"` // left out because of the bridges that they had passed
	Dropped     uint64 `json:"dropped"` // of a core subject: lost, as they came faster than they were written
	Restarts    uint64 `json:"restarts"`
}

// stats gathers it.
type stats struct {
	records, bytes, deadLetters, skipped, dropped, restarts atomic.Uint64

	lag atomic.Int64

	mu       sync.Mutex // guards what follows
	state    State
	err      error
	since    time.Time
	position string
}

func newStats() *stats {
	s := &stats{state: StateStarting, since: time.Now()}
	s.lag.Store(-1)
	return s
}

// add counts what is committed.
func (s *stats) add(c *Counts) {
	s.records.Add(c.Records)
	s.bytes.Add(c.Bytes)
	s.deadLetters.Add(c.DeadLetters)
	s.skipped.Add(c.Skipped)
	s.dropped.Add(c.Dropped)
}

// enter notes a state, and why; it says whether that is news.
func (s *stats) enter(state State, err error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = s.state != state || (err == nil) != (s.err == nil) || err != nil && err.Error() != s.err.Error()
	if s.state != state {
		s.since = time.Now()
	}
	s.state, s.err = state, err
	return news
}

func (s *stats) at(position string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.position = position
}

func (s *stats) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{State: s.state, Since: s.since, Position: s.position, Lag: s.lag.Load(), Counts: Counts{Records: s.records.Load(), Bytes: s.bytes.Load(),
		DeadLetters: s.deadLetters.Load(), Skipped: s.skipped.Load(), Dropped: s.dropped.Load(), Restarts: s.restarts.Load()}}
	if s.err != nil {
		out.Error = s.err.Error()
	}
	return out
}
