// A broker's place in the cluster: founding and joining it, being registered, and asking the metadata leader for changes.

package broker

import (
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

const (
	// Pauses between attempts to reach the metadata leader, or a cluster to join.
	askMin  = 10 * time.Millisecond
	askMax  = 500 * time.Millisecond
	joinMin = 100 * time.Millisecond
	joinMax = 2 * time.Second
	// rpcTimeout bounds one call that waits for a commit at the other end.
	rpcTimeout = 5 * time.Second
)

// ErrOtherDisk is what Start fails with on a new data directory under the node id of a broker that had another one: see
// Config.ReplaceDisk.
var ErrOtherDisk = coordinator.ErrOtherDisk

// metadataVersion is the feature that gates commands.
const metadataVersion = coordinator.MetadataVersion

// newClusterID is a random id in Kafka's form: 16 bytes, 22 characters, none of which a shell could take for an option.
func newClusterID() string {
	for {
		var b [16]byte
		_, _ = crand.Read(b[:]) // never fails
		if id := base64.RawURLEncoding.EncodeToString(b[:]); !strings.HasPrefix(id, "-") {
			return id
		}
	}
}

func newTopicID() (id coordinator.TopicID) {
	for id.IsZero() {
		_, _ = crand.Read(id[:])
	}
	return id
}

func newRequestID() string {
	var b [16]byte
	_, _ = crand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// pause waits between attempts, twice as long each time.
func pause(ctx context.Context, d *time.Duration, limit time.Duration) error {
	t := time.NewTimer(*d)
	defer t.Stop()
	*d = min(2**d, limit)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retry calls try until that says that it is done, and returns its error. Between two calls it pauses, from first on twice as long each
// time, up to limit. When ctx ends before, the error is a *gaveUp.
func retry(ctx context.Context, first, limit time.Duration, try func() (done bool, err error)) error {
	var last error
	for wait := first; ; {
		done, err := try()
		if done {
			return err
		}
		if ctx.Err() == nil || last == nil { // else it may have failed of that alone
			last = err
		}
		if err := pause(ctx, &wait, limit); err != nil {
			return &gaveUp{err, last}
		}
	}
}

// gaveUp is the end of a retry: why it was given up, and what the last try had failed of.
type gaveUp struct{ why, last error }

func (e *gaveUp) Error() string {
	if errors.Is(e.last, e.why) { // the only try has failed of that alone
		return e.last.Error()
	}
	return fmt.Sprintf("%v: %v", e.why, e.last)
}

func (e *gaveUp) Unwrap() []error { return []error{e.why, e.last} }

// join makes this data directory a broker of the seeds' cluster. It returns once that is on the disk.
func (b *Broker) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.JoinTimeout)
	defer cancel()
	wait := joinMin
	var last error
	said := ""
	// A broker that has just died is taken for alive until its session is over; then another disk may take its place.
	patience := time.Now().Add(2 * b.cfg.SessionTimeout)
	for {
		for _, seed := range b.cfg.Join {
			reply, err := b.askToJoin(ctx, seed)
			switch {
			case err != nil:
				last = fmt.Errorf("%s: %w", seed, err)
			case errors.Is(reply.Failure.Err(), coordinator.ErrBrokerAlive) && time.Now().Before(patience):
				last = fmt.Errorf("%s: %w", seed, reply.Failure.Err())
			case reply.Failure.Code != "":
				// A wrong cluster or a taken id does not get better by asking again.
				return fmt.Errorf("join by %s: %w", seed, joinAdvice(reply.Failure.Err()))
			case reply.Retry || reply.ClusterID == "" || reply.Node == 0:
				last = fmt.Errorf("%s: the cluster has no metadata leader at the moment", seed)
			default:
				if err := b.store.join(reply.ClusterID, reply.Node, reply.Founder); err != nil {
					return err
				}
				for _, p := range reply.Peers {
					b.known = append(b.known, knownPeer{peerAddr: p})
				}
				b.log.Info("joined the cluster", "cluster", reply.ClusterID, "node", reply.Node, "seed", seed)
				return nil
			}
			if ctx.Err() != nil {
				break
			}
		}
		if text := last.Error(); text != said {
			said = text
			b.log.Warn("cannot join yet; trying again", "seeds", b.cfg.Join, "err", last)
		}
		if err := pause(ctx, &wait, joinMax); err != nil {
			return fmt.Errorf("join the cluster of %s: gave up after %v (JoinTimeout): %w; last answer: %w: check that one of these is the RPC address of a running broker",
				strings.Join(b.cfg.Join, ", "), b.cfg.JoinTimeout, err, last)
		}
	}
}

func joinAdvice(err error) error {
	switch {
	case errors.Is(err, coordinator.ErrBrokerAlive):
		return fmt.Errorf("%w: %w: stop that broker first, leave the node id unset, or choose another", coordinator.ErrBrokerIDTaken, err)
	case errors.Is(err, coordinator.ErrOtherDisk):
		return fmt.Errorf("%w: is its disk not mounted here? If that is gone for good, this one takes its place, and all that it held is copied from the other brokers, "+
			"when it is started with that incarnation as its ReplaceDisk; or leave the node id unset", err)
	case errors.Is(err, coordinator.ErrBrokerIDTaken):
		return fmt.Errorf("%w: leave the node id unset, or choose another", err)
	case errors.Is(err, coordinator.ErrWrongCluster):
		return fmt.Errorf("%w: check the seeds, or use another data directory", err)
	}
	return err
}

func (b *Broker) registration() coordinator.RegisterBroker {
	node := b.store.id.NodeID
	if node == 0 {
		node = b.cfg.nodeID()
	}
	replaces, _ := b.cfg.replaces() // checked
	return coordinator.RegisterBroker{Replaces: replaces, Node: node, Incarnation: b.store.id.Incarnation, Endpoints: b.endpoints, RPC: b.rpcAddr, Rack: b.cfg.Rack, NeverLead: b.cfg.NeverLead}
}

func (b *Broker) askToJoin(ctx context.Context, seed string) (*joinReply, error) {
	cluster := b.store.id.ClusterID
	if cluster == "" {
		cluster = b.cfg.ClusterID
	}
	q := &joinRequest{ClusterID: cluster, Broker: b.registration(), Supported: coordinator.SupportedFeatures()}
	if b.store.id.joined() {
		q.Member, q.Boot, q.Life = true, b.store.id.Boots, b.store.id.Life
	}
	body, err := encodeJSON(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	answer, err := b.tr.CallAddr(ctx, seed, methodJoin, body)
	if err != nil {
		return nil, err
	}
	reply := new(joinReply)
	return reply, decodeJSON(answer, reply)
}

// askPast asks a broker, before this start tells it anything, whether it has heard of a later start of this data directory: then the directory
// is an older copy of itself. Votes and records that others count on are missing from it, so the broker stops. One that cannot be asked is asked
// again; one that does not know the question says that there is none.
func (b *Broker) askPast(ctx context.Context, peer raft.NodeID) error {
	id := &b.store.id
	body, err := encodeJSON(&joinRequest{ClusterID: id.ClusterID, Broker: b.registration(), Member: true, Boot: id.Boots, Life: id.Life})
	if err != nil {
		return err
	}
	answer, err := b.tr.Call(ctx, peer, methodJoin, body)
	if err != nil {
		return err
	}
	reply := new(joinReply)
	if err := decodeJSON(answer, reply); err != nil {
		return err
	}
	if reply.Past == 0 || reply.ClusterID != id.ClusterID {
		return nil
	}
	b.aged.Do(func() {
		b.log.Error("the data directory is an older copy of itself", "start", id.Boots, "known", reply.Past, "told by", peer)
		b.onFatal(errors.Join(b.store.age(reply.Past), b.store.oldCopy()))
	})
	return nil
}

// serveJoin registers a broker that asks for it. One that belongs to the cluster already only asks for addresses, when it
// may find nobody at those that it remembers.
func (b *Broker) serveJoin(ctx context.Context, q *joinRequest) *joinReply {
	id := &b.store.id
	reply := &joinReply{ClusterID: id.ClusterID, Founder: id.Founder, Peers: b.peers.addresses()}
	if q.ClusterID != "" && q.ClusterID != id.ClusterID {
		return &joinReply{Failure: coordinator.FailureOf(fmt.Errorf("%w: this is cluster %s, not %s", coordinator.ErrWrongCluster, id.ClusterID, q.ClusterID))}
	}
	if q.Member {
		// Where all addresses have changed there is no leader to ask, and the Image may be empty yet: brokers of one
		// cluster believe each other. Another incarnation is nobody's that we know.
		if old := b.Image().Broker(q.Broker.Node); q.ClusterID == id.ClusterID && (old == nil || old.Incarnation == q.Broker.Incarnation) {
			b.peers.learn(q.Broker.Node, q.Broker.RPC)
			reply.Past = b.peers.past(q)
		}
		reply.Node = q.Broker.Node
		return reply
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout*3/4) // so that the asker hears about it
	defer cancel()
	r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Command: &coordinator.Command{Register: &q.Broker}, Supported: q.Supported})
	switch {
	case err == nil && errors.Is(r.Err(), coordinator.ErrNotFounded):
		reply.Retry = true // the founder is at it
	case err != nil:
		b.log.Warn("cannot register a broker now", "rpc", q.Broker.RPC, "err", err)
		reply.Retry = true
	case r.Err() != nil:
		b.log.Warn("a broker was refused", "rpc", q.Broker.RPC, "err", r.Err())
		reply.Failure = r.Failure
	default:
		b.log.Info("a broker has joined", "broker", r.Node, "rpc", q.Broker.RPC)
		b.peers.learn(r.Node, q.Broker.RPC)
		reply.Node = r.Node
	}
	return reply
}

