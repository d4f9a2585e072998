package broker

// What clients were seen to send, request by request in the very versions that they chose, and then every version that
// is served: each must get an answer that says the right thing, against a real broker.

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// clientVersions are a client's versions by API key. What it does not name is sent in the oldest version.
type clientVersions map[int16]int16

var clientsSeen = map[string]clientVersions{
	"librdkafka 2.15":    {18: 3, 3: 13, 0: 10, 1: 16, 2: 7, 10: 2, 11: 5, 14: 3, 12: 3, 8: 9, 9: 9, 13: 1, 22: 4},
	"librdkafka 2.0":     {18: 3, 3: 4, 0: 7, 1: 11, 2: 2, 10: 2, 11: 5, 14: 3, 12: 3, 8: 7, 9: 7, 13: 1, 22: 4},
	"franz-go 1.22":      {18: 5, 3: 13, 0: 13, 1: 18, 2: 10, 10: 6, 11: 9, 14: 5, 12: 4, 8: 10, 9: 10, 13: 5, 22: 5, 19: 7, 20: 6},
	"sarama 1.61":        {18: 3, 3: 11, 0: 9, 1: 12, 2: 4, 10: 2, 11: 6, 14: 4, 12: 4, 8: 7, 9: 7, 13: 4, 22: 4},
	"sarama 1.61, newer": {18: 3, 3: 11, 0: 10, 1: 12, 2: 4, 10: 2, 11: 6, 14: 4, 12: 4, 8: 7, 9: 7, 13: 4, 22: 4},
	"kafkajs 2.2":        {18: 2, 3: 6, 0: 7, 1: 11, 2: 3, 10: 2, 11: 5, 14: 3, 12: 3, 8: 5, 9: 4, 13: 3, 22: 1},
	"kafka-go 0.4":       {18: 0, 3: 1, 0: 8, 1: 10, 2: 1, 10: 0, 11: 2, 14: 0, 12: 0, 8: 2, 9: 1, 13: 0},
	"kafka-python 2.0":   {18: 0, 3: 0, 0: 7, 1: 4, 2: 1, 10: 0, 11: 2, 14: 1, 12: 1, 8: 2, 9: 1, 13: 1},
	"kafka-python, late": {18: 0, 3: 5, 0: 7, 1: 4, 2: 1, 10: 0, 11: 2, 14: 1, 12: 1, 8: 2, 9: 1, 13: 1},
}

func TestClientsInTheirVersions(t *testing.T) {
	c := newCluster(t, 1, true)
	c.nodes[0].cfg.GroupInitialRebalanceDelay = -1
	c.start(c.nodes...)
	n := c.nodes[0]
	for name, versions := range clientsSeen {
		t.Run(name, func(t *testing.T) { clientSession(t, n, versions) })
	}
	// Every version of everything: the k-th one of each API together, or its last.
	newest := int16(0)
	for _, a := range apis {
		if a != nil {
			newest = max(newest, a.max-a.min)
		}
	}
	for k := range newest + 1 {
		versions := make(clientVersions)
		for _, a := range apis {
			if a != nil {
				versions[a.key] = min(a.min+k, a.max)
			}
		}
		t.Run(fmt.Sprintf("version %d of each", k), func(t *testing.T) { clientSession(t, n, versions) })
	}
}

