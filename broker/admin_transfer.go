// POST /v1/topics/{topic}/partitions/{partition}/leader: hands a partition's leadership to a chosen replica, which no Kafka API
// can ask for. Body: {"to": 2}, or {} for whoever is fit.

package broker

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/balsamq/balsa/raft"
)

// transferRouteTimeout is how long a new leader is waited for where the last one has died: some elections, and less than the
// commands' --timeout, so that their users hear what was wrong.
const transferRouteTimeout = 20 * time.Second

// leaderOrder is the request, and leaderMoved its answer.
type leaderOrder struct {
	To int32 `json:"to"` // 0: whoever is fit
}

type leaderMoved struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int32  `json:"from"` // -1: nobody was known to lead
	Leader    int32  `json:"leader"`
}

func (b *Broker) adminTransferLeader(ctx context.Context, q *adminRequest) (any, error) {
	var o leaderOrder
	if err := q.decode(&o); err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(q.PathValue("partition"), 10, 32)
	if err != nil || o.To < 0 {
		return nil, adminErrorf(adminInvalid, "a partition is a number from 0 on, a broker one from 1 on", "partition %q, broker %d", q.PathValue("partition"), o.To)
	}
	name, p := q.PathValue("topic"), int32(n)
	t, err := partitionOf(b.Image(), name, p)
	if err != nil {
		return nil, adminErrorf(adminNotFound, "'broker topic describe' shows the partitions of a topic", "%v", err)
	}
	moved := leaderMoved{Topic: name, Partition: p, From: -1}
	if l := b.peers.table.get(t.Partitions[p].Group); l.leader != 0 {
		moved.From = int32(l.leader)
	}
	leader, err := b.TransferLeader(ctx, t, p, raft.NodeID(o.To))
	switch {
	case errors.Is(err, errNoHeir), errors.Is(err, errHeirUnfit), errors.Is(err, errNotTakenOver):
		return nil, adminErrorf(adminConflict, "'broker topic describe "+name+"' shows which replicas are in sync", "%v", err)
	case errors.Is(err, errNoLeader), errors.Is(err, errNotLed):
		return nil, adminErrorf(adminUnavailable, "'broker raft describe "+name+"/"+q.PathValue("partition")+"' shows what its replicas are at; ask again when one leads", "%v", err)
	case err != nil:
		return nil, err
	}
	moved.Leader = int32(leader)
	return &moved, nil
}
