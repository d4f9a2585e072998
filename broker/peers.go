// Brokers tell each other that they live, how far their Images are, and which groups they lead.
//
// Each broker sends every other one a heartbeat per interval, and at once when there is news. Leadership is told by the
// leader itself, once it is ready, to everyone; the highest epoch wins, so that late news does no harm, and nobody
// needs to say that it leads no more, but where no later epoch may come (insync.go). A peer that started anew (its boot count rose) is told everything again.

package broker

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

// minBeatGap is the least time between two heartbeats to one peer: news that comes in bursts goes out together.
const minBeatGap = 2 * time.Millisecond

// leaderTable is who leads which group, as far as this broker has heard. It holds an entry per group of the cluster.
type leaderTable struct {
	self raft.NodeID

	mu sync.RWMutex // protects m; a leaf
	m  map[raft.GroupID]leading
}

type leading struct {
	leader raft.NodeID // 0: nobody known in this epoch
	epoch  raft.Term
	ready  bool // it said so itself
	over   bool // who led in this epoch does not any more, and nobody else will: late news of it are not taken
}

func (t *leaderTable) get(g raft.GroupID) leading {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[g]
}

// told takes news from the leader itself.
func (t *leaderTable) told(e leaderEntry) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.m[e.group]
	if e.epoch < old.epoch || (e.epoch == old.epoch && (old.ready || old.over)) || e.leader == 0 {
		return false
	}
	t.m[e.group] = leading{leader: e.leader, epoch: e.epoch, ready: true}
	return true
}

// observed takes what this broker's own replica knows. It reports whether this broker has just become the ready leader, or has stopped being
// the leader of this epoch, of which there will be no other.
func (t *leaderTable) observed(g raft.GroupID, l partition.Leadership) (ready, ended, news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.m[g]
	epoch := raft.Term(l.Epoch)
	switch {
	case epoch < old.epoch:
		return false, false, false
	case l.Serving():
		now := leading{leader: t.self, epoch: epoch, ready: true}
		t.m[g] = now
		return true, false, now != old
	case old.leader == t.self:
		// It led and does not any more, or its log has failed. Who does will say so.
		t.m[g] = leading{epoch: epoch, over: epoch == old.epoch}
		return false, epoch == old.epoch, true
	case l.Leader != 0 && !l.Self && (epoch > old.epoch || old.leader == 0 && !old.over):
		t.m[g] = leading{leader: l.Leader, epoch: epoch}
		return false, false, true
	}
	return false, false, false
}

// lost takes it that a broker leads nothing: it has another disk, with which it may have been heard of as a leader already, and says so again.
func (t *leaderTable) lost(id raft.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for g, l := range t.m {
		if l.leader == id {
			t.m[g] = leading{epoch: l.epoch}
		}
	}
}

// ended takes it that a leader leads no more in an epoch, of which nobody else will.
func (t *leaderTable) ended(g raft.GroupID, leader raft.NodeID, epoch raft.Term) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if news = t.m[g].leader == leader && t.m[g].epoch <= epoch; news {
		t.m[g] = leading{epoch: epoch, over: true}
	}
	return news
}

// forget drops groups that are gone for good.
func (t *leaderTable) forget(gone func(raft.GroupID) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for g := range t.m {
		if gone(g) {
			delete(t.m, g)
		}
	}
}

// led are the groups that this broker leads and serves.
func (t *leaderTable) led() []raft.GroupID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []raft.GroupID
	for g, l := range t.m {
		if l.leader == t.self && l.ready {
			out = append(out, g)
		}
	}
	slices.Sort(out)
	return out
}

// counts is how many groups each broker leads.
func (t *leaderTable) counts() map[raft.NodeID]int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := make(map[raft.NodeID]int)
	for _, l := range t.m {
		n[l.leader]++
	}
	return n
}

// peersConfig is what the heartbeats need of the rest of the broker.
type peersConfig struct {
	self     *identity // does not change any more
	addr     string    // of our RPC listener, advertised
	interval time.Duration
	timeout  time.Duration // of one heartbeat, and after which a silent peer counts as absent
	caller   caller
	setAddr  func(raft.NodeID, string) // tells the transport
	image    func() *coordinator.Image
	epochs   func() (own, settled raft.GroupEpoch)         // of our metadata group
	outlived func(from raft.NodeID, epoch raft.GroupEpoch) // the cluster has gone on in a later one
	heard    func(raft.NodeID, raft.Incarnation)           // tells the controller
	ask      func(context.Context, raft.NodeID) error      // whether our directory is an older copy of itself: Broker.askPast
	log      *slog.Logger
}

// peers are the other brokers.
type peers struct {
	cfg    peersConfig
	table  *leaderTable
	words  *wordTable
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex // guards what follows and every peer; never held across a call
	byID map[raft.NodeID]*peer
	seq  uint64 // of the last call that told words
	// changed is closed and replaced when an image version, a leader or a peer's presence changed.
	changed chan struct{}
}

