// Sending a snapshot: the core offers it (MsgSnap), and the follower's runtime asks for it chunk by chunk. What is here
// holds the file open, keeps the log from being cut meanwhile, and answers at the pace that the host's limiter allows.
//
// A send holds one of Options.SnapshotSends places from before its file is opened until the follower has it, or has not asked
// for so long that it is given up. A group's sends belong to the worker that holds the group.

package multi

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/balsamq/balsa/raft"
)

// sendPatience times ElectionTimeout is how long an open snapshot waits for its follower to ask.
const sendPatience = 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapshotSend is a snapshot for a follower.
type snapshotSend struct {
	g    *Group
	to   raft.NodeID
	file raft.SnapshotReader
	snap raft.Snapshot // without data
	want int64         // the next chunk begins here; < 0: it has not asked
	busy bool          // a flusher reads
	dead bool          // ended while it did: whoever hears of that closes the file
	at   raft.Time     // when the limiter may be asked again
	idle raft.Time     // given up then
}

// wantSend follows Ready.SendSnapshot.
func (g *Group) wantSend(now raft.Time, to raft.NodeID) {
	if s := g.sendTo(to); s != nil {
		g.offer(now, s) // the same again: it may have most of it
		return
	}
	if slices.Contains(g.opening, to) {
		return // it is in line already, and has restarted meanwhile
	}
	g.opening = append(g.opening, to)
	g.h.sendSnapshot(g, to)
}

// opened: the send to a follower no longer waits for its file.
func (g *Group) opened(to raft.NodeID) {
	if i := slices.Index(g.opening, to); i >= 0 {
		g.opening = slices.Delete(g.opening, i, i+1)
	}
}

func (g *Group) sendTo(to raft.NodeID) *snapshotSend {
	for _, s := range g.sends {
		if s.to == to {
			return s
		}
	}
	return nil
}

// sendSnapshot takes a place for a send, or puts it in line: the metadata group at its head.
func (h *Host) sendSnapshot(g *Group, to raft.NodeID) {
	f := &h.flusher
	f.mu.Lock()
	if h.snapshotSends >= h.o.SnapshotSends {
		s := &snapshotSend{g: g, to: to}
		if g.id == raft.MetadataGroup {
			f.waiting = append([]*snapshotSend{s}, f.waiting...)
		} else {
			f.waiting = append(f.waiting, s)
		}
		f.mu.Unlock()
		return
	}
	h.snapshotSends++
	f.mu.Unlock()
	h.openSnapshot(g, to)
}

// openSnapshot opens and verifies the file, on a flusher.
func (h *Host) openSnapshot(g *Group, to raft.NodeID) {
	h.addJob(g, func(g *Group) {
		file, err := g.log.OpenSnapshot()
		if err == nil && file == nil {
			err = errors.New("there is none")
		}
		if err == nil && file.Snapshot().Size > h.o.MaxSnapshotBytes {
			err = fmt.Errorf("its %d bytes are above the bound of %d", file.Snapshot().Size, h.o.MaxSnapshotBytes)
			err = errors.Join(err, file.Close())
			file = nil
		}
		if g.in.pushEvent(h, g, event{kind: evSnapshotOpened, peer: to, file: file, err: err}) != nil { // the group has stopped
			if file != nil {
				_ = file.Close()
			}
			h.freeSend()
		}
	})
}

// freeSend gives a place to the next that waits.
func (h *Host) freeSend() {
	f := &h.flusher
	f.mu.Lock()
	if len(f.waiting) == 0 {
		h.snapshotSends--
		f.mu.Unlock()
		return
	}
	s := f.waiting[0]
	f.waiting = append(f.waiting[:0], f.waiting[1:]...)
	f.mu.Unlock()
	h.openSnapshot(s.g, s.to)
}

// snapshotOpened offers it.
func (g *Group) snapshotOpened(now raft.Time, e *event) {
	g.opened(e.peer)
	if e.err != nil {
		g.h.o.Logger.Error("snapshot for a follower cannot be sent", "group", uint64(g.id), "to", uint64(e.peer), "err", e.err)
		g.h.freeSend()
		g.r.SnapshotFailed(now, e.peer)
		g.cutIfFree()
		return
	}
	s := &snapshotSend{g: g, to: e.peer, file: e.file, snap: e.file.Snapshot(), want: -1}
	g.sends = append(g.sends, s)
	g.h.stats.snapSent.Add(1)
	g.offer(now, s)
}

func (g *Group) offer(now raft.Time, s *snapshotSend) {
	s.idle = now + sendPatience*raft.Time(g.h.o.ElectionTimeout)
	snap := s.snap
	if err := g.r.StepSnapshot(now, s.to, &snap); err != nil {
		g.endSend(s) // no longer the leader, or no longer a member
	}
}

// endSend closes a send and frees its place.
func (g *Group) endSend(s *snapshotSend) {
	for i := range g.sends {
		if g.sends[i] == s {
			g.sends = append(g.sends[:i], g.sends[i+1:]...)
			if s.dead = s.busy; !s.dead {
				s.close()
			}
			break
		}
	}
	g.cutIfFree()
}

