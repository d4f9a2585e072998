// Rules broken on purpose: a copy of the core with one rule taken out must be found out by TestRandomCluster, or that test is
// blind there. Each mutant says within how many seeds it is found out; which one it is changes with every change of the core:
//
//	go test ./raft -run TestMutants -mutants -v               build each mutant, run its seeds, print the first that notices
//	go test ./raft -run TestMutants -mutants -v -search 5000  more seeds than that

package raft

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	flagMutants = flag.Bool("mutants", false, "build and run the mutants of TestMutants")
	flagSearch  = flag.Int("search", 0, "with -mutants: try at least so many seeds")
)

// mutant is one rule taken out: in file, old becomes with.
type mutant struct {
	name, file, old, with string
	within                int    // so many seeds it is found out, or else
	test                  string // by this test: it takes more than chance, or a broken peer
}

var mutants = []mutant{
	{"commit-by-counting-old-terms", "leader.go", "if q <= r.commit || q < r.termStart {", "if q <= r.commit {", 40, ""},
	{"no-wait-after-restart", "raft.go", "if !cfg.Fresh && !r.soleVoter() {", "if false {", 1500, ""},
	{"report-without-term", "raft.go", "if t.Term < r.truncTerm || r.installed != nil {", "if r.installed != nil {", 200, ""},
	{"lease-from-the-answer", "replication.go", "r.contact(p, m.SentAt, r.now)", "r.contact(p, r.now, r.now)", 1500, ""},
	{"lease-after-transfer", "transfer.go", "r.leaseForfeited = true", "r.leaseForfeited = false", 500, ""},
	{"lease-by-new-half", "leader.go", "t := quorumValue(r.conf(), func(m Member) Time {", "t := majorityValue(r.conf().Voters, func(m Member) Time {", 1000, ""},
	{"lease-before-own-term", "leader.go", "if r.role != Leader || r.leaseForfeited || r.commit < r.termStart {", "if r.role != Leader || r.leaseForfeited {", 20, ""},
	{"votes-while-leader-lives", "election.go", "if !m.Force && r.promised() {", "if m.Type == MsgPreVote && r.promised() {", 0, "TestInteraction/votes_refused_while_fresh|TestPaper_6"},
	{"promise-ends-with-term", "election.go", "return r.now < r.promiseUntil || r.now < r.voteFrom", "return r.leader != 0 && r.now < r.promiseUntil || r.now < r.voteFrom", 0, "TestInteraction/promise_outlives_term"},
	{"speaks-before-sync", "raft.go", "case r.covers(need):", "case true:", 10, ""},
	{"two-votes-per-term", "election.go", "free := r.vote == 0 && r.leader == 0 ||", "free := true ||", 10, ""},
	{"vote-without-comparing-logs", "election.go", "upToDate := m.LogTerm > myTerm ||", "upToDate := true ||", 20, ""},
	{"leader-counts-before-sync", "leader.go", "return r.stable\n\t}\n\tif p := r.peer(m.ID); p != nil {\n\t\treturn p.Match", "return r.last\n\t}\n\tif p := r.peer(m.ID); p != nil {\n\t\treturn p.Match", 10, ""},
	{"ack-before-sync", "follower.go", "i := min(r.stable, r.matched)\n\tr.acked", "i := r.matched\n\tr.acked", 10, ""},
	{"ack-beyond-match", "follower.go", "i := min(r.stable, r.matched)\n\tr.acked", "i := r.stable\n\tr.acked", 0, "TestPaper_5_3_ConsistencyCheck"},
	{"old-message-shortens-log", "follower.go", "if ok && t == entries[i].Term {\n\t\t\tcontinue\n\t\t}", "if false {\n\t\t\tcontinue\n\t\t}", 200, ""},
	{"heartbeat-commits-unmatched", "follower.go", "r.commit = max(r.commit, min(m.Commit, r.matched))", "r.commit = max(r.commit, min(m.Commit, r.last))", 0, "TestPaper_5_3_FollowerAppliesCommitted"},
	{"append-commits-unmatched", "follower.go", "r.commit = max(r.commit, min(m.Commit, end))", "r.commit = max(r.commit, min(m.Commit, r.last))", 0, "TestPaper_5_3_FollowerAppliesCommitted"},
	{"membership-not-rolled-back", "logview.go", "for r.confs[len(r.confs)-1].index >= first {", "for false {", 100, ""},
	{"membership-before-own-term", "membership.go", "case r.commit < r.termStart:\n\t\treturn 0, ErrNotReady\n\tcase r.confIndex() > r.commit || r.conf().Joint():", "case r.confIndex() > r.commit || r.conf().Joint():", 40, ""},
	{"two-membership-changes", "membership.go", "case r.confIndex() > r.commit || r.conf().Joint():", "case r.conf().Joint():", 300, ""},
	{"joint-by-new-half", "quorum.go", "v = min(v, majorityValue(c.Outgoing, f))", "_ = v", 40, ""},
	{"election-by-new-half", "quorum.go", "if !c.Joint() {\n\t\treturn res", "if true {\n\t\treturn res", 2000, ""},
	{"removed-leader-counts-itself", "quorum.go", "v := majorityValue(c.Voters, f)", "v := majorityValue(append(c.Voters[:len(c.Voters):len(c.Voters)], Member{}), f)", 60, ""},
	{"read-before-own-term", "reads.go", "case r.commit < r.termStart:", "case false:", 40, ""},
	{"read-without-round", "reads.go", "if r.isSelf(m) {\n\t\t\treturn r.round", "if true {\n\t\t\treturn r.round", 400, ""},
	{"read-joins-round-under-way", "reads.go", "if r.readRound == 0 {\n\t\tr.startRound(true)\n", "if r.readRound != 0 {\n\t\tr.reads[len(r.reads)-1].round = r.readRound\n\t} else {\n\t\tr.startRound(true)\n", 0, "TestInteraction/read_index"},
	{"damaged-replica-votes", "election.go", "able := r.voteAfter == 0 && r.installed == nil", "able := r.installed == nil", 300, ""},
	{"damaged-replica-campaigns", "election.go", "return r.voteAfter == 0 && r.installed == nil &&", "return r.installed == nil &&", 1000, ""},
	{"lost-log-told-before-own-term", "replication.go", "if r.commit >= r.termStart {\n\t\tm.Lost = p.lost", "if true {\n\t\tm.Lost = p.lost", 0, "TestLostLogIsNotToldBeforeOwnTermCommits"},
	{"lost-log-told-by-any-message", "follower.go", "m.Lost == r.cfg.Boot && m.Commit > 0", "m.Commit > 0", 0, "TestLostLogIsToldByWhoKnowsOfTheLoss"},
	{"lost-log-votes-at-once", "follower.go", "r.voteAfter = m.Commit\n", "r.voteAfter = 1\n", 0, "TestLostLogIsToldByWhoKnowsOfTheLoss"},
	{"reset-pardons-before-durable", "reset.go", "r.epoch, r.pardoned = s.Epoch, true", "r.epoch, r.voteAfter = s.Epoch, 0", 0, "TestInteraction"},
	{"lost-log-rests-untold", "leader.go", "p.State == Replicate && p.lost == 0 &&", "p.State == Replicate &&", 0, "TestLostLogIsNotToldBeforeOwnTermCommits"},
	{"boot-forgotten-with-membership", "membership.go", "p.boot = r.departed[i].boot", "_ = i", 0, "TestLostLogIsNotToldBeforeOwnTermCommits"},
	{"restart-keeps-match", "replication.go", "p.Match, p.fastRound = 0, false", "p.fastRound = false", 1500, ""},
	{"other-incarnation-counts", "raft.go", "if known := r.incarnationOf(m.From); isResponse(m.Type)", "if known := r.incarnationOf(m.From); false && isResponse(m.Type)", 0, "TestMisaddressedMessagesAreDropped|TestOtherIncarnation"},
	{"inherited-joint-taken-back", "membership.go", "case change.Revert && r.confIndex() >= r.termStart:", "case change.Revert:", 0, "TestInteraction/revert_after_commit"},
	{"refusal-to-known-incarnation", "follower.go", "MsgAppResp, To: m.From, ToIncarnation: m.FromIncarnation, Reject: true", "MsgAppResp, To: m.From, Reject: true", 6000, ""},
	{"removed-never-leads-again", "election.go", "r.conf().Epoch == r.epoch && r.mayLead()", "r.conf().Epoch == r.epoch && r.isVoter()", 0, "TestInteraction/removed_may_still_lead"},
	{"joint-never-left", "membership.go", "if c := r.conf(); c.Joint() {\n\t\tr.appendConf", "if c := r.conf(); c.Joint() {\n\t\treturn\n\t\tr.appendConf", 40, ""},
	{"lost-message-never-missed", "replication.go", "if p.stalled >= stallPatience {", "if false {", 40, ""},
	{"term-not-told-to-old-leader", "raft.go", "if m.Type == MsgApp || m.Type == MsgHeartbeat || m.Type == MsgSnap {", "if false {", 0, "TestInteraction/rejoin_with_higher_term|TestPaper_5_1"},
	{"nobody-withdraws", "rivals.go", "!r.withdrew && r.conf().isVoter(m.From)", "false && r.conf().isVoter(m.From)", 0, "TestInteraction/split_votes"},
	{"withdraws-each-time", "rivals.go", "!r.withdrew && r.conf().isVoter(m.From)", "r.conf().isVoter(m.From)", 0, "TestInteraction/split_votes"},
	{"split-votes-wait", "rivals.go", "if r.role != PreCandidate && r.rivals == rivalsBehind", "if false && r.rivals == rivalsBehind", 0, "TestInteraction/split_five"},
	{"both-ahead", "rivals.go", "r.last == m.Index && r.self.ID < m.From", "r.last == m.Index", 0, "TestInteraction/split_five"},
	{"asks-once", "rivals.go", "\tif r.role == PreCandidate {\n\t\tq :=", "\tif false {\n\t\tq :=", 0, "TestInteraction/asked_too_early"},
	{"no-check-quorum", "leader.go", "if r.now >= r.quorumUntil() {", "if false {", 40, ""},
}

// TestMutants holds the list to the code: each rule is where it is said to be. With -mutants it breaks them.
func TestMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			text, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), m.old); n != 1 {
				t.Fatalf("%s has %d of: %s", m.file, n, m.old)
			}
			if *flagMutants {
				m.run(t, strings.Replace(string(text), m.old, m.with, 1))
			}
		})
	}
}

var foundBy = regexp.MustCompile(`seed (\d+): (.*)`)

func (m *mutant) run(t *testing.T, text string) {
	dir := t.TempDir()
	file, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, m.file)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: broken}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{broken: []byte(text), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "mutant.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	args := []string{"-test.run", "^TestRandomCluster$", "-test.timeout", "1h", "-seeds", fmt.Sprint(max(m.within, *flagSearch))}
	if m.test != "" {
		args = []string{"-test.run", m.test}
	}
	if *flagBlind != "" {
		args = append(args, "-blind", *flagBlind)
	}
	out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
	if err == nil {
		t.Fatal("nothing notices")
	}
	if m.test != "" {
		return
	}
	found := foundBy.FindSubmatch(out)
	if found == nil {
		t.Fatalf("failed, but not by an invariant: %.2000s", out)
	}
	t.Logf("seed %s: %.200s", found[1], found[2])
}
