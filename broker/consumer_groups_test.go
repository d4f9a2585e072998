package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A group of the new protocol in every version of its APIs, and how the other group APIs see it.
func TestConsumerGroupAPIs(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.coordinate(2)
	topic := h.back.addTopic("t", 2, nil)
	c := h.dial()
	for v := int16(0); v <= 1; v++ {
		group := []string{"old", "new"}[v]
		hb := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		hb.Version, hb.Group, hb.RebalanceTimeoutMillis, hb.SubscribedTopicNames, hb.Topics = v, group, 10_000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		if v >= 1 {
			wantCode(t, "a heartbeat without an id", ask[*kmsg.ConsumerGroupHeartbeatResponse](c, hb).ErrorCode, kerr.InvalidRequest)
			hb.MemberID, hb.SubscribedTopicNames, hb.SubscribedTopicRegex = "me", nil, kmsg.StringPtr("[")
			if r := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, hb); r.ErrorCode != kerr.InvalidRegularExpression.Code || r.ErrorMessage == nil {
				t.Fatalf("%+v", r)
			}
			hb.SubscribedTopicRegex = kmsg.StringPtr("[t]")
		}
		r := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, hb)
		wantCode(t, "join", r.ErrorCode, nil)
		if r.MemberID == nil || v >= 1 && *r.MemberID != "me" || r.MemberEpoch != 1 || r.HeartbeatIntervalMillis != 5000 || r.Assignment == nil ||
			len(r.Assignment.Topics) != 1 || r.Assignment.Topics[0].TopicID != topic || len(r.Assignment.Topics[0].Partitions) != 2 {
			t.Fatalf("joined %+v, %+v", r, r.Assignment)
		}
		member := *r.MemberID
		keep := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		keep.Version, keep.Group, keep.MemberID, keep.MemberEpoch = v, group, member, 1
		if r := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, keep); r.ErrorCode != 0 || r.Assignment != nil || r.MemberEpoch != 1 {
			t.Fatalf("kept %+v", r)
		}
		keep.MemberEpoch = 7
		wantCode(t, "a strange epoch", ask[*kmsg.ConsumerGroupHeartbeatResponse](c, keep).ErrorCode, kerr.FencedMemberEpoch)

		desc := kmsg.NewPtrConsumerGroupDescribeRequest()
		desc.Version, desc.Groups, desc.IncludeAuthorizedOperations = v, []string{group, "stranger"}, true
		got := ask[*kmsg.ConsumerGroupDescribeResponse](c, desc)
		wantCode(t, "describe a stranger", got.Groups[1].ErrorCode, kerr.GroupIDNotFound)
		g := got.Groups[0]
		if g.ErrorCode != 0 || g.State != "Stable" || g.Epoch != 1 || g.AssignmentEpoch != 1 || g.AssignorName != "uniform" || g.AuthorizedOperations != groupOperations ||
			len(g.Members) != 1 || g.Members[0].MemberID != member || g.Members[0].ClientID != "test" || g.Members[0].ClientHost != "/127.0.0.1" ||
			len(g.Members[0].Assignment.TopicPartitions) != 1 || g.Members[0].Assignment.TopicPartitions[0].Topic != "t" ||
			(v >= 1) != (g.Members[0].SubscribedTopicRegex != nil) || v >= 1 && g.Members[0].MemberType != 1 {
			t.Fatalf("described %+v", g)
		}

		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Version, commit.Group, commit.Generation, commit.MemberID = 9, group, 1, member
		ct := kmsg.NewOffsetCommitRequestTopic()
		ct.Topic = "t"
		cp := kmsg.NewOffsetCommitRequestTopicPartition()
		cp.Offset = 3
		ct.Partitions = append(ct.Partitions, cp)
		commit.Topics = append(commit.Topics, ct)
		wantCode(t, "commit", ask[*kmsg.OffsetCommitResponse](c, commit).Topics[0].Partitions[0].ErrorCode, nil)
		commit.Generation = 2
		wantCode(t, "commit in a later epoch", ask[*kmsg.OffsetCommitResponse](c, commit).Topics[0].Partitions[0].ErrorCode, kerr.StaleMemberEpoch)
		commit.Version = 8
		wantCode(t, "commit in an older version", ask[*kmsg.OffsetCommitResponse](c, commit).Topics[0].Partitions[0].ErrorCode, kerr.UnsupportedVersion)
		fetch := kmsg.NewPtrOffsetFetchRequest()
		fetch.Version = 9
		fetch.Groups = []kmsg.OffsetFetchRequestGroup{{Group: group, MemberID: &member, MemberEpoch: 1}, {Group: group, MemberID: &member, MemberEpoch: 2},
			{Group: group, MemberEpoch: -1}}
		offsets := ask[*kmsg.OffsetFetchResponse](c, fetch)
		wantCode(t, "fetch", offsets.Groups[0].ErrorCode, nil)
		wantCode(t, "fetch in another epoch", offsets.Groups[1].ErrorCode, kerr.StaleMemberEpoch)
		wantCode(t, "an administrator's fetch", offsets.Groups[2].ErrorCode, nil)
		if offsets.Groups[0].Topics[0].Partitions[0].Offset != 3 {
			t.Fatalf("%+v", offsets.Groups[0])
		}

		list := kmsg.NewPtrListGroupsRequest()
		list.Version, list.TypesFilter = 5, []string{"CONSUMER"}
		found := false
		for _, g := range ask[*kmsg.ListGroupsResponse](c, list).Groups {
			found = found || g.Group == group && g.GroupType == "consumer" && g.GroupState == "Stable" && g.ProtocolType == "consumer"
		}
		list.TypesFilter = []string{"classic"}
		if got := ask[*kmsg.ListGroupsResponse](c, list); !found || len(got.Groups) != 0 {
			t.Fatalf("listed as consumer: %v, as classic %+v", found, got.Groups)
		}
		old := kmsg.NewPtrDescribeGroupsRequest()
		old.Version, old.Groups = 6, []string{group}
		if d := ask[*kmsg.DescribeGroupsResponse](c, old).Groups[0]; d.ErrorCode != kerr.GroupIDNotFound.Code || d.State != "Dead" {
			t.Fatalf("described as classic: %+v", d)
		}
		keep.MemberEpoch = -1
		if r := ask[*kmsg.ConsumerGroupHeartbeatResponse](c, keep); r.ErrorCode != 0 || r.MemberEpoch != -1 {
			t.Fatalf("left %+v", r)
		}
		wantCode(t, "leave again", ask[*kmsg.ConsumerGroupHeartbeatResponse](c, keep).ErrorCode, kerr.UnknownMemberID)
	}
}

// KIP-559: from v5 on SyncGroup names the protocol, though the wire would let it be null.
func TestSyncGroupNamesTheProtocol(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.coordinate(1)
	c := h.dial()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID = 5, "g", "m"
	wantCode(t, "sync without a protocol", ask[*kmsg.SyncGroupResponse](c, req).ErrorCode, kerr.InconsistentGroupProtocol)
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	wantCode(t, "sync", ask[*kmsg.SyncGroupResponse](c, req).ErrorCode, kerr.UnknownMemberID)
	req.Version, req.ProtocolType, req.Protocol = 4, nil, nil
	wantCode(t, "sync of before", ask[*kmsg.SyncGroupResponse](c, req).ErrorCode, kerr.UnknownMemberID)
}
