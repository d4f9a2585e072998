// The broker as a whole: what it consists of, the order in which that starts, and the order in which it stops.
//
// Starting: data directory, listeners (bound, not served), place in the cluster (founded, joined or remembered), journal and
// Raft host, metadata group, heartbeats, replicas, registration, and last the Kafka listener: a client that gets
// through finds a broker that knows its cluster. Stopping goes the other way, after leadership was handed over.

package broker

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/multi/journal"
	"github.com/balsamq/balsa/raft/transport"
	"github.com/balsamq/balsa/segment"
)

// Broker is a running broker.
type Broker struct {
	cfg   Config // with defaults
	given Config // as it was given
	log   *slog.Logger

	store      *storage
	endpoints  []coordinator.Endpoint
	rpcAddr    string
	known      []knownPeer // peers known before the Image is: from the cache, or from joining
	kafka      []kafkaListener
	certs      []*certStore // of all that speak TLS
	rpcCerts   *certStore   // nil: brokers do not speak TLS to each other
	openCalls  openCalls
	adminTLS   *tls.Config // nil: nor does the admin listener
	security   serverSecurity
	tr         *transport.Transport
	hardStates multi.HardStateStore
	host       *multi.Host
	md         *coordinator.Metadata
	meta       *metaGroup
	ctl        *coordinator.Controller
	peers      *peers
	rec        *reconciler
	mover      *mover
	teller     *teller
	scrub      *scrubber
	cleaner    *cleaner // nil: nothing is compacted
	bridges    *bridges
	reads      *readAsker
	keys       *partition.KeyMemory
	server     *server
	adm        *adminServer // nil without an admin listener
	met        *metrics
	flight     *flight
	cache      *segment.Cache
	clock      multi.Clock
	pids       producerIDs
	groups     *coordinator.Groups
	txns       *coordinator.Txns
	ensuring   atomic.Bool // __consumer_offsets is being created
	// ensuringTxn: so is __transaction_state
	ensuringTxn atomic.Bool
	// ensuringBridges: and __balsa_bridges
	ensuringBridges atomic.Bool
	verifying       atomic.Int64 // questions to coordinators of transactions that are on their way
	outliving       sync.Once    // see outlived
	aged            sync.Once    // see askPast
	balancer        balancer
	logs            *loggers
	configured      configured    // configure's own
	reconfigure     chan struct{} // capacity 1: configs of brokers have changed
	leaving         atomic.Bool   // leadership is given away, and none is taken any more
	admins          *semaphore.Weighted

	addrMu sync.RWMutex // guards addrs; a leaf
	addrs  map[raft.NodeID]string

	starting starting
	tick     chan struct{} // capacity 1: the controller has something to look at
	fatal    chan error    // capacity 1
	failed   atomic.Pointer[error]
	ctx      context.Context
	cancel   context.CancelFunc

	life    sync.Mutex // guards closing, closers; wg.Go happens under it, so that Close misses nobody
	closing bool
	closers []func() error // run in reverse order
	wg      sync.WaitGroup // admin requests and background loops
	closed  sync.Once
	err     error
}

// Start starts a broker and returns when it serves: it belongs to a cluster, and its metadata is current. ctx bounds the start,
// not the broker's life. After an error nothing is left running.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	b, err := start(ctx, cfg)
	if errors.Is(err, ErrOutlived) {
		return start(ctx, cfg) // its metadata log is set aside by this one
	}
	return b, err
}