// clientSession is a client's whole life: it looks around, makes a topic, writes, reads, joins a group, commits, leaves
// and cleans up.
func clientSession(t *testing.T, n *node, versions clientVersions) {
	nc, err := net.Dial("tcp", n.KafkaAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := &kafkaClient{t: t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter(kmsg.FormatterClientID("old friend"))}
	in := func(req kmsg.Request) kmsg.Request {
		v, ok := versions[req.Key()]
		if !ok {
			v = findAPI(req.Key()).min
		}
		req.SetVersion(v)
		return req
	}
	noError := func(what string, code int16) {
		t.Helper()
		if err := kerr.ErrorForCode(code); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}

	av := kmsg.NewPtrApiVersionsRequest()
	av.ClientSoftwareName, av.ClientSoftwareVersion = "old-friend", "1"
	if resp := ask[*kmsg.ApiVersionsResponse](c, in(av)); resp.ErrorCode != 0 || len(resp.ApiKeys) < 20 {
		t.Fatalf("ApiVersions v%d: code %d, %d keys", av.Version, resp.ErrorCode, len(resp.ApiKeys))
	}

	topic := fmt.Sprintf("versions-%d", time.Now().UnixNano())
	ct := kmsg.NewPtrCreateTopicsRequest()
	ct.TimeoutMillis, ct.Topics = 20_000, []kmsg.CreateTopicsRequestTopic{createTopic(topic, 2, 1)}
	noError("CreateTopics", ask[*kmsg.CreateTopicsResponse](c, in(ct)).Topics[0].ErrorCode)

	md := in(metadataRequest(0, topic)).(*kmsg.MetadataRequest)
	mr := ask[*kmsg.MetadataResponse](c, md)
	if len(mr.Brokers) != 1 || len(mr.Topics) != 1 || len(mr.Topics[0].Partitions) != 2 || mr.Topics[0].Partitions[0].Leader != 1 {
		t.Fatalf("Metadata v%d: %+v", md.Version, mr)
	}
	id := n.Image().Topic(topic).ID
	if md.Version >= 10 && mr.Topics[0].TopicID != id {
		t.Fatalf("Metadata v%d: id %x, want %x", md.Version, mr.Topics[0].TopicID, id)
	}

	pid := ask[*kmsg.InitProducerIDResponse](c, in(kmsg.NewPtrInitProducerIDRequest()))
	noError("InitProducerId", pid.ErrorCode)

	batch := protocol.BuildBatch([]protocol.Record{{Timestamp: time.Now().UnixMilli(), Key: []byte("k"), Value: []byte("v")}},
		protocol.BatchOptions{ProducerID: pid.ProducerID, ProducerEpoch: pid.ProducerEpoch})
	for range 2 { // again: the same offset, and no second record
		pr := in(produceRequest(0, -1, topic, id, 0, slices.Clone(batch))).(*kmsg.ProduceRequest)
		p := ask[*kmsg.ProduceResponse](c, pr).Topics[0].Partitions[0]
		if noError(fmt.Sprintf("Produce v%d", pr.Version), p.ErrorCode); p.BaseOffset != 0 {
			t.Fatalf("Produce v%d: offset %d", pr.Version, p.BaseOffset)
		}
	}

	lo := in(listOffsetsRequest(0, topic, -1)).(*kmsg.ListOffsetsRequest)
	lp := ask[*kmsg.ListOffsetsResponse](c, lo).Topics[0].Partitions[0]
	if noError("ListOffsets", lp.ErrorCode); lp.Offset != 1 {
		t.Fatalf("ListOffsets v%d: the end is %d", lo.Version, lp.Offset)
	}

	fr := kmsg.NewPtrFetchRequest()
	fr.MaxWaitMillis, fr.MinBytes, fr.MaxBytes, fr.SessionEpoch = 5000, 1, 1<<20, -1
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic, ft.TopicID = topic, id
	fp := kmsg.NewFetchRequestTopicPartition()
	fp.PartitionMaxBytes, fp.CurrentLeaderEpoch, fp.LastFetchedEpoch = 1<<20, -1, -1
	ft.Partitions = append(ft.Partitions, fp)
	fr.Topics = append(fr.Topics, ft)
	fresp := ask[*kmsg.FetchResponse](c, in(fr))
	noError("Fetch", fresp.ErrorCode)
	if f := fresp.Topics[0].Partitions[0]; f.ErrorCode != 0 || f.HighWatermark != 1 || len(f.RecordBatches) != len(batch) {
		t.Fatalf("Fetch v%d: code %d, high watermark %d, %d bytes of %d", fr.Version, f.ErrorCode, f.HighWatermark, len(f.RecordBatches), len(batch))
	}

	group := "g-" + topic
	fc := kmsg.NewPtrFindCoordinatorRequest()
	fc.CoordinatorKey, fc.CoordinatorKeys = group, []string{group}
	becomes(t, "a coordinator", func() bool {
		resp := ask[*kmsg.FindCoordinatorResponse](c, in(fc))
		code, node := resp.ErrorCode, resp.NodeID
		if fc.Version >= 4 {
			code, node = resp.Coordinators[0].ErrorCode, resp.Coordinators[0].NodeID
		}
		return code == 0 && node == 1
	})

	jr := kmsg.NewPtrJoinGroupRequest()
	jr.Group, jr.SessionTimeoutMillis, jr.RebalanceTimeoutMillis, jr.ProtocolType = group, 30_000, 30_000, "consumer"
	proto := kmsg.NewJoinGroupRequestProtocol()
	proto.Name, proto.Metadata = "range", []byte{0, 0, 0, 0, 0, 0}
	jr.Protocols = append(jr.Protocols, proto)
	var jresp *kmsg.JoinGroupResponse
	becomes(t, "membership", func() bool {
		jresp = ask[*kmsg.JoinGroupResponse](c, in(jr))
		switch err := kerr.ErrorForCode(jresp.ErrorCode); err {
		case kerr.MemberIDRequired:
			jr.MemberID = jresp.MemberID
			return false
		case kerr.CoordinatorLoadInProgress, kerr.NotCoordinator:
			return false
		default:
			noError(fmt.Sprintf("JoinGroup v%d", jr.Version), jresp.ErrorCode)
		}
		return true
	})
	if jresp.LeaderID != jresp.MemberID || len(jresp.Members) != 1 || jresp.Protocol == nil || *jresp.Protocol != "range" {
		t.Fatalf("JoinGroup v%d: %+v", jr.Version, jresp)
	}
	name, kind := "range", "consumer"
	sr := kmsg.NewPtrSyncGroupRequest()
	sr.Group, sr.Generation, sr.MemberID, sr.ProtocolType, sr.Protocol = group, jresp.Generation, jresp.MemberID, &kind, &name
	as := kmsg.NewSyncGroupRequestGroupAssignment()
	as.MemberID, as.MemberAssignment = jresp.MemberID, []byte("mine")
	sr.GroupAssignment = append(sr.GroupAssignment, as)
	sresp := ask[*kmsg.SyncGroupResponse](c, in(sr))
	if noError("SyncGroup", sresp.ErrorCode); string(sresp.MemberAssignment) != "mine" {
		t.Fatalf("SyncGroup v%d: assignment %q", sr.Version, sresp.MemberAssignment)
	}
	hb := kmsg.NewPtrHeartbeatRequest()
	hb.Group, hb.Generation, hb.MemberID = group, jresp.Generation, jresp.MemberID
	noError("Heartbeat", ask[*kmsg.HeartbeatResponse](c, in(hb)).ErrorCode)

	note := "note"
	oc := kmsg.NewPtrOffsetCommitRequest()
	oc.Group, oc.Generation, oc.MemberID = group, jresp.Generation, jresp.MemberID
	oct := kmsg.NewOffsetCommitRequestTopic()
	oct.Topic, oct.TopicID = topic, id
	ocp := kmsg.NewOffsetCommitRequestTopicPartition()
	ocp.Partition, ocp.Offset, ocp.Metadata = 1, 42, &note
	oct.Partitions = append(oct.Partitions, ocp)
	oc.Topics = append(oc.Topics, oct)
	noError("OffsetCommit", ask[*kmsg.OffsetCommitResponse](c, in(oc)).Topics[0].Partitions[0].ErrorCode)

	of := kmsg.NewPtrOffsetFetchRequest()
	of.Group = group
	oft := kmsg.NewOffsetFetchRequestTopic()
	oft.Topic, oft.Partitions = topic, []int32{0, 1}
	of.Topics = append(of.Topics, oft)
	ofg := kmsg.NewOffsetFetchRequestGroup()
	ofg.Group = group
	ofgt := kmsg.NewOffsetFetchRequestGroupTopic()
	ofgt.Topic, ofgt.TopicID, ofgt.Partitions = topic, id, []int32{0, 1}
	ofg.Topics = append(ofg.Topics, ofgt)
	of.Groups = append(of.Groups, ofg)
	ofr := ask[*kmsg.OffsetFetchResponse](c, in(of))
	var offsets []int64
	if of.Version < 8 {
		for _, p := range ofr.Topics[0].Partitions {
			noError("OffsetFetch", p.ErrorCode)
			offsets = append(offsets, p.Offset)
		}
	} else {
		for _, p := range ofr.Groups[0].Topics[0].Partitions {
			noError("OffsetFetch", p.ErrorCode)
			offsets = append(offsets, p.Offset)
		}
	}
	if !slices.Equal(offsets, []int64{-1, 42}) {
		t.Fatalf("OffsetFetch v%d: %v", of.Version, offsets)
	}

	dg := kmsg.NewPtrDescribeGroupsRequest()
	dg.Groups = []string{group}
	if d := ask[*kmsg.DescribeGroupsResponse](c, in(dg)).Groups[0]; d.ErrorCode != 0 || d.State != "Stable" || len(d.Members) != 1 {
		t.Fatalf("DescribeGroups v%d: %+v", dg.Version, d)
	}
	lv := kmsg.NewPtrLeaveGroupRequest()
	lv.Group, lv.MemberID = group, jresp.MemberID
	lm := kmsg.NewLeaveGroupRequestMember()
	lm.MemberID = jresp.MemberID
	lv.Members = append(lv.Members, lm)
	noError("LeaveGroup", ask[*kmsg.LeaveGroupResponse](c, in(lv)).ErrorCode)
	lg := kmsg.NewPtrListGroupsRequest()
	if resp := ask[*kmsg.ListGroupsResponse](c, in(lg)); !slices.ContainsFunc(resp.Groups, func(g kmsg.ListGroupsResponseGroup) bool { return g.Group == group }) {
		t.Fatalf("ListGroups v%d: %+v", lg.Version, resp)
	}
	del := kmsg.NewPtrDeleteGroupsRequest()
	del.Groups = []string{group}
	noError("DeleteGroups", ask[*kmsg.DeleteGroupsResponse](c, in(del)).Groups[0].ErrorCode)

	dt := kmsg.NewPtrDeleteTopicsRequest()
	dt.TimeoutMillis, dt.TopicNames = 20_000, []string{topic}
	dtt := kmsg.NewDeleteTopicsRequestTopic()
	dtt.Topic = &topic
	dt.Topics = append(dt.Topics, dtt)
	noError("DeleteTopics", ask[*kmsg.DeleteTopicsResponse](c, in(dt)).Topics[0].ErrorCode)
}

// A fetch that waits is answered when its topic is deleted, not at the end of its max_wait: consumers would hang on
// what is no more.
func TestDeletionWakesFetch(t *testing.T) {
	c := newCluster(t, 1, true)
	c.start(c.nodes...)
	n := c.nodes[0]
	id := n.mustCreate(t, "going", 1, 1)
	nc, err := net.Dial("tcp", n.KafkaAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	k := &kafkaClient{t: t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter()}
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 13, 600_000, 1, 1<<20, -1
	ft := kmsg.NewFetchRequestTopic()
	ft.TopicID = id
	fp := kmsg.NewFetchRequestTopicPartition()
	fp.PartitionMaxBytes = 1 << 20
	ft.Partitions = append(ft.Partitions, fp)
	req.Topics = append(req.Topics, ft)
	k.send(req)
	if err := n.delete(t, id); err != nil {
		t.Fatal(err)
	}
	_, body := k.receive() // which has patience for less than max_wait
	resp := decodeAnswer[*kmsg.FetchResponse](t, req, body)
	if code := resp.Topics[0].Partitions[0].ErrorCode; code == 0 {
		t.Fatalf("%+v", resp)
	} else {
		t.Log(kerr.ErrorForCode(code))
	}
	if code := ask[*kmsg.FetchResponse](k, req).Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicID.Code {
		t.Fatalf("code %d after the deletion", code)
	}
}

// Members that wait for a rebalance hold no memory that others need to come and complete it.
func TestWaitingMembersHoldNoRequestMemory(t *testing.T) {
	c := newCluster(t, 1, true)
	c.nodes[0].cfg.GroupInitialRebalanceDelay = time.Hour
	c.start(c.nodes...)
	n := c.nodes[0]
	dial := func() *kafkaClient {
		nc, err := net.Dial("tcp", n.KafkaAddr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return &kafkaClient{t: t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter()}
	}
	watch := dial()
	fc := kmsg.NewPtrFindCoordinatorRequest()
	fc.CoordinatorKey = "g"
	becomes(t, "a coordinator", func() bool { return ask[*kmsg.FindCoordinatorResponse](watch, fc).ErrorCode == 0 })
	const each = 3 << 20
	groups := controlMemory/each + 2 // more than fits, were it held
	for i := range groups {
		jr := kmsg.NewPtrJoinGroupRequest()
		jr.Version, jr.Group, jr.SessionTimeoutMillis, jr.RebalanceTimeoutMillis, jr.ProtocolType = 1, fmt.Sprint("g", i), 30_000, 300_000, "consumer"
		proto := kmsg.NewJoinGroupRequestProtocol()
		proto.Name, proto.Metadata = "range", make([]byte, each)
		jr.Protocols = append(jr.Protocols, proto)
		dial().send(jr)
	}
	// All are members now, and none is answered.
	lg := kmsg.NewPtrListGroupsRequest()
	becomes(t, "all have joined", func() bool { return len(ask[*kmsg.ListGroupsResponse](watch, lg).Groups) == groups })
	becomes(t, "members that wait hold no request memory", func() bool { return n.server.control.TryAcquire(controlMemory - each) })
	n.server.control.Release(controlMemory - each)
}
