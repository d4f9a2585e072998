// What the replicas of this broker take on its disk, and how far they are behind their leaders.
//
// A follower does not know how far behind it is: it knows what is committed of what it has. So the leaders are asked, one call
// each; of one that does not answer in time the lag is not known.

package broker

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

const (
	// maxProgressGroups bounds one question.
	maxProgressGroups = 20_000
	// progressTimeout bounds the wait for the leaders.
	progressTimeout = time.Second
)

// progressRequest asks a leader how far groups are.
type progressRequest struct {
	Groups []raft.GroupID `json:"groups"`
}

// progressReply has those of the groups that the asked broker leads.
type progressReply struct {
	Groups []groupProgress `json:"groups"`
}

type groupProgress struct {
	Group         raft.GroupID `json:"group"`
	HighWatermark int64        `json:"high_watermark"`
}

// logDir is this broker's data directory with what it holds.
type logDir struct {
	path          string
	total, usable int64 // of the volume, bytes; -1: not known
	replicas      []logDirReplica
}

type logDirReplica struct {
	topic     string
	partition int32
	size      int64 // bytes on disk
	lag       int64 // offsets behind the leader's high watermark; -1: not known
}

// serveProgress answers a progressRequest.
func (b *Broker) serveProgress(q *progressRequest) (*progressReply, error) {
	if len(q.Groups) > maxProgressGroups {
		return nil, fmt.Errorf("%w: %d groups", errRPC, len(q.Groups))
	}
	reply := new(progressReply)
	for _, g := range q.Groups {
		rep := b.rec.replica(g)
		if rep == nil {
			continue
		}
		if _, _, ready := rep.Leader(); !ready {
			continue
		}
		if hw, ok := rep.HighWatermark(); ok {
			reply.Groups = append(reply.Groups, groupProgress{g, hw})
		}
	}
	return reply, nil
}

// LogDir implements backend.
func (b *Broker) LogDir(ctx context.Context, wanted func(topic string, partition int32) bool, done func(logDir, error)) {
	b.admin(ctx, func(ctx context.Context) { done(b.logDir(ctx, wanted), nil) }, func(err error) { done(logDir{}, err) })
}

// orUnknown is -1 for a size that the file system does not know.
func orUnknown(n int64, err error) int64 {
	if err != nil || n == math.MaxInt64 {
		return -1
	}
	return n
}

func (b *Broker) logDir(ctx context.Context, wanted func(topic string, partition int32) bool) logDir {
	d := logDir{path: b.store.dir}
	d.total, d.usable = orUnknown(b.store.fs.Total(b.store.dir)), orUnknown(b.store.fs.Free(b.store.dir))
	type behind struct {
		place int
		end   int64
	}
	byGroup := make(map[raft.GroupID]behind)
	byLeader := make(map[raft.NodeID][]raft.GroupID)
	for _, rep := range b.rec.replicas() {
		desc := rep.Describe()
		if !wanted(desc.Topic, desc.Partition) {
			continue
		}
		r := logDirReplica{topic: desc.Topic, partition: desc.Partition, size: desc.Size, lag: -1}
		if desc.Leadership.Serving() {
			r.lag = 0
		} else if l := b.peers.table.get(desc.Group); l.leader != 0 && l.leader != b.NodeID() && len(byLeader[l.leader]) < maxProgressGroups {
			byGroup[desc.Group] = behind{len(d.replicas), desc.NextOffset}
			byLeader[l.leader] = append(byLeader[l.leader], desc.Group)
		}
		d.replicas = append(d.replicas, r)
	}
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	var (
		mu sync.Mutex // guards d.replicas while the leaders answer
		wg sync.WaitGroup
	)
	for leader, groups := range byLeader {
		wg.Go(func() {
			reply, err := b.askProgress(ctx, leader, groups)
			if err != nil {
				b.log.Debug("a leader did not say how far its groups are", "broker", leader, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, g := range reply.Groups {
				if x, ok := byGroup[g.Group]; ok {
					d.replicas[x.place].lag = max(g.HighWatermark-x.end, 0)
				}
			}
		})
	}
	wg.Wait()
	return d
}

func (b *Broker) askProgress(ctx context.Context, leader raft.NodeID, groups []raft.GroupID) (*progressReply, error) {
	body, err := encodeJSON(&progressRequest{Groups: groups})
	if err != nil {
		return nil, err
	}
	answer, err := b.tr.Call(ctx, leader, methodProgress, body)
	if err != nil {
		return nil, err
	}
	reply := new(progressReply)
	return reply, decodeJSON(answer, reply)
}

// UnregisterBroker implements backend.
func (b *Broker) UnregisterBroker(ctx context.Context, node raft.NodeID, done func(error)) {
	b.admin(ctx, func(ctx context.Context) {
		done(b.change(ctx, &coordinator.Command{Unregister: &coordinator.UnregisterBroker{Node: node}}))
	}, done)
}