// ask has an intent carried out by the metadata leader, wherever it is, and waits until this broker's Image shows it.
// It tries until ctx ends; the intent's request id makes sure that it is done once.
func (b *Broker) ask(ctx context.Context, in *coordinator.Intent) (*coordinator.Result, error) {
	var r *coordinator.Result
	err := retry(ctx, askMin, askMax, func() (_ bool, err error) {
		r, err = b.askOnce(ctx, in)
		return err == nil || errors.Is(err, coordinator.ErrMalformed), err
	})
	if g, ok := errors.AsType[*gaveUp](err); ok {
		return nil, fmt.Errorf("%w: no answer from the metadata leader: %w", g.why, g.last)
	}
	if err != nil {
		return nil, err
	}
	return r, b.meta.await(ctx, r.Index)
}

func (b *Broker) askOnce(ctx context.Context, in *coordinator.Intent) (*coordinator.Result, error) {
	leader, ready := b.meta.Leader()
	switch {
	case ready:
		return b.ctl.Do(ctx, in)
	case leader == 0:
		return nil, errors.New("no leader is known")
	case leader == b.NodeID():
		return nil, coordinator.ErrNotController // not ready yet
	}
	body, err := encodeJSON(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", coordinator.ErrMalformed, err)
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	answer, err := b.tr.Call(ctx, leader, methodForward, body)
	if err != nil {
		return nil, err
	}
	var reply forwardReply
	if err := decodeJSON(answer, &reply); err != nil {
		return nil, err
	}
	switch {
	case reply.Result != nil:
		return reply.Result, nil
	case reply.NotController:
		return nil, fmt.Errorf("broker %d: %w", leader, coordinator.ErrNotController)
	}
	return nil, fmt.Errorf("broker %d: %s", leader, reply.Error)
}

// change has one command carried out, and says what the metadata group made of it.
func (b *Broker) change(ctx context.Context, c *coordinator.Command) error {
	r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Command: c})
	if err != nil {
		return err
	}
	return r.Err()
}

