// What clients saw, as a history that a checker of linearizability takes: per group, writes with the offset that their record
// has, and reads of the log's end.

package sim

import (
	"cmp"
	"slices"

	"github.com/balsamq/balsa/raft"
)

// Op is one client operation on one group. A write's Offset is that of its record, a read's is the log's end.
type Op struct {
	Write        bool
	Call, Return int64 // simulated time
	Offset       int64
}

type history struct {
	writes map[uint64]*Op
	order  []uint64
	reads  []Op // Offset: the index read, until export
	broken bool // by a reset, which may lose what was acknowledged
}

func newHistory() *history { return &history{writes: map[uint64]*Op{}} }

func (h *history) called(op uint64, now raft.Time) {
	h.writes[op] = &Op{Write: true, Call: int64(now), Return: -1, Offset: -1}
	h.order = append(h.order, op)
}

// refused: it is certain that nothing of it will ever be in the log.
func (h *history) refused(op uint64) { delete(h.writes, op) }

func (h *history) acked(op uint64, now raft.Time) {
	if o := h.writes[op]; o != nil {
		o.Return = int64(now)
	}
}

// applied: a replica has applied op's record, so that it has taken effect by now, whether or not its client heard of it.
func (h *history) applied(op uint64, offset int64, now raft.Time) {
	o := h.writes[op]
	if o == nil || o.Offset >= 0 {
		return
	}
	o.Offset = offset
	if o.Return < 0 {
		o.Return = int64(now)
	}
}

func (h *history) read(called, now raft.Time, i raft.Index) {
	h.reads = append(h.reads, Op{Call: int64(called), Return: int64(now), Offset: int64(i)})
}

// export is the history in order of calls. endAt says what the log's end was after an index.
func (h *history) export(endAt func(raft.Index) int64) []Op {
	var ops []Op
	for _, id := range h.order {
		if o := h.writes[id]; o != nil && o.Offset >= 0 {
			ops = append(ops, *o)
		}
	}
	for _, r := range h.reads {
		r.Offset = endAt(raft.Index(r.Offset))
		ops = append(ops, r)
	}
	slices.SortStableFunc(ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	return ops
}
