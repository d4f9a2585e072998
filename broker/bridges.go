// Bridges on this broker: those that the cluster has given it are carried here, by a runner that the program brings (Config.Bridges), and no others.
//
// A broker holds its bridges by a lease: it must have heard from the metadata group within a session that they are its own. One that has not stops them, as
// by then another may have them. What keeps two owners apart whatever clocks do is the business of who writes: docs/design/0026-nats-bridge.md.

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/balsamq/balsa/coordinator"
)

// BridgeRunner carries bridges to other systems. Package bridge has the one for NATS.
type BridgeRunner interface {
	// Check says what is wrong with a definition, or with a position to begin at, as far as that can be said without asking anybody.
	Check(spec json.RawMessage, position string) error
	// CheckChange says what is wrong with a definition that is to take the place of another one, for a bridge that goes on where it was.
	CheckChange(from, to json.RawMessage) error
	// Probe asks both sides whether the bridge could work from here.
	Probe(ctx context.Context, host BridgeHost, spec json.RawMessage) error
	// Start begins to carry a bridge. owns asks the cluster whether it is still this broker's.
	Start(host BridgeHost, b BridgeDefinition, owns func(context.Context) error) (BridgeRun, error)
}

// BridgeRun is a bridge that is carried.
type BridgeRun interface {
	Status() BridgeStatus
	// Close returns when the bridge writes no more.
	Close()
}

// BridgeHost is what a runner may know of the broker.
type BridgeHost struct {
	Cluster string
	Kafka   string // the address of its first listener for clients
	DataDir string
	Logger  *slog.Logger
}

// BridgeDefinition is a bridge to be carried.
type BridgeDefinition struct {
	ID, Name string
	Spec     json.RawMessage
	Position string // where to begin, if Number is above that of the bridge's own progress
	Number   int64
}