// close is the last that happens to a send.
func (s *snapshotSend) close() {
	_ = s.file.Close() // only read
	s.g.h.freeSend()
}

// cutIfFree makes up for a cut that a send has put off.
func (g *Group) cutIfFree() {
	if g.cutLater && !g.pinned() && g.failed == nil && !g.stopped {
		g.cutLater = false
		g.prune()
	}
}

// pinned: a follower is about to get what the log begins behind; were it cut now, it would be behind again.
func (g *Group) pinned() bool { return len(g.opening)+len(g.sends) > 0 }

// dropSends ends all sends of a group that stops, or that no longer leads.
func (g *Group) dropSends() {
	f := &g.h.flusher
	f.mu.Lock()
	kept := f.waiting[:0]
	for _, s := range f.waiting {
		if s.g != g {
			kept = append(kept, s)
		} else {
			g.opened(s.to)
		}
	}
	clear(f.waiting[len(kept):])
	f.waiting = kept
	f.mu.Unlock()
	for len(g.sends) > 0 {
		g.endSend(g.sends[len(g.sends)-1])
	}
	g.cutIfFree()
}

// reviewSends ends the sends that have done their work, or that nobody asks for, and goes on with the others.
func (g *Group) reviewSends(now raft.Time) {
	if g.r.Status().Role != raft.Leader {
		g.dropSends()
		return
	}
	peers := g.r.Peers()
	for i := len(g.sends) - 1; i >= 0; i-- {
		s := g.sends[i]
		needed := false
		for k := range peers {
			// A probe may be on its way back to where it was: the follower has restarted.
			if peers[k].Member.ID == s.to && peers[k].State != raft.Replicate {
				needed = true
			}
		}
		switch {
		case s.busy:
		case !needed:
			g.endSend(s)
		case now >= s.idle:
			g.h.o.Logger.Warn("a follower does not ask for the rest of its snapshot", "group", uint64(g.id), "to", uint64(s.to))
			g.endSend(s)
			g.r.SnapshotFailed(now, s.to)
		default:
			g.pump(now, s)
		}
	}
}

// pump reads the chunk that is asked for, when its time has come.
func (g *Group) pump(now raft.Time, s *snapshotSend) {
	if s.want < 0 || s.busy || now < s.at {
		return
	}
	n := min(int64(g.h.o.SnapshotChunk), s.snap.Size-s.want)
	if wait := g.h.bulk.Take(now, n, g.id == raft.MetadataGroup); wait > 0 {
		s.at = now + raft.Time(wait)
		return
	}
	m := &ChunkMessage{Response: true, Group: g.id, Index: s.snap.Meta.Index, Term: s.snap.Meta.Term, Size: s.snap.Size, Sum: s.snap.Sum, Offset: s.want}
	s.busy, s.want = true, -1
	g.h.addJob(g, func(g *Group) {
		m.Data = make([]byte, n)
		err := s.file.ReadAt(m.Data, m.Offset)
		m.CRC = crc32.Checksum(m.Data, castagnoli)
		if g.in.pushEvent(g.h, g, event{kind: evChunkRead, peer: s.to, send: s, chunk: m, err: err}) != nil { // the group has stopped
			s.close()
		}
	})
}

// chunkRead sends what a flusher has read.
func (g *Group) chunkRead(now raft.Time, e *event) {
	if e.send.busy = false; e.send.dead {
		e.send.close()
		return
	}
	if e.err != nil {
		g.h.o.Logger.Error("snapshot for a follower cannot be read", "group", uint64(g.id), "to", uint64(e.peer), "err", e.err)
		g.endSend(e.send)
		g.r.SnapshotFailed(now, e.peer)
		return
	}
	g.h.stats.snapBytesOut.Add(uint64(len(e.chunk.Data)))
	g.h.o.Transport.SendChunk(e.peer, e.chunk)
}

// chunkAsked takes a follower's request.
func (g *Group) chunkAsked(now raft.Time, from raft.NodeID, m *ChunkMessage) {
	s := g.sendTo(from)
	if s == nil || !m.names(&s.snap) || m.Offset < 0 || m.Offset >= s.snap.Size {
		gone := *m
		gone.Response, gone.Gone, gone.Data, gone.CRC = true, true, nil, 0
		g.h.o.Transport.SendChunk(from, &gone)
		return
	}
	s.want = m.Offset
	s.idle = now + sendPatience*raft.Time(g.h.o.ElectionTimeout)
	g.r.SnapshotProgress(now, from)
	g.pump(now, s)
}

// sendDeadline is when a send has something to do without being asked.
func (g *Group) sendDeadline() raft.Time {
	at := never
	for _, s := range g.sends {
		at = min(at, s.idle)
		if s.want >= 0 && !s.busy {
			at = min(at, s.at)
		}
	}
	return at
}

// names reports that m is about s.
func (m *ChunkMessage) names(s *raft.Snapshot) bool {
	return m.Index == s.Meta.Index && m.Term == s.Meta.Term && m.Size == s.Size && m.Sum == s.Sum
}
