// Refusals that last: what became of a producer's batch whose condition failed.
//
// A refused batch takes no sequence, and clients are made for that: the number is taken by their next batch, or they begin a new epoch. So a copy of the batch that
// comes late (its connection had stalled, and the client, asking again over another, was told of the refusal) would fit, and if the condition has come to hold
// meanwhile, it would be written after its producer was told that it was not. No client asks twice for what was refused, and none can take it back.
//
// So a refusal of an idempotent producer is an entry of the log, a command that says which batch was refused, by its checksum; and whoever leads afterwards refuses the
// copy, too, as long as its number is the next. Once another batch has taken the number, the copy is a repeat of that, or out of order.

package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// maxRefusals is how many refusals of one number are remembered: as many as a client has requests in flight.
const maxRefusals = windowBatches

// refusal is a batch that was refused.
type refusal struct {
	first, last int32 // sequences
	crc         uint32
	delta       int32 // of the first record to blame
	current     int64 // offset of its key's last record, or -1
	index       raft.Index
}

// refuse remembers x. What is remembered is shared with copies of w.
func (w *window) refuse(epoch int16, x refusal) {
	w.enter(epoch)
	w.at = x.index
	from := max(len(w.refused)+1-maxRefusals, 0)
	w.refused = append(slices.Clone(w.refused[from:]), x)
}

// refusalOf is the refusal of the batch with this checksum, or nil. Only those of the number that comes next are remembered.
func (w *window) refusalOf(b protocol.Batch, crc uint32) *refusal {
	if w == nil || w.epoch != b.ProducerEpoch() {
		return nil
	}
	for i := range w.refused {
		if x := &w.refused[i]; x.crc == crc && x.first == b.BaseSequence() && x.last == b.LastSequence() {
			return x
		}
	}
	return nil
}

// refuseAgain answers a batch that was refused before. If its conditions fail still, as judgeKeys says, that is the answer. If they hold, it may be a copy that comes late
// or somebody who asks anew with the very same bytes, and the text says which answer it is.
func (m *machine) refuseAgain(req *AppendRequest, waitFor raft.Index, err error, term raft.Term) (raft.Index, error) {
	x := req.before
	if err != nil && !errors.Is(err, errRefused) {
		return 0, err
	}
	if req.refusal == nil {
		again := RecordError{x.delta, refusedText + strings.TrimPrefix(conflictText(x.current), ExpectHeader+": ")}
		req.refusal = &RecordsError{Records: []RecordError{again}, Total: 1, Cause: ErrConditionFailed}
	}
	req.result.LeaderEpoch = int32(term)
	if waitFor = max(waitFor, x.index); waitFor <= m.applied {
		return 0, errRefused
	}
	return waitFor, nil
}

// refusedText begins what a client is told of a batch that was refused before, and would not be now. What follows is as in conflictText.
const refusedText = ExpectHeader + ": was refused when "

// stageRefusal makes e the refusal of req, whose condition has just failed.
func (m *machine) stageRefusal(req *AppendRequest, b protocol.Batch, e *raft.Entry) {
	x := refusal{first: b.BaseSequence(), last: b.LastSequence(), crc: req.crc, delta: req.refusal.Records[0].Index, current: req.blamed, index: e.Index}
	id, epoch := b.ProducerID(), b.ProducerEpoch()
	e.Type, e.Payload = raft.EntryCommand, encodeRefusal(id, epoch, &x, m.r.now().UnixMilli())
	m.frame(e, 0)
	m.staging.over.own(m.fold, id).refuse(epoch, x)
	m.staging.index = e.Index
}

// A refusal as a command: see snapshot.go.
const (
	commandRefusal = 2
	refusalSize    = 1 + 1 + 8 + 2 + refusedSize + 8
	refusedSize    = 4 + 4 + 4 + 4 + 8
)

func encodeRefusal(id int64, epoch int16, x *refusal, stamp int64) []byte {
	be := binary.BigEndian
	out := append(make([]byte, 0, refusalSize), commandVersion, commandRefusal)
	out = be.AppendUint64(out, uint64(id))
	out = be.AppendUint16(out, uint16(epoch))
	out = x.append(out)
	return be.AppendUint64(out, uint64(stamp))
}

func (x *refusal) append(out []byte) []byte {
	be := binary.BigEndian
	out = be.AppendUint32(out, uint32(x.first))
	out = be.AppendUint32(out, uint32(x.last))
	out = be.AppendUint32(out, x.crc)
	out = be.AppendUint32(out, uint32(x.delta))
	return be.AppendUint64(out, uint64(x.current))
}

// readRefusal reads what append has written, and says whether it makes sense in a log that ends at next.
func readRefusal(p []byte, next int64) (x refusal, ok bool) {
	be := binary.BigEndian
	x = refusal{first: int32(be.Uint32(p)), last: int32(be.Uint32(p[4:])), crc: be.Uint32(p[8:]), delta: int32(be.Uint32(p[12:])), current: int64(be.Uint64(p[16:]))}
	return x, x.first >= 0 && x.last >= 0 && x.delta >= 0 && x.current >= -1 && x.current < next
}

// refusedProducer is whose batch a command says was refused.
func refusedProducer(p []byte) (id int64, ok bool) {
	if len(p) != refusalSize || p[0] != commandVersion || p[1] != commandRefusal {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(p[2:])), true
}

// refusal folds one in.
func (f *fold) refusal(i raft.Index, p []byte) error {
	id, _ := refusedProducer(p)
	epoch := int16(binary.BigEndian.Uint16(p[10:]))
	x, ok := readRefusal(p[12:], f.next)
	if x.index = i; !ok || id < 0 || epoch < 0 {
		return fmt.Errorf("%w: index %d: a refusal of producer %d, epoch %d", errCommand, i, id, epoch)
	}
	pr := f.touch(id, int64(binary.BigEndian.Uint64(p[12+refusedSize:])))
	pr.refuse(epoch, x)
	return nil
}
