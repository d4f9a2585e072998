package client

import "testing"

func TestMoveMeasure(t *testing.T) {
	type held struct{ size, lag int64 }
	for what, tc := range map[string]struct {
		move   Move
		held   map[int32]held
		phase  string
		copied int64
		total  int64
		lag    int64
	}{
		"nothing yet":        {Move{Leader: 1, Replicas: []int32{4, 1, 2}, Adding: []int32{4}}, map[int32]held{1: {100, 0}, 2: {120, 0}}, PhaseWaiting, 0, 100, -1},
		"half":               {Move{Leader: 1, Replicas: []int32{4, 5, 1}, Adding: []int32{4, 5}}, map[int32]held{1: {100, 0}, 4: {30, 70}, 5: {20, 80}}, PhaseCopying, 50, 200, 80},
		"a target is silent": {Move{Leader: 1, Replicas: []int32{4, 5, 1}, Adding: []int32{4, 5}}, map[int32]held{1: {100, 0}, 4: {100, 0}}, PhaseCopying, 100, 200, -1},
		"all":                {Move{Leader: 1, Replicas: []int32{4, 1}, Adding: []int32{4}}, map[int32]held{1: {100, 0}, 4: {97, 0}}, PhaseSwitching, 100, 100, 0},
		"no leader":          {Move{Leader: -1, Replicas: []int32{4, 1, 2}, Adding: []int32{4}}, map[int32]held{1: {100, -1}, 2: {120, -1}, 4: {30, -1}}, PhaseCopying, 30, 120, -1},
		"only removing":      {Move{Leader: 1, Replicas: []int32{1, 2}}, map[int32]held{1: {100, 0}}, PhaseRemoving, 0, 0, 0},
	} {
		m := tc.move
		m.measure(func(id int32) (int64, int64, bool) { h, ok := tc.held[id]; return h.size, h.lag, ok })
		if m.Phase != tc.phase || m.Copied != tc.copied || m.Total != tc.total || m.Lag != tc.lag {
			t.Errorf("%s: %+v", what, m)
		}
	}
}