func start(ctx context.Context, cfg Config) (_ *Broker, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	b := &Broker{given: cfg, cfg: cfg.withDefaults(), starting: starting{began: time.Now()}, md: coordinator.NewMetadata(), admins: newAdmins(), met: newMetrics(),
		addrs: make(map[raft.NodeID]string), tick: make(chan struct{}, 1), fatal: make(chan error, 1), reconfigure: make(chan struct{}, 1)}
	b.logs = newLoggers(b.cfg.Logger)
	b.log = b.logs.named("broker", b.cfg.Logger.Handler())
	b.ctx, b.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, b.shutdown())
		}
	}()
	if err := b.openStore(); err != nil {
		return nil, err
	}
	b.starting.reached(startedDirectory)
	b.flight = newFlight(b.store.fs, b.store.dir, b.log, max(b.cfg.SlowSync, 0), max(b.cfg.SlowElection, 0))
	b.flight.record(b.cfg.FlightRecorderBytes)
	b.onClose(b.flight.close)
	if err := b.listen(); err != nil {
		return nil, err
	}
	if b.adm != nil {
		b.adm.start()
	}
	if err := b.takePlace(ctx); err != nil {
		return nil, err
	}
	b.log = b.log.With("node", b.NodeID())
	if err := b.startRaft(); err != nil {
		return nil, err
	}
	b.adm.set(adminRaft)
	if err := b.awaitRegistration(ctx); err != nil {
		return nil, err
	}
	if err := b.ensureFirstUser(ctx); err != nil {
		return nil, err
	}
	b.server = newServer(b, serverOptions{MaxRequestBytes: b.cfg.MaxRequestBytes, RequestMemory: b.cfg.MaxMemory / 2, FetchMemory: b.cfg.MaxMemory / 2,
		MaxConnections: b.cfg.MaxConnections, MaxConnectionsPerIP: b.cfg.MaxConnectionsPerIP, ConnectionRate: b.cfg.ConnectionRate,
		ConnectionRatePerIP: b.cfg.ConnectionRatePerIP, ConnectionMemory: b.cfg.ConnectionMemory, Metrics: b.met, Security: b.security}, b.logOf("kafka"))
	b.configure() // what was set dynamically holds before the first client comes
	b.spawn(b.configureLoop)
	for _, l := range b.kafka {
		b.server.Serve(l.ln, l.Listener)
	}
	b.onClose(func() error { b.server.Close(); return nil })
	b.spawn(func() { b.bridges.run(b.ctx) }) // they are this server's clients
	b.adm.set(adminReady)
	b.log.Info("broker is ready", "cluster", b.ClusterID(), "kafka", b.KafkaAddr(), "rpc", b.rpcAddr, "admin", b.AdminAddr(), "data", b.store.dir,
		"incarnation", fmt.Sprintf("%016x", uint64(b.store.id.Incarnation)), "boot", b.store.id.Boots,
		"took", b.starting.reached(startedReady))
	return b, nil
}

// logOf is the logger of a part of the broker: see loggers.go.
func (b *Broker) logOf(part string) *slog.Logger { return b.logs.named(part, b.log.Handler()) }

// Loggers implements backend.
func (b *Broker) Loggers() *loggers { return b.logs }

// onClose adds what has to be undone at the end.
func (b *Broker) onClose(fn func() error) {
	b.life.Lock()
	defer b.life.Unlock()
	b.closers = append(b.closers, fn)
}

// spawn starts a background loop that ends with b.ctx.
func (b *Broker) spawn(fn func()) {
	b.life.Lock()
	defer b.life.Unlock()
	if !b.closing {
		b.wg.Go(fn)
	}
}

func (b *Broker) openStore() error {
	fsys, dir := b.cfg.FS, b.cfg.DataDir
	if fsys == nil {
		fsys = vfs.OS()
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDataDir, dir, err)
		}
		dir = filepath.ToSlash(abs)
	}
	var err error
	if b.store, err = openStorage(fsys, dir); err != nil {
		return err
	}
	b.onClose(b.store.close)
	return b.store.check(&b.cfg)
}