// askReadIndex asks the metadata leader for an index that holds everything acknowledged so far.
func (b *Broker) askReadIndex(ctx context.Context, leader raft.NodeID) (raft.Index, error) {
	body, err := b.tr.Call(ctx, leader, methodReadIndex, []byte{rpcVersion})
	if err != nil {
		return 0, err
	}
	var reply readReply
	if err := decodeJSON(body, &reply); err != nil {
		return 0, err
	}
	switch {
	case reply.NotController:
		return 0, fmt.Errorf("broker %d: %w", leader, coordinator.ErrNotController)
	case reply.Error != "":
		return 0, fmt.Errorf("broker %d: %s", leader, reply.Error)
	}
	return reply.Index, nil
}

// register makes this start's addresses known, and returns once this broker's own Image has them: then the Image is not
// older than this start.
func (b *Broker) register(ctx context.Context) error {
	id := &b.store.id
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Where everyone's address has changed, only the seeds can tell.
	go b.greetSeeds(ctx)
	if id.Founder.Incarnation == id.Incarnation {
		// Founding is repeated at each start of the founder, and changes nothing but the first time.
		in := &coordinator.Intent{Request: newRequestID(), Command: &coordinator.Command{Found: &coordinator.FoundCluster{
			ClusterID: id.ClusterID, Founder: id.Founder, Features: coordinator.FoundingFeatures()}}}
		r, err := b.ask(ctx, in)
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			return fmt.Errorf("found cluster %s: %w", id.ClusterID, err)
		}
	}
	reg := b.registration()
	r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Command: &coordinator.Command{Register: &reg}, Supported: coordinator.SupportedFeatures()})
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		return fmt.Errorf("register as broker %d of cluster %s: %w", id.NodeID, id.ClusterID, err)
	}
	b.rec.current.Store(true)
	b.rec.poke()
	return nil
}

// greetSeeds asks the seeds for everybody's addresses until ctx ends.
func (b *Broker) greetSeeds(ctx context.Context) {
	if len(b.cfg.Join) == 0 {
		return
	}
	_ = retry(ctx, joinMin, joinMax, func() (bool, error) {
		for _, seed := range b.cfg.Join {
			if seed == b.rpcAddr {
				continue
			}
			reply, err := b.askToJoin(ctx, seed)
			if err != nil || reply.ClusterID != b.store.id.ClusterID {
				continue
			}
			for _, p := range reply.Peers {
				b.peers.learn(p.ID, p.Addr)
			}
		}
		return false, nil
	}) // it ends with ctx
}
