package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/balsamq/balsa/coordinator"
)

// txnCluster is three brokers and a topic of four partitions.
func txnCluster(t *testing.T, topics ...string) *testCluster {
	t.Helper()
	c := newCluster(t, 3, true)
	c.calm()
	c.start(c.nodes...)
	c.awaitVoters(3)
	cl := c.client()
	adm := kadm.NewClient(cl)
	resps, err := adm.CreateTopics(t.Context(), 4, 3, nil, topics...)
	if err != nil || resps.Error() != nil {
		t.Fatal(err, resps.Error())
	}
	return c
}

func (c *testCluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	var seeds []string
	for _, n := range c.nodes {
		if n.Broker != nil {
			seeds = append(seeds, n.KafkaAddr())
		}
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// readAll reads a topic up to its end, as the isolation level has it.
func (c *testCluster) readAll(topic string, level kgo.IsolationLevel, want int) []string {
	c.t.Helper()
	cl := c.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(level), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var out []string
	for len(out) < want {
		fs := cl.PollFetches(ctx)
		fs.EachError(func(_ string, _ int32, err error) {
			// The client remembers the epoch of the last record that it returned, and not of a marker behind it, which may be of a later one.
			if _, ok := errors.AsType[*kgo.ErrDataLoss](err); !ok {
				c.t.Fatalf("after %d of %d records: %v", len(out), want, err)
			}
		})
		fs.EachRecord(func(r *kgo.Record) { out = append(out, string(r.Value)) })
	}
	slices.Sort(out)
	return out
}

// Transactions of both versions, by one client: what is committed is read, what is aborted is not, and offsets come with the records.
func TestTransactions(t *testing.T) {
	c := txnCluster(t, "in", "out")
	// Clients of before KIP-890 announce partitions, and their epoch stays.
	old := kversion.V3_8_0()
	for _, v := range []struct {
		name string
		opts []kgo.Opt
	}{{"v2", nil}, {"v1", []kgo.Opt{kgo.MaxVersions(old)}}} {
		t.Run(v.name, func(t *testing.T) {
			cl := c.client(append(v.opts, kgo.TransactionalID("tx-"+v.name), kgo.DefaultProduceTopic("out"), kgo.TransactionTimeout(30*time.Second))...)
			ctx := t.Context()
			for i := range 6 {
				// As an application would: what fails, because a leader is being elected, is aborted and begun anew.
				for tries := 0; ; tries++ {
					if err := cl.BeginTransaction(); err != nil {
						t.Fatal(err)
					}
					var failed atomic.Bool
					for j := range 8 {
						cl.Produce(ctx, &kgo.Record{Key: fmt.Append(nil, j), Value: fmt.Appendf(nil, "%s.%d.%d", v.name, i, j)}, func(_ *kgo.Record, err error) {
							if err != nil {
								failed.Store(true)
							}
						})
					}
					if err := cl.Flush(ctx); err != nil {
						t.Fatal(err)
					}
					err := cl.EndTransaction(ctx, kgo.TransactionEndTry(i%3 != 2 && !failed.Load()))
					if err == nil && !failed.Load() {
						break
					}
					if tries == 10 {
						t.Fatalf("transaction %d: %v", i, err)
					}
				}
			}
		})
	}
	got := c.readAll("out", kgo.ReadCommitted(), 64)
	for i, v := range got {
		if i > 0 && v == got[i-1] || strings.Contains(v, ".2.") && !strings.HasSuffix(v, ".2") || strings.Contains(v, ".5.") && !strings.HasSuffix(v, ".5") {
			t.Errorf("read %s", v)
		}
	}
	if len(got) != 64 {
		t.Errorf("%d committed records", len(got))
	}
	if n := len(c.readAll("out", kgo.ReadUncommitted(), 96)); n < 96 {
		t.Errorf("%d records in all", n)
	}
	adm := kadm.NewClient(c.client())
	list, err := adm.ListTransactions(t.Context(), nil, nil)
	if err != nil || len(list) != 2 {
		t.Fatalf("%v %v", list, err)
	}
	d, err := adm.DescribeTransactions(t.Context(), "tx-v1", "tx-v2", "nobody")
	if err != nil || d["tx-v2"].ProducerEpoch < 6 || d["tx-v1"].TimeoutMillis != 30000 || !errors.Is(d["nobody"].Err, kerr.TransactionalIDNotFound) {
		t.Fatalf("%+v %v", d, err)
	}
	// The answer to the end of a transaction does not wait for its markers.
	soon(t, "no producer has a transaction that is open", func() bool {
		ps, err := adm.DescribeProducers(t.Context(), kadm.TopicsSet{"out": {0: {}, 1: {}, 2: {}, 3: {}}})
		if err != nil {
			t.Fatal(err)
		}
		n, open := 0, 0
		ps.EachProducer(func(p kadm.DescribedProducer) {
			n++
			if p.CurrentTxnStartOffset != -1 || p.CoordinatorEpoch < 1 {
				open++
			}
		})
		return n >= 2 && open == 0
	})
}

// Transactions that a partition was added to, and that wrote nothing there, are aborted, with a marker; the producer's next ones write. Who reads what is
// committed does not take the markers of the ones for those of the others.
func TestMarkersThatEndNothing(t *testing.T) {
	c := newCluster(t, 1, true)
	c.start(c.nodes...)
	n, ctx := c.nodes[0], t.Context()
	n.mustCreate(t, "t", 1, 1)
	const id = "tx"
	old := kgo.MaxVersions(kversion.V3_8_0()) // later clients do not announce partitions
	raw := c.client(old)
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis, init.ProducerID, init.ProducerEpoch = kmsg.StringPtr(id), 30_000, -1, -1
	var who *kmsg.InitProducerIDResponse
	becomes(t, "a producer id", func() (ok bool) {
		var err error
		who, err = init.RequestWith(ctx, raw)
		return err == nil && who.ErrorCode == 0
	})
	for range 2 {
		add := kmsg.NewPtrAddPartitionsToTxnRequest()
		add.TransactionalID, add.ProducerID, add.ProducerEpoch = id, who.ProducerID, who.ProducerEpoch
		add.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		becomes(t, "a transaction with the partition", func() bool {
			resp, err := add.RequestWith(ctx, raw)
			return err == nil && resp.Topics[0].Partitions[0].ErrorCode == 0
		})
		end := kmsg.NewPtrEndTxnRequest()
		end.TransactionalID, end.ProducerID, end.ProducerEpoch = id, who.ProducerID, who.ProducerEpoch
		if resp, err := end.RequestWith(ctx, raw); err != nil || resp.ErrorCode != 0 {
			t.Fatal(err, resp)
		}
	}
	cl := c.client(old, kgo.TransactionalID(id), kgo.DefaultProduceTopic("t"))
	for _, commit := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryAbort, kgo.TryCommit} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		r := cl.ProduceSync(ctx, kgo.StringRecord(map[kgo.TransactionEndTry]string{kgo.TryAbort: "aborted", kgo.TryCommit: "committed"}[commit]))[0]
		if r.Err != nil || r.Record.ProducerID != who.ProducerID {
			t.Fatalf("producer %d, and %d before: %v", r.Record.ProducerID, who.ProducerID, r.Err)
		}
		if err := cl.EndTransaction(ctx, commit); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.readAll("t", kgo.ReadCommitted(), 1); !slices.Equal(got, []string{"committed"}) {
		t.Errorf("read %v", got)
	}
}

// A second instance fences the first, whose open transaction is aborted; a third party sees all of it.
func TestFencing(t *testing.T) {
	t.Parallel()
	c := txnCluster(t, "t")
	ctx := t.Context()
	open := func() *kgo.Client {
		cl := c.client(kgo.TransactionalID("tx"), kgo.DefaultProduceTopic("t"))
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		return cl
	}
	first := open()
	if err := first.ProduceSync(ctx, kgo.StringRecord("first")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	second := open()
	if err := second.ProduceSync(ctx, kgo.StringRecord("second")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	err := first.ProduceSync(ctx, kgo.StringRecord("zombie")).FirstErr()
	if err == nil {
		err = first.EndTransaction(ctx, kgo.TryCommit)
	}
	if !errors.Is(err, kerr.InvalidProducerEpoch) && !errors.Is(err, kerr.ProducerFenced) {
		t.Errorf("the first instance goes on: %v", err)
	}
	if err := second.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if got := c.readAll("t", kgo.ReadCommitted(), 1); !slices.Equal(got, []string{"second"}) {
		t.Errorf("%v", got)
	}
}

// An open transaction holds readers of committed records back until its coordinator ends it at its time-out.
func TestTransactionTimesOut(t *testing.T) {
	t.Parallel()
	c := txnCluster(t, "t")
	ctx := t.Context()
	const timeout = 4 * time.Second
	cl := c.client(kgo.TransactionalID("tx"), kgo.DefaultProduceTopic("t"), kgo.TransactionTimeout(timeout), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	began := time.Now()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, kgo.StringRecord("undecided")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	plain := c.client(kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := plain.ProduceSync(ctx, kgo.StringRecord("behind it")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ends := func(level int8) int64 {
		req := kmsg.NewPtrListOffsetsRequest()
		req.IsolationLevel = level
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Timestamp = -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		shards := plain.RequestSharded(ctx, req)
		if len(shards) != 1 || shards[0].Err != nil {
			t.Fatalf("list offsets: %+v", shards)
		}
		return shards[0].Resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].Offset
	}
	// Unless the machine is so slow that it is aborted by now.
	if hw, stable := ends(0), ends(readCommitted); (hw != 2 || stable != 0) && time.Since(began) < timeout {
		t.Errorf("high watermark %d, last stable offset %d", hw, stable)
	}
	if got := c.readAll("t", kgo.ReadCommitted(), 1); !slices.Equal(got, []string{"behind it"}) { // waits for the time-out
		t.Errorf("%v", got)
	}
	if hw, stable := ends(0), ends(readCommitted); hw != 3 || stable != 3 {
		t.Errorf("high watermark %d, last stable offset %d", hw, stable)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err == nil {
		t.Error("committed after the time-out")
	}
}

// Offsets come into force with the transaction, and whoever asks for stable ones waits for it.
func TestTransactionalOffsets(t *testing.T) {
	t.Parallel()
	c := txnCluster(t, "in", "out")
	ctx := t.Context()
	if _, err := c.nodes[0].ensureInternal(ctx, coordinator.ConsumerOffsetsTopic, 2); err != nil {
		t.Fatal(err)
	}
	cl := c.client(kgo.TransactionalID("tx"), kgo.DefaultProduceTopic("out"))
	adm := kadm.NewClient(cl)
	fetch := func(stable bool) (int64, error) {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.RequireStable = stable
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = "g"
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = "in", []int32{0}
		topics, err := adm.ListTopics(ctx, "in")
		if err != nil {
			t.Fatal(err)
		}
		gt.TopicID = topics["in"].ID
		g.Topics = append(g.Topics, gt)
		req.Groups = append(req.Groups, g)
		var resp *kmsg.OffsetFetchResponse
		soon(t, "the coordinator answers", func() bool { // it may be another one by now, and the client has given up
			resp, err = req.RequestWith(ctx, cl)
			return err == nil && resp.Groups[0].ErrorCode == 0 && len(resp.Groups[0].Topics) == 1
		})
		p := resp.Groups[0].Topics[0].Partitions[0]
		return p.Offset, kerr.ErrorForCode(p.ErrorCode)
	}
	for i, commit := range []bool{true, false, true} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		id, epoch, err := cl.ProducerID(ctx)
		if err != nil {
			t.Fatal(err)
		}
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = "tx", "g", id, epoch
		rt := kmsg.NewTxnOffsetCommitRequestTopic()
		rt.Topic = "in"
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Offset = int64(10 * (i + 1))
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		before, _ := fetch(false)
		resp, err := req.RequestWith(ctx, cl)
		if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatalf("%+v %v", resp, err)
		}
		if o, err := fetch(false); err != nil || o != before {
			t.Errorf("within the transaction: %d %v, want %d", o, err, before)
		}
		if _, err := fetch(true); !errors.Is(err, kerr.UnstableOffsetCommit) {
			t.Errorf("a stable offset within the transaction: %v", err)
		}
		if err := cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)); err != nil {
			t.Fatal(err)
		}
		want := before
		if commit {
			want = rp.Offset
		}
		becomes(t, "the offset is stable", func() bool {
			o, err := fetch(true)
			if err == nil && o != want {
				t.Errorf("after the end (%v): %d, want %d", commit, o, want)
			}
			return err == nil
		})
	}
}

// Without the feature a transactional id is refused at once, as before there were transactions.
func TestTransactionsNeedTheFeature(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.apply(&coordinator.Command{SetFeature: &coordinator.SetFeature{Name: coordinator.TransactionVersion}})
	c := h.dial()
	req := kmsg.NewPtrInitProducerIDRequest()
	id := "tx"
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis = 4, &id, 1000
	wantCode(t, "init", ask[*kmsg.InitProducerIDResponse](c, req).ErrorCode, kerr.TransactionalIDAuthorizationFailed)
	end := kmsg.NewPtrEndTxnRequest()
	end.Version, end.TransactionalID = 3, id
	wantCode(t, "end", ask[*kmsg.EndTxnResponse](c, end).ErrorCode, kerr.TransactionalIDAuthorizationFailed)
}

// The codes by version: clients of before PRODUCER_FENCED and TRANSACTION_ABORTABLE are told in words that they know.
func TestTransactionCodes(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.coordinateTxns()
	h.back.coordinate(1)
	h.back.addTopic("t", 2, nil)
	c := h.dial()
	id := "tx"
	start := func(v int16) (int64, int16) {
		t.Helper()
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = v, &id, 60_000, -1, -1
		resp := ask[*kmsg.InitProducerIDResponse](c, req)
		if resp.ErrorCode == kerr.ConcurrentTransactions.Code {
			resp = ask[*kmsg.InitProducerIDResponse](c, req)
		}
		wantCode(t, fmt.Sprint("init v", v), resp.ErrorCode, nil)
		return resp.ProducerID, resp.ProducerEpoch
	}
	byVersion := func(v, since int16, modern *kerr.Error) *kerr.Error {
		if v < since {
			return map[*kerr.Error]*kerr.Error{kerr.ProducerFenced: kerr.InvalidProducerEpoch, kerr.TransactionAbortable: kerr.InvalidTxnState}[modern]
		}
		return modern
	}
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = v, &id, 3_600_000, -1, -1
		wantCode(t, fmt.Sprint("a long timeout, v", v), ask[*kmsg.InitProducerIDResponse](c, req).ErrorCode, kerr.InvalidTransactionTimeout)
		producer, epoch := start(v)
		if v >= 3 {
			req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 60_000, producer, epoch+7
			wantCode(t, fmt.Sprint("an epoch of somebody else's, v", v), ask[*kmsg.InitProducerIDResponse](c, req).ErrorCode, byVersion(v, 4, kerr.ProducerFenced))
			req.ProducerID = -1
			wantCode(t, fmt.Sprint("an epoch without an id, v", v), ask[*kmsg.InitProducerIDResponse](c, req).ErrorCode, kerr.InvalidRequest)
		}
	}
	add := func(v int16, producer int64, epoch int16, verify bool, parts ...int32) []int16 {
		t.Helper()
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.Version = v
		var codes []int16
		if v < 4 {
			req.TransactionalID, req.ProducerID, req.ProducerEpoch = id, producer, epoch
			req.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "t", Partitions: parts}}
			for _, p := range ask[*kmsg.AddPartitionsToTxnResponse](c, req).Topics[0].Partitions {
				codes = append(codes, p.ErrorCode)
			}
			return codes
		}
		req.Transactions = []kmsg.AddPartitionsToTxnRequestTransaction{{TransactionalID: id, ProducerID: producer, ProducerEpoch: epoch, VerifyOnly: verify,
			Topics: []kmsg.AddPartitionsToTxnRequestTransactionTopic{{Topic: "t", Partitions: parts}}}}
		for _, p := range ask[*kmsg.AddPartitionsToTxnResponse](c, req).Transactions[0].Topics[0].Partitions {
			codes = append(codes, p.ErrorCode)
		}
		return codes
	}
	for v := int16(0); v <= 5; v++ {
		producer, epoch := start(5)
		what := func(s string) string { return fmt.Sprintf("add v%d: %s", v, s) }
		if v >= 4 {
			wantCode(t, what("verify"), add(v, producer, epoch, true, 0)[0], kerr.TransactionAbortable)
		}
		codes := add(v, producer, epoch, false, 0, 9)
		wantCode(t, what("beside an unknown one"), codes[0], kerr.OperationNotAttempted)
		wantCode(t, what("an unknown one"), codes[1], kerr.UnknownTopicOrPartition)
		wantCode(t, what("an older epoch"), add(v, producer, epoch-1, false, 0)[0], byVersion(v, 2, kerr.ProducerFenced))
		wantCode(t, what("another producer"), add(v, producer+1000, epoch, false, 0)[0], kerr.InvalidProducerIDMapping)
		wantCode(t, what("good"), add(v, producer, epoch, false, 0, 1)[1], nil)
		if v >= 4 {
			wantCode(t, what("verify"), add(v, producer, epoch, true, 0)[0], nil)
		}
	}
	for v := int16(0); v <= 4; v++ {
		producer, epoch := start(5)
		req := kmsg.NewPtrAddOffsetsToTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = v, id, producer, epoch-1, "g"
		wantCode(t, fmt.Sprint("offsets, an older epoch, v", v), ask[*kmsg.AddOffsetsToTxnResponse](c, req).ErrorCode, byVersion(v, 2, kerr.ProducerFenced))
		req.ProducerEpoch = epoch
		wantCode(t, fmt.Sprint("offsets v", v), ask[*kmsg.AddOffsetsToTxnResponse](c, req).ErrorCode, nil)
	}
	for v := int16(0); v <= 5; v++ {
		producer, epoch := start(5)
		what := func(s string) string { return fmt.Sprintf("end v%d: %s", v, s) }
		req := kmsg.NewPtrEndTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = v, id, producer, epoch, true
		end := func() *kmsg.EndTxnResponse { return ask[*kmsg.EndTxnResponse](c, req) }
		wantCode(t, what("of nothing"), end().ErrorCode, kerr.InvalidTxnState)
		add(3, producer, epoch, false, 0)
		req.ProducerEpoch = epoch + 3
		wantCode(t, what("another epoch"), end().ErrorCode, byVersion(v, 2, kerr.ProducerFenced))
		req.ProducerEpoch = epoch
		resp := end()
		wantCode(t, what("good"), resp.ErrorCode, nil)
		if v >= 5 && (resp.ProducerID != producer || resp.ProducerEpoch != epoch+1) || v < 5 && resp.ProducerID != -1 {
			t.Errorf("v%d: %+v", v, resp)
		}
		wantCode(t, what("again"), end().ErrorCode, nil)
	}
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = v, id, "g", 1, 0, -1
		rt := kmsg.NewTxnOffsetCommitRequestTopic()
		rt.Topic = "t"
		rt.Partitions = []kmsg.TxnOffsetCommitRequestTopicPartition{{Partition: 0, Offset: 5}, {Partition: 7}}
		req.Topics = append(req.Topics, rt)
		ps := ask[*kmsg.TxnOffsetCommitResponse](c, req).Topics[0].Partitions
		wantCode(t, fmt.Sprint("commit v", v), ps[0].ErrorCode, nil)
		wantCode(t, fmt.Sprint("commit to an unknown partition, v", v), ps[1].ErrorCode, kerr.UnknownTopicOrPartition)
		if v < 3 {
			continue
		}
		req.Generation, req.MemberID = 4, "m"
		wantCode(t, fmt.Sprint("commit of another generation, v", v), ask[*kmsg.TxnOffsetCommitResponse](c, req).Topics[0].Partitions[0].ErrorCode, kerr.UnknownMemberID)
	}
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrListTransactionsRequest()
		req.Version, req.StateFilters, req.DurationFilterMillis = v, []string{"CompleteCommit", "Nonsense"}, -1
		resp := ask[*kmsg.ListTransactionsResponse](c, req)
		if len(resp.TransactionStates) != 1 || resp.TransactionStates[0].TransactionalID != id || !slices.Equal(resp.UnknownStateFilters, []string{"Nonsense"}) {
			t.Errorf("list v%d: %+v", v, resp)
		}
		if v < 2 {
			continue
		}
		for pattern, want := range map[string]int{"t": 0, "t.": 1, "[": -1} {
			req.StateFilters, req.TransactionalIDPattern = nil, &pattern
			resp := ask[*kmsg.ListTransactionsResponse](c, req)
			if want < 0 {
				wantCode(t, "a bad pattern", resp.ErrorCode, kerr.InvalidRegularExpression)
			} else if len(resp.TransactionStates) != want {
				t.Errorf("pattern %q: %+v", pattern, resp)
			}
		}
	}
}

