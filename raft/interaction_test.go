// Transcripts: testdata/*.txt are conversations with a cluster in memory, in which every delivery and every sync is a
// command, and the answer is what the replicas did. Rewrite them with: go test ./raft -run TestInteraction -rewrite

package raft

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

func TestInteraction(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") {
			t.Skip("the fuzzer's corpus")
		}
		s := &session{t: t, c: newCluster(1)}
		s.c.cfg = func(cfg *Config) {
			if s.configure != nil {
				s.configure(cfg)
			}
			cfg.Priorities = s.priorities
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			if err := s.command(d); err != nil {
				fmt.Fprintf(&s.out, "error: %v\n", err)
			}
			if s.out.Len() == 0 {
				return "ok"
			}
			return s.out.String()
		})
	})
}

// session is one transcript.
type session struct {
	t         *testing.T
	c         *cluster
	out       strings.Builder
	quiet     bool
	configure func(*Config)
	// priorities are those that replicas start with from here on.
	priorities []NodePriority
}

func (s *session) printf(format string, args ...any) {
	if !s.quiet {
		fmt.Fprintf(&s.out, format, args...)
	}
}

func describe(m *Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d->%d %s T%d", m.From, m.To, strings.TrimPrefix(m.Type.String(), "Msg"), m.Term)
	switch m.Type {
	case MsgPreVote, MsgVote:
		fmt.Fprintf(&b, " last=%d/T%d", m.Index, m.LogTerm)
	case MsgApp:
		fmt.Fprintf(&b, " prev=%d/T%d commit=%d", m.Index, m.LogTerm, m.Commit)
		if len(m.Entries) > 0 {
			fmt.Fprintf(&b, " %s", describeEntries(m.Entries))
		}
	case MsgAppResp:
		fmt.Fprintf(&b, " index=%d", m.Index)
		if m.Reject {
			fmt.Fprintf(&b, " hint=%d/T%d", m.RejectHint, m.LogTerm)
		}
	case MsgHeartbeat:
		fmt.Fprintf(&b, " commit=%d round=%d", m.Commit, m.Round)
	case MsgHeartbeatResp:
		fmt.Fprintf(&b, " round=%d", m.Round)
	case MsgSnap:
		fmt.Fprintf(&b, " at=%d/T%d %v", m.Snapshot.Meta.Index, m.Snapshot.Meta.Term, m.Snapshot.Meta.Conf)
	case MsgSnapResp:
		fmt.Fprintf(&b, " index=%d", m.Index)
	}
	if m.Reject {
		b.WriteString(" reject")
	}
	if m.Epoch != 0 {
		fmt.Fprintf(&b, " E%d", m.Epoch)
	}
	if m.Force {
		b.WriteString(" force")
	}
	if m.Lost != 0 {
		fmt.Fprintf(&b, " lost=%d", m.Lost)
	}
	return b.String()
}

func describeEntries(es []Entry) string {
	var b strings.Builder
	for i := range es {
		e := &es[i]
		if i > 0 {
			b.WriteString(" ")
		}
		fmt.Fprintf(&b, "%d/T%d:", e.Index, e.Term)
		switch e.Type {
		case EntryConfig:
			c, err := DecodeConfState(e.Payload)
			if err != nil {
				panic(err)
			}
			b.WriteString(c.String())
		case EntryNoop:
			b.WriteString("noop")
		default:
			b.Write(e.Payload)
		}
	}
	return b.String()
}

func describeHardState(hs HardState) string {
	s := fmt.Sprintf("T%d vote=%d", hs.Term, hs.Vote)
	if hs.Epoch != 0 {
		s += fmt.Sprintf(" E%d", hs.Epoch)
	}
	return s
}

func (s *session) arg(d *datadriven.TestData, key, def string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) > 0 {
			return a.Vals[0]
		}
	}
	return def
}

func (s *session) num(d *datadriven.TestData, key string, def int) int {
	v, err := strconv.Atoi(s.arg(d, key, strconv.Itoa(def)))
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	return v
}

