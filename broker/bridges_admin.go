// Bridges for operators: the admin listener's routes, and the question to another broker how its bridges are.

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

const (
	// bridgeAskTimeout bounds the question to one broker, bridgeProbeTimeout that to both sides of a bridge.
	bridgeAskTimeout   = 2 * time.Second
	bridgeProbeTimeout = 15 * time.Second
	// bridgeKind is the only kind that there is.
	bridgeKind = "nats"
)

// bridgesReply answers methodBridges.
type bridgesReply struct {
	Statuses map[string]BridgeStatus `json:"statuses"`
}

// bridgeState is a bridge as it is shown.
type bridgeState struct {
	Name   string          `json:"name"`
	ID     string          `json:"id"`
	Kind   string          `json:"kind"`
	Spec   json.RawMessage `json:"spec"`
	Paused bool            `json:"paused"`
	// Begin is where it was told to begin, at the last of Seeks+1 times.
	Begin string `json:"begin,omitempty"`
	Seeks int64  `json:"seeks"`
	// Owner is the broker that has it; 0: none. Term counts how often it was given to one.
	Owner  raft.NodeID  `json:"owner"`
	Term   int64        `json:"term"`
	Status BridgeStatus `json:"status"`
}

type bridgeTable struct {
	Bridges []bridgeState `json:"bridges"`
}

// bridgeOrder is the body of the routes that change something.
type bridgeOrder struct {
	Name   string          `json:"name,omitempty"`
	Kind   string          `json:"kind,omitempty"`
	Spec   json.RawMessage `json:"spec,omitempty"`
	Begin  string          `json:"begin,omitempty"`
	Paused bool            `json:"paused,omitempty"`
	To     string          `json:"to,omitempty"`
	// Was is the definition that another one is to take the place of; empty: whichever there is.
	Was json.RawMessage `json:"was,omitempty"`
	// DryRun asks whether it could be done, and does nothing. NoProbe does not ask the other side first.
	DryRun  bool `json:"dryRun,omitempty"`
	NoProbe bool `json:"noProbe,omitempty"`
}

// askBridges asks a broker how its bridges are.
func (b *Broker) askBridges(ctx context.Context, node raft.NodeID) (map[string]BridgeStatus, error) {
	if node == b.NodeID() {
		return b.bridges.statuses(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, bridgeAskTimeout)
	defer cancel()
	body, err := b.tr.Call(ctx, node, methodBridges, []byte{rpcVersion})
	if err != nil {
		return nil, err
	}
	var reply bridgesReply
	return reply.Statuses, errors.Join(decodeJSON(body, &reply), checkStatuses(reply.Statuses))
}

func checkStatuses(m map[string]BridgeStatus) error {
	if len(m) > coordinator.MaxBridges {
		return fmt.Errorf("%w: %d bridges", errRPC, len(m))
	}
	return nil
}

// bridgeStates are bridges with what their owners say of them.
func (b *Broker) bridgeStates(ctx context.Context, list []*coordinator.Bridge) []bridgeState {
	out := make([]bridgeState, len(list))
	owners := make(map[raft.NodeID]bool)
	for i, br := range list {
		out[i] = bridgeState{Name: br.Name, ID: br.ID.String(), Kind: br.Kind, Spec: br.Spec, Paused: br.Paused, Begin: br.Position, Seeks: br.Number - 1, Owner: br.Owner, Term: br.Term}
		if br.Owner != 0 && !br.Paused {
			owners[br.Owner] = true
		}
	}
	var mu sync.Mutex // guards both
	said, silent := make(map[string]BridgeStatus), make(map[raft.NodeID]error)
	var wg sync.WaitGroup
	for node := range owners {
		wg.Go(func() {
			m, err := b.askBridges(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent[node] = err
			}
			for id, s := range m {
				said[id] = s
			}
		})
	}
	wg.Wait()
	for i := range out {
		s := &out[i]
		status, ok := said[s.ID]
		switch {
		case s.Paused:
			status = BridgeStatus{State: "paused", Lag: -1}
		case s.Owner == 0:
			status = BridgeStatus{State: "unassigned", Lag: -1}
		case silent[s.Owner] != nil:
			status = BridgeStatus{State: "unknown", Error: fmt.Sprintf("broker %d does not answer: %v", s.Owner, silent[s.Owner]), Lag: -1}
		case !ok:
			status = BridgeStatus{State: "starting", Lag: -1}
		}
		s.Status = status
	}
	return out
}

// linearBridges waits until this broker's Image has everything that was acknowledged; without a metadata leader it is what it is.
func (b *Broker) linearBridges(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, bridgeAskTimeout)
	defer cancel()
	_ = b.meta.Linearize(ctx)
}

func (b *Broker) adminBridges(ctx context.Context, _ *adminRequest) (any, error) {
	b.linearBridges(ctx)
	return &bridgeTable{Bridges: b.bridgeStates(ctx, b.Image().Bridges())}, nil
}

