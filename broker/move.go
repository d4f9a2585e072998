// Moving partitions: for each group that this broker leads, bring its membership in line with what the metadata wants, and
// report when it is. See coordinator/move.go for the steps, docs/design/0011-moves.md for the reasons.
//
// Nothing is remembered here that matters: the next leader, or this one after a crash, looks at the group's membership and at
// its Image, and goes on. A step that was proposed twice is refused by the group.

package broker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	// driftEvery times the mover's interval all groups that this broker leads are compared, not only those that are to move: a
	// leader whose Image was behind may have gone for what was not wanted any more.
	driftEvery = 25
	// driftBatch is how many of them at a time: ten thousand idle groups are not to be walked every few seconds.
	driftBatch = 256
	// learnerGrace is how long a new learner counts as being caught up before it has said anything.
	learnerGrace = 10 * time.Second
)

// mover is the part of the broker that moves the partitions that it leads.
type mover struct {
	image    func() *coordinator.Image
	replica  func(raft.GroupID) *partition.Replica
	led      func() []raft.GroupID
	change   func(context.Context, *coordinator.Command) error // of the metadata
	interval time.Duration
	parallel int // groups that catch learners up at once
	log      *slog.Logger

	kick    chan struct{}               // capacity 1
	steps   map[raft.GroupID]*groupMove // the loop's: groups that are being worked on
	results chan stepResult             // capacity of maxSteps
	settled chan error                  // capacity 1: how the report under way ended
	asking  bool                        // a report is under way
	version raft.Index                  // of the Image at the last comparison of all
	since   int                         // passes since then
	drift   raft.GroupID                // where the comparison of those that nobody moves goes on
}

// maxSteps bounds the proposals under way. Groups that wait for something else, as for a learner on a broker that is dead, take no place.
const maxSteps = 256

type groupMove struct {
	proposing bool
	added     time.Time // when its last learners were added
}

type stepResult struct {
	group raft.GroupID
	err   error
}

func newMover(m mover) *mover {
	m.kick, m.steps = make(chan struct{}, 1), make(map[raft.GroupID]*groupMove)
	m.results, m.settled = make(chan stepResult, maxSteps), make(chan error, 1)
	return &m
}

func (m *mover) poke() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// run ends with ctx.
func (m *mover) run(ctx context.Context) {
	ticker := time.NewTicker(m.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.kick:
		case <-ticker.C:
			m.since++
		case r := <-m.results:
			if m.took(r); r.err != nil {
				continue // at the next tick: whatever refused it will be there for a while
			}
		case err := <-m.settled:
			m.asking = false
			if err != nil && ctx.Err() == nil {
				m.log.Warn("moves that are done could not be reported yet", "err", err)
			}
		}
		m.pass(ctx)
	}
}

func (m *mover) took(r stepResult) {
	if s := m.steps[r.group]; s != nil {
		s.proposing = false
	}
	if r.err != nil && !errors.Is(r.err, multi.ErrNotLeader) && !errors.Is(r.err, multi.ErrLeadershipLost) && !errors.Is(r.err, multi.ErrClosed) {
		m.log.Info("a step of a move was refused; it will be tried again", "group", uint64(r.group), "err", r.err)
	}
}

