// Read points: from when on an answer about the end of the log is true.
//
// A leader confirms one by its lease or, without, by a round of ReadIndex (and always so under balsa.read.consistency=quorum).
// A follower asks its leader for that index and waits until it has applied it: then whatever it says of the end is true of a
// moment after the question. Records below the high watermark that a replica knows of need none of this: they are
// committed, and do not change.

package partition

import (
	"errors"
	"fmt"
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	// catchUpPatience is how long a follower's answer waits for an index to be applied; then it is ErrLagging.
	catchUpPatience = time.Second
	// maxCatching bounds the answers that wait so, per replica; beyond it they are ErrOverloaded.
	maxCatching = 1 << 14
)

// Linearize calls done, at once where the leader's lease allows it, when the high watermark is at least what any
// acknowledged produce had reached at the call. done may be called before Linearize returns; otherwise a worker calls
// it, and it must not block. Errors: ErrNotLeader, ErrNotReady, ErrUnavailable, ErrOverloaded, ErrFailed, ErrClosed.
func (r *Replica) Linearize(done func(error)) {
	r.ReadIndex(func(_ raft.Index, _ int32, err error) { done(err) })
}

// ReadIndex is Linearize with the index that is applied by then, and the leader's epoch. A follower of this epoch that has
// applied it, too, knows as much.
func (r *Replica) ReadIndex(done func(index raft.Index, epoch int32, err error)) {
	v, err := r.serving()
	if err != nil {
		done(0, v.lead.Epoch, err)
		return
	}
	answer := func(i raft.Index, err error) {
		if err != nil {
			err = r.typed(err)
		}
		done(i, v.lead.Epoch, err)
	}
	if r.settings.Load().QuorumReads {
		v.group.ReadIndex(answer)
	} else {
		v.group.Read(answer)
	}
}

// ReadIndexElsewhere is ReadIndex for a follower, which then waits for what it has not heard of yet.
func (r *Replica) ReadIndexElsewhere(done func(index raft.Index, epoch int32, err error)) {
	if v, err := r.serving(); err == nil {
		v.group.ReadElsewhere()
	}
	r.ReadIndex(done)
}

// LinearizeAny is Linearize on whichever replica this is. On a follower done is called when it has applied its leader's read
// index. Errors, beside those of Linearize: ErrLagging.
func (r *Replica) LinearizeAny(done func(error)) {
	v, err := r.view(-1, true)
	switch {
	case err != nil:
		done(err)
	case v.lead.Self:
		r.Linearize(done)
	case v.lead.Leader == 0 || r.cfg.ReadIndex == nil:
		done(&NotLeaderError{Leader: v.lead.Leader, Epoch: v.lead.Epoch})
	default:
		r.cfg.ReadIndex(v.lead.Leader, r.cfg.Group, func(i raft.Index, epoch int32, err error) {
			switch now, _ := r.view(-1, true); {
			case err == nil && epoch == now.lead.Epoch:
				r.whenApplied(i, done)
			case err == nil:
				// One of the two has not heard of the other's term yet. Where a group was cut back to its survivors, an index
				// of theirs says nothing about what one that was left behind has applied.
				done(fmt.Errorf("%w: its epoch is %d, this replica's %d", ErrLagging, epoch, now.lead.Epoch))
			case errors.Is(err, ErrNotLeader): // it knows more than this replica does
				done(&NotLeaderError{Epoch: v.lead.Epoch})
			case errors.Is(err, ErrOverloaded):
				done(err)
			default:
				done(fmt.Errorf("%w: %w", ErrLagging, err))
			}
		})
	}
}

// catchUp is an answer that waits until index is applied here.
type catchUp struct {
	index raft.Index
	until time.Time
	done  func(error)
}

// catching holds them, in the order in which they came. Guarded by Replica.mu.
type catching struct {
	waits []catchUp
	armed bool
}

// take empties the list.
func (c *catching) take() []catchUp {
	waits := c.waits
	c.waits = nil
	return waits
}

// upTo takes out what waits for nothing above applied.
func (c *catching) upTo(applied raft.Index) (due []catchUp) {
	return c.takeIf(func(w *catchUp) bool { return w.index <= applied })
}

func (c *catching) takeIf(cond func(*catchUp) bool) (out []catchUp) {
	if len(c.waits) == 0 {
		return nil
	}
	kept := c.waits[:0]
	for i := range c.waits {
		if w := &c.waits[i]; cond(w) {
			out = append(out, *w)
		} else {
			kept = append(kept, *w)
		}
	}
	clear(c.waits[len(kept):])
	c.waits = kept
	return out
}

// whenApplied calls done once index is applied here: at once, by a worker, or by the timer of those that waited for too long.
func (r *Replica) whenApplied(index raft.Index, done func(error)) {
	r.mu.Lock()
	var err error
	switch {
	case r.state == StateFailed:
		err = fmt.Errorf("%w: %w", ErrFailed, r.err)
	case r.state != StateOpen:
		err = ErrClosed
	case r.pub.applied >= index:
	case len(r.catching.waits) >= maxCatching:
		err = ErrOverloaded
	default:
		r.catching.waits = append(r.catching.waits, catchUp{index: index, until: time.Now().Add(catchUpPatience), done: done})
		if !r.catching.armed {
			r.catching.armed = true
			time.AfterFunc(catchUpPatience, r.expireCatching)
		}
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	done(err)
}

// expireCatching runs on a timer of its own while anything waits.
func (r *Replica) expireCatching() {
	r.mu.Lock()
	now := time.Now()
	late := r.catching.takeIf(func(w *catchUp) bool { return !w.until.After(now) })
	applied := r.pub.applied
	if r.catching.armed = len(r.catching.waits) > 0; r.catching.armed {
		time.AfterFunc(max(r.catching.waits[0].until.Sub(now), time.Millisecond), r.expireCatching)
	}
	r.mu.Unlock()
	for _, w := range late {
		w.done(fmt.Errorf("%w: applied up to %d of %d", ErrLagging, applied, w.index))
	}
}

// Follower is a voter that is in sync, as the leader sees it.
type Follower struct {
	Node  raft.NodeID
	Match raft.Index // durable there up to here
}

// InSyncFollowers are, on the leader, the members of [Replica.ISR] other than itself, in order of their ids; nil elsewhere.
func (r *Replica) InSyncFollowers() []Follower {
	_, g := r.current()
	if g == nil {
		return nil
	}
	l := lookAt(g)
	if l.Role != raft.Leader {
		return nil
	}
	var out []Follower
	for i := range l.peers {
		if p := &l.peers[i]; l.isInSync(p) {
			out = append(out, Follower{Node: p.Member.ID, Match: p.Match})
		}
	}
	return out
}