// No failure is taken for a marker that is written, or for a transaction that is verified, on its way to the other broker.
func TestTxnCodesOnTheWire(t *testing.T) {
	codes := []int16{0, kerr.NotLeaderForPartition.Code, kerr.InvalidProducerEpoch.Code, codeOf(errors.New("what nobody thought of"))}
	again, err := decodeCodes(encodeCodes(codes), len(codes))
	if err != nil || !slices.Equal(again, codes) {
		t.Fatalf("%v becomes %v, %v", codes, again, err)
	}
	if err := markerError(again[3]); err == nil || errors.Is(err, coordinator.ErrMarkerFenced) {
		t.Fatalf("a marker that failed: %v", err)
	}
}

// What brokers say to each other about transactions.
func FuzzTxnRPC(f *testing.F) {
	f.Add(encodeMarkers([]markerEntry{{group: 7, producer: 9, epoch: 3, coordinator: 5, commit: true}, {group: 8, bumped: true}}))
	f.Add((&txnQuestion{id: "tx", producer: 4, epoch: 2, add: true, topic: "t", partition: 3}).encode())
	f.Add(encodeCodes([]int16{0, 6}))
	f.Add(encodeCodes([]int16{-1, 0}))
	f.Fuzz(func(t *testing.T, body []byte) {
		if ms, err := decodeMarkers(body); err == nil {
			if again, err := decodeMarkers(encodeMarkers(ms)); err != nil || !slices.Equal(again, ms) {
				t.Fatalf("%+v becomes %+v, %v", ms, again, err)
			}
		} else if !errors.Is(err, errRPC) {
			t.Fatal(err)
		}
		if q, err := decodeTxnQuestion(body); err == nil {
			if again, err := decodeTxnQuestion(q.encode()); err != nil || *again != *q {
				t.Fatalf("%+v becomes %+v, %v", q, again, err)
			}
		} else if !errors.Is(err, errRPC) {
			t.Fatal(err)
		}
		if codes, err := decodeCodes(body, 2); err == nil {
			if again, err := decodeCodes(encodeCodes(codes), 2); err != nil || !slices.Equal(again, codes) {
				t.Fatalf("%v becomes %v, %v", codes, again, err)
			}
		}
	})
}
