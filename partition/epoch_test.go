package partition

import "testing"

// An append that is bound to an epoch enters the log in that epoch or not at all, also when its node leads again.
func TestAppendBoundToEpoch(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Settings.MinInsync = 3 })
	l := c.leader()
	_, epoch, _ := l.rep.Leader()
	bound := func(n *node, epoch int32, value string) AppendResult {
		t.Helper()
		var res *AppendResult
		n.rep.Append(&AppendRequest{Batch: plain(value), Acks: -1, Epoch: epoch, Done: func(r AppendResult) { res = &r }})
		c.until("the append ends", func() bool { return res != nil })
		return *res
	}
	if r := bound(l, epoch, "a"); r.Err != nil || r.LeaderEpoch != epoch {
		t.Fatalf("%+v", r)
	}
	wantErr(t, "of an epoch to come", bound(l, epoch+1, "x").Err, ErrUnknownLeaderEpoch)

	// Deposed and elected again, it still has what was decided in its first epoch.
	c.isolate(l.id)
	other := c.leader(l.id)
	_, second, _ := other.rep.Leader()
	// A quorum is enough for such an append, whatever min.insync.replicas says: its answers come in the log's order.
	if r := bound(other, second, "b"); r.Err != nil {
		t.Fatalf("%+v", r)
	}
	c.heal()
	c.until("the first one leads again", func() bool {
		if _, _, ready := l.rep.Leader(); ready {
			return true
		}
		for _, n := range c.nodes {
			if _, _, ready := n.rep.Leader(); ready && n != l {
				n.rep.Raft().Transfer(l.id, func(error) {})
			}
		}
		return false
	})
	_, third, _ := l.rep.Leader()
	if third <= second {
		t.Fatalf("epoch %d after %d", third, second)
	}
	wantErr(t, "of its first epoch", bound(l, epoch, "x").Err, ErrFencedLeaderEpoch)
	if r := bound(l, third, "c"); r.Err != nil {
		t.Fatalf("%+v", r)
	}
	wantValues(t, l.values(), "a", "b", "c")
}
