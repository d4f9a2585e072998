package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/client"
)

func TestMoveViews(t *testing.T) {
	before := []client.Move{{Topic: "a", Copied: 1000, Total: 5000}, {Topic: "a", Partition: 1, Copied: 10, Total: 20}}
	now := []client.Move{{Topic: "a", Copied: 3000, Total: 5000}, {Topic: "a", Partition: 1, Copied: 10, Total: 20}, {Topic: "b", Copied: 5, Total: 9}}
	v := moveViews(before, now, 2*time.Second)
	if v[0].BytesPerSecond != 1000 || v[0].SecondsLeft != 2 || v[1].BytesPerSecond != 0 || v[1].SecondsLeft != -1 || v[2].SecondsLeft != -1 {
		t.Fatalf("%+v", v)
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 20: "3.0 MiB", 1 << 50: "1.0 PiB"} {
		if got := byteSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestMoveUsage(t *testing.T) {
	c := newCLI(t)
	for _, args := range [][]string{
		{"partition", "move", "orders"}, {"partition", "move", "orders/x", "--to", "1"}, {"partition", "move", "orders", "--to", "0"}, {"partition", "move", "orders", "--to", "a,b"},
		{"partition", "cancel"}, {"partition", "status", "orders/-1"}, {"partition", "status", "--interval", "0s"}, {"cluster", "remove", "x"}, {"cluster", "remove"},
	} {
		if code, _, errs := c.run(args...); code != exitUsage || !strings.Contains(errs, "mend:") {
			t.Errorf("%v: exit %d: %s", args, code, errs)
		}
	}
}

// A partition that has no majority left stays where it is, however long the removal of a dead broker waits: that is said beforehand.
func TestRemovalThatCannotEnd(t *testing.T) {
	c := &client.Cluster{Brokers: []client.Broker{{ID: 1, State: client.BrokerLive}, {ID: 2, State: client.BrokerFenced}, {ID: 3, State: client.BrokerSilent}}}
	plan := []client.Placement{{Topic: "t", Partition: 0, Before: []int32{1, 2}}, {Topic: "t", Partition: 1, Before: []int32{1}}, {Topic: "t", Partition: 2, Before: []int32{1, 2, 3}}}
	if got := stuckText(withoutMajority(plan, c)); got != "2 partitions have no majority on live brokers, and cannot move: t/0, t/2" {
		t.Error(got)
	}
	c.Brokers[2].State = client.BrokerLive
	if got := stuckText(withoutMajority(plan, c)); got != "1 partition has no majority on live brokers, and cannot move: t/0" {
		t.Error(got)
	}
	// A removal that is given again finds that its moves have begun.
	c.Brokers[2].State = client.BrokerSilent
	moves := []client.Move{
		{Topic: "u", Partition: 0, Leader: -1, Replicas: []int32{1, 2}, Adding: []int32{1}, Removing: []int32{2}, Phase: client.PhaseWaiting},
		{Topic: "u", Partition: 1, Leader: 1, Replicas: []int32{1, 2}, Adding: []int32{1}, Removing: []int32{2}, Phase: client.PhaseRemoving},   // 1 leads it alone by now
		{Topic: "u", Partition: 2, Leader: 1, Replicas: []int32{1, 2, 3}, Adding: []int32{3}, Removing: []int32{2}, Phase: client.PhaseWaiting}, // 1 does not know that it has no majority
		{Topic: "u", Partition: 3, Leader: -1, Replicas: []int32{1, 3}, Adding: []int32{1}, Removing: []int32{3}, Phase: client.PhaseWaiting},
	}
	if got := withoutMajority(begun(moves, 2), c); !slices.Equal(got, []string{"u/0", "u/2"}) {
		t.Error(got)
	}
}
