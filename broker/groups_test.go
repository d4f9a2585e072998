package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// within is v, brought into what an API serves.
func within(key int16, v int) int16 {
	a := findAPI(key)
	return min(max(int16(v), a.min), a.max)
}

func wantCode(t *testing.T, what string, got int16, want *kerr.Error) {
	t.Helper()
	code := int16(0)
	if want != nil {
		code = want.Code
	}
	if got != code {
		t.Fatalf("%s: %v, want %v", what, kerr.ErrorForCode(got), kerr.ErrorForCode(code))
	}
}

// A group's life in every version of every API.
func TestGroupAPIVersions(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.coordinate(2)
	topic := h.back.addTopic("t", 3, nil)
	for v := range 11 {
		func() {
			c := h.dial()
			group := fmt.Sprint("g", v)
			fc := kmsg.NewPtrFindCoordinatorRequest()
			fc.Version, fc.CoordinatorKey, fc.CoordinatorKeys = within(10, v), group, []string{group, "other"}
			found := ask[*kmsg.FindCoordinatorResponse](c, fc)
			if fc.Version >= 4 {
				if len(found.Coordinators) != 2 || found.Coordinators[0].Key != group {
					t.Fatalf("%+v", found)
				}
				one := found.Coordinators[0]
				found.ErrorCode, found.NodeID, found.Host, found.Port = one.ErrorCode, one.NodeID, one.Host, one.Port
			}
			if found.ErrorCode != 0 || found.NodeID != int32(selfNode) || found.Host != "broker-1.example" || found.Port != 9091 {
				t.Fatalf("coordinator %+v", found)
			}

			join := kmsg.NewPtrJoinGroupRequest()
			join.Version, join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = within(11, v), group, 10_000, 60_000, "consumer"
			p := kmsg.NewJoinGroupRequestProtocol()
			p.Name, p.Metadata = "range", []byte("what I read")
			join.Protocols = append(join.Protocols, p)
			joined := ask[*kmsg.JoinGroupResponse](c, join)
			if join.Version >= 4 {
				wantCode(t, "first join", joined.ErrorCode, kerr.MemberIDRequired)
				join.MemberID = joined.MemberID
				joined = ask[*kmsg.JoinGroupResponse](c, join)
			}
			wantCode(t, "join", joined.ErrorCode, nil)
			if joined.Generation != 1 || joined.LeaderID != joined.MemberID || len(joined.Members) != 1 || *joined.Protocol != "range" ||
				string(joined.Members[0].ProtocolMetadata) != "what I read" {
				t.Fatalf("joined %+v", joined)
			}
			member := joined.MemberID

			sync := kmsg.NewPtrSyncGroupRequest()
			sync.Version, sync.Group, sync.Generation, sync.MemberID = within(14, v), group, 1, member
			sync.ProtocolType, sync.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
			as := kmsg.NewSyncGroupRequestGroupAssignment()
			as.MemberID, as.MemberAssignment = member, []byte("all of it")
			sync.GroupAssignment = append(sync.GroupAssignment, as)
			synced := ask[*kmsg.SyncGroupResponse](c, sync)
			wantCode(t, "sync", synced.ErrorCode, nil)
			if string(synced.MemberAssignment) != "all of it" || sync.Version >= 5 && *synced.Protocol != "range" {
				t.Fatalf("synced %+v", synced)
			}

			hb := kmsg.NewPtrHeartbeatRequest()
			hb.Version, hb.Group, hb.Generation, hb.MemberID = within(12, v), group, 1, member
			wantCode(t, "heartbeat", ask[*kmsg.HeartbeatResponse](c, hb).ErrorCode, nil)
			hb.Generation = 2
			wantCode(t, "heartbeat", ask[*kmsg.HeartbeatResponse](c, hb).ErrorCode, kerr.IllegalGeneration)

			commit := kmsg.NewPtrOffsetCommitRequest()
			commit.Version, commit.Group, commit.Generation, commit.MemberID = within(8, v), group, 1, member
			for _, name := range []string{"t", "nowhere"} {
				ct := kmsg.NewOffsetCommitRequestTopic()
				if ct.Topic = name; name == "t" {
					ct.TopicID = topic
				} else {
					ct.TopicID = [16]byte{9}
				}
				for _, n := range []int32{1, 3} {
					cp := kmsg.NewOffsetCommitRequestTopicPartition()
					cp.Partition, cp.Offset, cp.LeaderEpoch, cp.Metadata = n, 42, 5, kmsg.StringPtr("note")
					ct.Partitions = append(ct.Partitions, cp)
				}
				commit.Topics = append(commit.Topics, ct)
			}
			committed := ask[*kmsg.OffsetCommitResponse](c, commit)
			unknown := kerr.UnknownTopicOrPartition
			if commit.Version >= 10 {
				unknown = kerr.UnknownTopicID
			}
			wantCode(t, "commit", committed.Topics[0].Partitions[0].ErrorCode, nil)
			wantCode(t, "commit of no partition", committed.Topics[0].Partitions[1].ErrorCode, kerr.UnknownTopicOrPartition)
			wantCode(t, "commit of no topic", committed.Topics[1].Partitions[0].ErrorCode, unknown)

			for _, all := range []bool{false, true} {
				if all && v < 2 {
					continue
				}
				fetch := kmsg.NewPtrOffsetFetchRequest()
				fetch.Version, fetch.Group, fetch.RequireStable = within(9, v), group, true
				fg := kmsg.NewOffsetFetchRequestGroup()
				fg.Group = group
				ft, fgt := kmsg.NewOffsetFetchRequestTopic(), kmsg.NewOffsetFetchRequestGroupTopic()
				ft.Topic, ft.Partitions = "t", []int32{0, 1}
				fgt.Topic, fgt.TopicID, fgt.Partitions = "t", topic, []int32{0, 1}
				if !all {
					fetch.Topics, fg.Topics = append(fetch.Topics, ft), append(fg.Topics, fgt)
				}
				stranger := kmsg.NewOffsetFetchRequestGroup()
				stranger.Group, stranger.Topics = "stranger", []kmsg.OffsetFetchRequestGroupTopic{fgt}
				fetch.Groups = append(fetch.Groups, fg, stranger)
				got := ask[*kmsg.OffsetFetchResponse](c, fetch)
				var parts []kmsg.OffsetFetchResponseGroupTopicPartition
				if fetch.Version >= 8 {
					if len(got.Groups) != 2 || got.Groups[0].ErrorCode != 0 || len(got.Groups[0].Topics) != 1 || got.Groups[1].ErrorCode != 0 ||
						got.Groups[1].Topics[0].Partitions[1].Offset != -1 || got.Groups[1].Topics[0].Partitions[1].ErrorCode != 0 {
						t.Fatalf("fetched %+v", got)
					}
					parts = got.Groups[0].Topics[0].Partitions
				} else {
					if got.ErrorCode != 0 || len(got.Topics) != 1 || got.Topics[0].Topic != "t" {
						t.Fatalf("fetched %+v", got)
					}
					for _, p := range got.Topics[0].Partitions {
						parts = append(parts, kmsg.OffsetFetchResponseGroupTopicPartition{Partition: p.Partition, Offset: p.Offset, Metadata: p.Metadata, ErrorCode: p.ErrorCode})
					}
				}
				if !all {
					if parts[0].Offset != -1 || parts[0].ErrorCode != 0 {
						t.Fatalf("fetched %+v", parts)
					}
					parts = parts[1:]
				}
				if len(parts) != 1 || parts[0].Partition != 1 || parts[0].Offset != 42 || *parts[0].Metadata != "note" {
					t.Fatalf("fetched %+v", parts)
				}
			}

			list := kmsg.NewPtrListGroupsRequest()
			list.Version, list.StatesFilter, list.TypesFilter = within(16, v), []string{"stable"}, []string{"Classic"}
			if !slices.ContainsFunc(ask[*kmsg.ListGroupsResponse](c, list).Groups, func(g kmsg.ListGroupsResponseGroup) bool {
				return g.Group == group && g.ProtocolType == "consumer"
			}) {
				t.Fatal("not listed")
			}
			if list.Version >= 4 {
				list.StatesFilter = []string{"Dead"}
				if got := ask[*kmsg.ListGroupsResponse](c, list); len(got.Groups) != 0 {
					t.Fatalf("listed %+v", got)
				}
			}
			desc := kmsg.NewPtrDescribeGroupsRequest()
			desc.Version, desc.Groups = within(15, v), []string{group, "stranger"}
			got := ask[*kmsg.DescribeGroupsResponse](c, desc)
			if g := got.Groups[0]; g.State != "Stable" || g.Protocol != "range" || len(g.Members) != 1 || g.Members[0].ClientID != "test" ||
				string(g.Members[0].MemberAssignment) != "all of it" || g.Members[0].ClientHost != "/127.0.0.1" {
				t.Fatalf("described %+v", g)
			}
			var gone *kerr.Error
			if desc.Version >= 6 {
				gone = kerr.GroupIDNotFound
			}
			wantCode(t, "describe", got.Groups[1].ErrorCode, gone)
			if got.Groups[1].State != "Dead" {
				t.Fatalf("described %+v", got.Groups[1])
			}

			del := kmsg.NewPtrDeleteGroupsRequest()
			del.Version, del.Groups = within(42, v), []string{group, "stranger"}
			deleted := ask[*kmsg.DeleteGroupsResponse](c, del)
			wantCode(t, "delete", deleted.Groups[0].ErrorCode, kerr.NonEmptyGroup)
			wantCode(t, "delete", deleted.Groups[1].ErrorCode, kerr.GroupIDNotFound)

			leave := kmsg.NewPtrLeaveGroupRequest()
			leave.Version, leave.Group, leave.MemberID = within(13, v), group, member
			for _, id := range []string{member, "stranger"} {
				lm := kmsg.NewLeaveGroupRequestMember()
				lm.MemberID = id
				leave.Members = append(leave.Members, lm)
			}
			left := ask[*kmsg.LeaveGroupResponse](c, leave)
			wantCode(t, "leave", left.ErrorCode, nil)
			if leave.Version >= 3 {
				wantCode(t, "leave", left.Members[0].ErrorCode, nil)
				wantCode(t, "leave", left.Members[1].ErrorCode, kerr.UnknownMemberID)
			} else {
				leave.MemberID = "stranger"
				wantCode(t, "leave", ask[*kmsg.LeaveGroupResponse](c, leave).ErrorCode, kerr.UnknownMemberID)
			}

			od := kmsg.NewPtrOffsetDeleteRequest()
			od.Group = group
			for _, name := range []string{"t", "nowhere"} {
				ot := kmsg.NewOffsetDeleteRequestTopic()
				ot.Topic, ot.Partitions = name, []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 1}}
				od.Topics = append(od.Topics, ot)
			}
			dropped := ask[*kmsg.OffsetDeleteResponse](c, od)
			wantCode(t, "offset delete", dropped.ErrorCode, nil)
			wantCode(t, "offset delete", dropped.Topics[0].Partitions[0].ErrorCode, nil)
			wantCode(t, "offset delete", dropped.Topics[1].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
			deleted = ask[*kmsg.DeleteGroupsResponse](c, del)
			wantCode(t, "delete", deleted.Groups[0].ErrorCode, nil)
			od.Group = "stranger"
			wantCode(t, "offset delete", ask[*kmsg.OffsetDeleteResponse](c, od).ErrorCode, kerr.GroupIDNotFound)
		}()
	}
}