// bridgeNamed finds the bridge of a route.
func (b *Broker) bridgeNamed(ctx context.Context, q *adminRequest) (*coordinator.Bridge, error) {
	b.linearBridges(ctx)
	br := b.Image().Bridge(q.PathValue("bridge"))
	if br == nil {
		return nil, noBridge(q.PathValue("bridge"))
	}
	return br, nil
}

func noBridge(name string) error {
	return adminErrorf(adminNotFound, "'broker bridge nats list' shows those that there are", "there is no bridge %.120q", name)
}

func (b *Broker) adminBridge(ctx context.Context, q *adminRequest) (any, error) {
	br, err := b.bridgeNamed(ctx, q)
	if err != nil {
		return nil, err
	}
	return &b.bridgeStates(ctx, []*coordinator.Bridge{br})[0], nil
}

func (b *Broker) adminAddBridge(ctx context.Context, q *adminRequest) (any, error) {
	var o bridgeOrder
	if err := q.decode(&o); err != nil {
		return nil, err
	}
	const mend = "'broker bridge nats add --help' shows what a bridge can be"
	if b.cfg.Bridges == nil {
		return nil, adminErrorf(adminUnavailable, "ask a broker that does", "this broker carries no bridges")
	}
	if o.Kind != bridgeKind {
		return nil, adminErrorf(adminInvalid, mend, "there is no kind of bridge %.40q", o.Kind)
	}
	cmd := &coordinator.Command{AlterBridge: &coordinator.AlterBridge{Name: o.Name, ID: newTopicID(),
		Add: &coordinator.NewBridge{Kind: o.Kind, Spec: o.Spec, Position: o.Begin, Paused: o.Paused}}}
	if _, err := cmd.Encode(); err != nil {
		return nil, adminErrorf(adminInvalid, mend, "%v", err)
	}
	if err := b.cfg.Bridges.Check(o.Spec, o.Begin); err != nil {
		return nil, adminErrorf(adminInvalid, mend, "%v", err)
	}
	b.linearBridges(ctx)
	if b.Image().Bridge(o.Name) != nil {
		return nil, adminErrorf(adminConflict, "choose another name, or remove it first: 'broker bridge nats remove "+o.Name+"'", "there is a bridge %q", o.Name)
	}
	if err := bridgeLevel(b.Image(), cmd); err != nil {
		return nil, err
	}
	if err := b.probeBridge(ctx, &o); err != nil {
		return nil, err
	}
	if o.DryRun {
		return &bridgeState{Name: o.Name, Kind: o.Kind, Spec: o.Spec, Paused: o.Paused, Begin: o.Begin, Status: BridgeStatus{State: "not made", Lag: -1}}, nil
	}
	return b.alterBridge(ctx, cmd, "a bridge was made")
}

// probeBridge tries a definition, unless that is not wanted.
func (b *Broker) probeBridge(ctx context.Context, o *bridgeOrder) error {
	if o.NoProbe {
		return nil
	}
	one, cancel := context.WithTimeout(ctx, bridgeProbeTimeout)
	defer cancel()
	if err := b.cfg.Bridges.Probe(one, b.bridgeHost(), o.Spec); err != nil {
		return adminErrorf(adminInvalid, "what it takes must be there for all brokers; --no-probe does it all the same, and the bridge begins once it can", "broker %d tried it, and it does not work: %v", b.NodeID(), err)
	}
	return nil
}

// bridgeLevel refuses what the cluster's level does not have, before anything is tried, and where nothing is to be done.
func bridgeLevel(im *coordinator.Image, cmd *coordinator.Command) error {
	if err := im.CheckLevel(cmd); err != nil {
		return adminErrorf(adminConflict, "'broker cluster features' shows what the cluster can do", "%v", err)
	}
	return nil
}

// standsOn refuses a definition that was made from another one than the bridge has by now: what somebody else has changed meanwhile would be lost.
func (o *bridgeOrder) standsOn(br *coordinator.Bridge) error {
	if len(o.Was) == 0 {
		return nil
	}
	var was, is any
	if err := errors.Join(json.Unmarshal(o.Was, &was), json.Unmarshal(br.Spec, &is)); err != nil || !reflect.DeepEqual(was, is) {
		return adminErrorf(adminConflict, "give the command again", "bridge %q was changed by somebody else meanwhile", br.Name)
	}
	return nil
}