// listen binds all listeners, so that their addresses are known; nothing is accepted yet.
func (b *Broker) listen() error {
	bind := func(what, field, addr string) (net.Listener, error) {
		if host, port, err := splitAddr(addr); err == nil && port < 0 {
			addr = net.JoinHostPort(host, "0")
		}
		ln, err := b.cfg.Network.Listen(addr)
		if err != nil {
			advice := "choose an address that this machine has, or 0.0.0.0 for all of them"
			if errors.Is(err, syscall.EADDRINUSE) {
				advice = "stop what has the port, or choose another address"
			}
			return nil, fmt.Errorf("listen for %s on %s: %w: %s (%s)", what, addr, err, advice, field)
		}
		b.onClose(func() error { _ = ln.Close(); return nil }) // whoever serves it has closed it already
		return ln, nil
	}
	if err := b.openSecurity(); err != nil {
		return err
	}
	rpcLn, err := bind("other brokers", "ListenRPC", b.cfg.ListenRPC)
	if err != nil {
		return err
	}
	for _, l := range b.cfg.listeners() {
		field := "Listen"
		if len(b.cfg.Listeners) > 0 {
			field = "listener " + l.Name
		}
		ln, err := bind("Kafka clients", field, l.Listen)
		if err != nil {
			return err
		}
		b.kafka = append(b.kafka, kafkaListener{l, ln})
		b.endpoints = append(b.endpoints, b.kafka[len(b.kafka)-1].endpoint())
	}
	host, port := advertised(b.cfg.AdvertiseRPC, rpcLn.Addr().String())
	b.rpcAddr = net.JoinHostPort(host, strconv.Itoa(port))
	host = b.endpoints[0].Host
	if adminListens(b.cfg.AdminListen) {
		ln, err := bind("administration", "AdminListen", b.cfg.AdminListen)
		if err != nil {
			return err
		}
		b.adm = newAdminServer(b, ln, host)
		if b.adminTLS != nil {
			b.adm.useTLS(b.adminTLS)
		}
		b.onClose(b.adm.close)
		if !b.adm.loopback && (b.adminTLS == nil || b.cfg.AdminTLS.clientAuth() != ClientAuthRequired) {
			b.log.Warn("the admin listener can be reached from other machines and asks nobody who they are: let only operators through to it", "addr", b.adm.addr)
		}
	}
	b.tr, err = transport.New(transport.Options{
		ClusterID: transportCluster(b.store.id.ClusterID), Self: b.self(), Boot: b.store.id.Boots, Listener: b.rpcListener(rpcLn), Dial: b.rpcDial(),
		Resolve:      b.resolve,
		Deliver:      func(msgs []raft.Message) { b.host.Deliver(msgs) },
		DeliverPair:  func(from raft.NodeID, m *multi.PairMessage) { b.host.DeliverPair(from, m) },
		DeliverChunk: func(from raft.NodeID, m *multi.ChunkMessage) { b.host.DeliverChunk(from, m) },
		OnUnreachable: func(id raft.NodeID) {
			if b.host != nil {
				b.host.PeerUnreachable(id)
			}
		},
		Logger: b.logOf("transport"),
	})
	if err != nil {
		return err
	}
	b.onClose(b.tr.Close)
	return nil
}

// transportCluster is the cluster's name for the handshake: of fixed size, whatever people chose.
func transportCluster(id string) (c transport.ClusterID) {
	if id != "" {
		sum := sha256.Sum256([]byte(id))
		copy(c[:], sum[:])
	}
	return c
}

func (b *Broker) self() raft.Member {
	return raft.Member{ID: b.store.id.NodeID, Incarnation: b.store.id.Incarnation}
}

func (b *Broker) resolve(id raft.NodeID) (string, bool) {
	b.addrMu.RLock()
	defer b.addrMu.RUnlock()
	addr, ok := b.addrs[id]
	return addr, ok
}

func (b *Broker) setAddr(id raft.NodeID, addr string) {
	b.addrMu.Lock()
	defer b.addrMu.Unlock()
	b.addrs[id] = addr
}

// takePlace makes sure that the data directory belongs to a cluster. A cluster is founded once, explicitly: by a broker
// with an empty directory and nobody to join.
func (b *Broker) takePlace(ctx context.Context) error {
	switch {
	case b.store.id.joined():
		b.known = b.store.loadPeers()
	case len(b.cfg.Join) > 0:
		if err := b.join(ctx); err != nil {
			return err
		}
	default:
		node, cluster := b.cfg.nodeID(), b.cfg.ClusterID
		def(&node, 1)
		if cluster == "" {
			cluster = newClusterID()
		}
		if err := b.store.join(cluster, node, raft.Member{ID: node, Incarnation: b.store.id.Incarnation}); err != nil {
			return err
		}
		b.log.Info("founding a new cluster", "cluster", cluster, "node", node, "data", b.store.dir)
	}
	b.tr.SetIdentity(transportCluster(b.store.id.ClusterID), b.self())
	return nil
}