// ids are the arguments that are plain numbers; all nodes if there are none.
func (s *session) ids(d *datadriven.TestData) []*memNode {
	var ns []*memNode
	for _, a := range d.CmdArgs {
		if id, err := strconv.Atoi(a.Key); err == nil {
			n := s.c.node(NodeID(id))
			if n == nil {
				s.t.Fatalf("%s: no node %d", d.Pos, id)
			}
			ns = append(ns, n)
		}
	}
	if len(ns) == 0 {
		ns = s.c.nodes
	}
	return ns
}

func parseMembers(v string) []Member {
	var ids []NodeID
	for f := range strings.SplitSeq(v, "+") {
		id, err := strconv.Atoi(f)
		if err != nil {
			panic(err)
		}
		ids = append(ids, NodeID(id))
	}
	return members(ids...)
}

func (s *session) command(d *datadriven.TestData) error {
	s.quiet = d.HasArg("quiet")
	if d.Cmd == "add-nodes" { // add-nodes 1 2 3 [voters=1+2+3] [learners=4] [bare] [log=(1,1,2)] [term=2] [epoch=1] [restarted]
		return s.addNodes(d)
	}
	ns := s.ids(d)
	n := ns[:min(1, len(ns))]
	switch d.Cmd {
	case "config": // config inflight=2 bytes=100 uncommitted=50 commit-delay=20 busy-for=250
		inflight, bytes, uncommitted := s.num(d, "inflight", 4), s.num(d, "bytes", 64), s.num(d, "uncommitted", 1<<20)
		delay := time.Duration(s.num(d, "commit-delay", 0)) * time.Millisecond
		busy := time.Duration(s.num(d, "busy-for", 0)) * time.Millisecond
		s.configure = func(cfg *Config) {
			cfg.MaxInflightMsgs, cfg.MaxMessageBytes, cfg.MaxUncommitted, cfg.CommitDelay, cfg.BusyFor = inflight, bytes, int64(uncommitted), delay, busy
		}
		return nil
	case "tell-at-once": // tell-at-once 1 ms=100
		n[0].r.TellAtOnce(n[0].now(), n[0].now()+Time(s.num(d, "ms", 0))*Time(time.Millisecond))
	case "campaign":
		n[0].r.Campaign(n[0].now())
	case "propose": // propose 1 a b c: three entries, one call each
		for _, a := range d.CmdArgs[1:] {
			if err := n[0].propose(a.Key); err != nil {
				return err
			}
		}
	case "propose-conf": // propose-conf 1 add=4 learn=5 promote=5 remove=2 [joint] | revert
		var ch ConfChange
		for _, a := range d.CmdArgs[1:] {
			op := map[string]ConfOp{"add": AddVoter, "learn": AddLearner, "promote": Promote, "remove": Remove}[a.Key]
			if op != 0 {
				m := parseMembers(a.Vals[0])[0]
				if op == Remove {
					m.Incarnation = 0 // whichever it is a member in
				} else if n := s.c.node(m.ID); n != nil {
					m.Incarnation = n.inc
				}
				ch.Steps = append(ch.Steps, ConfStep{op, m})
			}
		}
		ch.Joint, ch.Revert = d.HasArg("joint"), d.HasArg("revert")
		_, err := n[0].r.ProposeConf(n[0].now(), ch)
		return err
	case "process":
		for _, n := range ns {
			s.process(n)
		}
	case "sync": // sync 1 [log|vote] [all]: one write each, or all
		for _, n := range ns {
			for {
				some := !d.HasArg("log") && s.syncVote(n)
				some = !d.HasArg("vote") && s.syncLog(n) || some
				if !some || !d.HasArg("all") {
					break
				}
			}
		}
	case "deliver": // deliver [from=1] [to=2] [type=App] [n=1] [last] [keep]
		return s.deliver(d, false)
	case "drop":
		return s.deliver(d, true)
	case "pending":
		for i := range s.c.net {
			s.printf("%s\n", describe(&s.c.net[i]))
		}
	case "stabilize":
		return s.stabilize(ns)
	case "tick": // tick ms=100 [1 2]
		s.c.now += Time(s.num(d, "ms", 100)) * Time(time.Millisecond)
		for _, n := range ns {
			n.tick()
		}
	case "pass": // pass ms=3000: so much time, in steps of 50 ms, all messages delivered and all syncs done in each
		s.quiet = true
		for ms := 0; ms < s.num(d, "ms", 1000); ms += 50 {
			s.c.now += Time(50 * time.Millisecond)
			for _, n := range s.c.nodes {
				if !n.down {
					n.tick()
				}
			}
			if err := s.stabilize(s.c.nodes); err != nil {
				return err
			}
		}
	case "cut": // cut from=1 to=2, or cut node=1: both ways to all
		if id := NodeID(s.num(d, "node", 0)); id != 0 {
			for _, o := range s.c.nodes {
				s.c.cut[[2]NodeID{id, o.id}], s.c.cut[[2]NodeID{o.id, id}] = true, true
			}
			return nil
		}
		s.c.cut[[2]NodeID{NodeID(s.num(d, "from", 0)), NodeID(s.num(d, "to", 0))}] = true
	case "heal":
		clear(s.c.cut)
	case "crash":
		for _, n := range ns {
			n.crash(func(int) int { return 0 })
		}
	case "restart":
		for _, n := range ns {
			n.start(d.HasArg("fresh"))
		}
	case "compact": // compact 1 keep=2
		n[0].snapshotAndCompact(Index(s.num(d, "keep", 0)))
	case "hold-offers": // hold-offers 3 [off]: what a leader offers is not taken …
		n[0].holdOffer = !d.HasArg("off")
	case "received": // … before this
		n := n[0]
		if n.offered == nil {
			return errors.New("nothing was offered")
		}
		n.r.SnapshotReceived(n.now(), n.offered)
	case "read":
		return n[0].r.ReadIndex(n[0].now(), uint64(s.num(d, "ctx", 1)))
	case "transfer":
		return n[0].r.Transfer(n[0].now(), NodeID(s.num(d, "to", 0)))
	case "reset": // reset 4 epoch=1 term=3 leader=4 survivors=4+5
		return n[0].r.Reset(n[0].now(), Reset{
			Epoch: GroupEpoch(s.num(d, "epoch", 1)), Term: Term(s.num(d, "term", 0)), Leader: NodeID(s.num(d, "leader", 0)),
			Survivors: parseMembers(s.arg(d, "survivors", "")),
		})
	case "priorities": // priorities 1=3 2=2 3=0: of nodes 1, 2 and 3, told to all
		var ps []NodePriority
		for _, a := range d.CmdArgs {
			id, err := strconv.Atoi(a.Key)
			if err != nil || len(a.Vals) != 1 {
				return fmt.Errorf("bad argument %s", a.Key)
			}
			v, err := strconv.Atoi(a.Vals[0])
			if err != nil {
				return err
			}
			ps = append(ps, NodePriority{NodeID(id), Priority(v)})
		}
		s.priorities = ps
		for _, n := range s.c.nodes {
			n.r.SetPriorities(n.now(), ps)
		}
	case "impaired": // impaired 1 [off]
		n[0].r.SetImpaired(n[0].now(), !d.HasArg("off"))
	case "resign":
		n[0].r.Resign(n[0].now())
	case "lease":
		if u := n[0].r.LeaseUntil(); u <= n[0].now() {
			s.printf("none\n")
		} else {
			s.printf("for %v\n", time.Duration(u-n[0].now()))
		}
	case "deadline":
		for _, n := range ns {
			if at := n.r.Deadline(); at == Forever {
				s.printf("%d: never\n", n.id)
			} else {
				s.printf("%d: in %v\n", n.id, time.Duration(at-n.now()).Round(10*time.Millisecond))
			}
		}
	case "cover": // cover 1 peer=2 [off]
		n[0].r.SetCovered(n[0].now(), NodeID(s.num(d, "peer", 0)), !d.HasArg("off"))
	case "coverable":
		i, ok := n[0].r.Coverable(NodeID(s.num(d, "peer", 0)))
		s.printf("%v at %d\n", ok, i)
	case "rest":
		for _, n := range ns {
			n.r.SetResting(n.now(), !d.HasArg("off"))
		}
	case "peer-acked": // peer-acked 1 peer=2 ago=100
		at := n[0].now() - Time(s.num(d, "ago", 0))*Time(time.Millisecond)
		n[0].r.PeerAcked(n[0].now(), NodeID(s.num(d, "peer", 0)), n[0].r.term, at)
	case "heard": // heard 2 leader=1 ago=100
		at := n[0].now() - Time(s.num(d, "ago", 0))*Time(time.Millisecond)
		n[0].r.HeardFrom(n[0].now(), NodeID(s.num(d, "leader", 0)), n[0].r.term, at)
	case "vote-after":
		n[0].voteAfter = Index(s.num(d, "index", 0))
	case "damage": // damage 2 keep=1: of what a crashed node had synced, all beyond an index is unreadable
		l := n[0].log
		keep, had := Index(s.num(d, "keep", 0)), l.LastIndex()
		if !n[0].down || keep < l.base.Index || keep >= had {
			return fmt.Errorf("nothing to damage")
		}
		l.ents = l.ents[: keep-l.base.Index : keep-l.base.Index]
		l.durable = l.image()
		n[0].voteAfter = had
	case "lose": // the log of a crashed node is lost, under its own name, and with it how far it went
		n := n[0]
		n.log, n.snap, n.voteAfter = &memLog{}, Snapshot{}, UntilTold
		n.state, n.upTo = 0, 0
	case "wipe": // the disk of a crashed node is lost: it comes back as another incarnation that knows of no group
		n := n[0]
		n.inc += 1000
		n.log, n.disk, n.snap, n.initial, n.voteAfter = &memLog{}, HardState{}, Snapshot{}, ConfState{}, 0
	case "unreachable": // unreachable 1 peer=2
		n[0].r.Unreachable(n[0].now(), NodeID(s.num(d, "peer", 0)))
	case "status":
		for _, n := range ns {
			s.status(n)
		}
	case "log":
		for _, n := range ns {
			es, _ := n.log.Entries(n.log.FirstIndex(), n.log.LastIndex()+1, 1<<20)
			s.printf("%d: from %d: %s\n", n.id, n.log.FirstIndex(), describeEntries(es))
		}
	default:
		s.t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	return nil
}

func (s *session) addNodes(d *datadriven.TestData) error {
	var conf ConfState
	var ids []NodeID
	for _, a := range d.CmdArgs {
		if id, err := strconv.Atoi(a.Key); err == nil {
			ids = append(ids, NodeID(id))
		}
	}
	if !d.HasArg("bare") {
		conf.Voters = members(ids...)
		if v := s.arg(d, "voters", ""); v != "" {
			conf.Voters = parseMembers(v)
		}
		if l := s.arg(d, "learners", ""); l != "" {
			conf.Learners = parseMembers(l)
		}
	}
	for _, id := range ids {
		n := s.c.add(id, conf, true)
		if a, ok := d.Arg("log"); ok { // the terms of its entries
			for i, v := range a.Vals {
				t, err := strconv.Atoi(v)
				if err != nil {
					return err
				}
				n.log.ents = append(n.log.ents, Entry{Term: Term(t), Index: Index(i + 1), Type: EntryCommand, Payload: []byte(v)})
			}
			n.log.durable = n.log.image()
		}
		n.disk = HardState{Term: Term(s.num(d, "term", 0)), Epoch: GroupEpoch(s.num(d, "epoch", 0))}
		n.start(!d.HasArg("restarted"))
	}
	return nil
}

// process handles one node's Ready, without syncs, and says what was in it.
func (s *session) process(n *memNode) (some bool) {
	n.onReady = func(n *memNode, rd *Ready) {
		some = true
		if rd.Changed {
			st := n.r.Status()
			s.printf("%d: %v T%d leader=%d %v\n", n.id, st.Role, st.Term, st.Leader, st.Conf)
		}
		if rd.HardState != nil {
			s.printf("%d: save %s\n", n.id, describeHardState(*rd.HardState))
		}
		if len(rd.Entries) > 0 {
			s.printf("%d: append %s\n", n.id, describeEntries(rd.Entries))
		}
		if len(rd.Committed) > 0 {
			s.printf("%d: apply %s\n", n.id, describeEntries(rd.Committed))
		}
		if rd.Offer != nil {
			o := &rd.Offer.Snapshot.Meta
			s.printf("%d: %d offers snapshot %d/T%d\n", n.id, rd.Offer.From, o.Index, o.Term)
		}
		if rd.Snapshot != nil {
			s.printf("%d: install snapshot %d/T%d %v\n", n.id, rd.Snapshot.Meta.Index, rd.Snapshot.Meta.Term, rd.Snapshot.Meta.Conf)
		}
		for _, id := range rd.SendSnapshot {
			s.printf("%d: snapshot for %d\n", n.id, id)
		}
		for _, r := range rd.Reads {
			s.printf("%d: read %d at %d err=%v\n", n.id, r.Ctx, r.Index, r.Err)
		}
		for i := range rd.Messages {
			s.printf("  %s\n", describe(&rd.Messages[i]))
		}
		if rd.Err != nil {
			s.printf("%d: err %v\n", n.id, rd.Err)
		}
	}
	n.process()
	n.reads = nil
	return some
}

func (s *session) syncVote(n *memNode) bool {
	if n.down || len(n.saves) == 0 {
		return false
	}
	s.printf("%d: saved %s\n", n.id, describeHardState(n.saves[0]))
	return n.syncHardState()
}

func (s *session) syncLog(n *memNode) bool {
	if n.down || len(n.log.syncing) == 0 {
		return false
	}
	t := n.log.syncing[0].ticket
	s.printf("%d: synced to %d, appended in T%d\n", n.id, t.Index, t.Term)
	return n.syncLog()
}

func (s *session) step(m Message) {
	n := s.c.node(m.To)
	switch {
	case n == nil || n.down || s.c.cut[[2]NodeID{m.From, m.To}]:
		s.printf("lost %s\n", describe(&m))
		return
	}
	s.printf("%s\n", describe(&m))
	if err := s.c.deliver(m); err != nil {
		s.printf("  refused: %v\n", err)
	}
}

func (s *session) deliver(d *datadriven.TestData, drop bool) error {
	from, to, typ := NodeID(s.num(d, "from", 0)), NodeID(s.num(d, "to", 0)), s.arg(d, "type", "")
	match := func(m *Message) bool {
		return (from == 0 || m.From == from) && (to == 0 || m.To == to) && (typ == "" || m.Type.String() == "Msg"+typ)
	}
	left := s.num(d, "n", 1000)
	some := false
	for i := 0; i < len(s.c.net) && left > 0; {
		k := i
		if d.HasArg("last") {
			k = len(s.c.net) - 1 - i
		}
		if m := s.c.net[k]; match(&m) {
			some = true
			left--
			if !d.HasArg("keep") {
				s.c.net = slices.Delete(s.c.net, k, k+1)
			} else {
				i++
			}
			if drop {
				s.printf("dropped %s\n", describe(&m))
			} else {
				s.step(m)
			}
			continue
		}
		i++
	}
	if !some {
		return fmt.Errorf("no such message")
	}
	return nil
}

// stabilize lets the given nodes run until nothing moves among them.
func (s *session) stabilize(ns []*memNode) error {
	for range 1000 {
		busy := false
		for _, n := range ns {
			busy = s.process(n) || busy
			for s.syncVote(n) || s.syncLog(n) {
				busy = true
			}
			s.process(n)
		}
		for i := 0; i < len(s.c.net); {
			m := s.c.net[i]
			if slices.ContainsFunc(ns, func(n *memNode) bool { return n.id == m.To }) || s.c.node(m.To) == nil {
				s.c.net = slices.Delete(s.c.net, i, i+1)
				s.step(m)
				busy = true
				continue
			}
			i++
		}
		if !busy {
			return nil
		}
	}
	return fmt.Errorf("does not come to rest")
}

func (s *session) status(n *memNode) {
	if n.down {
		s.printf("%d: down\n", n.id)
		return
	}
	st := n.r.Status()
	after := ""
	switch {
	case st.VoteAfter == UntilTold:
		after = " vote-after=told"
	case st.VoteAfter > 0:
		after = fmt.Sprintf(" vote-after=%d", st.VoteAfter)
	}
	s.printf("%d: %v T%d vote=%d leader=%d commit=%d applied=%d stable=%d last=%d %v%s\n", n.id, st.Role, st.Term, st.Vote, st.Leader,
		st.Commit, st.Applied, st.Stable, st.Last, st.Conf, after)
	for _, p := range n.r.Peers() {
		learner := ""
		if p.Learner {
			learner = " learner"
		}
		s.printf("   %d: %v match=%d next=%d inflight=%d%s\n", p.Member.ID, p.State, p.Match, p.Next, p.Inflight, learner)
	}
}
