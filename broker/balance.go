// Leader balance: leadership goes back to the preferred replicas by itself, as after a restart it does not on its own.
//
// Each broker looks after what it leads itself: it knows how far each follower is, and asks nobody. At every interval it gives away
// what another broker should lead, balanceAtOnce at a time and one after the other. Nothing goes to a broker that has not been there
// for an interval without a gap, or whose replica is behind; nothing moves twice within an interval; and a
// group whose transfer failed, which costs it the lease of its term, is left alone for longer.
//
// Here, too, leadership leaves a full disk: when a batch is refused for that, another broker with room is looked for. (A group
// whose disk hangs, or that is full with entries to write, sees to it itself: raft/multi/handover.go.)

package broker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/raft"
)

const (
	// balanceAtOnce bounds the transfers that balancing has under way.
	balanceAtOnce = 4
	// fullAgain is how long a group that has found nobody with room, or somebody, is left alone: full disks everywhere must not
	// make leadership go round.
	fullAgain = 10 * time.Second
	// maxFull bounds the groups that are noted as full between two looks.
	maxFull = 1 << 14
	// balancePatience is how many intervals a group is left alone after a failed transfer.
	balancePatience = 10
)

// balancer is what balancing remembers.
type balancer struct {
	kick chan struct{} // capacity 1: the Image has changed
	off  atomic.Bool   // auto.leader.rebalance.enable=false

	round  sync.Mutex                 // one balanceOnce at a time; guards since and failed
	since  map[raft.GroupID]ledSince  // what this broker leads
	failed map[raft.GroupID]time.Time // groups to be left alone until then; of those in since
	quiet  map[raft.GroupID]time.Time // full groups to be left alone until then; the loop's own

	mu    sync.Mutex                // guards noted
	noted map[raft.GroupID]struct{} // groups that have refused a batch since the last look
}

// ledSince is when a leadership was first seen by the balancer.
type ledSince struct {
	term raft.Term
	at   time.Time
}

func (l *balancer) poke() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// full notes that a group refused a batch because the disk is full. It is called for each such batch.
func (l *balancer) full(g raft.GroupID) {
	l.mu.Lock()
	_, known := l.noted[g]
	if !known && len(l.noted) < maxFull {
		if l.noted == nil {
			l.noted = make(map[raft.GroupID]struct{})
		}
		l.noted[g] = struct{}{}
	}
	l.mu.Unlock()
	if !known {
		l.poke()
	}
}

// leaver is a group that is to leave this broker's full disk, and who is still to be asked for it.
type leaver struct {
	group raft.GroupID
	heirs []raft.NodeID
}

// leaveFullDisk gives away the groups that were noted, to brokers that have room: each broker is asked once for all that it might
// take, and they go side by side. When a disk runs full, it does so for all groups on it.
func (b *Broker) leaveFullDisk(ctx context.Context) {
	todo := b.leavers(time.Now())
	for len(todo) > 0 && !b.leaving.Load() && ctx.Err() == nil {
		byHeir := make(map[raft.NodeID][]*leaver)
		for _, l := range todo {
			byHeir[l.heirs[0]] = append(byHeir[l.heirs[0]], l)
		}
		var asked sync.WaitGroup
		var mu sync.Mutex // guards todo
		todo = nil
		var given errgroup.Group
		given.SetLimit(maxTransfers)
		for heir, some := range byHeir {
			asked.Go(func() {
				ids := make([]raft.GroupID, len(some))
				for i, l := range some {
					ids[i] = l.group
				}
				for i, err := range b.probe(ctx, heir, ids) {
					given.Go(func() error {
						l := some[i]
						if err == nil {
							_, err = b.transferLed(ctx, l.group, heir)
						}
						if err == nil {
							b.log.Warn("leadership has left the full disk", "group", uint64(l.group), "to", heir)
						} else if l.heirs = l.heirs[1:]; len(l.heirs) > 0 && !errors.Is(err, errNotLed) {
							mu.Lock()
							todo = append(todo, l) // the next one, then
							mu.Unlock()
						}
						return nil
					})
				}
			})
		}
		asked.Wait()
		_ = given.Wait() // what is left over is in todo
	}
}

// leavers are the groups that were noted since the last look, but for those that were tried a moment ago, and those that nobody can
// take.
func (b *Broker) leavers(now time.Time) (out []*leaver) {
	l := &b.balancer
	l.mu.Lock()
	noted := l.noted
	l.noted = nil
	l.mu.Unlock()
	maps.DeleteFunc(l.quiet, func(_ raft.GroupID, until time.Time) bool { return now.After(until) })
	for _, id := range slices.Sorted(maps.Keys(noted)) {
		g := b.host.Group(id)
		if _, quiet := l.quiet[id]; quiet || g == nil {
			continue
		}
		if l.quiet == nil {
			l.quiet = make(map[raft.GroupID]time.Time)
		}
		l.quiet[id] = now.Add(fullAgain)
		s := g.Status()
		if heirs := b.heirs(g, &s); len(heirs) > 0 {
			out = append(out, &leaver{id, heirs})
		}
	}
	return out
}