// What a broker says of groups that are not its own, and of keys that are no group's.
func TestGroupsElsewhere(t *testing.T) {
	t.Parallel()
	h := newHarness(t, serverOptions{})
	c := h.dial()
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorKey = 3, "g"
	wantCode(t, "without the internal topic", ask[*kmsg.FindCoordinatorResponse](c, find).ErrorCode, kerr.CoordinatorNotAvailable)
	hb := kmsg.NewPtrHeartbeatRequest()
	hb.Version, hb.Group = 4, "g"
	wantCode(t, "heartbeat", ask[*kmsg.HeartbeatResponse](c, hb).ErrorCode, kerr.NotCoordinator)

	id := h.back.coordinate(1)
	wantCode(t, "heartbeat", ask[*kmsg.HeartbeatResponse](c, hb).ErrorCode, kerr.UnknownMemberID)
	hb.Group = ""
	wantCode(t, "heartbeat", ask[*kmsg.HeartbeatResponse](c, hb).ErrorCode, kerr.InvalidGroupID)
	find.CoordinatorType = 1
	wantCode(t, "a transaction's coordinator, without the internal topic", ask[*kmsg.FindCoordinatorResponse](c, find).ErrorCode, kerr.CoordinatorNotAvailable)
	h.back.apply(&coordinator.Command{SetFeature: &coordinator.SetFeature{Name: coordinator.TransactionVersion}})
	if resp := ask[*kmsg.FindCoordinatorResponse](c, find); resp.ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code || resp.ErrorMessage == nil {
		t.Fatalf("a transaction's coordinator, without the feature: %+v", resp)
	}
	find.CoordinatorType = 2
	wantCode(t, "a share group's coordinator", ask[*kmsg.FindCoordinatorResponse](c, find).ErrorCode, kerr.InvalidRequest)

	// The log is another broker's now, of which the coordinator has not heard.
	h.back.moveLeader(id, 0)
	find.CoordinatorType = 0
	if resp := ask[*kmsg.FindCoordinatorResponse](c, find); resp.NodeID != int32(otherNode) {
		t.Fatalf("%+v", resp)
	}
	h.back.addTopic("t", 1, nil)
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Version, commit.Group, commit.Generation = 9, "g", -1
	ct := kmsg.NewOffsetCommitRequestTopic()
	ct.Topic, ct.Partitions = "t", []kmsg.OffsetCommitRequestTopicPartition{kmsg.NewOffsetCommitRequestTopicPartition()}
	commit.Topics = append(commit.Topics, ct)
	wantCode(t, "commit", ask[*kmsg.OffsetCommitResponse](c, commit).Topics[0].Partitions[0].ErrorCode, kerr.NotCoordinator)
	for _, v := range []int16{1, 2, 9} {
		fetch := kmsg.NewPtrOffsetFetchRequest()
		fetch.Version, fetch.Group = v, "g"
		fetch.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		fetch.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "g", MemberEpoch: -1}}
		resp := ask[*kmsg.OffsetFetchResponse](c, fetch)
		switch {
		case v == 1:
			wantCode(t, "fetch", resp.Topics[0].Partitions[0].ErrorCode, kerr.NotCoordinator)
		case v == 2:
			wantCode(t, "fetch", resp.ErrorCode, kerr.NotCoordinator)
		default:
			wantCode(t, "fetch", resp.Groups[0].ErrorCode, kerr.NotCoordinator)
		}
	}
}

