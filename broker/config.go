// Package broker is the server: it stores partitions, speaks Kafka to clients and Raft to other brokers. It can be embedded:
// [Start] returns a running broker, and nothing in it ends the process.
//
// This file is its configuration.

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/sock"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// Config configures one broker. The zero value of each field stands for its default; only DataDir must be given.
type Config struct {
	// DataDir holds everything that the broker keeps. Made if it is not there.
	DataDir string

	// Listeners are the addresses for Kafka clients, where there is to be more than one, or another than plaintext. Empty: one
	// called PLAINTEXT on Listen; otherwise Listen and Advertise have no meaning.
	Listeners []Listener
	// Listen is the address for Kafka clients. Default "127.0.0.1:9092"; port 0 takes a free one.
	Listen string
	// Advertise is the address given to clients, host:port. Default: where Listen bound; a wildcard address cannot be
	// advertised, so Listen on one requires it. Port 0, or none, stands for the bound port.
	Advertise string
	// ListenRPC is the address for other brokers. Default "127.0.0.1:9192"; port 0 takes a free one.
	ListenRPC string
	// AdvertiseRPC is the address given to other brokers. Defaults as for Advertise.
	AdvertiseRPC string

	// AdminListen is the address for operators: metrics, profiles and administration over HTTP, without authentication. Port
	// 0 takes a free one. Empty, or "none": there is no such listener.
	AdminListen string

	// KafkaTLS are the certificates of the listeners that speak TLS to Kafka clients. RPCTLS makes brokers speak TLS to each other, with
	// certificates on both sides: all brokers of a cluster or none. AdminTLS is the admin listener's; with CA operators need a certificate.
	KafkaTLS, RPCTLS, AdminTLS TLSFiles
	// RPCTLSOptional takes brokers that do not speak TLS as well, and calls them without. It is for the time in which a cluster changes from the
	// one to the other, broker by broker.
	RPCTLSOptional bool
	// PrincipalRules make a user's name of the subject of a client certificate: Kafka's ssl.principal.mapping.rules.
	PrincipalRules string
	// SASLMechanisms are those offered on listeners that want SASL, by preference. Default: SCRAM-SHA-512, SCRAM-SHA-256, and OAUTHBEARER
	// if OAuth is set. PLAIN must be asked for.
	SASLMechanisms []string
	// OAuth says which tokens OAUTHBEARER takes.
	OAuth OAuth
	// ReauthInterval is after how long a SASL client must authenticate anew at the latest (connections.max.reauth.ms). Default 0: never,
	// or when its token expires.
	ReauthInterval time.Duration
	// ACLs: clients may do what the cluster's ACLs allow them, super users everything. Off: everybody may.
	ACLs bool
	// AllowEveryoneIfNoACL: what no ACL is about at all is everybody's (Kafka's allow.everyone.if.no.acl.found).
	AllowEveryoneIfNoACL bool
	// SuperUsers are principals ("User:admin") that need no ACL.
	SuperUsers []string
	// BootstrapUser, with BootstrapPassword, is made at the start if the cluster has no user at all.
	BootstrapUser, BootstrapPassword string
	// AuthTimeout bounds the time from the acceptance of a connection that must prove who it is to the proof, the TLS handshake
	// included. Default 10 s.
	AuthTimeout time.Duration

	// Bridges carries the bridges to other systems that the cluster gives this broker. Nil: it says that it cannot, of each that it is given.
	Bridges BridgeRunner

	// MetricsGroups is of how many Raft groups, those that lag most first, metrics are served one by one. Default 0: of none; at
	// most 1,000.
	MetricsGroups int

	// FlightRecorderBytes is about how much memory the Go runtime's flight recorder takes; 0: it does not run. What it holds is
	// written to DataDir/traces when a sync takes SlowSync, or a group is without a leader for SlowElection; both default to
	// twice ElectionTimeout, and negative ones are never slow. A process has one recorder.
	FlightRecorderBytes    int64
	SlowSync, SlowElection time.Duration

	// Join are RPC addresses of brokers of the cluster to be joined. Empty on an empty data directory: found a new
	// cluster. On a directory that already belongs to a cluster they only help to find the others after addresses
	// changed.
	Join []string
	// JoinTimeout bounds joining. Default 60 s.
	JoinTimeout time.Duration
	// NodeID asks for this id, in [1, 2³¹-1]; 0: the cluster gives one, and a founder is 1. Remembered in DataDir.
	NodeID int32
	// ReplaceDisk, for a DataDir that belongs to no cluster yet, is the incarnation (16 hexadecimal digits) of the data directory that the
	// broker NodeID had and that is gone for good: this one takes its place, and what it held is copied from the other brokers. Start
	// without it fails with ErrOtherDisk, and names it.
	ReplaceDisk string
	// ClusterID, for a founder, names the new cluster; for others it must match. Default: drawn at random.
	ClusterID string
	// Rack names where the broker stands. Replicas of a partition are spread over racks.
	Rack string

	// NeverLead: the broker holds replicas and votes, but leads no partition of which another broker has a replica that may lead.
	NeverLead bool
	// DisableLeaderBalance switches off that leadership goes back to the preferred replicas by itself.
	DisableLeaderBalance bool
	// LeaderBalanceInterval is between two looks at whether leadership is where it belongs, and the least time that a broker
	// must have been back before it gets any. Default 1 min.
	LeaderBalanceInterval time.Duration

	// ElectionTimeout is how long a group goes without a leader before a new election: at least this, at most
	// one and a half times. Default 1 s; at least 4 heartbeats.
	ElectionTimeout time.Duration
	// HeartbeatInterval is between heartbeats of leaders, and between those of brokers. Default a tenth of
	// ElectionTimeout.
	HeartbeatInterval time.Duration
	// ClockDrift is taken off every lease. Default a tenth of ElectionTimeout.
	ClockDrift time.Duration
	// ReadConsistency says what confirms an answer that speaks of a log's end, where the topic does not (its config
	// balsa.read.consistency): [ReadLease], the default, or [ReadQuorum].
	ReadConsistency string
	// SessionTimeout is how long a broker may be silent before it is fenced: clients are sent elsewhere. Default 5
	// times ElectionTimeout; at least ElectionTimeout.
	SessionTimeout time.Duration

	// Partitions is the default partition count of a topic. Default 1.
	Partitions int32
	// ReplicationFactor is the default replication factor. 0: three, or as many as there are live brokers.
	ReplicationFactor int16
	// DisableAutoCreate switches off the creation of topics by clients that merely ask for them (Kafka's
	// auto.create.topics.enable, which is on by default).
	DisableAutoCreate bool
	// OffsetsPartitions is the partition count of __consumer_offsets, which cannot change later. Default 16.
	OffsetsPartitions int32
	// InternalTopicWait is for how long after its start a broker that is asked for an internal topic waits for three
	// live brokers before it makes one with fewer replicas: in a cluster that is just starting the first consumer
	// must not decide that. Default 3 s; negative: never.
	InternalTopicWait time.Duration

	// GroupInitialRebalanceDelay is how long an empty consumer group waits for more members after the first one. Default 3 s;
	// negative: it does not.
	GroupInitialRebalanceDelay time.Duration
	// GroupMinSession and GroupMaxSession bound the session timeout that a group's member may ask for. Defaults 6 s and
	// 30 min.
	GroupMinSession, GroupMaxSession time.Duration
	// GroupMaxSize bounds the members of a group. Default: by what their metadata takes (8 MiB) only.
	GroupMaxSize int
	// GroupConsumerSession and GroupConsumerHeartbeat are what members of groups of the new protocol (KIP-848) are held to: how long one may be
	// silent, and how often it shall speak. Defaults 45 s and 5 s.
	GroupConsumerSession, GroupConsumerHeartbeat time.Duration
	// GroupConsumerMaxSize bounds the members of such a group. Default: by what they take (8 MiB) only.
	GroupConsumerMaxSize int
	// GroupConsumerMigration says which groups may change their protocol while they have members: "bidirectional", the default,
	// "upgrade", "downgrade" or "disabled".
	GroupConsumerMigration string
	// OffsetsRetention is how long committed offsets are kept after their group became empty. Default 7 days.
	OffsetsRetention time.Duration

	// TxnPartitions is the partition count of __transaction_state, which cannot change later. Default 16.
	TxnPartitions int32
	// TxnMaxTimeout bounds the timeout that a transactional producer may ask for. Default 15 min.
	TxnMaxTimeout time.Duration
	// TxnIDExpiration is how long a transactional id without a transaction is remembered. Default 7 days.
	TxnIDExpiration time.Duration
	// ProducerIDExpiration is how long an idle producer's sequence numbers are remembered. Default 24 h.
	ProducerIDExpiration time.Duration

	// MaxConnections bounds client connections. Default 10,000. MaxConnectionsPerIP bounds those of one address (in IPv6 of one /64); 0: it
	// does not.
	MaxConnections, MaxConnectionsPerIP int
	// ConnectionRate bounds the new connections per second, which wait then; ConnectionRatePerIP those of one address, which are closed.
	// 0: unbounded.
	ConnectionRate, ConnectionRatePerIP float64
	// ConnectionMemory bounds what the produce requests of one connection may hold. Default: an eighth of MaxMemory. A single larger
	// request still passes.
	ConnectionMemory int64
	// MaxRequestBytes bounds one request frame. Default 100 MiB.
	MaxRequestBytes int
	// SegmentBytes is the size at which a partition's segment file is rolled. Default 128 MiB.
	SegmentBytes int64
	// DisableDirectIO has segments written and read through the page cache even where the file system can do without.
	DisableDirectIO bool
	// DisableAsyncIO has every log synced by a system call of its own even where the system takes the writes of many with one.
	DisableAsyncIO bool
	// RetentionCheck is how often records are looked for that retention.ms and retention.bytes of their topic let go. Default 5
	// min.
	RetentionCheck time.Duration
	// DisableCleaner switches compaction off (Kafka's log.cleaner.enable). CleanerPause is how long the cleaner rests when nothing is left to do;
	// default 15 s. CleanerMemory bounds its memory for keys, 24 bytes each; default 128 MiB, of which only what is needed is taken. CleanerRate
	// bounds what it reads and writes in a second; default 64 MiB; negative: no limit.
	DisableCleaner bool
	CleanerPause   time.Duration
	CleanerMemory  int64
	CleanerRate    int64
	// KeyMemory bounds the tables of keys of topics with balsa.conditional.append that this broker leads, about 48 bytes a key; default 256 MiB, of
	// which only what is needed is taken.
	KeyMemory int64
	// SnapshotRate is how many bytes of snapshots a second this broker sends to others. Default 64 MiB; negative: no limit.
	SnapshotRate int64
	// ScrubInterval is in what time all logs should be verified once, in the background. Default 7 days.
	ScrubInterval time.Duration
	// ScrubRate is how many bytes a second that may read at most, which makes it last longer where there is too much for the
	// interval. Default 16 MiB; negative: nothing is verified but what is read anyway.
	ScrubRate int64
	// CacheBytes bounds the memory that keeps the hot tails of all logs. Default 64 MiB.
	CacheBytes int64
	// MaxMemory bounds what requests in flight may hold. Default 256 MiB.
	MaxMemory int64
	// Workers drive the Raft groups. Default: one per CPU, at most 16.
	Workers int
	// OpenParallel bounds how many replicas are opened or removed at once. Default 16.
	OpenParallel int
	// MovesParallel bounds the partitions whose new replicas this broker catches up at once, as their leader. Default 10.
	MovesParallel int
	// MoveRate bounds, in bytes per second, what this broker sends to new replicas before they keep up. Default 64 MiB;
	// negative: no bound.
	MoveRate int64
	// CloseTimeout bounds how long Close tries to hand leadership over. Default 2 s; negative: it does not try.
	CloseTimeout time.Duration

	// Logger receives the broker's log. Default: slog.Default().
	Logger *slog.Logger

	// Seams for tests. FS nil: the real file system. HardStates nil: the journal in DataDir/journal, which always
	// lives on the real file system. Clock nil: CLOCK_BOOTTIME. Network nil: TCP as the machine has it.
	FS         vfs.FS
	HardStates multi.HardStateStore
	Clock      multi.Clock
	Network    Network
}