// startRaft starts everything up to the replicas.
func (b *Broker) startRaft() (err error) {
	id := &b.store.id
	if b.hardStates = b.cfg.HardStates; b.hardStates == nil {
		dir := filepath.Join(filepath.FromSlash(b.store.dir), "journal")
		if err := b.store.checkJournal(); err != nil {
			return err
		}
		j, err := journal.Open(dir, journal.Options{Logger: b.logOf("journal")})
		if err != nil {
			return fmt.Errorf("open the journal of terms and votes %s: %w", dir, err)
		}
		b.onClose(j.Close)
		b.hardStates = j
	}
	took := b.starting.reached(startedJournal)
	if j, ok := b.hardStates.(*journal.Journal); ok {
		b.log.Info("the journal of terms and votes is replayed", "groups", len(j.Groups()), "took", took)
	}
	if b.clock = b.cfg.Clock; b.clock == nil {
		b.clock = multi.BootClock{}
	}
	b.teller = &teller{kick: make(chan struct{}, 1), again: make(map[raft.GroupID]struct{}), interval: b.cfg.HeartbeatInterval}
	b.host, err = multi.NewHost(multi.Options{
		Self: b.self(), Boot: id.Boots, Workers: b.cfg.Workers,
		ElectionTimeout: b.cfg.ElectionTimeout, HeartbeatInterval: b.cfg.HeartbeatInterval, ClockDrift: b.cfg.ClockDrift,
		Clock: b.clock, Transport: b.tr, HardStates: timedStore{b.hardStates, b.met}, Observer: observer{b.met, b.flight}, Logger: b.logOf("raft"), Seed: rand.Uint64(), OnFatal: b.onFatal,
		OnPeersMoved: func() { b.teller.poke() },
		LearnerRate:  max(b.cfg.MoveRate, 0), SnapshotRate: b.cfg.SnapshotRate, MaxSnapshotBytes: maxCleanedSnapshot, NewSyncBatch: b.syncBatches(),
	})
	if err != nil {
		return err
	}
	b.host.Start()
	b.onClose(b.host.Close)
	b.flight.oldest = b.host.OldestSync
	b.spawn(func() { b.flight.loop(b.ctx.Done()) })

	b.cache = segment.NewCache(b.cfg.CacheBytes)
	bootstrap, campaign := raft.ConfState{Voters: []raft.Member{id.Founder}}, id.Founder == b.self()
	if id.MetadataEpoch > 0 {
		bootstrap, campaign = raft.ConfState{}, false // whoever leads now tells
	}
	b.meta = &metaGroup{
		fs: b.store.fs, dir: b.store.groupDir(raft.MetadataGroup), host: b.host, md: b.md, log: b.log,
		epoch: id.MetadataEpoch, hardState: b.hardStates.Load, forget: b.hardStates.Delete,
		segment:   segment.Options{SegmentBytes: metaSegmentBytes, Cache: b.cache, ZeroAhead: zeroAhead, Direct: !b.cfg.DisableDirectIO},
		bootstrap: bootstrap,
		campaign:  campaign,
		caughtUp:  func(v raft.Index) []raft.NodeID { return b.peers.withImage(v) },
		remote:    b.askReadIndex,
		quorum:    b.cfg.ReadConsistency == ReadQuorum,
		others:    len(b.known) > 0 || len(b.cfg.Join) > 0,
	}
	b.balancer.kick = make(chan struct{}, 1)
	b.balancer.off.Store(b.cfg.DisableLeaderBalance)
	b.peers = newPeers(peersConfig{
		self: id, addr: b.rpcAddr, interval: b.cfg.HeartbeatInterval, timeout: b.cfg.ElectionTimeout, caller: b.tr,
		setAddr: b.setAddr, image: b.Image, epochs: b.meta.epochs, outlived: b.outlived, log: b.log,
		heard: func(n raft.NodeID, inc raft.Incarnation) { b.ctl.Heard(n, inc) },
		ask:   b.askPast,
	})
	b.ctl = coordinator.NewController(coordinator.ControllerConfig{
		Self: id.NodeID, Session: b.cfg.SessionTimeout, Doubt: b.cfg.ElectionTimeout / 2, Now: b.clock.Now, Seed: rand.Uint64(), Logger: b.logOf("coordinator"),
		Supports: b.askFeatures}, b.md, b.meta)
	b.keys = partition.NewKeyMemory(b.cfg.KeyMemory)
	b.reads = newReadAsker(b.ctx, b.tr, b.cfg.ElectionTimeout)
	b.onClose(func() error { b.reads.close(); return nil })
	b.rec = &reconciler{
		self: b.self(), store: b.store, image: b.Image, log: b.logOf("partition"), parallel: b.cfg.OpenParallel,
		hardState: b.hardStates.Load,
		forget:    b.hardStates.Delete,
		change:    b.change,
		leads:     b.peers.leadership,
		offsets:   b.offsetsLeadership,
		txns:      b.txnLeadership,
		quorum:    b.cfg.ReadConsistency == ReadQuorum,
		opened:    b.logsOpen,
		open: func(c partition.Config) (*partition.Replica, error) {
			c.Host, c.ReadIndex, c.Verify, c.Keys = b.host, b.reads.ask, b.verifyTxn, b.keys
			c.Priorities = b.priorities(c.Group)
			c.CommitDelay = b.cfg.HeartbeatInterval / 2
			c.OnFull = func(rep *partition.Replica) { b.balancer.full(rep.GroupID()) }
			c.Segment = segment.Options{SegmentBytes: b.cfg.SegmentBytes, Cache: b.cache, ZeroAhead: zeroAhead, Direct: !b.cfg.DisableDirectIO, Pads: b.mayPad}
			return partition.Open(c)
		},
	}
	if !b.cfg.DisableCleaner {
		b.cleaner = b.newCleaner()
	}
	b.scrub = &scrubber{store: b.store, replicas: b.rec.replicas, meta: b.meta.segments.Load, rate: b.cfg.ScrubRate, interval: b.cfg.ScrubInterval, log: b.log}
	b.bridges = newBridges(b)
	b.rec.interval.Store(int64(b.cfg.RetentionCheck))
	b.rec.expiry.Store(int64(b.cfg.ProducerIDExpiration))
	b.mover = newMover(mover{image: b.Image, replica: b.rec.replica, led: b.peers.table.led, change: b.change, interval: max(b.cfg.ElectionTimeout/5, 10*time.Millisecond),
		parallel: b.cfg.MovesParallel, log: b.log})
	b.md.OnChange(func(old, now *coordinator.Image) {
		b.meta.changed()
		b.peers.imageChanged(old, now)
		b.rec.poke()
		b.mover.poke()
		b.groupTopicsChanged(old, now)
		if !slices.Equal(old.Brokers(), now.Brokers()) {
			b.poke()
		}
		b.balancer.poke()
		if now.BridgeVersion() != old.BridgeVersion() {
			b.bridges.poke()
			b.poke() // the controller may have one to give away
		}
		if now.ConfigVersion() != old.ConfigVersion() {
			b.configsChanged()
		}
		if now.Feature(metadataVersion) < old.Feature(metadataVersion) {
			b.meta.snapshot() // so that a start of an older version finds nothing in the log that it does not know
		}
	})
	b.md.OnLeadership(func(multi.Status) { b.poke() })

	b.groups = b.newGroups()
	b.groups.Start()
	b.txns = b.newTxns()
	b.txns.Start()
	b.rec.start() // before the metadata group, which pokes it
	b.onClose(b.rec.close)
	b.onClose(b.groups.Close)
	b.onClose(b.txns.Close)
	b.onClose(func() error { b.peers.close(); return nil })
	for _, p := range b.known {
		b.peers.remember(&p)
		b.peers.learn(p.ID, p.Addr)
	}
	for _, method := range []uint16{methodJoin, methodHeartbeat, methodForward, methodReadIndex, methodDescribe, methodReportGroup, methodResetMetadata, methodReadIndexes, methodProgress, methodWriteMarkers, methodAddToTxn, methodTransfer,
		methodFeatures, methodBridges, methodInSync, methodNamed} {
		b.tr.Handle(method, func(ctx context.Context, from transport.Caller, body []byte) ([]byte, error) {
			return b.serveRPC(ctx, from, method, body)
		})
	}
	if err := b.meta.open(); err != nil {
		return err
	}
	b.starting.reached(startedMetadata)
	b.onClose(b.meta.close)
	b.tr.Start()
	b.spawn(b.control)
	b.spawn(func() { b.mover.run(b.ctx) })
	b.teller.host, b.teller.replica, b.teller.tell = b.host, b.rec.replica, b.peers.inSync
	b.spawn(func() { b.teller.run(b.ctx) })
	b.spawn(b.balance)
	b.spawn(func() { b.rec.housekeeping(b.ctx) })
	b.spawn(func() { b.scrub.run(b.ctx) })
	if b.cleaner != nil {
		b.spawn(func() { b.cleaner.run(b.ctx) })
	}
	return nil
}