// balance runs until the broker closes.
func (b *Broker) balance() {
	ticker := time.NewTicker(b.cfg.LeaderBalanceInterval)
	defer ticker.Stop()
	b.balancer.since, b.balancer.failed = make(map[raft.GroupID]ledSince), make(map[raft.GroupID]time.Time)
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.balancer.kick:
			b.tellPriorities()
			b.leaveFullDisk(b.ctx)
		case <-ticker.C:
			b.tellPriorities()
			if !b.leaving.Load() {
				b.balanceOnce(b.ctx, b.balancer.off.Load())
			}
		}
	}
}

// priorities of a group, by the Image; a broker that stops leads nothing any more.
func (b *Broker) priorities(g raft.GroupID) []raft.NodePriority {
	if b.leaving.Load() {
		return []raft.NodePriority{{ID: b.NodeID(), Priority: raft.NeverLeads}}
	}
	im := b.Image()
	if t, p, ok := im.Group(g); ok {
		return im.Priorities(&t.Partitions[p])
	}
	return nil
}

// tellPriorities tells every replica of this broker who shall lead. Most have heard it before.
func (b *Broker) tellPriorities() {
	for _, rep := range b.rec.replicas() {
		rep.SetPriorities(b.priorities(rep.GroupID()))
	}
}

// balanceOnce gives away what others should lead; barredOnly: only what this broker must not lead. It returns how much.
func (b *Broker) balanceOnce(ctx context.Context, barredOnly bool) int {
	l := &b.balancer
	l.round.Lock()
	defer l.round.Unlock()
	now, interval := time.Now(), b.cfg.LeaderBalanceInterval
	led := b.peers.table.led()
	seen := make(map[raft.GroupID]ledSince, len(led))
	type move struct {
		group raft.GroupID
		to    raft.NodeID
		err   error
		done  bool
	}
	var moves []*move
	im := b.Image()
	for _, id := range led {
		g := b.host.Group(id)
		t, p, ok := im.Group(id)
		if g == nil || !ok {
			continue
		}
		s := g.Status()
		since, ok := l.since[id]
		if !ok || since.term != s.Term {
			since = ledSince{s.Term, now}
		}
		seen[id] = since
		to := im.Preferred(&t.Partitions[p])
		if to == 0 || to == b.NodeID() {
			continue
		}
		barred := !im.MayLead(&t.Partitions[p], b.NodeID())
		if s.Role != raft.Leader || now.Before(l.failed[id]) || !barred && (barredOnly || now.Sub(since.at) < interval) {
			continue
		}
		if !b.settled(to) || b.whyUnfit(g, &s, to) != "" {
			heirs := b.heirs(g, &s)
			if !barred || len(heirs) == 0 {
				continue
			}
			to = heirs[0] // anybody who may lead is better than this broker
		}
		moves = append(moves, &move{group: id, to: to})
	}
	// A broker whose disk is full or hangs gets nothing.
	byHeir := make(map[raft.NodeID][]*move)
	for _, m := range moves {
		byHeir[m.to] = append(byHeir[m.to], m)
	}
	moves = moves[:0]
	for to, some := range byHeir {
		ids := make([]raft.GroupID, len(some))
		for i, m := range some {
			ids[i] = m.group
		}
		for i, err := range b.probe(ctx, to, ids) {
			if err == nil {
				moves = append(moves, some[i])
			}
		}
	}
	slices.SortFunc(moves, func(x, y *move) int { return cmp.Compare(x.group, y.group) })
	l.since = seen
	for id, until := range l.failed {
		if _, ok := seen[id]; !ok || now.After(until) {
			delete(l.failed, id)
		}
	}
	var todo errgroup.Group
	todo.SetLimit(balanceAtOnce)
	for _, m := range moves {
		if b.leaving.Load() || ctx.Err() != nil {
			break
		}
		todo.Go(func() error {
			_, m.err = b.transferLed(ctx, m.group, m.to)
			m.done = m.err == nil
			return nil
		})
	}
	_ = todo.Wait() // moves carry the errors
	done := 0
	for _, m := range moves {
		if m.err != nil {
			l.failed[m.group] = now.Add(balancePatience * interval)
			b.log.Warn("leadership could not be given to the broker that it belongs to", "group", uint64(m.group), "to", m.to, "err", m.err)
		}
		if m.done {
			done++
		}
	}
	if done > 0 {
		b.log.Info("leadership went to the brokers that it belongs to", "groups", done)
	}
	return done
}

// settled: the broker has been there for an interval, and clients are sent to it.
func (b *Broker) settled(id raft.NodeID) bool {
	br := b.Image().Broker(id)
	return br != nil && !br.Fenced && b.peers.presentFor(id) >= b.cfg.LeaderBalanceInterval
}