// lifeStart is one start of a broker on its data directory.
type lifeStart struct {
	inc  raft.Incarnation
	boot uint64
	life uint64 // drawn at the start: tells two of one count apart
}

// peer is one other broker.
type peer struct {
	id      raft.NodeID
	addr    string
	epoch   int64            // of the registration that addr was last compared with
	inc     raft.Incarnation // that it speaks with, and
	boot    uint64           // the latest start of that
	said    lifeStart        // the latest start that it has asked about: see past
	image   raft.Index       // its Image's version
	heardAt time.Time        // when it last spoke or answered
	spokeAt time.Time        // when it last spoke: it reaches us, and so do its words
	since   time.Time        // when it was first heard in this boot, and without a gap from then on

	// toldBoot is the boot that has been, or is being, told everything; news are groups that it has not been told.
	toldBoot uint64
	news     map[raft.GroupID]struct{} // at most the groups that we lead
	words    map[raft.GroupID]struct{} // of insync.go, that it has not been told: at most the groups that we had the last word on
	hearing  hearing                   // whether it is to be told any
	wordSeq  uint64                    // of its last call that told us words
	kick     chan struct{}             // capacity 1
	silent   bool                      // was logged
	asked    bool                      // has been asked whether our directory is an older copy
}

func newPeers(cfg peersConfig) *peers {
	ctx, cancel := context.WithCancel(context.Background())
	return &peers{cfg: cfg, ctx: ctx, cancel: cancel, byID: make(map[raft.NodeID]*peer), changed: make(chan struct{}),
		table: &leaderTable{self: cfg.self.NodeID, m: make(map[raft.GroupID]leading)}, words: &wordTable{m: make(map[raft.GroupID]word)}}
}

func (ps *peers) close() {
	ps.mu.Lock() // so that no loop is started once it has been decided to wait for them
	ps.cancel()
	ps.mu.Unlock()
	ps.wg.Wait()
}

// wait returns a channel that is closed at the next change. Take it before looking.
func (ps *peers) wait() <-chan struct{} {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.changed
}

func (ps *peers) broadcastLocked() {
	close(ps.changed)
	ps.changed = make(chan struct{})
}

// ensureLocked finds or adds a peer, and starts its loop. Peers come from the Image, from peers.json and from
// brokers that show that they belong to the cluster, so there are about as many as there are brokers.
func (ps *peers) ensureLocked(id raft.NodeID) *peer {
	p := ps.byID[id]
	if p == nil {
		p = &peer{id: id, news: make(map[raft.GroupID]struct{}), words: make(map[raft.GroupID]struct{}), kick: make(chan struct{}, 1)}
		ps.byID[id] = p
		if ps.ctx.Err() == nil {
			ps.wg.Go(func() { ps.loop(p) })
		}
	}
	return p
}

