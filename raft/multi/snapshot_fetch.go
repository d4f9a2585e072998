// Fetching an offered snapshot: this replica asks for one chunk, and for the next while it writes that one. What has arrived
// is on its disk, so that a new connection, a new leader with the same snapshot and a new process go on from there.

package multi

import (
	"errors"
	"hash/crc32"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// fetchTries is how often a chunk is asked for, once in ElectionTimeout, before the fetch rests until the next offer.
const fetchTries = 8

// fetch is a snapshot that is coming in. It belongs to the worker that holds the group.
type fetch struct {
	from  raft.NodeID
	epoch raft.GroupEpoch
	snap  raft.Snapshot
	open  bool   // the log has said how much is there
	got   int64  // durable
	asked int64  // the chunk that is waited for begins here
	next  []byte // a chunk that came while the one before is being written
	busy  bool   // a flusher writes
	whole bool   // the core has it
	tries int
	at    raft.Time // ask again then; if it is whole, the place is given up
}

func (f *fetch) offer() *raft.Offer {
	return &raft.Offer{From: f.from, Epoch: f.epoch, Snapshot: f.snap}
}

// offered follows Ready.Offer: it begins a fetch, or goes on with it.
func (g *Group) offered(now raft.Time, o *raft.Offer) {
	if f := g.fetch; f != nil && f.snap.Same(&o.Snapshot) {
		f.from, f.epoch = o.From, o.Epoch
		if f.whole {
			g.r.SnapshotReceived(now, f.offer())
		}
		return
	}
	switch {
	case g.fetch != nil && (g.fetch.busy || !g.fetch.open):
		return // a flusher has it; the offer comes again
	case o.Snapshot.Size > g.h.o.MaxSnapshotBytes:
		g.h.o.Logger.Error("a leader's snapshot is too large", "group", uint64(g.id), "from", uint64(o.From), "bytes", o.Snapshot.Size, "most", g.h.o.MaxSnapshotBytes)
		return
	case g.fetch == nil && !g.h.beginFetch(g):
		return // as many as may be are under way; the offer comes again
	}
	f := &fetch{from: o.From, epoch: o.Epoch, snap: o.Snapshot, at: never}
	g.fetch = f
	g.h.addJob(g, func(g *Group) {
		got, err := g.log.ReceiveSnapshot(&f.snap)
		_ = g.in.pushEvent(g.h, g, event{kind: evFetchOpened, fetch: f, bytes: got, err: err}) // refused: the group has stopped
	})
}

// beginFetch takes one of the places that there are; the metadata group always gets one.
func (h *Host) beginFetch(g *Group) bool {
	if n := h.fetches.Add(1); n > int64(h.o.SnapshotFetches) && g.id != raft.MetadataGroup {
		h.fetches.Add(-1)
		return false
	}
	return true
}

// endFetch forgets a fetch; what it has brought stays on the disk.
func (g *Group) endFetch() {
	if g.fetch != nil {
		g.fetch = nil
		g.h.fetches.Add(-1)
	}
}

// fetchFailed ends a fetch whose file is not what it must be, or cannot be written.
func (g *Group) fetchFailed(err error) {
	g.h.o.Logger.Warn("a leader's snapshot could not be taken in; it begins again when it is offered", "group", uint64(g.id), "from", uint64(g.fetch.from),
		"index", uint64(g.fetch.snap.Meta.Index), "full", errors.Is(err, vfs.ErrNoSpace), "err", err)
	g.h.stats.snapBroken.Add(1)
	g.endFetch()
}

func (g *Group) fetchOpened(now raft.Time, e *event) {
	f := g.fetch
	if f != e.fetch {
		return
	}
	if e.err != nil {
		g.fetchFailed(e.err)
		return
	}
	f.open, f.got, f.asked = true, e.bytes, e.bytes
	if f.got > 0 {
		g.h.stats.snapResumed.Add(1)
	}
	g.h.o.Logger.Info("taking in a leader's snapshot", "group", uint64(g.id), "from", uint64(f.from), "index", uint64(f.snap.Meta.Index),
		"bytes", f.snap.Size, "here", f.got)
	g.advance(now)
}

// advance asks for what comes next, or hands the whole to the core.
func (g *Group) advance(now raft.Time) {
	f := g.fetch
	if f.got == f.snap.Size {
		f.whole, f.at = true, now+fetchTries*raft.Time(g.h.o.ElectionTimeout)
		g.r.SnapshotReceived(now, f.offer())
		return
	}
	if f.asked < f.snap.Size && f.next == nil {
		f.tries = 0
		g.ask(now)
	}
}

func (g *Group) ask(now raft.Time) {
	f := g.fetch
	f.at = now + raft.Time(g.h.o.ElectionTimeout)
	g.h.o.Transport.SendChunk(f.from, &ChunkMessage{Group: g.id, Index: f.snap.Meta.Index, Term: f.snap.Meta.Term, Size: f.snap.Size, Sum: f.snap.Sum, Offset: f.asked})
}

// chunkCame takes an answer.
func (g *Group) chunkCame(now raft.Time, from raft.NodeID, m *ChunkMessage) {
	f := g.fetch
	switch {
	case f == nil || !f.open || f.whole || from != f.from || !m.names(&f.snap) || m.Offset != f.asked || f.next != nil:
		return // late, twice, or of another
	case m.Gone:
		g.endFetch() // the next offer says what there is instead
		return
	case len(m.Data) == 0 || int64(len(m.Data)) > f.snap.Size-m.Offset || crc32.Checksum(m.Data, castagnoli) != m.CRC:
		g.h.stats.badChunks.Add(1)
		g.h.o.Logger.Warn("damaged chunk of a snapshot", "group", uint64(g.id), "from", uint64(from), "at", m.Offset, "bytes", len(m.Data))
		return // asked for again in a while
	}
	f.asked += int64(len(m.Data))
	f.next, f.at = m.Data, never
	g.writeNext(now)
}

// writeNext hands the chunk that has come to a flusher, and asks for the one behind it.
func (g *Group) writeNext(now raft.Time) {
	f := g.fetch
	if f.busy || f.next == nil {
		return
	}
	off, data := f.got, f.next
	f.busy, f.next = true, nil
	g.h.addJob(g, func(g *Group) {
		err := g.log.WriteSnapshot(off, data)
		_ = g.in.pushEvent(g.h, g, event{kind: evChunkWritten, fetch: f, bytes: int64(len(data)), err: err}) // refused: the group has stopped
	})
	if f.asked < f.snap.Size {
		f.tries = 0
		g.ask(now)
	}
}

func (g *Group) chunkWritten(now raft.Time, e *event) {
	f := g.fetch
	if f != e.fetch {
		return
	}
	f.busy = false
	if e.err != nil {
		g.fetchFailed(e.err)
		return
	}
	f.got += e.bytes
	g.h.stats.snapBytesIn.Add(uint64(e.bytes))
	if f.next != nil {
		g.writeNext(now)
	} else if f.got == f.snap.Size {
		g.advance(now)
	}
}

// reviewFetch asks again for what has not come, and drops what is no longer needed.
func (g *Group) reviewFetch(now raft.Time) {
	f := g.fetch
	switch {
	case g.applied >= f.snap.Meta.Index && !f.busy && f.open:
		g.endFetch()
		g.h.addJob(g, func(g *Group) { _ = g.log.DropReceived() }) // what stays behind goes with the next snapshot
	case now >= f.at && f.whole:
		g.endFetch() // the core does not take it; offered again, it is all here
	case now >= f.at:
		if f.tries++; f.tries > fetchTries {
			g.endFetch()
			return
		}
		g.ask(now)
	}
}
