// Bridges to other systems, as metadata: what each is to do, from where, and which broker has it now. What a definition says is the business of who
// carries it (package bridge); here it is a JSON object.
//
// The controller gives every bridge that is not paused to a live broker, and to another one when that is fenced. Each giving has a new term. A term is no
// fence by itself: see docs/design/0026-nats-bridge.md.

package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/balsamq/balsa/raft"
)

const (
	// MaxBridges bounds the bridges of a cluster.
	MaxBridges = 1000
	// MaxBridgeSpec bounds a definition, MaxBridgeName a name, and MaxBridgePosition a position.
	MaxBridgeSpec     = 16 << 10
	MaxBridgeName     = 100
	MaxBridgePosition = 256 << 10
)

var (
	// ErrUnknownBridge: there is no bridge of that name, or it is another one by now.
	ErrUnknownBridge = errors.New("unknown bridge")
	// ErrBridgeExists: the name is taken.
	ErrBridgeExists = errors.New("bridge already exists")
)

// Bridge is one bridge. Shared by images: never change one.
type Bridge struct {
	Name string  `json:"name"`
	ID   TopicID `json:"id"`   // drawn by the proposer: a bridge made anew under the same name is another one
	Kind string  `json:"kind"` // "nats"
	// Spec is the definition, a JSON object.
	Spec   json.RawMessage `json:"spec"`
	Paused bool            `json:"paused,omitempty"`
	// Position is where it is to begin, as somebody said when it was made, or later for the Number-th time.
	Position string `json:"position,omitempty"`
	Number   int64  `json:"number"`
	// Owner is the broker that has it, as of its registration; 0: none. Without an Epoch it has given it back, as it stops. Term counts how often it was
	// given away, or back, or its definition changed: whoever carries it by an older one has to begin anew.
	Owner raft.NodeID `json:"owner,omitempty"`
	Epoch int64       `json:"epoch,omitempty"`
	Term  int64       `json:"term,omitempty"`
}

// AlterBridge changes one bridge: exactly one of the fields but Name and ID is set.
type AlterBridge struct {
	Name string `json:"name"`
	// ID is the bridge that is meant, or of a new one the id that it gets.
	ID TopicID `json:"id"`

	Add    *NewBridge    `json:"add,omitempty"`
	Remove bool          `json:"remove,omitempty"`
	Pause  *bool         `json:"pause,omitempty"`
	Seek   *string       `json:"seek,omitempty"`
	Assign *BridgeHolder `json:"assign,omitempty"`
	// Spec is another definition. What may become of what is for who carries it to say.
	Spec json.RawMessage `json:"spec,omitempty"`
}

// NewBridge is a bridge to be made.
type NewBridge struct {
	Kind     string          `json:"kind"`
	Spec     json.RawMessage `json:"spec"`
	Position string          `json:"position,omitempty"`
	Paused   bool            `json:"paused,omitempty"`
}

// BridgeHolder is a broker as of a registration.
type BridgeHolder struct {
	Node  raft.NodeID `json:"node"`
	Epoch int64       `json:"epoch"`
	Term  int64       `json:"term"` // that the bridge has now: one that was given away meanwhile stays where it is
}

// BridgesTopic holds how far bridges have come: each writes that itself, in transactions whose id is BridgeTransactions and the bridge's.
const (
	BridgesTopic       = "__balsa_bridges"
	BridgeTransactions = "balsa.bridge."
)

// IsBridgeTransaction reports whether a transactional id is a bridge's. Who may use it is for ACLs to say.
func IsBridgeTransaction(id string) bool { return strings.HasPrefix(id, BridgeTransactions) }

// CheckBridgeName allows what a topic's name may be, at most MaxBridgeName long.
func CheckBridgeName(name string) error {
	if len(name) > MaxBridgeName || CheckTopicName(name) != nil {
		return fmt.Errorf("%w: a bridge's name has 1 to %d of ASCII letters, digits, '.', '_' and '-', and is not %.120q", ErrMalformed, MaxBridgeName, name)
	}
	return nil
}

func checkBridge(kind string, spec json.RawMessage, position string) error {
	if kind == "" || len(kind) > maxText || len(spec) > MaxBridgeSpec || len(position) > MaxBridgePosition || !bytes.HasPrefix(bytes.TrimSpace(spec), []byte("{")) || !json.Valid(spec) {
		return fmt.Errorf("%w: a bridge's definition of %d bytes, kind %.20q", ErrMalformed, len(spec), kind)
	}
	return nil
}

func (a *AlterBridge) check() error {
	if err := CheckBridgeName(a.Name); err != nil {
		return err
	}
	if a.ID.IsZero() {
		return fmt.Errorf("%w: bridge %q has no id", ErrMalformed, a.Name)
	}
	kinds := 0
	for _, set := range [...]bool{a.Add != nil, a.Remove, a.Pause != nil, a.Seek != nil, a.Assign != nil, a.Spec != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return fmt.Errorf("%w: %d changes of bridge %q in one command", ErrMalformed, kinds, a.Name)
	case a.Add != nil:
		return checkBridge(a.Add.Kind, a.Add.Spec, a.Add.Position)
	case a.Spec != nil:
		return checkBridge("known", a.Spec, "")
	case a.Seek != nil && len(*a.Seek) > MaxBridgePosition:
		return fmt.Errorf("%w: a position of %d bytes", ErrMalformed, len(*a.Seek))
	}
	return nil
}

