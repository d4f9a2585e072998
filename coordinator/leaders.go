// Who shall lead a partition: by the order of its replicas, and by what its brokers are said to be fit for.
//
// A broker that never leads (its setting, told when it registers) holds replicas and votes. Where no replica of a partition
// may lead, the setting is not heeded: a partition without a leader would be the greater harm.

package coordinator

import (
	"slices"

	"github.com/balsamq/balsa/raft"
)

// MayLead reports whether a replica of p on that broker may lead.
func (im *Image) MayLead(p *Partition, id raft.NodeID) bool {
	barred := func(id raft.NodeID) bool { b := im.Broker(id); return b != nil && b.NeverLead }
	return p.HasReplica(id) && (!barred(id) || !slices.ContainsFunc(p.Replicas, func(m raft.Member) bool { return !barred(m.ID) }))
}

// Preferred is the broker that shall lead a partition when all is well: its first replica that may.
func (im *Image) Preferred(p *Partition) raft.NodeID {
	for _, m := range p.Replicas {
		if im.MayLead(p, m.ID) {
			return m.ID
		}
	}
	return 0
}

// Priorities is the same for the partition's group. All who may lead, but are not preferred, are equals: so the partitions of
// a broker that is lost go to many others.
func (im *Image) Priorities(p *Partition) []raft.NodePriority {
	if len(p.Replicas) < 2 {
		return nil
	}
	preferred := im.Preferred(p)
	ps := []raft.NodePriority{{ID: preferred, Priority: raft.PreferredPriority}}
	for _, m := range p.Replicas {
		if !im.MayLead(p, m.ID) {
			ps = append(ps, raft.NodePriority{ID: m.ID, Priority: raft.NeverLeads})
		}
	}
	return ps
}
