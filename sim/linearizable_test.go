// Linearizability of what clients saw, by porcupine: a check that knows nothing of Raft, only that writes append one record and
// reads see the end of the log.

package sim

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	// windowOps is about how many operations porcupine gets at once: a window ends where nothing is under way.
	windowOps = 200
	// porcupineLimit bounds the search in one window. The offsets in the history leave it almost no choice.
	porcupineLimit = 20 * time.Second
)

// logModel is a log that counts: the state is its end.
func logModel(begin int64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return begin },
		Step: func(state, input, output any) (bool, any) {
			end, offset := state.(int64), output.(int64)
			if input.(bool) {
				return offset == end, end + 1
			}
			return offset == end, end
		},
	}
}

// NotLinearizableError: no order of the operations explains what the clients saw.
type NotLinearizableError struct {
	Group int
	Ops   []Op
}

func (e *NotLinearizableError) Error() string {
	return fmt.Sprintf("histories are linearizable: group %d, in a window of %d operations from %v on: %v", e.Group, len(e.Ops), time.Duration(e.Ops[0].Call), e.Ops)
}

// linearizable is an Options.History.
func linearizable(group int, ops []Op) error {
	end := int64(0)
	for len(ops) > 0 {
		n, latest := 0, int64(0)
		for n < len(ops) && (n < windowOps || ops[n].Call <= latest) {
			latest = max(latest, ops[n].Return)
			n++
		}
		window := make([]porcupine.Operation, n)
		next := end
		for i, o := range ops[:n] {
			window[i] = porcupine.Operation{ClientId: i, Input: o.Write, Call: o.Call, Output: o.Offset, Return: o.Return}
			if o.Write {
				next++
			}
		}
		switch porcupine.CheckOperationsTimeout(logModel(end), window, porcupineLimit) {
		case porcupine.Illegal:
			return &NotLinearizableError{group, ops[:n]}
		case porcupine.Unknown:
			return fmt.Errorf("group %d: porcupine did not decide on %d operations within %v", group, n, porcupineLimit)
		}
		ops, end = ops[n:], next
	}
	return nil
}
