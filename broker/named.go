// Every broker knows the leaders of new partitions before the request that made them is answered: a client that asks any of them next is told who leads,
// as it is where leaders come with the metadata.
//
// A leader tells each broker for itself (peers.go), and so the broker that carries out the request may have heard of one before another has. It asks the others,
// in a method of its own, which of the new groups have no leader yet, as far as they know; they answer when there is none of that kind any more, or after
// a while with those that are left, about which it asks again. Question and answer have the form of readindex.go's question. A broker of a version before
// does not know the method, and is not waited for; neither is one that went away meanwhile.

package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/transport"
)

const (
	// namedPatience is how long a broker that is asked waits before it answers with what is left.
	namedPatience = rpcTimeout / 2
	// namedLimit is how long all of them are waited for: one that cannot hear of a leader, from which it is cut off, must not make a failure of what is done.
	namedLimit = rpcTimeout
	// namedPause is between a call that failed, or brought nothing, and the next one.
	namedPause = 50 * time.Millisecond
)

// awaitNamed waits until each other broker that is there knows a leader of each group, for namedLimit at most.
func (b *Broker) awaitNamed(ctx context.Context, groups []raft.GroupID) error {
	if len(groups) == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, namedLimit)
	defer cancel()
	var asks sync.WaitGroup
	for _, br := range b.Image().LiveBrokers() {
		if br.ID != b.NodeID() {
			asks.Go(func() { b.askNamed(limited, br.ID, groups) })
		}
	}
	asks.Wait()
	return ctx.Err()
}

// askNamed asks one broker, until it knows all leaders or there is no use in asking it.
func (b *Broker) askNamed(ctx context.Context, node raft.NodeID, groups []raft.GroupID) {
	for len(groups) > 0 && ctx.Err() == nil {
		part := groups[:min(len(groups), maxReadGroups)]
		left, err := b.callNamed(ctx, node, part)
		switch {
		case err == nil:
			if groups = groups[len(part):]; len(left) > 0 {
				groups = append(left, groups...)
			}
			if len(left) < len(part) {
				continue
			}
			if !b.peers.present(node) { // it ends, say
				return
			}
		case oldPeer(err), !b.peers.present(node), !alive(b.Image(), node):
			return
		}
		select {
		case <-time.After(namedPause):
		case <-ctx.Done():
		}
	}
}

func (b *Broker) callNamed(ctx context.Context, node raft.NodeID, groups []raft.GroupID) ([]raft.GroupID, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	body, err := b.tr.Call(ctx, node, methodNamed, encodeReadAsk(groups))
	if err != nil {
		return nil, err
	}
	return decodeReadAsk(body)
}

// oldPeer: the broker that was asked runs a version that does not know the method.
func oldPeer(err error) bool {
	e, ok := errors.AsType[*transport.RPCError](err)
	return ok && e.Code == transport.CodeUnknownMethod
}

// unnamed waits until this broker knows a leader of each group, for a while. It returns those that are left, the first of which has none.
func (b *Broker) unnamed(ctx context.Context, groups []raft.GroupID) []raft.GroupID {
	ctx, cancel := context.WithTimeout(ctx, namedPatience)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	for {
		changed := b.peers.wait()
		for len(groups) > 0 && b.named(groups[0]) { // with each piece of news only those are looked at before which all others have one
			groups = groups[1:]
		}
		if len(groups) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return groups
		}
	}
}

// named: a leader of the group is known, ready or not; one that is deleted meanwhile needs none.
func (b *Broker) named(g raft.GroupID) bool {
	return b.peers.table.get(g).leader != 0 || b.Image().Deleted(g)
}
