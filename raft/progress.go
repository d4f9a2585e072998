// What a leader knows about one other member.

package raft

// ProgressState says how entries go to a member.
type ProgressState uint8

const (
	// Probe: one message at a time, until an answer tells where the logs meet.
	Probe ProgressState = iota
	// Replicate: pipelined, up to the bounds on what is in flight.
	Replicate
	// SnapshotState: it needs what is compacted here; no entries until it has a snapshot.
	SnapshotState
)

func (s ProgressState) String() string { return [...]string{"probe", "replicate", "snapshot"}[s] }

// Progress is what a leader knows about one other member. The next index sent is Next; all up to Match is durable there.
type Progress struct {
	Member  Member
	Learner bool
	Match   Index
	Next    Index
	State   ProgressState

	boot       uint64
	lost       uint64 // its boot, if that has lost its log and is to be told how far it went: see Message.Lost
	sentCommit Index
	waiting    bool // Probe: an answer, or the next heartbeat's, is awaited
	inflights  inflights
	stalled    int  // answered heartbeats since something was acknowledged, with something in flight
	ackedAt    Time // sent time of the latest message of this term that it has answered; its promise runs from there
	heardAt    Time // when its last answer that was news came here: check-quorum goes by that
	entriesAt  Time // when entries were last sent to it
	newsAt     Time // when a message without entries was last sent to it, if that has not been answered; 0: it has. The moment after, if several were sent at once
	movedAt    Time // when it last acknowledged something new, or was sent something while it owed nothing
	ackedRound uint64
	covered    bool
	parked     bool  // covered, and owes nothing, as it is dead: see Raft.Park
	roundEnd   Index // the round of catching up ends when Match is here: see Raft.caughtUp
	roundSince Time
	fastRound  bool      // the last one took less than an election timeout
	snap       *Snapshot // SnapshotState: what it was offered; nil: nothing yet
	snapUntil  Time      // and how long a sign of progress is waited for before that is given up
}

// departure is a member that has left in this leadership. If it comes back, answers that it gave before are still those of an
// earlier start. There are as many as members removed by one leader.
type departure struct {
	member Member
	boot   uint64
}

func (p *Progress) becomeProbe() {
	p.State, p.waiting, p.Next = Probe, false, p.Match+1
	p.inflights.reset()
}

func (p *Progress) becomeReplicate() {
	p.State, p.waiting, p.Next = Replicate, false, p.Match+1
	p.inflights.reset()
}

func (p *Progress) becomeSnapshot() {
	p.State, p.snap, p.snapUntil = SnapshotState, nil, 0
	p.inflights.reset()
}

// catchUpFrom begins to count how long it takes to replicate what there is now.
func (p *Progress) catchUpFrom(last Index, now Time) { p.roundEnd, p.roundSince = last, now }

// inflights are the messages with entries that were sent and not answered, in the order of their last index.
type inflights struct {
	ring  []inflight
	start int
	n     int
	bytes int64
	paced int64 // of these, those that Raft.SendBehind sent
}

type inflight struct {
	last  Index
	bytes int64
	paced bool
}

func (f *inflights) reset() { f.start, f.n, f.bytes, f.paced = 0, 0, 0, 0 }

func (f *inflights) full(maxMsgs int, maxBytes int64) bool {
	return f.n >= maxMsgs || f.n > 0 && f.bytes >= maxBytes
}

func (f *inflights) add(last Index, bytes int64) {
	if f.n == len(f.ring) {
		grown := make([]inflight, max(8, 2*f.n))
		for i := range f.n {
			grown[i] = f.ring[(f.start+i)%len(f.ring)]
		}
		f.ring, f.start = grown, 0
	}
	f.ring[(f.start+f.n)%len(f.ring)] = inflight{last: last, bytes: bytes}
	f.n++
	f.bytes += bytes
}

// pace notes that the latest, of so many bytes, was sent by Raft.SendBehind.
func (f *inflights) pace(bytes int64) {
	f.ring[(f.start+f.n-1)%len(f.ring)].paced = true
	f.paced += bytes
}

// freeTo forgets what an acknowledgement up to i answers.
func (f *inflights) freeTo(i Index) {
	for f.n > 0 && f.ring[f.start].last <= i {
		f.bytes -= f.ring[f.start].bytes
		if f.ring[f.start].paced {
			f.paced -= f.ring[f.start].bytes
		}
		f.start = (f.start + 1) % len(f.ring)
		f.n--
	}
}