// adminSetBridge gives a bridge another definition. It goes on where it was.
func (b *Broker) adminSetBridge(ctx context.Context, q *adminRequest) (any, error) {
	var o bridgeOrder
	if err := q.decode(&o); err != nil {
		return nil, err
	}
	br, err := b.bridgeNamed(ctx, q)
	if err != nil {
		return nil, err
	}
	if b.cfg.Bridges == nil {
		return nil, adminErrorf(adminUnavailable, "ask a broker that does", "this broker carries no bridges")
	}
	const mend = "'broker bridge nats set --help' shows what can be changed"
	cmd := &coordinator.Command{AlterBridge: &coordinator.AlterBridge{Name: br.Name, ID: br.ID, Spec: o.Spec}}
	if _, err := cmd.Encode(); err != nil {
		return nil, adminErrorf(adminInvalid, mend, "%v", err)
	}
	if err := b.cfg.Bridges.CheckChange(br.Spec, o.Spec); err != nil {
		return nil, adminErrorf(adminInvalid, mend, "%v", err)
	}
	if err := bridgeLevel(b.Image(), cmd); err != nil {
		return nil, err
	}
	if err := o.standsOn(br); err != nil {
		return nil, err
	}
	if err := b.probeBridge(ctx, &o); err != nil {
		return nil, err
	}
	if br, err = b.bridgeNamed(ctx, q); err != nil { // to look at NATS has taken its time
		return nil, err
	}
	if err := o.standsOn(br); err != nil {
		return nil, err
	}
	if o.DryRun {
		s := b.bridgeStates(ctx, []*coordinator.Bridge{br})[0]
		s.Spec = o.Spec
		return &s, nil
	}
	return b.alterBridge(ctx, cmd, "a bridge has another definition")
}

// alterBridge has a command carried out, and shows the bridge as it is then; one that is gone as it was.
func (b *Broker) alterBridge(ctx context.Context, cmd *coordinator.Command, what string) (any, error) {
	name := cmd.AlterBridge.Name
	was := b.Image().Bridge(name)
	err := b.change(ctx, cmd)
	switch {
	case errors.Is(err, coordinator.ErrUnknownBridge):
		return nil, noBridge(name)
	case errors.Is(err, coordinator.ErrBridgeExists), errors.Is(err, coordinator.ErrTooMany), errors.Is(err, coordinator.ErrFeatureLevel):
		return nil, adminErrorf(adminConflict, "'broker bridge nats list' shows the bridges, 'broker cluster features' what the cluster can do", "%v", err)
	case err != nil:
		return nil, err
	}
	b.log.Info(what+" by an operator's order", "bridge", name)
	br := b.Image().Bridge(name)
	if br == nil {
		if br = was; br == nil {
			return nil, noBridge(name)
		}
		s := &bridgeState{Name: br.Name, ID: br.ID.String(), Kind: br.Kind, Spec: br.Spec, Paused: br.Paused, Begin: br.Position, Seeks: br.Number - 1, Term: br.Term,
			Status: BridgeStatus{State: "removed", Lag: -1}}
		return s, nil
	}
	return &b.bridgeStates(ctx, []*coordinator.Bridge{br})[0], nil
}

func (b *Broker) adminPauseBridge(ctx context.Context, q *adminRequest) (any, error) {
	return b.pauseBridge(ctx, q, true, "a bridge was paused")
}

func (b *Broker) adminResumeBridge(ctx context.Context, q *adminRequest) (any, error) {
	return b.pauseBridge(ctx, q, false, "a bridge was resumed")
}

func (b *Broker) pauseBridge(ctx context.Context, q *adminRequest, pause bool, what string) (any, error) {
	var o bridgeOrder
	if err := q.decode(&o); err != nil {
		return nil, err
	}
	br, err := b.bridgeNamed(ctx, q)
	if err != nil {
		return nil, err
	}
	if o.DryRun || br.Paused == pause {
		return &b.bridgeStates(ctx, []*coordinator.Bridge{br})[0], nil
	}
	return b.alterBridge(ctx, &coordinator.Command{AlterBridge: &coordinator.AlterBridge{Name: br.Name, ID: br.ID, Pause: &pause}}, what)
}

func (b *Broker) adminSeekBridge(ctx context.Context, q *adminRequest) (any, error) {
	var o bridgeOrder
	if err := q.decode(&o); err != nil {
		return nil, err
	}
	br, err := b.bridgeNamed(ctx, q)
	if err != nil {
		return nil, err
	}
	if b.cfg.Bridges == nil {
		return nil, adminErrorf(adminUnavailable, "ask a broker that does", "this broker carries no bridges")
	}
	if o.To == "" {
		return nil, adminErrorf(adminInvalid, "'broker bridge nats seek --help' shows what a position can be", "there is no position to seek to")
	}
	if err := b.cfg.Bridges.Check(br.Spec, o.To); err != nil {
		return nil, adminErrorf(adminInvalid, "'broker bridge nats seek --help' shows what a position can be", "%v", err)
	}
	if o.DryRun {
		return &b.bridgeStates(ctx, []*coordinator.Bridge{br})[0], nil
	}
	return b.alterBridge(ctx, &coordinator.Command{AlterBridge: &coordinator.AlterBridge{Name: br.Name, ID: br.ID, Seek: &o.To}}, "a bridge was told where to go on")
}

func (b *Broker) adminRemoveBridge(ctx context.Context, q *adminRequest) (any, error) {
	var o bridgeOrder
	if err := q.decode(&o); err != nil {
		return nil, err
	}
	br, err := b.bridgeNamed(ctx, q)
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		return &b.bridgeStates(ctx, []*coordinator.Bridge{br})[0], nil
	}
	return b.alterBridge(ctx, &coordinator.Command{AlterBridge: &coordinator.AlterBridge{Name: br.Name, ID: br.ID, Remove: true}}, "a bridge was removed")
}