// learn notes an address that was told, not heard from its owner; one that the owner is using is not overridden.
func (ps *peers) learn(id raft.NodeID, addr string) {
	if id == ps.cfg.self.NodeID || id == 0 || addr == "" {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.ensureLocked(id)
	if !ps.presentLocked(p) {
		ps.setAddrLocked(p, addr)
	}
}

func (ps *peers) setAddrLocked(p *peer, addr string) {
	if addr != "" && p.addr != addr {
		p.addr = addr
		ps.cfg.setAddr(p.id, addr) // does not block: it notes the address for the next connection
	}
}

// imageChanged takes new peers and addresses from the Image, forgets deleted groups, and tells everyone our version.
func (ps *peers) imageChanged(old, now *coordinator.Image) {
	// Each partition that was made took one id from the counter: whatever is missing in the count was deleted.
	made := int(now.NextGroup() - old.NextGroup())
	deleted := now.PartitionCount() != old.PartitionCount()+made
	gone := func(g raft.GroupID) bool {
		_, _, ok := now.Group(g)
		return !ok && g < now.NextGroup()
	}
	if deleted {
		ps.table.forget(gone)
		ps.words.forget(gone)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if deleted {
		for _, p := range ps.byID { // one that never comes back is never told
			maps.DeleteFunc(p.news, func(g raft.GroupID, _ struct{}) bool { return gone(g) })
			maps.DeleteFunc(p.words, func(g raft.GroupID, _ struct{}) bool { return gone(g) })
		}
	}
	for _, b := range now.Brokers() {
		if b.ID == ps.cfg.self.NodeID {
			continue
		}
		p := ps.ensureLocked(b.ID)
		if b.Epoch > p.epoch {
			p.epoch = b.Epoch
			if !ps.presentLocked(p) {
				ps.setAddrLocked(p, b.RPC)
			}
		}
	}
	for _, p := range ps.byID {
		p.poke()
	}
	ps.broadcastLocked()
}

// leadership takes what a replica of ours observed.
func (ps *peers) leadership(g raft.GroupID, l partition.Leadership) {
	ready, ended, news := ps.table.observed(g, l)
	if !news {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	switch {
	case ready:
		for _, p := range ps.byID {
			p.news[g] = struct{}{}
			p.poke()
		}
	case ended:
		ps.leadsNoMoreLocked(g, raft.Term(l.Epoch))
	}
	ps.broadcastLocked()
}

func (p *peer) poke() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// presentLocked: it spoke within the timeout.
func (ps *peers) presentLocked(p *peer) bool {
	return !p.heardAt.IsZero() && time.Since(p.heardAt) < ps.cfg.timeout
}

// present reports whether a broker is there; this one always is.
func (ps *peers) present(id raft.NodeID) bool {
	if id == ps.cfg.self.NodeID {
		return true
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byID[id]
	return p != nil && ps.presentLocked(p)
}

// presentFor is how long a broker has been there without a gap; 0 if it is not.
func (ps *peers) presentFor(id raft.NodeID) time.Duration {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.byID[id]; p != nil && ps.presentLocked(p) {
		return time.Since(p.since)
	}
	return 0
}

// behind reports whether some present, live broker has an Image older than v.
func (ps *peers) behind(v raft.Index) bool {
	im := ps.cfg.image()
	if im.Version() < v {
		return true
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, b := range im.LiveBrokers() {
		if p := ps.byID[b.ID]; p != nil && ps.presentLocked(p) && p.image < v {
			return true
		}
	}
	return false
}

// withImage are the present brokers whose Image has version v, this one left out.
func (ps *peers) withImage(v raft.Index) (out []raft.NodeID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for id, p := range ps.byID {
		if ps.presentLocked(p) && p.image >= v {
			out = append(out, id)
		}
	}
	return out
}

// addresses are all peers with their addresses, and ourselves: what a newcomer should know.
func (ps *peers) addresses() []peerAddr {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	out := []peerAddr{{ps.cfg.self.NodeID, ps.cfg.addr}}
	for _, p := range ps.byID {
		if p.addr != "" {
			out = append(out, peerAddr{p.id, p.addr})
		}
	}
	slices.SortFunc(out, func(a, b peerAddr) int { return int(a.ID) - int(b.ID) })
	return out
}

// known is what peers.json shall say.
func (ps *peers) known() (out []knownPeer) {
	for _, a := range ps.addresses() {
		out = append(out, knownPeer{peerAddr: a})
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for i := range out {
		if p := ps.byID[out[i].ID]; p != nil {
			out[i].Incarnation, out[i].Boot = p.inc, p.boot
			if p.said.inc == p.inc && p.said.boot == p.boot {
				out[i].Life = p.said.life
			}
		}
	}
	return out
}

// heard takes a heartbeat and returns the answer.
func (ps *peers) heard(h *beat) *beat {
	ps.took(h)
	ps.mu.Lock()
	if p := ps.byID[h.node]; p != nil && p.inc == h.incarnation && p.boot == h.boot {
		p.spokeAt = time.Now()
	}
	ps.mu.Unlock()
	return ps.beat(nil)
}

func (ps *peers) beat(leaders []leaderEntry) *beat {
	id := ps.cfg.self
	_, settled := ps.cfg.epochs()
	return &beat{cluster: id.ClusterID, node: id.NodeID, incarnation: id.Incarnation, boot: id.Boots, image: ps.cfg.image().Version(), epoch: settled,
		addr: ps.cfg.addr, leaders: leaders}
}

// took notes what a peer said of itself, in a heartbeat or an answer.
func (ps *peers) took(h *beat) {
	if h.node == ps.cfg.self.NodeID {
		return // somebody with our id: the controller refuses its registration
	}
	// A broker that the Image knows in another incarnation is a wiped disk under an old id, and nobody that we know.
	if b := ps.cfg.image().Broker(h.node); b != nil && b.Incarnation != h.incarnation {
		return
	}
	if own, _ := ps.cfg.epochs(); h.epoch > own {
		ps.cfg.outlived(h.node, h.epoch)
		return
	}
	news := false
	ps.mu.Lock()
	p := ps.ensureLocked(h.node)
	if p.inc != 0 && h.incarnation != p.inc {
		ps.table.lost(h.node) // before the new disk's own news
	}
	for _, e := range h.leaders {
		if e.leader == h.node { // each speaks for itself
			news = ps.table.told(e) || news
		}
	}
	if h.incarnation != p.inc {
		p.inc, p.boot, p.image, p.toldBoot = h.incarnation, 0, 0, 0 // another disk, which has forgotten whatever the last one knew
	}
	if h.boot < p.boot {
		ps.mu.Unlock()
		return // an earlier life's message
	}
	if !ps.presentLocked(p) || p.silent {
		news = true
		if p.silent {
			p.silent = false
			ps.cfg.log.Info("broker answers again", "broker", p.id)
		}
	}
	if !ps.presentLocked(p) || h.boot > p.boot {
		p.since = time.Now()
	}
	if h.boot > p.boot {
		p.boot, p.image = h.boot, 0
	}
	p.heardAt = time.Now()
	ps.setAddrLocked(p, h.addr)
	if h.image > p.image {
		p.image, news = h.image, true
	}
	if p.toldBoot != h.boot { // it has forgotten whatever it knew
		p.toldBoot = h.boot
		for _, g := range ps.table.led() {
			p.news[g] = struct{}{}
		}
		ps.everythingLocked(p)
		p.poke()
	}
	if news {
		ps.broadcastLocked()
	}
	ps.mu.Unlock()
	ps.cfg.heard(h.node, h.incarnation)
}

// remember takes what peers.json says of a broker.
func (ps *peers) remember(k *knownPeer) {
	if k.ID == ps.cfg.self.NodeID || k.Boot == 0 {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.ensureLocked(k.ID)
	p.inc, p.boot = k.Incarnation, k.Boot
	if k.Life != 0 {
		p.said = lifeStart{k.Incarnation, k.Boot, k.Life}
	}
}

// past answers a member that asks whether another start of its directory has been heard of, at or after the one that asks: by the number of it, or 0.
// Starts are counted on the disk before anything is said, so a count that comes a second time, or a lower one than before, is a copy's.
func (ps *peers) past(q *joinRequest) uint64 {
	if q.Boot == 0 || q.Broker.Node == 0 || q.Broker.Node == ps.cfg.self.NodeID {
		return 0
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.ensureLocked(q.Broker.Node)
	this := lifeStart{q.Broker.Incarnation, q.Boot, q.Life}
	if p.inc == this.inc && this.boot < p.boot {
		return p.boot
	}
	if p.said.inc == this.inc && p.said != this && this.boot <= p.said.boot {
		return p.said.boot
	}
	p.said = this
	return 0
}

// loop sends heartbeats to one peer until the broker closes.
func (ps *peers) loop(p *peer) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ps.ctx.Done():
			return
		case <-timer.C:
		case <-p.kick:
			// The gap collects what comes together.
			select {
			case <-ps.ctx.Done():
				return
			case <-time.After(minBeatGap):
			}
		}
		again := ps.send(p)
		timer.Reset(ps.cfg.interval)
		if again {
			p.poke()
		}
	}
}

func (ps *peers) hasNews(p *peer) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(p.news) > 0
}

// send makes one heartbeat call. It reports whether there is more to tell.
func (ps *peers) send(p *peer) (more bool) {
	ps.mu.Lock()
	if p.addr == "" {
		ps.mu.Unlock()
		return false
	}
	asked := p.asked
	ps.mu.Unlock()
	ctx, cancel := context.WithTimeout(ps.ctx, ps.cfg.timeout)
	defer cancel()
	if !asked {
		asked = ps.cfg.ask(ctx, p.id) == nil
	}
	ps.mu.Lock()
	p.asked = asked
	news := len(p.news)
	if !ps.presentLocked(p) {
		news = 0 // it is asked whether it is there, and told the rest when it has answered
	}
	taken := make([]raft.GroupID, 0, min(news, maxBeatLeaders))
	for g := range p.news {
		if news == 0 {
			break
		}
		if len(taken) == maxBeatLeaders {
			more = true
			break
		}
		taken = append(taken, g)
		delete(p.news, g)
	}
	ps.mu.Unlock()
	slices.Sort(taken)
	leaders := make([]leaderEntry, 0, len(taken))
	for _, g := range taken {
		if l := ps.table.get(g); l.leader == ps.cfg.self.NodeID && l.ready {
			leaders = append(leaders, leaderEntry{g, l.leader, l.epoch})
		}
	}
	b, err := ps.cfg.caller.Call(ctx, p.id, methodHeartbeat, ps.beat(leaders).encode())
	var h *beat
	if err == nil {
		h, err = decodeBeat(b)
	}
	if err == nil && h.node == p.id && h.cluster == ps.cfg.self.ClusterID {
		ps.took(h)
		more = ps.tell(ctx, p) || more
		return more || news == 0 && ps.hasNews(p)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, g := range taken {
		p.news[g] = struct{}{}
	}
	if !ps.presentLocked(p) && !p.silent && ps.ctx.Err() == nil {
		p.silent = true
		ps.cfg.log.Warn("broker does not answer", "broker", p.id, "addr", p.addr, "err", err)
		ps.broadcastLocked()
	}
	return false
}
