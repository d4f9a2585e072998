package client_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/client"
)

// groupAdmin has topic t: partition 0 with ten records a minute apart, the first one at noon, and partition 1 with none.
func groupAdmin(t *testing.T) (*client.Admin, client.Config, time.Time) {
	t.Helper()
	_, cfg := fake(t, kfake.SeedTopics(2, "t", "u"))
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range 10 {
		r := &kgo.Record{Topic: "t", Value: fmt.Append(nil, i), Timestamp: noon.Add(time.Duration(i) * time.Minute)}
		if err := cl.ProduceSync(ctx(t), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	adm, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(adm.Close)
	return adm, cfg, noon
}

func TestResetOffsets(t *testing.T) {
	adm, _, noon := groupAdmin(t)
	if _, err := adm.ResetOffsets(ctx(t), client.OffsetReset{Group: "g", To: client.ToLatest}); !errors.Is(err, client.ErrInvalid) {
		t.Fatalf("a group that has committed nothing: %v", err)
	}
	if _, err := adm.ResetOffsets(ctx(t), client.OffsetReset{Group: "g", To: "nowhere"}); !errors.Is(err, client.ErrInvalid) {
		t.Fatal(err)
	}
	one := map[string][]int32{"t": {0}}
	got, err := adm.ResetOffsets(ctx(t), client.OffsetReset{Group: "g", Topics: map[string][]int32{"t": nil}, To: client.ToLatest})
	if err != nil || !slices.Equal(got, []client.OffsetChange{{"t", 0, -1, 10}, {"t", 1, -1, 0}}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if d, err := adm.DescribeGroup(ctx(t), "g"); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("a look has made the group: %+v, %v", d, err)
	}
	before := int64(-1)
	for _, tc := range []struct {
		r    client.OffsetReset
		want int64
	}{
		{client.OffsetReset{To: client.ToOffset, Offset: 7}, 7},
		{client.OffsetReset{To: client.ShiftBy, Offset: -3}, 4},
		{client.OffsetReset{To: client.ShiftBy, Offset: -30}, 0},
		{client.OffsetReset{To: client.ToOffset, Offset: 700}, 10},
		{client.OffsetReset{To: client.ToEarliest}, 0},
		{client.OffsetReset{To: client.ToTimestamp, Time: noon.Add(90 * time.Second)}, 2},
		{client.OffsetReset{To: client.ToCurrent}, 2},
		{client.OffsetReset{To: client.ToTimestamp, Time: noon.Add(time.Hour)}, 10},
		{client.OffsetReset{To: client.ToLatest}, 10},
	} {
		r := tc.r
		if r.Group, r.Execute = "g", true; before < 0 {
			r.Topics = one
		}
		got, err := adm.ResetOffsets(ctx(t), r)
		if err != nil || !slices.Equal(got, []client.OffsetChange{{"t", 0, before, tc.want}}) {
			t.Fatalf("%+v: %+v, %v", tc.r, got, err)
		}
		before = tc.want
	}
	if _, err := adm.ResetOffsets(ctx(t), client.OffsetReset{Group: "g", Topics: map[string][]int32{"t": {5}}, To: client.ToLatest}); !errors.Is(err, client.ErrNotFound) {
		t.Fatal(err)
	}
	if err := adm.DeleteOffsets(ctx(t), "g", "t", nil); err != nil {
		t.Fatal(err)
	}
	if d, err := adm.DescribeGroup(ctx(t), "g"); err == nil && len(d.Offsets) > 0 {
		t.Fatalf("%+v", d)
	}
	if err := adm.DeleteOffsets(ctx(t), "g", "nowhere", nil); !errors.Is(err, client.ErrNotFound) {
		t.Fatal(err)
	}
	if err := adm.DeleteGroup(ctx(t), "nobody"); !errors.Is(err, client.ErrNotFound) {
		t.Fatal(err)
	}
}

// Groups of both types while they have a member.
func TestDescribeGroups(t *testing.T) {
	adm, cfg, _ := groupAdmin(t)
	for _, kind := range []string{client.GroupClassic, client.GroupConsumer} {
		opts := []kgo.Opt{kgo.SeedBrokers(cfg.Brokers...), kgo.ConsumerGroup(kind), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit(), kgo.ClientID("me"),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
		if kind == client.GroupConsumer {
			opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
		}
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			t.Fatal(err)
		}
		records := 0
		for records < 10 {
			fs := cl.PollFetches(ctx(t))
			if err := fs.Err(); err != nil {
				t.Fatal(err)
			}
			records += fs.NumRecords()
			for _, r := range fs.Records() {
				if r.Offset == 3 {
					if err := cl.CommitRecords(ctx(t), r); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		d, err := adm.DescribeGroup(ctx(t), kind)
		if err != nil || d.Type != kind || d.State != "Stable" || len(d.Members) != 1 {
			t.Fatalf("%s: %+v, %v", kind, d, err)
		}
		m := d.Members[0]
		if m.ClientID != "me" || m.Type != kind || !slices.Equal(m.Topics, []string{"t"}) {
			t.Fatalf("%s: %+v", kind, m)
		}
		want := []client.GroupOffset{{Topic: "t", Partition: 0, Offset: 4, End: 10, Lag: 6, Member: m.ID}, {Topic: "t", Partition: 1, Offset: -1, Member: m.ID}}
		if kind == client.GroupConsumer { // the fake names assigned topics by their ids only
			want = want[:1]
			want[0].Member = ""
		} else if !reflect.DeepEqual(m.Assigned, map[string][]int32{"t": {0, 1}}) {
			t.Fatalf("%s: %+v", kind, m)
		}
		for i := range d.Offsets {
			d.Offsets[i].Metadata = "" // kgo's
		}
		if !slices.Equal(d.Offsets, want) {
			t.Fatalf("%s: %+v", kind, d.Offsets)
		}
		list, err := adm.ListGroups(ctx(t), []string{kind}, []string{"Stable"})
		if err != nil || len(list) != 1 || list[0].Name != kind || list[0].Type != kind {
			t.Fatalf("%s: %+v, %v", kind, list, err)
		}
		if _, err := adm.ResetOffsets(ctx(t), client.OffsetReset{Group: kind, To: client.ToEarliest, Execute: true}); !errors.Is(err, kerr.NonEmptyGroup) {
			t.Fatal(err)
		}
		if err := adm.DeleteGroup(ctx(t), kind); !errors.Is(err, kerr.NonEmptyGroup) {
			t.Fatal(err)
		}
		cl.Close()
	}
}

// TestGroupAwaitsItsCoordinator: the first group of a cluster makes the topic that it is in, which takes a moment.
func TestGroupAwaitsItsCoordinator(t *testing.T) {
	c, cfg := fake(t, kfake.SeedTopics(1, "t"))
	adm, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	away := 12 // more often than franz-go asks by itself
	c.ControlKey(int16(kmsg.FindCoordinator), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if away--; away < 0 {
			return nil, nil, false
		}
		r := req.(*kmsg.FindCoordinatorRequest)
		resp := r.ResponseKind().(*kmsg.FindCoordinatorResponse)
		resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
		for _, k := range r.CoordinatorKeys {
			one := kmsg.NewFindCoordinatorResponseCoordinator()
			one.Key, one.ErrorCode = k, kerr.CoordinatorNotAvailable.Code
			resp.Coordinators = append(resp.Coordinators, one)
		}
		return resp, nil, true
	})
	got, err := adm.ResetOffsets(ctx(t), client.OffsetReset{Group: "first", Topics: map[string][]int32{"t": nil}, To: client.ToEarliest, Execute: true})
	if err != nil || !slices.Equal(got, []client.OffsetChange{{"t", 0, -1, 0}}) {
		t.Fatalf("%+v, %v", got, err)
	}
}
