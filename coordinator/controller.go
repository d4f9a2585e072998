// The controller acts on the metadata: it turns what brokers ask for into commands, fences brokers that are not heard from,
// and decides who follows and who votes in the metadata group. Every broker has one; only the one on the metadata
// leader acts.

package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/balsamq/balsa/raft"
)

// MetadataLog is the metadata group as its users see it; broker adapts the Raft group to it.
type MetadataLog interface {
	// Propose returns once the command is committed and applied on this broker. It fails where this broker does not lead;
	// after any other error the command may still commit.
	Propose(ctx context.Context, command []byte) (*Result, error)
	// Leader is the leader as this broker knows it, 0 if none. ready: it is this broker, and its state is complete.
	Leader() (leader raft.NodeID, ready bool)
	// Linearize returns once this broker's Image holds everything that was acknowledged before the call.
	Linearize(ctx context.Context) error
	// Membership is the group's membership as its leader sees it.
	Membership() Membership
	// ChangeMembership moves the group to next, through a joint configuration where needed.
	ChangeMembership(ctx context.Context, next raft.ConfState) error
}

// Membership is the metadata group's configuration and progress. Only meaningful on its leader.
type Membership struct {
	Conf     raft.ConfState
	CaughtUp []raft.NodeID // learners whose logs are close to the leader's end
}

// Intent is what a broker asks the metadata leader for. It says what is wanted; the leader decides how (placement).
type Intent struct {
	// Request makes a repeated intent harmless: see Command.Request. Required.
	Request string `json:"request"`
	// Command is proposed as it is. Create and Grow are placed first, Moves are checked against the brokers there are, Features
	// against what these support. Exactly one is set.
	Command  *Command        `json:"command,omitempty"`
	Create   []TopicSpec     `json:"create,omitempty"`
	Moves    []Move          `json:"moves,omitempty"`
	Features *FeatureUpdates `json:"features,omitempty"`
	Grow     *Growth         `json:"grow,omitempty"`
	// Supported goes with a registration: what the broker supports. Those of before leave it out.
	Supported []FeatureRange `json:"supported,omitempty"`
}

// TopicSpec is a topic to be created.
type TopicSpec struct {
	Name        string            `json:"name"`
	ID          TopicID           `json:"id"`
	Partitions  int32             `json:"partitions,omitempty"`  // ignored with an Assignment
	Replication int16             `json:"replication,omitempty"` // 0: three, or as many as there are live brokers
	Assignment  [][]raft.NodeID   `json:"assignment,omitempty"`
	Configs     map[string]string `json:"configs,omitempty"`
}

// DefaultReplication is the replication factor for "as the cluster likes": three, if there are three brokers.
const DefaultReplication = 3

// ErrNotController: this broker is not the metadata leader, or not yet ready; ask the one that is.
var ErrNotController = errors.New("not the metadata leader")

// ControllerConfig is what a Controller needs.
type ControllerConfig struct {
	Self    raft.NodeID
	Session time.Duration // a broker not heard from for so long is fenced
	Doubt   time.Duration // one not heard from for so long gets no new replica, if there are enough others
	Now     func() raft.Time
	Seed    uint64 // where placement starts
	Logger  *slog.Logger
	// Supports asks another broker for the features that it supports.
	Supports func(ctx context.Context, node raft.NodeID) ([]FeatureRange, error)
}

// Controller: see the head of this file.
type Controller struct {
	cfg ControllerConfig
	md  *Metadata
	log MetadataLog

	// placing serialises "place, propose, wait until applied", so that each placement sees the ones before it; also changes of
	// features, and the registrations that depend on them. A channel, so that a waiter can give up.
	placing chan struct{}

	mu      sync.Mutex
	heard   map[raft.NodeID]heardFrom
	leading bool
	since   raft.Time // leading since; a new leader gives everyone a full session

	// repaired is the version of the last Image in which repair found nothing to do; Tick's own.
	repaired raft.Index
}

type heardFrom struct {
	incarnation raft.Incarnation
	at          raft.Time
}

