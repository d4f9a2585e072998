// Consumers of a turn.

package bench

import (
	"context"
	"errors"
	"runtime/debug"
	"testing"
)

// gcPercent is what is in force.
func gcPercent() int {
	now := debug.SetGCPercent(generatorGC)
	debug.SetGCPercent(now)
	return now
}

type noMembers struct{ *fake }

func (noMembers) Member(context.Context, int) (Consumer, error) { return nil, errors.New("no") }

// The collector comes round sooner while a group reads, and as before when it has stopped, or could not begin.
func TestMembersCollectSooner(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(generatorGC))
	c := cellOf(t, "C1")
	f := &fake{}
	if err := f.Start(t.Context(), "", c); err != nil {
		t.Fatal(err)
	}
	tn := &turn{cell: c, sys: f, load: newLoad(c, f), res: &Result{}}
	cs, err := tn.members(t.Context(), func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	if got := gcPercent(); got != readersGC {
		t.Errorf("%d while it reads", got)
	}
	for range 2 {
		if err := cs.stop(); err != nil {
			t.Fatal(err)
		}
		if got := gcPercent(); got != generatorGC {
			t.Errorf("%d afterwards", got)
		}
	}
	tn.sys = noMembers{f}
	if _, err := tn.members(t.Context(), func([]byte) {}); err == nil {
		t.Error("there are no members")
	}
	if got := gcPercent(); got != generatorGC {
		t.Errorf("%d without members", got)
	}
}