// Bridge is the bridge of that name, or nil.
func (im *Image) Bridge(name string) *Bridge { return im.bridges[name] }

// Bridges are all bridges by name.
func (im *Image) Bridges() []*Bridge {
	if len(im.bridges) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Values(im.bridges), func(a, b *Bridge) int { return strings.Compare(a.Name, b.Name) })
}

// BridgeVersion differs between images whose bridges differ.
func (im *Image) BridgeVersion() uint64 { return uint64(im.bridgeVersion) }

func (d *draft) alterBridge(a *AlterBridge) error {
	old := d.bridges[a.Name]
	switch {
	case a.Add != nil && old != nil && old.ID == a.ID:
		return nil // a repeat
	case a.Add != nil && old != nil:
		return fmt.Errorf("%w: %q", ErrBridgeExists, a.Name)
	case a.Add != nil && len(d.bridges) >= MaxBridges:
		return fmt.Errorf("%w: there are %d bridges, which is the most", ErrTooMany, len(d.bridges))
	case a.Add == nil && (old == nil || old.ID != a.ID):
		return fmt.Errorf("%w: %q", ErrUnknownBridge, a.Name)
	}
	all := own(&d.bridges, &d.ownBridges)
	d.bridgeVersion = d.version + 1
	if a.Remove {
		delete(all, a.Name)
		return nil
	}
	var b Bridge
	if old != nil {
		b = *old
	}
	switch {
	case a.Add != nil:
		b = Bridge{Name: a.Name, ID: a.ID, Kind: a.Add.Kind, Spec: a.Add.Spec, Position: a.Add.Position, Paused: a.Add.Paused, Number: 1}
	case a.Pause != nil:
		b.Paused = *a.Pause
		if b.Paused {
			b.Owner, b.Epoch = 0, 0
		}
	case a.Seek != nil:
		b.Position = *a.Seek
		b.Number++
	case a.Spec != nil:
		b.Spec = a.Spec
		b.Term++
	case a.Assign != nil:
		if a.Assign.Term != b.Term || b.Paused {
			return fmt.Errorf("%w: bridge %q was given to broker %d", ErrStale, a.Name, b.Owner)
		}
		b.Owner, b.Epoch = a.Assign.Node, a.Assign.Epoch
		b.Term++
	}
	all[a.Name] = &b
	return nil
}

// restoreBridges believes nothing.
func (d *draft) restoreBridges(list []*Bridge) error {
	if len(list) > MaxBridges {
		return fmt.Errorf("%w: %d bridges", ErrMalformed, len(list))
	}
	all := own(&d.bridges, &d.ownBridges)
	for _, b := range list {
		if b == nil || b.ID.IsZero() || all[b.Name] != nil || b.Number < 1 || b.Term < 0 {
			return fmt.Errorf("%w: a bridge without an id, or twice", ErrMalformed)
		}
		if err := errors.Join(CheckBridgeName(b.Name), checkBridge(b.Kind, b.Spec, b.Position)); err != nil {
			return err
		}
		all[b.Name] = b
	}
	return nil
}

// holds says whether a bridge's owner is there, in the life in which it was given the bridge.
func (im *Image) holds(b *Bridge) bool {
	o := im.Broker(b.Owner)
	return o != nil && !o.Fenced && o.Epoch == b.Epoch
}

// assignBridges gives bridges whose owner is gone, or that have none, to the live broker that has the fewest.
func (c *Controller) assignBridges(ctx context.Context) error {
	im := c.md.Image()
	if len(im.bridges) == 0 {
		return nil
	}
	held := make(map[raft.NodeID]int)
	var free []*Bridge
	for _, b := range im.Bridges() {
		switch {
		case b.Paused:
		case im.holds(b):
			held[b.Owner]++
		default:
			free = append(free, b)
		}
	}
	if len(free) == 0 {
		return nil
	}
	brokers := c.trusted(im.LiveBrokers())
	if len(brokers) == 0 {
		return nil
	}
	for _, b := range free {
		fit := brokers
		if b.Epoch == 0 && len(brokers) > 1 { // its owner stops
			fit = slices.DeleteFunc(slices.Clone(brokers), func(x *Broker) bool { return x.ID == b.Owner })
		}
		best := slices.MinFunc(fit, func(x, y *Broker) int { return held[x.ID] - held[y.ID] })
		held[best.ID]++
		r, err := c.propose(ctx, &Command{AlterBridge: &AlterBridge{Name: b.Name, ID: b.ID, Assign: &BridgeHolder{Node: best.ID, Epoch: best.Epoch, Term: b.Term}}})
		if err == nil && r.Code != "stale" && r.Code != "unknown_bridge" { // then the next round sees what has changed
			err = r.Err()
		}
		if err != nil {
			return fmt.Errorf("give bridge %s to broker %d: %w", b.Name, best.ID, err)
		}
		c.cfg.Logger.Info("a bridge has an owner", "bridge", b.Name, "broker", best.ID, "before", b.Owner)
	}
	return nil
}
