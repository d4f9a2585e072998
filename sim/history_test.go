package sim

import "testing"

// TestLinearizable: the check accepts what it must and sees what it must.
func TestLinearizable(t *testing.T) {
	write := func(call, ret, offset int64) Op { return Op{true, call, ret, offset} }
	read := func(call, ret, end int64) Op { return Op{false, call, ret, end} }
	for _, c := range []struct {
		name string
		ok   bool
		ops  []Op
	}{
		{"one after another", true, []Op{write(1, 2, 0), read(3, 4, 1), write(5, 6, 1), read(7, 8, 2)}},
		{"a read beside a write may see either end", true, []Op{write(1, 9, 0), read(2, 3, 0), read(4, 5, 1)}},
		{"a stale read", false, []Op{write(1, 2, 0), read(3, 4, 0)}},
		{"a read that goes back", false, []Op{write(1, 9, 0), read(2, 3, 1), read(4, 5, 0)}},
		{"a read of what nobody wrote", false, []Op{write(1, 2, 0), read(3, 4, 2)}},
		{"a lost write", false, []Op{write(1, 2, 0), write(3, 4, 0)}},
		{"a write that overtakes", false, []Op{write(1, 2, 1), write(3, 4, 0)}},
	} {
		if err := linearizable(0, c.ops); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	var long []Op // more than one window
	for i := range int64(5 * windowOps) {
		long = append(long, write(2*i, 2*i+1, i))
	}
	if err := linearizable(0, long); err != nil {
		t.Error(err)
	}
	if err := linearizable(0, append(long, read(1e6, 1e6+1, 3))); err == nil {
		t.Error("a stale read in the last window was not seen")
	}
}