// Network is how a broker is reached and reaches others. TLS goes through it.
type Network interface {
	// Listen binds an address, host:port; port 0 stands for a free one.
	Listen(addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// tcp is the Network of everyday.
type tcp struct{ net.Dialer }

func newTCP() *tcp { return &tcp{net.Dialer{Control: resendPromptly}} }

func (*tcp) Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return sock.Listener{Listener: ln}, nil
}

func (t *tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := t.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return sock.Wrap(c), nil
}

// Values of Config.ReadConsistency.
const (
	// ReadLease: the leader's lease, and a quorum only without one. It trusts that clocks drift by less than
	// ClockDrift, and that a machine that was stopped knows it.
	ReadLease = "lease"
	// ReadQuorum: a quorum in each case, once for all that wait. No clock matters.
	ReadQuorum = "quorum"
)

// ErrConfig is what every refusal of a configuration wraps.
var ErrConfig = errors.New("invalid configuration")

func (c Config) withDefaults() Config {
	def(&c.Listen, "127.0.0.1:9092")
	def(&c.ListenRPC, "127.0.0.1:9192")
	def(&c.JoinTimeout, time.Minute)
	def(&c.AuthTimeout, 10*time.Second)
	def(&c.ElectionTimeout, time.Second)
	def(&c.HeartbeatInterval, c.ElectionTimeout/10)
	def(&c.ClockDrift, c.ElectionTimeout/10)
	def(&c.ReadConsistency, ReadLease)
	def(&c.SessionTimeout, 5*c.ElectionTimeout)
	def(&c.LeaderBalanceInterval, time.Minute)
	def(&c.SlowSync, 2*c.ElectionTimeout)
	def(&c.SlowElection, 2*c.ElectionTimeout)
	def(&c.Partitions, 1)
	def(&c.OffsetsPartitions, 16)
	def(&c.TxnPartitions, 16)
	def(&c.TxnMaxTimeout, 15*time.Minute)
	def(&c.TxnIDExpiration, 7*24*time.Hour)
	def(&c.ProducerIDExpiration, 24*time.Hour)
	def(&c.InternalTopicWait, 3*time.Second)
	def(&c.GroupInitialRebalanceDelay, 3*time.Second)
	def(&c.GroupMinSession, 6*time.Second)
	def(&c.GroupMaxSession, 30*time.Minute)
	def(&c.GroupMaxSize, math.MaxInt32)
	def(&c.GroupConsumerSession, 45*time.Second)
	def(&c.GroupConsumerHeartbeat, 5*time.Second)
	def(&c.GroupConsumerMaxSize, math.MaxInt32)
	def(&c.GroupConsumerMigration, string(coordinator.MigrateBoth))
	def(&c.OffsetsRetention, 7*24*time.Hour)
	def(&c.MaxConnections, 10_000)
	def(&c.MaxRequestBytes, 100<<20)
	def(&c.SegmentBytes, 128<<20)
	def(&c.RetentionCheck, 5*time.Minute)
	def(&c.CleanerPause, 15*time.Second)
	def(&c.CleanerMemory, 128<<20)
	def(&c.KeyMemory, 256<<20)
	def(&c.CleanerRate, 64<<20)
	def(&c.SnapshotRate, 64<<20)
	def(&c.ScrubInterval, 7*24*time.Hour)
	def(&c.ScrubRate, 16<<20)
	def(&c.CacheBytes, 64<<20)
	def(&c.MaxMemory, 256<<20)
	def(&c.Workers, min(16, runtime.GOMAXPROCS(0)))
	def(&c.OpenParallel, 16)
	def(&c.MovesParallel, 10)
	def(&c.MoveRate, 64<<20)
	def(&c.CloseTimeout, 2*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Network == nil {
		c.Network = newTCP()
	}
	return c
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Validate says what is wrong with a configuration, all of it at once, each line with the field that mends it.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
		}
	}
	check(c.DataDir != "", "DataDir is empty: name a directory for the broker's data")
	type address struct{ field, listen, advertise string }
	addresses := []address{{"ListenRPC", c.ListenRPC, c.AdvertiseRPC}}
	for _, l := range c.listeners() {
		field := "Listen"
		if len(c.Listeners) > 0 {
			field = "listener " + l.Name
		}
		addresses = append(addresses, address{field, l.Listen, l.Advertise})
	}
	errs = append(errs, c.checkListeners()...)
	errs = append(errs, c.checkSecurity()...)
	errs = append(errs, c.checkLimits()...)
	for _, a := range addresses {
		host, port, err := splitAddr(a.listen)
		check(err == nil, "%s %q: %v", a.field, a.listen, err)
		check(err != nil || port >= 0, "%s %q has no port", a.field, a.listen)
		ip := net.ParseIP(host)
		check(err != nil || a.advertise != "" || (host != "" && (ip == nil || !ip.IsUnspecified())),
			"%s %q listens everywhere, which is no address to give away: set the advertised address too", a.field, a.listen)
		if a.advertise != "" {
			h, _, err := splitAddr(a.advertise)
			ip := net.ParseIP(h)
			check(err == nil && h != "" && (ip == nil || !ip.IsUnspecified()), "the advertised address %q of %s must be host or host:port", a.advertise, a.field)
		}
	}
	if adminListens(c.AdminListen) {
		_, port, err := splitAddr(c.AdminListen)
		check(err == nil && port >= 0, "AdminListen %q must be host:port, or %q", c.AdminListen, adminOff)
	}
	check(c.FlightRecorderBytes == 0 || c.FlightRecorderBytes >= minFlightBytes && c.FlightRecorderBytes <= maxFlightBytes,
		"FlightRecorderBytes %d is neither 0 nor in [%d, %d]", c.FlightRecorderBytes, minFlightBytes, maxFlightBytes)
	check(c.MetricsGroups >= 0 && c.MetricsGroups <= maxMetricsGroups, "MetricsGroups %d is not in [0, %d]", c.MetricsGroups, maxMetricsGroups)
	for _, s := range c.Join {
		h, p, err := splitAddr(s)
		check(err == nil && h != "" && p > 0, "Join address %q must be host:port of another broker's RPC listener", s)
	}
	if _, err := c.replaces(); err != nil {
		check(false, "ReplaceDisk %q is no incarnation: 16 hexadecimal digits", c.ReplaceDisk)
	}
	check(c.ReplaceDisk == "" || c.NodeID != 0, "ReplaceDisk needs NodeID")
	check(c.NodeID >= 0, "NodeID %d is negative", c.NodeID)
	check(len(c.ClusterID) <= 255, "ClusterID is %d bytes long, at most 255", len(c.ClusterID))
	check(len(c.Rack) <= 255, "Rack is %d bytes long, at most 255", len(c.Rack))
	check(c.HeartbeatInterval > 0 && c.ElectionTimeout >= 4*c.HeartbeatInterval, "ElectionTimeout %v must be at least 4 times HeartbeatInterval %v", c.ElectionTimeout, c.HeartbeatInterval)
	check(c.ElectionTimeout <= time.Minute, "ElectionTimeout %v is above a minute", c.ElectionTimeout)
	check(c.ClockDrift > 0 && c.ClockDrift <= c.ElectionTimeout/2, "ClockDrift %v must be above 0 and at most half of ElectionTimeout %v", c.ClockDrift, c.ElectionTimeout)
	check(c.ReadConsistency == ReadLease || c.ReadConsistency == ReadQuorum, "ReadConsistency %q must be %s or %s", c.ReadConsistency, ReadLease, ReadQuorum)
	check(c.SessionTimeout >= c.ElectionTimeout, "SessionTimeout %v is below ElectionTimeout %v", c.SessionTimeout, c.ElectionTimeout)
	check(c.FS == nil || c.HardStates != nil, "FS is set without HardStates: the journal lives on the real file system only")
	check(c.LeaderBalanceInterval > 0, "LeaderBalanceInterval %v is negative", c.LeaderBalanceInterval)
	check(c.JoinTimeout > 0, "JoinTimeout %v is negative", c.JoinTimeout)
	check(c.Partitions > 0 && c.Partitions <= coordinator.MaxPartitionsPerTopic, "Partitions %d is not in [1, %d]", c.Partitions, coordinator.MaxPartitionsPerTopic)
	check(c.OffsetsPartitions > 0 && c.OffsetsPartitions <= 1000, "OffsetsPartitions %d is not in [1, 1000]", c.OffsetsPartitions)
	check(c.GroupMinSession > 0 && c.GroupMinSession <= c.GroupMaxSession, "GroupMinSession %v is not in (0, GroupMaxSession %v]", c.GroupMinSession, c.GroupMaxSession)
	check(c.GroupMaxSession <= 24*time.Hour, "GroupMaxSession %v is above a day", c.GroupMaxSession)
	check(c.GroupMaxSize > 0, "GroupMaxSize %d is negative", c.GroupMaxSize)
	check(c.GroupConsumerHeartbeat >= time.Millisecond && c.GroupConsumerHeartbeat < c.GroupConsumerSession, "GroupConsumerHeartbeat %v is not in [1ms, GroupConsumerSession %v)",
		c.GroupConsumerHeartbeat, c.GroupConsumerSession)
	check(c.GroupConsumerSession <= 24*time.Hour, "GroupConsumerSession %v is above a day", c.GroupConsumerSession)
	check(c.GroupConsumerMaxSize > 0, "GroupConsumerMaxSize %d is negative", c.GroupConsumerMaxSize)
	check(slices.Contains([]coordinator.Migration{coordinator.MigrateBoth, coordinator.MigrateUp, coordinator.MigrateDown, coordinator.MigrateNone}, coordinator.Migration(c.GroupConsumerMigration)),
		"GroupConsumerMigration %q is not bidirectional, upgrade, downgrade or disabled", c.GroupConsumerMigration)
	check(c.TxnPartitions > 0 && c.TxnPartitions <= 1000, "TxnPartitions %d is not in [1, 1000]", c.TxnPartitions)
	check(c.TxnMaxTimeout > 0 && c.TxnMaxTimeout.Milliseconds() <= math.MaxInt32, "TxnMaxTimeout %v is out of range", c.TxnMaxTimeout)
	check(c.TxnIDExpiration > 0, "TxnIDExpiration %v is negative", c.TxnIDExpiration)
	check(c.ProducerIDExpiration >= time.Second, "ProducerIDExpiration %v is below a second", c.ProducerIDExpiration)
	check(c.OffsetsRetention > 0, "OffsetsRetention %v is negative", c.OffsetsRetention)
	check(c.ReplicationFactor >= 0 && c.ReplicationFactor <= coordinator.MaxReplicationFactor, "ReplicationFactor %d is not in [1, %d]", c.ReplicationFactor, coordinator.MaxReplicationFactor)
	check(c.MaxConnections > 0, "MaxConnections %d is negative", c.MaxConnections)
	check(c.MaxRequestBytes >= 1<<20 && c.MaxRequestBytes <= 1<<30, "MaxRequestBytes %d is not in [1 MiB, 1 GiB]", c.MaxRequestBytes)
	check(c.SegmentBytes >= 1<<20 && c.SegmentBytes <= 2<<30, "SegmentBytes %d is not in [1 MiB, 2 GiB]", c.SegmentBytes)
	check(c.RetentionCheck > 0, "RetentionCheck %v is negative", c.RetentionCheck)
	check(c.CleanerPause > 0, "CleanerPause %v is negative", c.CleanerPause)
	check(c.CleanerMemory >= 1<<10, "CleanerMemory %d is below 1 KiB", c.CleanerMemory)
	check(c.KeyMemory >= 1<<10, "KeyMemory %d is below 1 KiB", c.KeyMemory)
	check(c.CleanerRate < 0 || c.CleanerRate >= 64<<10, "CleanerRate %d is below 64 KiB", c.CleanerRate)
	check(c.SnapshotRate < 0 || c.SnapshotRate >= 64<<10, "SnapshotRate %d is below 64 KiB", c.SnapshotRate)
	check(c.ScrubInterval > 0, "ScrubInterval %v is negative", c.ScrubInterval)
	check(c.ScrubRate < 0 || c.ScrubRate >= 64<<10, "ScrubRate %d is below 64 KiB", c.ScrubRate)
	check(c.CacheBytes >= 1<<20, "CacheBytes %d is below 1 MiB", c.CacheBytes)
	check(c.MaxMemory >= int64(c.MaxRequestBytes), "MaxMemory %d is below MaxRequestBytes %d", c.MaxMemory, c.MaxRequestBytes)
	check(c.Workers > 0 && c.Workers <= 256, "Workers %d is not in [1, 256]", c.Workers)
	check(c.OpenParallel > 0 && c.OpenParallel <= 1024, "OpenParallel %d is not in [1, 1024]", c.OpenParallel)
	check(c.MovesParallel > 0 && c.MovesParallel <= maxSteps, "MovesParallel %d is not in [1, %d]", c.MovesParallel, maxSteps)
	return errors.Join(errs...)
}

// splitAddr is host and port of an address; port -1 if there is none.
func splitAddr(a string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(a)
	if err != nil {
		if ae, ok := errors.AsType[*net.AddrError](err); ok && ae.Err == "missing port in address" {
			return a, -1, nil
		}
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q is not in [0, 65535]", p)
	}
	return host, int(n), nil
}

// advertised is the address to give away for a listener that bound to bound.
func advertised(want, bound string) (host string, port int) {
	host, port, _ = splitAddr(bound)
	if want != "" {
		h, p, _ := splitAddr(want)
		host = h
		if p > 0 {
			port = p
		}
	}
	return host, port
}

// timing is what the cluster's loops run by.
func (c *Config) controllerTick() time.Duration {
	return max(min(c.SessionTimeout/10, c.ElectionTimeout/5), 10*time.Millisecond)
}

// replaces is ReplaceDisk; 0: none.
func (c *Config) replaces() (raft.Incarnation, error) {
	if c.ReplaceDisk == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(c.ReplaceDisk, 16, 64)
	return raft.Incarnation(n), err
}

func (c *Config) nodeID() raft.NodeID { return raft.NodeID(c.NodeID) }
