package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeHerd leads partition p on node p%3, and after a kill on another node, one more of them at each look.
type fakeHerd struct {
	name    string
	n       int
	dead    int
	looks   int // since the kill
	starts  int
	running bool
	create  error
	never   bool // no orphan is led again
}

func (f *fakeHerd) Name() string { return f.name }
func (f *fakeHerd) Start(context.Context, string, Cell) error {
	f.starts++
	f.running, f.dead, f.looks = true, -1, 0
	return nil
}
func (f *fakeHerd) Create(_ context.Context, c Cell, made func(int)) error {
	n := c.Partitions
	made(n / 2)
	if f.create != nil {
		return f.create
	}
	f.n = n
	made(n)
	return nil
}
func (f *fakeHerd) Leaders(_ context.Context, n int) ([]int, error) {
	leaders := make([]int, n)
	for p := range leaders {
		leaders[p] = p % 3
		if p%3 == f.dead {
			if leaders[p] = -1; p/3 < f.looks && !f.never {
				leaders[p] = (f.dead + 1) % 3
			}
		}
	}
	if f.dead >= 0 {
		f.looks++
	}
	return leaders, nil
}
func (f *fakeHerd) Pids() []int {
	pids := []int{os.Getpid(), os.Getpid(), os.Getpid()}
	if f.dead >= 0 {
		pids[f.dead] = 0
	}
	return pids
}
func (f *fakeHerd) Kill(node int) error { f.dead = node; return nil }
func (f *fakeHerd) Stop() error         { f.running = false; return nil }

func (f *fakeHerd) Disconnect() {}

func runHerds(t *testing.T, o ManyOptions, herds ...*fakeHerd) []Many {
	t.Helper()
	o.Measure, o.poll, o.window, o.settle = time.Millisecond, time.Microsecond, time.Millisecond, time.Minute
	o.Dir, o.Log = t.TempDir(), t.Logf
	var got []Many
	if err := RunMany(t.Context(), o, func() (hs []Cluster) {
		for _, h := range herds {
			hs = append(hs, h)
		}
		return hs
	}, func(m Many) { got = append(got, m) }); err != nil {
		t.Fatal(err)
	}
	for _, h := range herds {
		if h.running {
			t.Errorf("%s was left running", h.name)
		}
	}
	return got
}

func TestManySteps(t *testing.T) {
	h := &fakeHerd{name: "balsa"}
	got := runHerds(t, ManyOptions{Partitions: []int{0, 30}}, h)
	if len(got) != 2 || h.starts != 4 {
		t.Fatalf("%d results, %d starts: %+v", len(got), h.starts, got)
	}
	m := got[1]
	if m.Failed != "" || m.Partitions != 30 || m.CreateSec <= 0 || m.StartSec <= 0 || len(m.IdleCPU) != 3 || len(m.LeftCPU) != 2 || len(m.RSS) != 3 {
		t.Fatalf("%+v", m)
	}
	if m.Orphaned != 10 || m.Disturbed != 0 || m.RecoverP50 <= 0 || m.RecoverP99 < m.RecoverP50 || m.RecoverMax < m.RecoverP99 {
		t.Fatalf("%+v", m)
	}
	if c := m.Curve; len(c) != 11 || c[0].Left != 10 || c[10].Left != 0 {
		t.Fatalf("%+v", c)
	}
	if got[0].Failed != "" || got[0].StartSec <= 0 || got[0].Orphaned != 0 || got[0].PerKB != 0 {
		t.Fatalf("%+v", got[0])
	}
}

// What a system cannot do is said, and the others go on.
func TestManySaysWhatFailed(t *testing.T) {
	peer := &fakeHerd{name: "peer", create: errors.New("no more streams")}
	got := runHerds(t, ManyOptions{Partitions: []int{30}}, peer, &fakeHerd{name: "other"})
	if len(got) != 2 || !strings.Contains(got[0].Failed, "15 of 30") || !strings.Contains(got[0].Failed, "no more streams") || got[1].Failed != "" {
		t.Fatalf("%+v", got)
	}
	got = runHerds(t, ManyOptions{Partitions: []int{30}, Limit: 3 * time.Second}, &fakeHerd{name: "slow", never: true})
	if m := got[0]; !strings.Contains(m.Failed, "10 of 10 partitions of the dead node have no leader") || m.RecoverMax != 0 || m.StartSec <= 0 {
		t.Fatalf("%+v", m)
	}
}

// A bound on a peer is never silent, and measures nothing twice.
func TestManyBoundsPeers(t *testing.T) {
	got := runHerds(t, ManyOptions{Partitions: []int{6, 9, 30, 60}, PeerMax: 9}, &fakeHerd{name: "balsa"}, &fakeHerd{name: "peer"})
	var lines []string
	for _, m := range got {
		lines = append(lines, fmt.Sprint(m.System, m.Wanted, m.Partitions, m.Skipped != "", len(m.Notes)))
	}
	want := []string{"balsa6 6 false 0", "peer6 6 false 0", "balsa9 9 false 0", "peer9 9 false 0", "balsa30 30 false 0", "peer30 9 true 1", "balsa60 60 false 0", "peer60 9 true 1"}
	if !slices.Equal(lines, want) {
		t.Fatalf("%q", lines)
	}
	r := NewReport("", nil)
	r.Many = got
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"machine load", "peer, 60 wanted, round 1: bounded to 9", "idle CPU %", "p99 s"} {
		if !strings.Contains(b.String(), s) {
			t.Errorf("the table does not say %q:\n%s", s, b.String())
		}
	}
}

func TestRecovery(t *testing.T) {
	w := newRecovery([]int{0, 1, 2, 2, 2}, 2)
	w.look([]int{0, 1, 2, -1, 0}, time.Second) // partition 2: nobody has noticed yet
	w.look([]int{0, 0, 1, -1, -1}, 2*time.Second)
	w.look([]int{0, 1, 1, 0, 0}, 4*time.Second)
	var m Many
	w.fill(&m)
	if w.left != 0 || m.Orphaned != 3 || m.Disturbed != 1 || m.RecoverP50 != 2 || m.RecoverMax != 4 {
		t.Fatalf("%+v", m)
	}
	if rank(nil, 0.5) != 0 || rank([]float64{1}, 0.99) != 1 || rank([]float64{1, 2, 3, 4}, 0.5) != 2 || rank([]float64{1, 2, 3, 4}, 0.99) != 4 {
		t.Fatal("rank")
	}
}

// The part of nats-server's /jsz that says who leads: a server speaks for itself only.
func TestJetStreamLeaders(t *testing.T) {
	v := new(jsz)
	if err := json.Unmarshal([]byte(`{"meta_cluster":{"leader":"n1","cluster_size":3},"account_details":[{"stream_detail":[
		{"name":"BENCH0","cluster":{"leader":"n2"}},{"name":"BENCH1","cluster":{"leader":"n1"}},{"name":"BENCH7","cluster":{"leader":"n2"}},
		{"name":"OTHER","cluster":{"leader":"n2"}},{"name":"BENCH2"}]}]}`), v); err != nil {
		t.Fatal(err)
	}
	leaders := []int{-1, -1, -1}
	v.leads("n2", 1, leaders)
	if !slices.Equal(leaders, []int{1, -1, -1}) {
		t.Fatal(leaders)
	}
}
