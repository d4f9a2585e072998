// Leaders tell the other brokers who is in sync, so that any broker can say so: a method of its own (docs/design/0006-cluster.md).
//
// A leader's word is told on change only, behind a heartbeat to a broker that is there; a broker that started anew is told
// everything again. A group that rests takes no turn, so that nothing is looked at and nothing sent for it. What a leader told last
// stays until another word of its epoch, or of a later one. A body (integers are unsigned varints but where stated):
//
//	version 1 | sequence | m | m × (k, k × (node, incarnation 8 LE), by rising node) | n | n × (group, epoch, set: below m)
//
// The sequence rises with each call to a broker in this life of the sender: of two calls that overtake each other the earlier one is dropped. Its sender
// has given it up, and tells the same again. Who answers "unknown method" runs a version of before, and is told nothing in this life; a leader of
// such a version tells nothing either, and of what it leads only itself is known to be in sync. The answer is the version byte.
//
// A sender that stands in a set with the incarnation 0 leads no more in that epoch: its log has failed, or it has lost its quorum, and nobody else may
// be able to win an election. A broker that does not know this form drops the entry: to it the sender is not in the set.

package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/transport"
)

const (
	// maxWords bounds the entries of one call; what is left goes with the next, at once.
	maxWords = 8192
	// maxInSync bounds the members of one word: a membership in transition has those of both halves.
	maxInSync = 2 * coordinator.MaxReplicationFactor
	// memberLen is a member in a memberSet.
	memberLen = 4 + 8
)

// memberSet is members by rising node: node 4 BE, incarnation 8 BE. Few sets stand for all partitions, so each is kept once (word.set).
type memberSet string

func appendMember(b []byte, m raft.Member) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, uint32(m.ID)), uint64(m.Incarnation))
}

// members are those of the set, in order.
func (s memberSet) members(yield func(raft.Member) bool) {
	for ; len(s) >= memberLen; s = s[memberLen:] {
		var b [memberLen]byte
		copy(b[:], s)
		if !yield(raft.Member{ID: raft.NodeID(binary.BigEndian.Uint32(b[:])), Incarnation: raft.Incarnation(binary.BigEndian.Uint64(b[4:]))}) {
			return
		}
	}
}

func (s memberSet) has(m raft.Member) bool {
	for o := range s.members {
		if o == m {
			return true
		}
	}
	return false
}

// word is whom a leader had in sync when it last told.
type word struct {
	epoch raft.Term                // in which it led; 0: there is no word, and set is not to be asked
	from  raft.NodeID              // the leader
	set   unique.Handle[memberSet] // it is in it itself
}

// wordTable holds the last word on each group of the cluster, this broker's own included.
type wordTable struct {
	mu sync.RWMutex // protects m; a leaf
	m  map[raft.GroupID]word
}

func (t *wordTable) get(g raft.GroupID) word {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[g]
}

// told takes a word, unless a later leader's is known.
func (t *wordTable) told(g raft.GroupID, w word) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.epoch >= t.m[g].epoch {
		t.m[g] = w
	}
}

// of are the groups on which a broker has had the last word.
func (t *wordTable) of(from raft.NodeID) (out []raft.GroupID) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for g, w := range t.m {
		if w.from == from {
			out = append(out, g)
		}
	}
	return out
}

func (t *wordTable) forget(gone func(raft.GroupID) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.m, func(g raft.GroupID, _ word) bool { return gone(g) })
}

// ---- the message

// wordEntry is one group of a call.
type wordEntry struct {
	group raft.GroupID
	epoch raft.Term
	set   memberSet
}

// words is a call's body.
type words struct {
	seq     uint64
	entries []wordEntry
}