// awaitRegistration registers this start, however long the metadata group needs to come together.
func (b *Broker) awaitRegistration(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- b.register(ctx) }()
	notice := time.NewTicker(5 * time.Second)
	defer notice.Stop()
	for {
		select {
		case err := <-done:
			return err
		case err := <-b.fatal:
			return err
		case <-notice.C:
			leader, _ := b.meta.Leader()
			b.log.Warn("waiting for the metadata group: a majority of its voters must be running", "leader", leader, "version", b.Image().Version(),
				"peers", b.peers.addresses())
		}
	}
}

func (b *Broker) poke() {
	select {
	case b.tick <- struct{}{}:
	default:
	}
}

// control runs the controller, and keeps the cache of addresses.
func (b *Broker) control() {
	ticker := time.NewTicker(b.cfg.controllerTick())
	defer ticker.Stop()
	var saved []knownPeer
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-ticker.C:
		case <-b.tick:
		}
		ctx, cancel := context.WithTimeout(b.ctx, b.cfg.SessionTimeout)
		if err := b.ctl.Tick(ctx); err != nil && b.ctx.Err() == nil {
			b.log.Warn("the controller could not do all it wanted; it will try again", "err", err)
		}
		cancel()
		if now := b.peers.known(); !slices.Equal(now, saved) {
			if err := b.store.savePeers(now); err != nil {
				b.log.Warn("cannot write the cache of the other brokers' addresses", "err", err)
				continue
			}
			saved = now
		}
	}
}