// A topic that was made anew under the same name has no committed offsets.
func TestGroupOffsetsOfDeletedTopic(t *testing.T) {
	c := newCluster(t, 1, true)
	c.start(c.nodes...)
	n := c.nodes[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	id := n.mustCreate(t, "a", 1, 1)
	n.mustCreate(t, "b", 1, 1)
	offsets := kadm.Offsets{}
	offsets.AddOffset("a", 0, 7, -1)
	offsets.AddOffset("b", 0, 8, -1)
	if err := adm.CommitAllOffsets(ctx, "g", offsets); err != nil {
		t.Fatal(err)
	}
	if err := n.delete(t, id); err != nil {
		t.Fatal(err)
	}
	n.mustCreate(t, "a", 1, 1)
	soon(t, "the tombstone is written", func() bool {
		got, err := adm.FetchOffsets(ctx, "g")
		if err != nil {
			t.Fatal(err)
		}
		_, a := got.Lookup("a", 0)
		b, ok := got.Lookup("b", 0)
		if a || !ok || b.At != 8 {
			t.Fatalf("fetched %v", got)
		}
		done := make(chan int, 1)
		n.Groups().FetchOffsets("g", nil, true, func(o []coordinator.CommittedOffset, _ error) { done <- len(o) })
		return <-done == 1
	})
}

// Three consumers of one group, while brokers go without a word, the group's coordinator among them: every record is consumed, and
// what was committed is never older afterwards.
func TestGroupOverKills(t *testing.T) {
	t.Parallel()
	groupOverKills(t, false)
}

// The same with members of the new protocol (KIP-848), whose coordinator goes in the middle of what it has begun.
func TestConsumerGroupOverKills(t *testing.T) {
	if testing.Short() {
		t.Skip("half a minute; TestGroupOverKills is run")
	}
	t.Parallel()
	groupOverKills(t, true)
}

func groupOverKills(t *testing.T, modern bool) {
	c := newCluster(t, 3, true)
	for _, n := range c.nodes {
		n.cfg.GroupInitialRebalanceDelay = -1
		n.cfg.GroupConsumerSession, n.cfg.GroupConsumerHeartbeat = 6*time.Second, 200*time.Millisecond
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.nodes[0].mustCreate(t, "a", 6, 3)
	var seeds []string
	for _, n := range c.nodes {
		n.cfg.Listen = n.KafkaAddr()
		seeds = append(seeds, n.KafkaAddr())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // each wait below has its own end
	defer cancel()

	var mu sync.Mutex // guards the rest
	seen := map[string]int{}
	committed := map[int32]int64{}
	consume := func(ctx context.Context, name string) {
		opts := []kgo.Opt{kgo.SeedBrokers(seeds...), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("a"), kgo.DisableAutoCommit(), kgo.ClientID(name),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(200 * time.Millisecond),
			kgo.MetadataMinAge(50 * time.Millisecond), kgo.RebalanceTimeout(10 * time.Second)}
		if modern {
			opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
		}
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			t.Error(err)
			return
		}
		defer cl.Close()
		for ctx.Err() == nil {
			fs := cl.PollFetches(ctx)
			recs := fs.Records()
			if len(recs) == 0 {
				continue
			}
			mu.Lock()
			for _, r := range recs {
				seen[string(r.Value)]++
			}
			mu.Unlock()
			if cl.CommitRecords(ctx, recs...) == nil {
				mu.Lock()
				for _, r := range recs {
					committed[r.Partition] = max(committed[r.Partition], r.Offset+1)
				}
				mu.Unlock()
			}
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx1, stop := context.WithCancel(ctx)
	defer stop()
	for i := range 3 {
		wg.Go(func() { consume(ctx1, fmt.Sprint("consumer-", i)) })
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("a"), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	// An administrator's client for each look: kgo remembers a dead coordinator for as long as dialing it fails at once.
	admin := func() *kadm.Client {
		adm, err := kadm.NewOptClient(kgo.SeedBrokers(seeds...))
		if err != nil {
			t.Fatal(err)
		}
		return adm
	}
	written := 0
	write := func() {
		t.Helper()
		for range 60 {
			if err := cl.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(written))).FirstErr(); err != nil {
				t.Fatalf("produce %d: %v", written, err)
			}
			written++
		}
	}
	consumed := func() {
		t.Helper()
		soon(t, fmt.Sprintf("%d records are consumed", written), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(seen) == written
		})
	}
	check := func() {
		t.Helper()
		mu.Lock()
		before := map[int32]int64{}
		for p, o := range committed {
			before[p] = o
		}
		mu.Unlock()
		var got kadm.OffsetResponses
		soon(t, "offsets are served", func() bool {
			adm := admin()
			defer adm.Close()
			var err error
			if got, err = adm.FetchOffsets(ctx, "g"); err == nil {
				return true
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			return false
		})
		for p, o := range before {
			if r, ok := got.Lookup("a", p); !ok || r.At < o {
				t.Errorf("partition %d: %d was committed, and now it is %v", p, o, r.At)
			}
		}
	}
	write()
	consumed()
	check()
	offsets := c.nodes[0].Image().Topic(coordinator.ConsumerOffsetsTopic)
	if offsets == nil || len(offsets.Partitions[0].Replicas) != 3 {
		t.Fatalf("the internal topic is %+v", offsets)
	}
	for range 3 {
		down := c.leaderOf(coordinator.ConsumerOffsetsTopic, coordinator.PartitionOf("g", len(offsets.Partitions)))
		c.stop(down)
		write()
		consumed()
		check()
		c.start(down)
		write()
		consumed()
		check()
	}
	// The members come to rest, and share the partitions.
	adm := admin()
	defer func() { adm.Close() }()
	state := func() (state string, members, parts int) {
		if modern {
			for _, n := range c.running() {
				if d, err := n.Groups().DescribeConsumer("g"); err == nil {
					for _, m := range d.Members {
						for _, tp := range m.Assignment {
							parts += len(tp.Partitions)
						}
					}
					return d.State, len(d.Members), parts
				}
			}
			return "", 0, 0
		}
		d, err := adm.DescribeGroups(ctx, "g")
		if err != nil {
			return "", 0, 0
		}
		g := d["g"]
		return g.State, len(g.Members), len(g.AssignedPartitions()["a"])
	}
	soon(t, "the group is stable with three members", func() bool {
		s, members, parts := state()
		return s == "Stable" && members == 3 && parts == 6
	})
	stop()
	wg.Wait()
	soon(t, "the group is empty", func() bool {
		s, _, _ := state()
		return s == "Empty"
	})
	check()
	c.stop(c.nodes...)
	c.start(c.nodes...)
	check()
	adm.Close()
	adm = admin()
	if r, err := adm.DeleteGroups(ctx, "g"); err != nil || r["g"].Err != nil {
		t.Fatal(err, r["g"].Err)
	}
	if got, err := adm.FetchOffsets(ctx, "g"); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
}