func (w *words) encode() []byte {
	sets := make(map[memberSet]uint64)
	var list []memberSet
	for i := range w.entries {
		if s := w.entries[i].set; s != "" {
			if _, ok := sets[s]; !ok {
				sets[s] = uint64(len(list))
				list = append(list, s)
			}
		}
	}
	b := make([]byte, 0, 32+len(list)*64+len(w.entries)*8)
	b = append(b, rpcVersion)
	b = binary.AppendUvarint(b, w.seq)
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(len(s)/memberLen))
		for m := range s.members {
			b = binary.AppendUvarint(b, uint64(m.ID))
			b = binary.LittleEndian.AppendUint64(b, uint64(m.Incarnation))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(w.entries)))
	for i := range w.entries {
		e := &w.entries[i]
		b = binary.AppendUvarint(b, uint64(e.group))
		b = binary.AppendUvarint(b, uint64(e.epoch))
		b = binary.AppendUvarint(b, sets[e.set])
	}
	return b
}

func decodeWords(b []byte) (*words, error) {
	if len(b) == 0 || len(b) > maxRPCBytes {
		return nil, fmt.Errorf("%w: words of %d bytes", errRPC, len(b))
	}
	if b[0] != rpcVersion {
		return nil, fmt.Errorf("%w: words of version %d, this broker knows %d", errRPC, b[0], rpcVersion)
	}
	b = b[1:]
	bad := false
	number := uvarints(&b, &bad)
	// count is a number of things that take so many bytes each, at least: no memory is taken for what cannot be there.
	count := func(limit, least uint64) uint64 {
		n := number(limit)
		if n*least > uint64(len(b)) {
			bad, b = true, nil
			return 0
		}
		return n
	}
	w := &words{seq: number(math.MaxUint64)}
	sets := make([]memberSet, count(maxWords, 1+1+8))
	for i := range sets {
		var set []byte
		last := raft.NodeID(0)
		for range count(maxInSync, 1+8) {
			m := raft.Member{ID: raft.NodeID(number(uint64(coordinator.MaxNodeID)))}
			if len(b) < 8 || m.ID <= last {
				bad, b = true, nil
				break
			}
			m.Incarnation, b = raft.Incarnation(binary.LittleEndian.Uint64(b)), b[8:]
			set, last = appendMember(set, m), m.ID
		}
		sets[i] = memberSet(set)
		bad = bad || len(set) == 0
	}
	w.entries = make([]wordEntry, count(maxWords, 3))
	for i := range w.entries {
		e := &w.entries[i]
		e.group, e.epoch = raft.GroupID(number(math.MaxUint64)), raft.Term(number(uint64(raft.MaxTerm)))
		if k := number(maxWords); k < uint64(len(sets)) && e.group > 0 && e.epoch > 0 {
			e.set = sets[k]
		} else {
			bad = true
		}
	}
	if bad || len(b) > 0 {
		return nil, fmt.Errorf("%w: words", errRPC)
	}
	return w, nil
}

// ---- telling

// hearing is whether a broker takes words.
type hearing uint8

const (
	hearingUnknown hearing = iota // it has not been told any in this life
	hearingWords
	hearingNothing // it runs a version of before
)

// inSync takes whom this broker has in sync in a group that it leads, and lets the others know if that is news.
func (ps *peers) inSync(g raft.GroupID, epoch raft.Term, set []byte) {
	self := ps.cfg.self.NodeID
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if old := ps.words.get(g); old.epoch == epoch && old.from == self && (string(old.set.Value()) == string(set) || old.set.Value().has(raft.Member{ID: self})) {
		return // as it was; or it has stopped leading since it was looked at
	}
	ps.words.told(g, word{epoch, self, unique.Make(memberSet(set))})
	for _, p := range ps.byID {
		if p.hearing != hearingNothing {
			p.words[g] = struct{}{}
			p.poke()
		}
	}
}