// NewController returns a controller that does nothing until Tick or Do is called.
func NewController(cfg ControllerConfig, md *Metadata, log MetadataLog) *Controller {
	return &Controller{cfg: cfg, md: md, log: log, placing: make(chan struct{}, 1), heard: make(map[raft.NodeID]heardFrom)}
}

// Heard notes a sign of life. Every broker notes everyone's, so that a new leader knows at once.
func (c *Controller) Heard(node raft.NodeID, inc raft.Incarnation) {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.md.Image().Broker(node) != nil { // bounds the map by the brokers there are
		c.heard[node] = heardFrom{inc, now}
	}
}

// Do carries out an intent and returns its result. ErrNotController if this broker cannot.
func (c *Controller) Do(ctx context.Context, in *Intent) (*Result, error) {
	if _, ready := c.log.Leader(); !ready {
		return nil, ErrNotController
	}
	kinds := 0
	for _, set := range [...]bool{in.Command != nil, len(in.Create) > 0, len(in.Moves) > 0, in.Features != nil, in.Grow != nil} {
		if set {
			kinds++
		}
	}
	if in.Request == "" || kinds != 1 || len(in.Create) > MaxTopicsPerCommand || len(in.Moves) > MaxMovesPerCommand ||
		in.Features != nil && len(in.Features.Updates) > maxFeatures || len(in.Supported) > maxFeatures ||
		in.Grow != nil && len(in.Grow.Topics) > MaxChangesPerCommand {
		return nil, fmt.Errorf("%w: intent", ErrMalformed)
	}
	if in.Command != nil && in.Command.Register == nil {
		cmd := *in.Command
		cmd.Request = in.Request
		return c.propose(ctx, &cmd)
	}
	select {
	case c.placing <- struct{}{}:
		defer func() { <-c.placing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	carry := c.create
	switch {
	case in.Command != nil:
		if err := c.md.Image().checkNewcomer(in.Supported); err != nil {
			return &Result{Index: c.md.Image().version, Failure: FailureOf(err)}, nil
		}
		if err := c.md.Image().checkTakeover(in.Command.Register); err != nil {
			return &Result{Index: c.md.Image().version, Failure: FailureOf(err)}, nil
		}
		cmd := *in.Command
		cmd.Request = in.Request
		return c.propose(ctx, &cmd)
	case in.Features != nil:
		return c.updateFeatures(ctx, in)
	case len(in.Moves) > 0:
		carry = c.reassign
	case in.Grow != nil:
		carry = c.grow
	}
	for {
		r, err := carry(ctx, in)
		if err != nil || r.Code != "stale" {
			return r, err
		}
		// A broker went between placing and applying. The refusal is remembered under the request's id, so a new one is needed.
		in = &Intent{Request: in.Request + "'", Create: in.Create, Moves: in.Moves, Grow: in.Grow}
		if len(in.Request) > maxText {
			return r, nil
		}
	}
}

func (c *Controller) create(ctx context.Context, in *Intent) (*Result, error) {
	// A new leader's image is complete (ready), so what is decided on it here is decided on all that was acknowledged.
	im := c.md.Image()
	cmd := &CreateTopics{}
	failures := make([]Failure, len(in.Create))
	live := im.LiveBrokers()
	trusted := c.trusted(live)
	used := make(map[raft.NodeID]bool)
	for i, s := range in.Create {
		if s.ID.IsZero() {
			return nil, fmt.Errorf("%w: topic %q has no id", ErrMalformed, s.Name)
		}
		replicas := s.Assignment
		var err error
		if len(replicas) > 0 {
			err = im.CheckAssignment(0, replicas)
		} else {
			rf := int(s.Replication)
			if rf == 0 {
				rf = min(DefaultReplication, len(live))
			}
			on := live
			if len(trusted) >= rf {
				on = trusted
			}
			replicas, err = im.place(on, int(s.Partitions), rf, c.cfg.Seed+uint64(im.nextGroup)+uint64(i))
		}
		// A topic of this very id is there if a repeat comes after its request was forgotten.
		if err == nil && im.TopicByID(s.ID) == nil {
			err = im.CheckNewTopic(s.Name)
		}
		if err != nil {
			failures[i] = FailureOf(err)
			continue
		}
		for _, r := range replicas {
			for _, id := range r {
				used[id] = true
			}
		}
		cmd.Topics = append(cmd.Topics, NewTopic{Name: s.Name, ID: s.ID, Replicas: replicas, Configs: s.Configs})
	}
	result := &Result{Index: im.version}
	if len(cmd.Topics) > 0 {
		for _, b := range im.brokers {
			if used[b.ID] {
				cmd.Brokers = append(cmd.Brokers, b.Member())
			}
		}
		r, err := c.propose(ctx, &Command{Request: in.Request, CreateTopics: cmd})
		if err != nil || r.Code != "" {
			return r, err
		}
		result.Index = r.Index
		for _, t := range r.Topics {
			for i, s := range in.Create {
				if s.ID == t.ID {
					failures[i] = t.Failure
				}
			}
		}
	}
	for i, s := range in.Create {
		f := failures[i]
		if t := c.md.Image().TopicByID(s.ID); f.Code == "topic_exists" && t != nil && t.Name == s.Name {
			f = Failure{} // it was us
		}
		result.Topics = append(result.Topics, TopicResult{Name: s.Name, ID: s.ID, Failure: f})
	}
	return result, nil
}

func (c *Controller) propose(ctx context.Context, cmd *Command) (*Result, error) {
	// Brokers of an older version would stop at a command that they do not know: it must not even get into the log. A cluster
	// that is not founded refuses it on applying.
	if im := c.md.Image(); im.clusterID != "" {
		if err := im.CheckLevel(cmd); err != nil {
			return &Result{Index: im.version, Failure: FailureOf(err)}, nil
		}
	}
	b, err := cmd.Encode()
	if err != nil {
		return nil, err
	}
	return c.log.Propose(ctx, b)
}

// Tick does one round of what a leader does unasked. Call it a few times per session timeout; elsewhere than on the
// leader it does nothing.
func (c *Controller) Tick(ctx context.Context) error {
	_, ready := c.log.Leader()
	now := c.cfg.Now()
	c.mu.Lock()
	if ready && !c.leading {
		c.since = now
		c.cfg.Logger.Info("acting as the cluster's controller")
	}
	c.leading = ready
	since := c.since
	c.mu.Unlock()
	if !ready {
		return nil
	}
	var errs []error
	im := c.md.Image()
	for _, b := range im.Brokers() {
		alive := b.ID == c.cfg.Self || c.lastHeard(b)+raft.Time(c.cfg.Session) > now
		fence := !alive && !b.Fenced && since+raft.Time(c.cfg.Session) <= now
		if !fence && !(alive && b.Fenced) {
			continue
		}
		r, err := c.propose(ctx, &Command{Fence: &FenceBroker{Node: b.ID, Epoch: b.Epoch, Fenced: fence}})
		if err == nil {
			err = r.Err()
		}
		switch {
		case err != nil && !errors.Is(err, ErrStale):
			errs = append(errs, fmt.Errorf("fence broker %d: %w", b.ID, err))
		case fence:
			c.cfg.Logger.Warn("broker is not heard from: fenced", "broker", b.ID, "session", c.cfg.Session)
		default:
			c.cfg.Logger.Info("broker is back: unfenced", "broker", b.ID)
		}
	}
	if err := c.repair(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := c.assignBridges(ctx); err != nil {
		errs = append(errs, err)
	}
	if next, why, ok := NextMembership(c.md.Image(), c.log.Membership()); ok {
		c.cfg.Logger.Info("changing the metadata group's membership", "why", why, "voters", raft.NodeIDs(next.Voters), "learners", raft.NodeIDs(next.Learners))
		if err := c.log.ChangeMembership(ctx, next); err != nil {
			errs = append(errs, fmt.Errorf("metadata membership: %w", err))
		}
	}
	return errors.Join(errs...)
}

// lastHeard is far in the past for a broker that was not heard from in the incarnation that is registered.
func (c *Controller) lastHeard(b *Broker) raft.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.heard[b.ID]
	if !ok || h.incarnation != b.Incarnation {
		return raft.Time(-1 << 62)
	}
	return h.at
}

// trusted are those of the live brokers that were heard from lately: a broker that has just died is not fenced yet, and a
// group that begins with it begins short of a replica, or without a quorum.
func (c *Controller) trusted(live []*Broker) []*Broker {
	now := c.cfg.Now()
	return slices.DeleteFunc(slices.Clone(live), func(b *Broker) bool {
		return b.ID != c.cfg.Self && c.lastHeard(b)+raft.Time(c.cfg.Doubt) <= now
	})
}

// NextMembership is the next step towards what the metadata group should be: every registered broker follows as a
// learner at least; one broker votes while there are fewer than three, then three, and five from five on. Voters are
// added two at once, through one joint change: two voters would be worse than one, as either's loss stops the group.
//
// A member whose broker is unregistered, or has another disk now, goes. A voter among them leaves its vote to a learner if
// one is ready; else one voter less for a while is no worse than one that never answers.
func NextMembership(im *Image, m Membership) (next raft.ConfState, why string, ok bool) {
	conf := m.Conf
	if conf.Joint() || len(conf.Voters) == 0 {
		return conf, "", false
	}
	isMember := func(id raft.NodeID) func(raft.Member) bool { return func(m raft.Member) bool { return m.ID == id } }
	next = raft.ConfState{Voters: slices.Clone(conf.Voters), Learners: slices.Clone(conf.Learners)}
	gone := func(m raft.Member) bool {
		b := im.Broker(m.ID)
		return b == nil || b.Incarnation != m.Incarnation
	}
	ready := func(l raft.Member) bool {
		b := im.Broker(l.ID)
		return b != nil && !b.Fenced && b.Incarnation == l.Incarnation && slices.Contains(m.CaughtUp, l.ID)
	}
	// Where nobody is registered yet there is a founder that is about to be.
	if len(im.brokers) > 0 && slices.ContainsFunc(conf.Learners, gone) {
		next.Learners = slices.DeleteFunc(next.Learners, gone)
		return next, "brokers that are gone, or have another disk now", true
	}
	if i := slices.IndexFunc(conf.Voters, gone); len(im.brokers) > 0 && i >= 0 && len(conf.Voters) > 1 {
		next.Voters = slices.Delete(next.Voters, i, i+1)
		if k := slices.IndexFunc(next.Learners, ready); k >= 0 {
			next.Voters = append(next.Voters, next.Learners[k])
			next.Learners = slices.Delete(next.Learners, k, k+1)
			sortMembers(next.Voters)
		}
		return next, fmt.Sprintf("voter %d is gone, or has another disk now", conf.Voters[i].ID), true
	}
	for _, b := range im.brokers {
		if !slices.ContainsFunc(conf.Voters, isMember(b.ID)) && !slices.ContainsFunc(conf.Learners, isMember(b.ID)) {
			next.Learners = append(next.Learners, b.Member())
			ok = true
		}
	}
	if ok {
		sortMembers(next.Learners)
		return next, "new brokers follow", true
	}
	for _, target := range []int{5, 3} {
		need := target - len(conf.Voters)
		if len(im.LiveBrokers()) < target || need <= 0 {
			continue
		}
		var promoted []raft.Member
		for _, l := range conf.Learners {
			if len(promoted) < need && ready(l) {
				promoted = append(promoted, l)
			}
		}
		if len(promoted) < need {
			continue
		}
		next.Voters = append(next.Voters, promoted...)
		sortMembers(next.Voters)
		next.Learners = slices.DeleteFunc(next.Learners, func(l raft.Member) bool { return slices.Contains(promoted, l) })
		return next, fmt.Sprintf("%d brokers are there: %d vote", len(im.LiveBrokers()), target), true
	}
	return conf, "", false
}

func sortMembers(ms []raft.Member) {
	slices.SortFunc(ms, func(a, b raft.Member) int { return cmp.Compare(a.ID, b.ID) })
}