// BridgeStatus is what a bridge says of itself.
type BridgeStatus struct {
	State    string    `json:"state"`
	Error    string    `json:"error,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Position string    `json:"position,omitempty"`
	Lag      int64     `json:"lag"` // -1: not known
	// Counts since this broker has the bridge.
	Records     uint64 `json:"records"`
	Bytes       uint64 `json:"bytes"`
	DeadLetters uint64 `json:"deadLetters"`
	Skipped     uint64 `json:"skipped"`
	Dropped     uint64 `json:"dropped"`
	Restarts    uint64 `json:"restarts"`
}

// BridgesTopic is where bridges keep how far they have come, and BridgeTransactions begins the transactional ids by which they do; their ids follow.
const (
	BridgesTopic       = coordinator.BridgesTopic
	BridgeTransactions = coordinator.BridgeTransactions
)

// BridgesPartitions is how many partitions BridgesTopic has, over which the bridges are spread for good.
const BridgesPartitions = 8

// bridgeRunning is the state of one that is well.
const bridgeRunning = "running"

// errNotOwner: the bridge is another broker's, or nobody's.
var errNotOwner = errors.New("the bridge is not this broker's any more")

// bridges is the loop that carries what is this broker's.
type bridges struct {
	b    *Broker
	kick chan struct{} // capacity 1

	turn sync.Mutex // held while bridges are begun, and around left
	left bool       // the broker is stopping: none is begun any more

	mu   sync.Mutex // guards held; taken under turn, or without
	held map[coordinator.TopicID]*heldBridge
}

type heldBridge struct {
	def *coordinator.Bridge
	run BridgeRun // nil: it could not be begun, for err
	err error
}

func newBridges(b *Broker) *bridges {
	return &bridges{b: b, kick: make(chan struct{}, 1), held: make(map[coordinator.TopicID]*heldBridge)}
}

func (g *bridges) poke() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// run carries bridges until ctx ends.
func (g *bridges) run(ctx context.Context) {
	defer g.stop(func(*heldBridge) bool { return true })
	interval := g.b.cfg.SessionTimeout / 4
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var confirmed time.Time // that what the Image says of owners was true
	for {
		if len(g.mine()) > 0 || g.count() > 0 {
			asked := time.Now()
			one, cancel := context.WithTimeout(ctx, interval)
			err := g.b.meta.Linearize(one)
			cancel()
			if err == nil {
				confirmed = asked
			}
			if time.Since(confirmed) >= g.b.cfg.SessionTimeout {
				if g.count() > 0 {
					g.b.log.Warn("the metadata group has not been heard for a session: this broker's bridges stop, as another may have them by now", "err", err)
				}
				g.stop(func(*heldBridge) bool { return true })
			} else {
				g.reconcile(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-g.kick:
		}
	}
}

// mine are the bridges that this broker has by its Image.
func (g *bridges) mine() (out []*coordinator.Bridge) {
	im := g.b.Image()
	self := im.Broker(g.b.NodeID())
	if self == nil || self.Fenced {
		return nil
	}
	for _, b := range im.Bridges() {
		if !b.Paused && b.Owner == self.ID && b.Epoch == self.Epoch {
			out = append(out, b)
		}
	}
	return out
}

func (g *bridges) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)
}

// reconcile stops what is not this broker's any more or is to be another way, and begins what is new.
func (g *bridges) reconcile(ctx context.Context) {
	g.turn.Lock()
	defer g.turn.Unlock()
	if g.left {
		return
	}
	wanted := make(map[coordinator.TopicID]*coordinator.Bridge)
	for _, b := range g.mine() {
		wanted[b.ID] = b
	}
	g.stop(func(h *heldBridge) bool {
		w := wanted[h.def.ID]
		return w == nil || w.Term != h.def.Term || w.Number != h.def.Number
	})
	for id, def := range wanted {
		g.mu.Lock()
		h := g.held[id]
		g.mu.Unlock()
		if h != nil || ctx.Err() != nil {
			continue
		}
		h = &heldBridge{def: def}
		if g.b.cfg.Bridges == nil {
			h.err = errors.New("this broker carries no bridges")
		} else {
			h.run, h.err = g.b.cfg.Bridges.Start(g.b.bridgeHost(), BridgeDefinition{ID: id.String(), Name: def.Name, Spec: def.Spec, Position: def.Position, Number: def.Number},
				func(ctx context.Context) error { return g.owns(ctx, def) })
		}
		if h.err != nil {
			g.b.log.Error("a bridge cannot be begun", "bridge", def.Name, "err", h.err)
		} else {
			g.b.log.Info("this broker has a bridge", "bridge", def.Name, "term", def.Term)
		}
		g.mu.Lock()
		g.held[id] = h
		g.mu.Unlock()
	}
}

// stop ends those that which chooses, and returns when they write no more.
func (g *bridges) stop(which func(*heldBridge) bool) {
	var wg sync.WaitGroup
	g.mu.Lock()
	var ending []*heldBridge
	for _, h := range g.held {
		if which(h) {
			ending = append(ending, h)
		}
	}
	g.mu.Unlock()
	for _, h := range ending {
		wg.Go(func() {
			if h.run != nil {
				h.run.Close()
			}
			g.b.log.Info("this broker has a bridge no more", "bridge", h.def.Name)
			g.mu.Lock()
			delete(g.held, h.def.ID)
			g.mu.Unlock()
		})
	}
	wg.Wait()
}

// leave stops all bridges and gives them back, so that other brokers go on with them at once, and not when this one is missed.
func (g *bridges) leave(ctx context.Context) {
	g.turn.Lock()
	defer g.turn.Unlock()
	g.left = true
	g.stop(func(*heldBridge) bool { return true })
	if len(g.b.Image().LiveBrokers()) < 2 {
		return
	}
	for _, b := range g.mine() {
		back := &coordinator.BridgeHolder{Node: b.Owner, Term: b.Term}
		if err := g.b.change(ctx, &coordinator.Command{AlterBridge: &coordinator.AlterBridge{Name: b.Name, ID: b.ID, Assign: back}}); err != nil {
			g.b.log.Warn("a bridge could not be given back; another broker has it once this one is missed", "bridge", b.Name, "err", err)
		}
	}
}

// owns asks the metadata group.
func (g *bridges) owns(ctx context.Context, def *coordinator.Bridge) error {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	if err := g.b.meta.Linearize(ctx); err != nil {
		return fmt.Errorf("ask the metadata group whose the bridge is: %w", err)
	}
	im := g.b.Image()
	now, self := im.Bridge(def.Name), im.Broker(g.b.NodeID())
	if now == nil || now.ID != def.ID || now.Term != def.Term || now.Owner != g.b.NodeID() || now.Paused || self == nil || self.Epoch != now.Epoch {
		return errNotOwner
	}
	return nil
}

// statuses are those of the bridges here, by id.
func (g *bridges) statuses() map[string]BridgeStatus {
	g.mu.Lock()
	held := make([]*heldBridge, 0, len(g.held))
	for _, h := range g.held {
		held = append(held, h)
	}
	g.mu.Unlock()
	out := make(map[string]BridgeStatus, len(held))
	for _, h := range held {
		if h.run == nil {
			out[h.def.ID.String()] = BridgeStatus{State: "stuck", Error: h.err.Error(), Lag: -1}
			continue
		}
		out[h.def.ID.String()] = h.run.Status()
	}
	return out
}

func (b *Broker) bridgeHost() BridgeHost {
	return BridgeHost{Cluster: b.ClusterID(), Kafka: b.KafkaAddr(), DataDir: b.cfg.DataDir, Logger: b.logOf("bridge")}
}
