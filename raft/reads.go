// Linearizable reads without a log entry (§8, thesis 6.4).

package raft

// MaxPendingReads bounds the reads that wait for a round; callers batch many of theirs into one.
const MaxPendingReads = 1 << 14

// pendingRead waits until a quorum has answered a round that was sent after it came. Rounds are counted upwards for the
// whole life of this replica and never taken again: an answer to an earlier try must not serve a later read (etcd #20418).
type pendingRead struct {
	ctx   uint64
	index Index
	round uint64 // 0: waits for the next one
}

// ReadIndex asks for the index that a read, made now, must see applied. Ready.Reads answers it: once a quorum has answered
// a heartbeat round begun after this call, or with an error when leadership ends before. Reads that come while a round is
// under way share the next one.
func (r *Raft) ReadIndex(now Time, ctx uint64) error {
	r.setNow(now)
	switch {
	case r.role != Leader:
		return ErrNotLeader
	case r.commit < r.termStart:
		return ErrNotReady // commit may be behind what an earlier leader acknowledged (etcd #7331)
	case len(r.reads) >= MaxPendingReads:
		return ErrOverloaded
	}
	r.reads = append(r.reads, pendingRead{ctx: ctx, index: r.commit})
	if r.readRound == 0 {
		r.startRound(true)
		r.answerReads() // a sole voter has nobody to ask
	}
	return nil
}

func (r *Raft) assignReads() {
	for i := len(r.reads) - 1; i >= 0 && r.reads[i].round == 0; i-- {
		r.reads[i].round = r.round
	}
	if len(r.reads) > 0 {
		r.readRound = r.reads[0].round
	}
}

func (r *Raft) answerReads() {
	if r.readRound == 0 {
		return
	}
	confirmed := quorumValue(r.conf(), func(m Member) uint64 {
		if r.isSelf(m) {
			return r.round
		}
		if p := r.peer(m.ID); p != nil {
			return p.ackedRound
		}
		return 0
	})
	k := 0
	for k < len(r.reads) && r.reads[k].round != 0 && r.reads[k].round <= confirmed {
		r.readStates = append(r.readStates, ReadState{Ctx: r.reads[k].ctx, Index: r.reads[k].index})
		k++
	}
	r.reads = r.reads[k:]
	switch {
	case len(r.reads) == 0:
		r.reads, r.readRound = nil, 0
	case r.reads[0].round == 0:
		r.startRound(true) // those that came meanwhile
	default:
		r.readRound = r.reads[0].round
	}
}
