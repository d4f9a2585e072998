// Metrics of single groups, for as many as Config.MetricsGroups says: those that lag most come first, so that a broker with
// ten thousand groups shows the ones that matter.

package broker

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	// maxMetricsGroups bounds Config.MetricsGroups: each group is a dozen time series.
	maxMetricsGroups = 1000
	// inspectTimeout bounds how long a scrape waits for groups to describe themselves.
	inspectTimeout = time.Second
	// metadataTopicName is Kafka's name of the metadata group's log.
	metadataTopicName = "__cluster_metadata"
)

// groupMetric is one metric of a group; ok false: it has none.
type groupMetric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*multi.Inspection) (v float64, ok bool)
}

func leaderOnly(of func(*multi.Inspection) float64) func(*multi.Inspection) (float64, bool) {
	return func(in *multi.Inspection) (float64, bool) { return of(in), in.Role == raft.Leader }
}

var groupMetrics = []groupMetric{
	{"balsa_group_term", "The Raft term, which is the partition's leader epoch.", gauge, func(in *multi.Inspection) (float64, bool) { return float64(in.Term), true }},
	{"balsa_group_role", "What this broker's replica is: 0 follower, 1 pre-candidate, 2 candidate, 3 leader.", gauge, func(in *multi.Inspection) (float64, bool) { return float64(in.Role), true }},
	{"balsa_group_commit_index", "The last entry that is known to be on a quorum's disks.", gauge, func(in *multi.Inspection) (float64, bool) { return float64(in.Commit), true }},
	{"balsa_group_commit_lag_entries", "Entries in the replica's log that are not known to be committed.", gauge, func(in *multi.Inspection) (float64, bool) { return float64(in.Last - in.Commit), true }},
	{"balsa_group_follower_lag_entries", "Entries that the follower furthest behind does not have on its disk. Leader only.", gauge,
		leaderOnly(func(in *multi.Inspection) float64 { return float64(behind(in.Last, in.Peers)) })},
	{"balsa_group_inflight_messages", "Messages with entries on their way to followers. Leader only.", gauge,
		leaderOnly(func(in *multi.Inspection) (n float64) {
			for i := range in.Peers {
				n += float64(in.Peers[i].Inflight)
			}
			return n
		})},
	{"balsa_group_inflight_bytes", "Bytes of these messages. Leader only.", gauge,
		leaderOnly(func(in *multi.Inspection) (n float64) {
			for i := range in.Peers {
				n += float64(in.Peers[i].InflightBytes)
			}
			return n
		})},
	{"balsa_group_elections_total", "Elections that this replica began since it was opened.", counted, func(in *multi.Inspection) (float64, bool) { return float64(in.Elections), true }},
	{"balsa_group_lease_seconds", "What is left of the leader's lease; 0: it has none. Leader only.", gauge,
		leaderOnly(func(in *multi.Inspection) float64 { return in.Lease.Seconds() })},
	{"balsa_group_snapshots_sending", "Followers that are brought up with a snapshot. Leader only.", gauge,
		leaderOnly(func(in *multi.Inspection) (n float64) {
			for i := range in.Peers {
				n += bit(in.Peers[i].State == raft.SnapshotState)
			}
			return n
		})},
	{"balsa_group_installing", "1 while the replica installs a leader's snapshot.", gauge, func(in *multi.Inspection) (float64, bool) { return bit(in.Installing || in.Blocked), true }},
}

var groupDescs = func() []*prometheus.Desc {
	out := make([]*prometheus.Desc, len(groupMetrics))
	for i, m := range groupMetrics {
		out[i] = prometheus.NewDesc(m.name, m.help, []string{"topic", "partition"}, nil)
	}
	return out
}()

// behind is how many entries the member furthest behind lacks.
func behind(last raft.Index, peers []multi.PeerStatus) (lag raft.Index) {
	for i := range peers {
		if m := peers[i].Match; m < last {
			lag = max(lag, last-m)
		}
	}
	return lag
}

// namedGroup is a group with the name that people have for it.
type namedGroup struct {
	*multi.Group
	topic     string
	partition int32
	lag       raft.Index
}

// namedGroups are all groups of this broker, with their lags.
func (b *Broker) namedGroups() []namedGroup {
	var out []namedGroup
	add := func(g *multi.Group, topic string, partition int32) {
		if g == nil {
			return
		}
		s := g.Status()
		out = append(out, namedGroup{g, topic, partition, max(s.Last-s.Commit, behind(s.Last, g.Peers()))})
	}
	add(b.meta.group.Load(), metadataTopicName, 0)
	for _, r := range b.rec.replicas() {
		topic, partition := r.Name()
		add(r.Raft(), topic, partition)
	}
	return out
}

// collectGroups emits the metrics of the groups that lag most.
func (b *Broker) collectGroups(out chan<- prometheus.Metric) {
	groups := b.namedGroups()
	slices.SortFunc(groups, func(x, y namedGroup) int {
		return cmp.Or(cmp.Compare(y.lag, x.lag), cmp.Compare(x.ID(), y.ID()))
	})
	groups = groups[:min(len(groups), b.cfg.MetricsGroups)]
	ctx, cancel := context.WithTimeout(b.ctx, inspectTimeout)
	defer cancel()
	for i, in := range inspectAll(ctx, groups) {
		for k := range groupMetrics {
			if v, ok := groupMetrics[k].value(in); ok {
				out <- prometheus.MustNewConstMetric(groupDescs[k], groupMetrics[k].kind, v, groups[i].topic, strconv.Itoa(int(groups[i].partition)))
			}
		}
	}
}

// inspectAll has groups describe themselves, side by side. One that does not before ctx ends is shown as its last turn left it.
func inspectAll(ctx context.Context, groups []namedGroup) []*multi.Inspection {
	type answer struct {
		i  int
		in multi.Inspection
	}
	answers := make(chan answer, len(groups))
	for i := range groups {
		groups[i].Inspect(func(in multi.Inspection, _ error) { answers <- answer{i, in} })
	}
	out := make([]*multi.Inspection, len(groups))
	for range groups {
		select {
		case a := <-answers:
			out[a.i] = &a.in
			continue
		case <-ctx.Done():
		}
		break
	}
	for i := range out {
		if out[i] == nil {
			out[i] = &multi.Inspection{Status: groups[i].Status(), Peers: groups[i].Peers()}
		}
	}
	return out
}