func (b *Broker) onFatal(err error) {
	b.log.Error("the broker is of no more use and must be restarted", "err", err)
	b.failed.Store(&err)
	select {
	case b.fatal <- err:
	default:
	}
}

// Fatal delivers the error after which the broker is of no more use: its journal of terms and votes has failed, or the metadata
// group has gone on without it. Whoever runs the broker closes it then, and may start it again.
func (b *Broker) Fatal() <-chan error { return b.fatal }

// ClusterID is the cluster's id.
func (b *Broker) ClusterID() string { return b.store.id.ClusterID }

// KafkaAddr is the address that Kafka clients are given, host:port: of the first listener.
func (b *Broker) KafkaAddr() string {
	return net.JoinHostPort(b.endpoints[0].Host, strconv.Itoa(int(b.endpoints[0].Port)))
}

// RPCAddr is the address that other brokers are given: what Config.Join of a new broker takes.
func (b *Broker) RPCAddr() string { return b.rpcAddr }

// AdminAddr is the address of the admin listener; empty if there is none.
func (b *Broker) AdminAddr() string {
	if b.adm == nil {
		return ""
	}
	return b.adm.addr
}

// Close hands leadership over as far as that goes within CloseTimeout, stops everything and closes the data directory. A
// second call returns what the first did.
func (b *Broker) Close() error {
	b.closed.Do(func() {
		b.log.Info("broker is stopping")
		b.adm.set(adminStopping) // of what follows, requests in progress and /healthz see as much as they can
		if b.cfg.CloseTimeout > 0 {
			b.handOver()
		}
		b.err = b.shutdown()
		b.log.Info("broker has stopped", "err", b.err)
	})
	return b.err
}

// Abort is Close without the handing over of leadership: as near to a kill -9 as a broker comes that shares its process with others. Nobody
// is told, and who stops the disk before (Config.FS) leaves what a killed process leaves.
func (b *Broker) Abort() error {
	b.closed.Do(func() { b.err = b.shutdown() })
	return b.err
}

// shutdown runs the closers, last one first.
func (b *Broker) shutdown() error {
	b.adm.set(adminStopping)
	b.life.Lock()
	b.closing = true
	closers := b.closers
	b.closers = nil
	b.life.Unlock()
	b.cancel()
	b.wg.Wait()
	var errs []error
	for _, fn := range slices.Backward(closers) {
		errs = append(errs, fn())
	}
	return errors.Join(errs...)
}