// pass looks at every group that may have something to do.
func (m *mover) pass(ctx context.Context) {
	im := m.image()
	groups := im.Moving()
	switch v := im.Version(); {
	case v != m.version:
		m.version, m.since = v, 0
		groups = m.led() // those that this broker does not lead are not its business
	case m.since >= driftEvery:
		m.since = 0
		groups = m.someLed(groups)
	}
	busy, proposing := m.busy(im)
	var done []coordinator.Settled
	for _, g := range groups {
		p := im.Partition(g)
		if p == nil || p.Reset != nil {
			continue
		}
		st, view, group := m.look(g, p)
		if group == nil || st != nil && st.proposing {
			continue
		}
		step := coordinator.NextMove(p.Wanted(), view)
		switch {
		case step.Done:
			delete(m.steps, g)
			if p.Moving() || view.ConfIndex > p.Settled {
				done = append(done, coordinator.Settled{Group: g, Voters: view.Conf.Voters, Index: view.ConfIndex, Epoch: p.Epoch})
			}
		case step.Why == "" && st == nil && len(view.Conf.Learners) > 0:
			m.steps[g] = &groupMove{} // inherited from the leader before: it counts
		case step.Why == "", step.Adds && busy >= m.parallel, proposing >= maxSteps:
		default:
			if st == nil {
				st = &groupMove{}
				m.steps[g] = st
			}
			st.proposing = true
			proposing++
			if step.Adds {
				st.added = time.Now()
				busy++
			}
			t, i, _ := im.Group(g)
			m.log.Info("changing a partition's replicas", "topic", t.Name, "partition", i, "group", uint64(g), "have", view.Conf.String(), "wanted", raft.NodeIDs(p.Wanted()),
				"why", step.Why)
			group.ProposeConf(step.Change, func(o multi.Outcome) { m.results <- stepResult{g, o.Err} }) // there is room: maxSteps
		}
	}
	if len(done) > 0 && !m.asking {
		m.asking = true
		done = done[:min(len(done), coordinator.MaxMovesPerCommand)]
		go func() { // it ends with ctx, and within rpcTimeout
			ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
			defer cancel()
			m.settled <- m.change(ctx, &coordinator.Command{Settle: &coordinator.Settle{Groups: done}})
		}()
	}
}

// someLed adds the next driftBatch groups that this broker leads to those that move.
func (m *mover) someLed(moving []raft.GroupID) []raft.GroupID {
	led := m.led() // sorted
	from, _ := slices.BinarySearch(led, m.drift+1)
	to := min(from+driftBatch, len(led))
	if m.drift = 0; to < len(led) {
		m.drift = led[to-1]
	}
	groups := slices.Concat(moving, led[from:to])
	slices.Sort(groups)
	return slices.Compact(groups)
}

// look is a group as this broker leads it; nil if it does not.
func (m *mover) look(g raft.GroupID, p *coordinator.Partition) (*groupMove, coordinator.GroupView, *multi.Group) {
	var view coordinator.GroupView
	st := m.steps[g]
	rep := m.replica(g)
	if rep == nil {
		return st, view, nil
	}
	group := rep.Raft()
	if group == nil {
		return st, view, nil
	}
	s := group.Status()
	if !s.Ready || s.Conf.Epoch != p.Epoch {
		return st, view, nil
	}
	view = coordinator.GroupView{Conf: s.Conf, ConfIndex: s.ConfIndex, Commit: s.Commit}
	if len(s.Conf.Learners) > 0 {
		for _, l := range group.Peers() {
			if l.Learner && l.Active && l.CaughtUp {
				view.Ready = append(view.Ready, l.Member)
			}
		}
	}
	return st, view, group
}

// busy is the number of led groups that are catching learners up, and of those whose proposals are under way; it forgets groups that
// there is nothing more to do for. A learner that does not answer takes nobody's place.
func (m *mover) busy(im *coordinator.Image) (n, proposing int) {
	for g, st := range m.steps {
		if st.proposing {
			proposing++
		}
		p := im.Partition(g)
		if p == nil {
			if !st.proposing { // else its result is still to come, and has its place
				delete(m.steps, g)
			}
			continue
		}
		_, view, group := m.look(g, p)
		switch {
		case group == nil:
			if !st.proposing {
				delete(m.steps, g)
			}
			continue
		case len(view.Conf.Learners) == 0 && !st.proposing:
			if !p.Moving() {
				delete(m.steps, g)
			}
			continue
		case time.Since(st.added) < learnerGrace:
			n++
			continue
		}
		for _, l := range group.Peers() {
			if l.Learner && l.Active {
				n++
				break
			}
		}
	}
	return n, proposing
}

// Reassign implements backend: it sets where partitions are to be, and does not wait until they are there.
func (b *Broker) Reassign(ctx context.Context, moves []coordinator.Move, done func([]error)) {
	fail := func(err error) {
		errs := make([]error, len(moves))
		for i := range errs {
			errs[i] = err
		}
		done(errs)
	}
	b.admin(ctx, func(ctx context.Context) {
		r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Moves: moves})
		if err == nil {
			err = r.Err()
		}
		if err == nil && len(r.Moves) != len(moves) {
			err = errRPC
		}
		if err != nil {
			fail(err)
			return
		}
		errs := make([]error, len(moves))
		for i := range errs {
			errs[i] = r.Moves[i].Err()
		}
		done(errs)
	}, fail)
}
