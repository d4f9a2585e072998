// The metrics that are read at each scrape, as a table: one line each.

package broker

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/transport"
)

// sample is what a scrape reads, once.
type sample struct {
	raftUp, serving bool

	host   multi.Stats
	sum    multi.Summary
	net    transport.Stats
	oldest float64 // seconds that the oldest sync is wanted

	starting           *starting
	replicas, segments int
	dirtiest           float64
	keys               int64
	logBytes           int64
	relaxedBehind      int64
	waiters            int
	openTxns           int
	txns               coordinator.TxnStats
	cacheUsed, cacheOf int64
	scrub              *scrubber
	hits, misses       uint64
	version            uint64 // of the Image
	live, brokers      int
	topics, partitions int
	controller         bool

	connections, sessions, accounts int
	memory                          [4]memorySample
}

type memorySample struct {
	name     string
	used, of int64
}

// scalar is a metric with one value, or one for each value of its label.
type scalar struct {
	name, help string
	kind       prometheus.ValueType
	label      string // "": none
	value      func(*sample) float64
	values     func(*sample, func(label string, v float64))
	// server: there is no value before clients are served. All others need Raft.
	server bool
}

const (
	counted = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// lanes gives a value for each lane.
func lanes(of func(*transport.LaneStats) uint64) func(*sample, func(string, float64)) {
	return func(s *sample, emit func(string, float64)) {
		emit("control", float64(of(&s.net.Control)))
		emit("bulk", float64(of(&s.net.Bulk)))
		emit("chunk", float64(of(&s.net.Chunk)))
	}
}

var scalars = []scalar{
	{name: "balsa_kafka_connections", help: "Connections of Kafka clients that are open.", kind: gauge, server: true, value: func(s *sample) float64 { return float64(s.connections) }},
	{name: "balsa_fetch_sessions", help: "Incremental fetch sessions that are kept.", kind: gauge, server: true, value: func(s *sample) float64 { return float64(s.sessions) }},
	{name: "balsa_fetch_waiting", help: "Partitions of fetch requests that wait for records.", kind: gauge, value: func(s *sample) float64 { return float64(s.waiters) }},
	{name: "balsa_txn_open", help: "Open transactions in partitions that this broker leads, each counted once a partition. Readers of committed records wait for the oldest of a partition.", kind: gauge,
		value: func(s *sample) float64 { return float64(s.openTxns) }},
	{name: "balsa_txn_ids", help: "Transactional ids that this broker coordinates, by the state of their last transaction.", kind: gauge, label: "state",
		values: func(s *sample, emit func(string, float64)) {
			for state, n := range s.txns.States {
				emit(state, float64(n))
			}
		}},
	{name: "balsa_txn_ended_total", help: "Transactions that this broker coordinated to their end in every partition, by outcome.", kind: counted, label: "outcome",
		values: func(s *sample, emit func(string, float64)) {
			emit("commit", float64(s.txns.Committed))
			emit("abort", float64(s.txns.Aborted))
		}},
	{name: "balsa_txn_timeouts_total", help: "Transactions that this broker aborted because their time-out was over.", kind: counted, value: func(s *sample) float64 { return float64(s.txns.TimedOut) }},
	{name: "balsa_txn_marker_retries_total", help: "Times that some markers of a transaction had to be sent again: a partition without a leader, or a broker that did not answer.", kind: counted,
		value: func(s *sample) float64 { return float64(s.txns.MarkerRetries) }},
	{name: "balsa_memory_used_bytes", help: "Bytes in use of each bounded memory: produce requests in flight, fetch requests, other requests, fetch answers.", kind: gauge, label: "budget", server: true,
		values: func(s *sample, emit func(string, float64)) {
			for _, m := range s.memory {
				emit(m.name, float64(m.used))
			}
		}},
	{name: "balsa_memory_limit_bytes", help: "The bound of each memory in balsa_memory_used_bytes. Requests wait when it is reached.", kind: gauge, label: "budget", server: true,
		values: func(s *sample, emit func(string, float64)) {
			for _, m := range s.memory {
				emit(m.name, float64(m.of))
			}
		}},

	{name: "balsa_raft_groups", help: "Raft groups with a replica on this broker, by its role. Each partition is one group, and the cluster's metadata another.", kind: gauge, label: "role",
		values: func(s *sample, emit func(string, float64)) {
			emit("follower", float64(s.sum.Followers))
			emit("pre-candidate", float64(s.sum.PreCandidates))
			emit("candidate", float64(s.sum.Candidates))
			emit("leader", float64(s.sum.Leaders))
		}},
	{name: "balsa_raft_leaderless_groups", help: "Groups of which this replica knows no leader. For longer than a few seconds: a majority of their replicas cannot be reached.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.Leaderless) }},
	{name: "balsa_raft_failed_groups", help: "Groups whose replica here has stopped because its log failed; it is opened again after a pause.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.Failed) }},
	{name: "balsa_raft_full_groups", help: "Groups whose log found no space on the disk. Produce to partitions led here is refused.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.Full) }},
	{name: "balsa_raft_damaged_groups", help: "Groups whose replica here lacks something that had been durable; it neither votes nor leads until a leader has repaired it.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.Damaged) }},
	{name: "balsa_raft_changing_groups", help: "Groups led here whose membership is in transition.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.Joint) }},
	{name: "balsa_raft_prevotes_total", help: "Pre-votes begun: a replica has lost sight of its leader and asks whether it could win.", kind: counted, value: func(s *sample) float64 { return float64(s.host.PreVotes) }},
	{name: "balsa_raft_elections_total", help: "Elections begun by replicas here.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Elections) }},
	{name: "balsa_raft_elections_won_total", help: "Elections won by replicas here.", kind: counted, value: func(s *sample) float64 { return float64(s.host.ElectionsWon) }},
	{name: "balsa_raft_leader_changes_total", help: "How often a replica here learnt of a new leader or term of leadership, its own included.", kind: counted, value: func(s *sample) float64 { return float64(s.host.LeaderChanges) }},
	{name: "balsa_raft_stepdowns_total", help: "Leaderships of replicas here that ended: handed over, no answer from a quorum, or another was elected.", kind: counted, value: func(s *sample) float64 { return float64(s.host.StepDowns) }},
	{name: "balsa_raft_handovers_total", help: "Leaderships given away because this broker's disk hung, was full or failed.", kind: counted, value: func(s *sample) float64 { return float64(s.host.HandedOver) }},
	{name: "balsa_raft_proposals_total", help: "Proposals staged by leaders here: record batches, and commands to the metadata.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Proposals) }},
	{name: "balsa_raft_gathered_total", help: "Proposals that waited in a leader here for others on their way, as many groups waited for workers and syncs: what gathers is committed together.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Gathered) }},
	{name: "balsa_raft_overloaded_total", help: "Proposals and reads refused because a bound of their group was reached. Clients try again.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Overloaded) }},
	{name: "balsa_raft_appended_entries_total", help: "Entries appended to logs here, as leader or follower.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Appended) }},
	{name: "balsa_raft_appended_bytes_total", help: "Bytes of these entries.", kind: counted, value: func(s *sample) float64 { return float64(s.host.AppendBytes) }},
	{name: "balsa_raft_behind_bytes_total", help: "Bytes of entries sent to replicas that had been away, at a pace that yields to proposals.", kind: counted, value: func(s *sample) float64 { return float64(s.host.BehindBytes) }},
	{name: "balsa_raft_committed_entries_total", help: "Entries committed by a quorum and applied here.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Applied) }},
	{name: "balsa_raft_uncommitted_entries", help: "Entries in the logs of leaders here that no quorum has yet.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.CommitLag) }},
	{name: "balsa_raft_uncommitted_bytes", help: "Bytes proposed to leaders here that no quorum has yet.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.UncommittedBytes) }},
	{name: "balsa_raft_leases", help: "Leaders here that hold a lease, and those that do not: these ask a quorum before each read of the log's end.", kind: gauge, label: "state",
		values: func(s *sample, emit func(string, float64)) {
			emit("held", float64(s.sum.Ready-s.sum.Leaseless))
			emit("none", float64(s.sum.Leaders-s.sum.Ready+s.sum.Leaseless))
		}},
	{name: "balsa_raft_reads_total", help: "Linearizable reads asked of groups here.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Reads) }},
	{name: "balsa_raft_lease_reads_total", help: "Of these, those that a lease answered without a round trip.", kind: counted, value: func(s *sample) float64 { return float64(s.host.LeaseReads) }},
	{name: "balsa_raft_read_rounds_total", help: "Times that a quorum was asked (ReadIndex), each for all reads that waited: for want of a lease, or where no lease may answer.", kind: counted, value: func(s *sample) float64 { return float64(s.host.ReadRounds) }},
	{name: "balsa_raft_suspends_total", help: "Times that the machine was seen to have been asleep; leases do not outlive it.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Suspends) }},
	{name: "balsa_raft_pauses_total", help: "Times that this process was seen not to have run for longer than an election timeout.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Pauses) }},
	{name: "balsa_raft_heartbeat_groups", help: "Groups led here: covered ones rest and share one heartbeat for each pair of brokers, uncovered ones send their own.", kind: gauge, label: "state",
		values: func(s *sample, emit func(string, float64)) {
			emit("covered", float64(s.sum.Covered))
			emit("uncovered", float64(s.sum.Uncovered))
		}},
	{name: "balsa_raft_resting_groups", help: "Followers here that rest under a shared heartbeat.", kind: gauge, value: func(s *sample) float64 { return float64(s.sum.Resting) }},
	{name: "balsa_raft_pair_heartbeats_total", help: "Shared heartbeats sent to other brokers.", kind: counted, value: func(s *sample) float64 { return float64(s.host.PairHeartbeats) }},
	{name: "balsa_raft_pair_stalls_total", help: "Shared heartbeats and answers withheld because this broker's workers or disk stalled.", kind: counted, value: func(s *sample) float64 { return float64(s.host.PairStalled) }},
	{name: "balsa_raft_pair_losses_total", help: "Times that another broker fell silent, which wakes the groups that rested.", kind: counted, value: func(s *sample) float64 { return float64(s.host.PairSessionLost) }},
	{name: "balsa_raft_woken_groups_total", help: "Resting followers woken because their leader's broker fell silent.", kind: counted, value: func(s *sample) float64 { return float64(s.host.GroupsWoken) }},
	{name: "balsa_raft_turns_total", help: "Turns that workers gave to groups: what Raft costs of the CPU goes with it.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Turns) }},
	{name: "balsa_raft_received_messages_total", help: "Raft messages received.", kind: counted, value: func(s *sample) float64 { return float64(s.host.MsgsIn) }},
	{name: "balsa_raft_inbox_dropped_messages_total", help: "Raft messages received and dropped: their group was overloaded, or is not here. Raft sends again what matters.", kind: counted, value: func(s *sample) float64 { return float64(s.host.MsgsDropped) }},
	{name: "balsa_raft_throttled_appends_total", help: "Appends from leaders dropped because too much waits for this broker's disk.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Throttled) }},
	{name: "balsa_raft_bad_frames_total", help: "Entries from other brokers that failed their checksum and were refused.", kind: counted, value: func(s *sample) float64 { return float64(s.host.BadFrames) }},
	{name: "balsa_raft_muted_total", help: "Messages and ticks withheld by leaders here whose disk hangs, so that another broker takes over.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Muted) }},
	{name: "balsa_raft_snapshots_taken_total", help: "Snapshots of state machines stored here.", kind: counted, value: func(s *sample) float64 { return float64(s.host.SnapshotsTaken) }},
	{name: "balsa_raft_snapshots_sent_total", help: "Snapshots sent to followers that had fallen behind the log's start.", kind: counted, value: func(s *sample) float64 { return float64(s.host.SnapshotsSent) }},
	{name: "balsa_raft_snapshots_installed_total", help: "Snapshots of leaders installed here.", kind: counted, value: func(s *sample) float64 { return float64(s.host.SnapshotsInstalled) }},
	{name: "balsa_raft_snapshots_in_progress", help: "Followers that leaders here bring up with a snapshot, and replicas here that install one.", kind: gauge, label: "direction",
		values: func(s *sample, emit func(string, float64)) {
			emit("sending", float64(s.sum.SendingSnapshots))
			emit("installing", float64(s.sum.Installing))
		}},

	{name: "balsa_transport_sent_messages_total", help: "Raft messages sent to other brokers, by lane: votes and heartbeats go by control, entries by bulk, snapshots by chunk.", kind: counted, label: "lane", values: lanes(func(l *transport.LaneStats) uint64 { return l.SentMessages })},
	{name: "balsa_transport_sent_bytes_total", help: "Bytes of these messages.", kind: counted, label: "lane", values: lanes(func(l *transport.LaneStats) uint64 { return l.SentBytes })},
	{name: "balsa_transport_dropped_messages_total", help: "Messages to other brokers dropped because their lane's queue was full.", kind: counted, label: "lane", values: lanes(func(l *transport.LaneStats) uint64 { return l.DroppedFull })},
	{name: "balsa_transport_unreachable_messages_total", help: "Messages to other brokers dropped because the broker could not be reached.", kind: counted, label: "lane", values: lanes(func(l *transport.LaneStats) uint64 { return l.DroppedUnreachable })},
	{name: "balsa_transport_received_bytes_total", help: "Bytes received from other brokers.", kind: counted, value: func(s *sample) float64 { return float64(s.net.ReceivedBytes) }},
	{name: "balsa_transport_dial_failures_total", help: "Failed attempts to connect to another broker.", kind: counted, value: func(s *sample) float64 { return float64(s.net.DialFailures) }},

	{name: "balsa_compaction_max_dirty_ratio", help: "The largest part of a compacted log here that could be compacted and is not, as of the cleaner's last look. Above min.cleanable.dirty.ratio for long: the cleaner does not keep up.", kind: gauge, value: func(s *sample) float64 { return s.dirtiest }},
	{name: "balsa_log_syncs_total", help: "Syncs of logs begun, each for all that had come meanwhile.", kind: counted, value: func(s *sample) float64 { return float64(s.host.Syncs) }},
	{name: "balsa_log_sync_errors_total", help: "Syncs of logs that failed, which stops the log; want of space is not among them.", kind: counted, value: func(s *sample) float64 { return float64(s.host.SyncErrors) }},
	{name: "balsa_log_no_space_total", help: "Syncs of logs that found no space on the disk.", kind: counted, value: func(s *sample) float64 { return float64(s.host.NoSpace) }},
	{name: "balsa_log_oldest_sync_seconds", help: "For how long the oldest sync has been wanted that is not done. Seconds here are a disk that hangs.", kind: gauge, value: func(s *sample) float64 { return s.oldest }},
	{name: "balsa_log_replicas", help: "Partition replicas open here.", kind: gauge, value: func(s *sample) float64 { return float64(s.replicas) }},
	{name: "balsa_log_segments", help: "Segment files of these replicas.", kind: gauge, value: func(s *sample) float64 { return float64(s.segments) }},
	{name: "balsa_log_relaxed_unsynced_bytes", help: "Bytes of these logs that this broker has acknowledged and not synced yet, as balsa.durability=relaxed allows: what a crash of its machine would take.", kind: gauge, value: func(s *sample) float64 { return float64(s.relaxedBehind) }},
	{name: "balsa_log_bytes", help: "Bytes of these replicas' logs, space laid out in advance aside.", kind: gauge, value: func(s *sample) float64 { return float64(s.logBytes) }},
	{name: "balsa_key_table_keys", help: "Keys in the tables of partitions with balsa.conditional.append that this broker leads, about 48 bytes each; --key-memory bounds them.", kind: gauge, value: func(s *sample) float64 { return float64(s.keys) }},
	{name: "balsa_scrub_bytes_total", help: "Bytes of logs verified in the background.", kind: counted, value: func(s *sample) float64 { return float64(s.scrub.bytes.Load()) }},
	{name: "balsa_scrub_damaged_total", help: "Logs in which that found damage. The replica is repaired by its peers; the disk may have more.", kind: counted, value: func(s *sample) float64 { return float64(s.scrub.damaged.Load()) }},
	{name: "balsa_scrub_unreadable_total", help: "Files that the disk gave an error for. Nothing is repaired then; look at the disk.", kind: counted, value: func(s *sample) float64 { return float64(s.scrub.unreadable.Load()) }},
	{name: "balsa_scrub_last_pass_timestamp_seconds", help: "When all logs had last been verified, in Unix time; 0: not yet.", kind: gauge, value: func(s *sample) float64 { return float64(s.scrub.finished.Load()) / 1000 }},
	{name: "balsa_cache_used_bytes", help: "Bytes of the newest entries held in memory.", kind: gauge, value: func(s *sample) float64 { return float64(s.cacheUsed) }},
	{name: "balsa_cache_limit_bytes", help: "The bound of balsa_cache_used_bytes, which what is not durable or not applied yet may exceed.", kind: gauge, value: func(s *sample) float64 { return float64(s.cacheOf) }},
	{name: "balsa_cache_hits_total", help: "Reads of entries and batches answered from memory.", kind: counted, value: func(s *sample) float64 { return float64(s.hits) }},
	{name: "balsa_cache_misses_total", help: "Reads of entries and batches that went to the disk.", kind: counted, value: func(s *sample) float64 { return float64(s.misses) }},

	{name: "balsa_quota_accounts", help: "Clients of whom account is kept because a quota counts for them.", kind: gauge, server: true, value: func(s *sample) float64 { return float64(s.accounts) }},
	{name: "balsa_start_seconds", help: "How long this broker's start took until its data directory was open, its journal replayed, its metadata log open, all its logs open, clients served. Later phases appear as they are reached; logs can come after ready.", kind: gauge, label: "phase",
		values: func(s *sample, emit func(string, float64)) {
			for p := range s.starting.took {
				if took := s.starting.took[p].Load(); took > 0 {
					emit(startPhaseNames[p], time.Duration(took).Seconds())
				}
			}
		}},
	{name: "balsa_cluster_metadata_version", help: "Version of the cluster's metadata that this broker has. All brokers should have about the same.", kind: gauge, value: func(s *sample) float64 { return float64(s.version) }},
	{name: "balsa_cluster_brokers", help: "Brokers of the cluster, and those that are alive.", kind: gauge, label: "state",
		values: func(s *sample, emit func(string, float64)) {
			emit("registered", float64(s.brokers))
			emit("live", float64(s.live))
		}},
	{name: "balsa_cluster_topics", help: "Topics of the cluster.", kind: gauge, value: func(s *sample) float64 { return float64(s.topics) }},
	{name: "balsa_cluster_partitions", help: "Partitions of these topics.", kind: gauge, value: func(s *sample) float64 { return float64(s.partitions) }},
	{name: "balsa_cluster_controller", help: "1 on the broker that leads the metadata group and runs the controller.", kind: gauge, value: func(s *sample) float64 { return bit(s.controller) }},
}

// scrape reads what is not counted by package metrics itself.
type scrape struct{ b *Broker }

var scalarDescs = func() []*prometheus.Desc {
	out := make([]*prometheus.Desc, len(scalars))
	for i := range scalars {
		var labels []string
		if scalars[i].label != "" {
			labels = []string{scalars[i].label}
		}
		out[i] = prometheus.NewDesc(scalars[i].name, scalars[i].help, labels, nil)
	}
	return out
}()

func (c *scrape) Describe(out chan<- *prometheus.Desc) {
	for _, d := range scalarDescs {
		out <- d
	}
	for i := range groupMetrics {
		out <- groupDescs[i]
	}
	for i := range bridgeMetrics {
		out <- bridgeDescs[i]
	}
}

func (c *scrape) Collect(out chan<- prometheus.Metric) {
	if !c.b.enter() {
		return
	}
	defer c.b.wg.Done()
	s := c.b.sample()
	for i := range scalars {
		m, d := &scalars[i], scalarDescs[i]
		switch {
		case !s.raftUp || m.server && !s.serving:
		case m.values != nil:
			m.values(s, func(label string, v float64) { out <- prometheus.MustNewConstMetric(d, m.kind, v, label) })
		default:
			out <- prometheus.MustNewConstMetric(d, m.kind, m.value(s))
		}
	}
	if s.serving {
		c.b.collectBridges(out)
	}
	if s.raftUp && c.b.cfg.MetricsGroups > 0 {
		c.b.collectGroups(out)
	}
}

// sample reads what there is. The caller has entered.
func (b *Broker) sample() *sample {
	phase := adminPhase(b.adm.phase.Load())
	s := &sample{raftUp: phase >= adminRaft && b.host != nil && b.cache != nil, serving: phase >= adminReady && b.server != nil}
	if !s.raftUp {
		return s
	}
	s.starting = &b.starting
	s.host, s.sum, s.net, s.oldest = b.host.Stats(), b.host.Summarize(), b.tr.Stats(), b.host.OldestSync().Seconds()
	for _, r := range b.rec.replicas() {
		bytes, segments := r.LogSize()
		s.replicas++
		s.segments += segments
		s.logBytes += bytes
		s.relaxedBehind += r.Behind()
		s.waiters += r.Waiting()
		s.openTxns += r.OpenTxns()
	}
	s.scrub = b.scrub
	s.keys = b.keys.Used()
	s.dirtiest = math.Float64frombits(b.met.cleaner.dirtiest.Load())
	s.cacheUsed, s.cacheOf = b.cache.Used(), b.cache.Budget()
	s.hits, s.misses = b.cache.Reads()
	s.txns = b.txns.Stats()
	im := b.Image()
	s.version, s.brokers, s.live = uint64(im.Version()), len(im.Brokers()), len(im.LiveBrokers())
	s.topics, s.partitions = im.TopicCount(), im.PartitionCount()
	_, s.controller = b.meta.Leader()
	if s.serving {
		v := b.server
		s.connections, s.sessions, s.accounts = v.connections(), v.sessions.len(), v.quotas.size()
		s.memory = [4]memorySample{{"produce", v.memory.used.Load(), v.memory.size}, {"fetch", v.polls.used.Load(), v.polls.size},
			{"other", v.control.used.Load(), v.control.size}, {"fetch-answers", v.fetchUsed.Load(), v.o.FetchMemory}}
	}
	return s
}