// leadsNoMoreLocked tells the others that this broker has stopped leading without a successor: they would send clients here, and show whom it
// had in sync last, for as long as no other is elected. Whose epoch ends because there is a later one says nothing: its leader will.
func (ps *peers) leadsNoMoreLocked(g raft.GroupID, epoch raft.Term) {
	self := ps.cfg.self
	var set []byte
	if last := ps.words.get(g); last.from == self.NodeID && last.epoch == epoch {
		for m := range last.set.Value().members {
			if m.ID == self.NodeID {
				m.Incarnation = 0
			}
			set = appendMember(set, m)
		}
	} else { // it has told nothing yet
		set = appendMember(set, raft.Member{ID: self.NodeID})
	}
	ps.words.told(g, word{epoch, self.NodeID, unique.Make(memberSet(set))})
	for _, p := range ps.byID {
		if p.hearing != hearingNothing {
			p.words[g] = struct{}{}
			p.poke()
		}
	}
}

// everythingLocked has a broker, whose life is a new one, told all that is this broker's to tell.
func (ps *peers) everythingLocked(p *peer) {
	p.hearing, p.wordSeq = hearingUnknown, 0
	for _, g := range ps.words.of(ps.cfg.self.NodeID) {
		p.words[g] = struct{}{}
	}
}

// tell makes one call, if there is something to tell, or it is not known whether the broker listens. It reports whether there is more.
func (ps *peers) tell(ctx context.Context, p *peer) (more bool) {
	ps.mu.Lock()
	if !ps.presentLocked(p) || p.hearing == hearingNothing || p.hearing == hearingWords && len(p.words) == 0 {
		ps.mu.Unlock()
		return false
	}
	inc, boot := p.inc, p.boot
	taken := make([]raft.GroupID, 0, min(len(p.words), maxWords))
	for g := range p.words {
		if more = len(taken) == maxWords; more {
			break
		}
		taken = append(taken, g)
		delete(p.words, g)
	}
	ps.seq++
	w := &words{seq: ps.seq, entries: make([]wordEntry, 0, len(taken))}
	ps.mu.Unlock()
	slices.Sort(taken)
	for _, g := range taken {
		if own := ps.words.get(g); own.epoch > 0 && own.from == ps.cfg.self.NodeID { // another may have had the word since
			w.entries = append(w.entries, wordEntry{g, own.epoch, own.set.Value()})
		}
	}
	_, err := ps.cfg.caller.Call(ctx, p.id, methodInSync, w.encode())
	ps.mu.Lock()
	defer ps.mu.Unlock()
	unknown, isRPC := errors.AsType[*transport.RPCError](err)
	switch {
	case p.inc != inc || p.boot != boot: // another life, which is told everything
		return true
	case err == nil:
		p.hearing = hearingWords
		return more
	case isRPC && unknown.Code == transport.CodeUnknownMethod:
		p.hearing = hearingNothing
		clear(p.words)
		ps.cfg.log.Info("broker runs a version that does not say which replicas are in sync: of what it leads, others show only itself", "broker", p.id)
	default:
		for _, g := range taken {
			p.words[g] = struct{}{}
		}
	}
	return false
}

