// Which replica a consumer should read from (KIP-392): one in its own rack, if there is one that is up to it.

package broker

import (
	"sync"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

const (
	// redirectPause is how soon a client may be sent away again for the same partition. One that is back sooner had a reason that
	// this broker cannot see (it does not reach the other one, or was told there to ask here), and is served: else the two
	// would send it to and fro, and librdkafka, which follows once a minute at most, would read nothing meanwhile.
	redirectPause = 5 * time.Second
	// maxRedirects bounds what a connection remembers of it; beyond it all is forgotten.
	maxRedirects = 4096
)

// redirects is when a connection's client was last sent elsewhere, by partition.
type redirects struct {
	mu sync.Mutex // a leaf
	at map[partitionKey]time.Time
}

// redirect is preferred, unless the client came back from there too soon.
func (s *server) redirect(c *conn, key partitionKey, preferred int32) int32 {
	if preferred < 0 {
		return -1
	}
	r := &c.sent
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if at, ok := r.at[key]; ok && now.Sub(at) < s.o.RedirectPause {
		return -1
	}
	if r.at == nil || len(r.at) >= maxRedirects {
		r.at = make(map[partitionKey]time.Time)
	}
	r.at[key] = now
	return preferred
}

// rackAware is the name of these rules in Kafka, for tools that look for it.
const rackAware = "org.apache.kafka.common.replica.RackAwareReplicaSelector"

// preferredReplica is the broker that a consumer in the rack should read from instead of this one; -1: this one, also
// where it does not lead. As Kafka's RackAwareReplicaSelector: a leader in the same rack is preferred to every follower, and
// among followers the one that has come farthest. A broker that is fenced, and a follower that is not in sync, is nobody's
// choice: a consumer that comes back from one stays here until that is over.
func (s *server) preferredReplica(im *coordinator.Image, rep replica, rack string) int32 {
	if self := im.Broker(s.b.NodeID()); self == nil || self.Rack == rack {
		return -1
	}
	best, match := int32(-1), raft.Index(0)
	for _, f := range rep.InSyncFollowers() {
		b := im.Broker(f.Node)
		if b == nil || b.Fenced || b.Rack != rack {
			continue
		}
		if best < 0 || f.Match > match {
			best, match = int32(f.Node), f.Match
		}
	}
	return best
}
