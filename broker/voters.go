// The metadata group's membership, for whoever waits until the cluster can lose a broker.

package broker

import "github.com/balsamq/balsa/raft"

// MetadataVoters are the brokers whose majority keeps the cluster's metadata, as this broker knows them; none while their
// membership is changing.
func (b *Broker) MetadataVoters() []raft.NodeID {
	g := b.host.Group(raft.MetadataGroup)
	if g == nil {
		return nil
	}
	conf := g.Status().Conf
	if conf.Joint() {
		return nil
	}
	ids := make([]raft.NodeID, 0, len(conf.Voters))
	for _, m := range conf.Voters {
		ids = append(ids, m.ID)
	}
	return ids
}

// VotersOf is how many of n brokers come to vote on the cluster's metadata, once all have joined; the others follow.
func VotersOf(n int) int {
	switch {
	case n >= 5:
		return 5
	case n >= 3:
		return 3
	}
	return 1
}