// heardWords takes another broker's call.
func (ps *peers) heardWords(from transport.Caller, w *words) error {
	im := ps.cfg.image()
	if b := im.Broker(from.Node); b != nil && b.Incarnation != from.Incarnation {
		return fmt.Errorf("broker %d has another disk now", from.Node)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byID[from.Node]
	if p == nil || p.inc != from.Incarnation || p.boot != from.Boot || p.toldBoot != from.Boot {
		return fmt.Errorf("this start of broker %d has sent no heartbeat yet", from.Node)
	}
	if w.seq <= p.wordSeq {
		return nil
	}
	p.wordSeq, p.spokeAt = w.seq, time.Now()
	// Each speaks for itself: as one that is in sync, or as one that leads no more.
	leads, ended := raft.Member{ID: from.Node, Incarnation: from.Incarnation}, raft.Member{ID: from.Node}
	sets := make(map[memberSet]unique.Handle[memberSet])
	news := false
	for i := range w.entries {
		e := &w.entries[i]
		set, ok := sets[e.set]
		if !ok && (e.set.has(leads) || e.set.has(ended)) {
			set, ok = unique.Make(e.set), true
			sets[e.set] = set
		}
		if ok && e.epoch >= ps.table.get(e.group).epoch && !im.Deleted(e.group) {
			ps.words.told(e.group, word{e.epoch, from.Node, set})
			if e.set.has(ended) {
				news = ps.table.ended(e.group, from.Node, e.epoch) || news
			}
		}
	}
	if news {
		ps.broadcastLocked()
	}
	return nil
}

// inSyncOf is who is in sync with a partition that this broker does not lead, by node, as far as it has been told: those in the last word whose brokers are
// there, with the disks that they had then, and a leader that was elected since. It is never more than that: a tool that asks whether one more broker may be
// taken down must not hear yes too early. So the word of one that answers this broker and does not reach it does not count: it may have told others
// another one since. And where neither a leader is there nor a majority of the replicas, this broker may be the one that is cut off: nobody is known to be
// in sync, itself included.
func (ps *peers) inSyncOf(im *coordinator.Image, part *coordinator.Partition) []raft.NodeID {
	lead, last := ps.table.get(part.Group), ps.words.get(part.Group)
	self := ps.cfg.self.NodeID
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.byID[lead.leader]; p != nil && p.hearing == hearingNothing {
		last = word{}
	}
	if p := ps.byID[last.from]; p != nil && ps.presentLocked(p) && time.Since(p.spokeAt) >= ps.cfg.timeout {
		last = word{}
	}
	there := func(id raft.NodeID) bool {
		if id == self {
			return true
		}
		p := ps.byID[id]
		return p != nil && ps.presentLocked(p) && alive(im, id)
	}
	nodes := part.Nodes()
	if n := len(nodes); lead.leader == 0 || !there(lead.leader) {
		for _, id := range nodes {
			if !there(id) {
				n--
			}
		}
		if n <= len(nodes)/2 {
			return nil
		}
	}
	var out []raft.NodeID
	if last.epoch > 0 {
		for m := range last.set.Value().members {
			if b := im.Broker(m.ID); b != nil && b.Incarnation == m.Incarnation && part.Hosts(m) && there(m.ID) {
				out = append(out, m.ID)
			}
		}
	}
	if lead.epoch > last.epoch && lead.leader != 0 && lead.leader != self && there(lead.leader) && slices.Contains(nodes, lead.leader) && !slices.Contains(out, lead.leader) {
		out = append(out, lead.leader)
		slices.Sort(out)
	}
	return out
}

// ---- looking

// teller looks at the groups that this broker leads and whose members have moved.
type teller struct {
	host     *multi.Host
	replica  func(raft.GroupID) *partition.Replica
	tell     func(g raft.GroupID, epoch raft.Term, set []byte)
	interval time.Duration // between two looks
	kick     chan struct{} // capacity 1

	// The loop's own.
	again   map[raft.GroupID]struct{} // to be looked at without a turn of theirs: of those that are led
	ids     []raft.GroupID
	members []raft.Member
	set     []byte
}

func (t *teller) poke() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// run ends with ctx. While nothing moves it sleeps.
func (t *teller) run(ctx context.Context) {
	timer := time.NewTimer(t.interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if len(t.again) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-t.kick:
			}
		}
		t.look()
		timer.Reset(t.interval)
	}
}

func (t *teller) look() {
	t.ids = t.host.TakeMoved(t.ids[:0])
	for g := range t.again {
		t.ids = append(t.ids, g)
	}
	clear(t.again)
	for _, g := range t.ids {
		if g == raft.MetadataGroup {
			continue
		}
		rep := t.replica(g)
		if rep == nil {
			if t.host.Group(g) != nil { // it leads before it can be found
				t.again[g] = struct{}{}
			}
			continue
		}
		members, epoch, passing, ok := rep.InSync(t.members[:0])
		if t.members = members; !ok || len(members) > maxInSync {
			continue
		}
		if passing {
			t.again[g] = struct{}{}
		}
		t.set = t.set[:0]
		for _, m := range members {
			t.set = appendMember(t.set, m)
		}
		t.tell(g, epoch, t.set)
	}
}
