// Where a bridge into a stream goes on, when the stream's end is not simply the end of what it had sent: other writers, messages that are gone, a
// topic that was made anew.

package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// A message of somebody else takes the place of one in flight, and those behind it fit again: what failed must not be taken for stored.
func TestOtherWriters(t *testing.T) {
	t.Parallel()
	const n, others = 2000, 10
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("t", 1))
	_, js := nc.dial()
	st := nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}})
	recs := make([]*kgo.Record, n)
	for i := range recs {
		recs[i] = &kgo.Record{Value: strconv.AppendInt(nil, int64(i), 10)}
	}
	produce(t, cl.Config(), recs...)
	b := start(t, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "OUT", Subject: "out.x"}))
	defer b.Close()
	last := uint64(0)
	for range others {
		soon(t, "the bridge goes on", func() error {
			info, err := st.Info(t.Context())
			if err != nil || info.State.LastSeq > last || info.State.LastSeq >= n {
				return err
			}
			return fmt.Errorf("the stream ends at %d", last)
		})
		ack, err := js.Publish(t.Context(), "out.other", []byte("other"))
		if err != nil {
			t.Fatal(err)
		}
		last = ack.Sequence
	}
	caughtUp(t, b)
	count := make(map[string]int)
	for _, m := range stored(t, js, "OUT") {
		count[string(m.Data())]++
	}
	if count["other"] != others {
		t.Errorf("%d messages of the other writer", count["other"])
	}
	for i := range n {
		if c := count[strconv.Itoa(i)]; c != 1 {
			t.Errorf("record %d is there %d times", i, c)
		}
	}
}

// A plan that cannot be finished, as a record of it converts no more: what of it has been sent is not sent again.
func TestPlanIsAbandoned(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("t", 1), brokertest.Topic("dead", 1))
	_, js := nc.dial()
	st := nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}, Duplicates: 100 * time.Millisecond})
	h := []kgo.RecordHeader{{Key: "to", Value: []byte("x")}}
	produce(t, cl.Config(), &kgo.Record{Value: []byte("a"), Headers: h}, &kgo.Record{Value: []byte("b")}, &kgo.Record{Value: []byte("c"), Headers: h})
	adm, err := client.NewAdmin(t.Context(), cl.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	topic, err := adm.Topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "OUT", Subject: "out.{header:to}", DeadLetters: "dead"})
	l, p, err := openLedger(t.Context(), cl.Config(), j.ID, new(targets))
	if err != nil {
		t.Fatal(err)
	}
	p = progress{Position: 1, Stream: "OUT", Created: st.CachedInfo().Created, TopicID: topic.ID, Offsets: map[int32]int64{0: 0}, Plan: []run{{0, 0, 2}}, Next: map[int32]int64{0: 3}}
	if err := l.commit(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	l.close()
	b := start(t, j)
	defer b.Close()
	caughtUp(t, b)
	var got []string
	for _, m := range stored(t, js, "OUT") {
		got = append(got, string(m.Data()))
	}
	if dead := values(records(t, cl.Config(), "dead")[0]); !slices.Equal(got, []string{"a", "c"}) || !slices.Equal(dead, []string{"b"}) {
		t.Errorf("the stream has %q, and the dead letters are %q", got, dead)
	}
}

// A work queue cannot be read by a consumer of the bridge's, and what was taken out of it is there no more.
func TestResumeIntoWorkQueue(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("t", 1))
	_, js := nc.dial()
	st := nc.stream(js, jetstream.StreamConfig{Name: "Q", Subjects: []string{"q.>"}, Retention: jetstream.WorkQueuePolicy})
	var recs []*kgo.Record
	for i := range 6 {
		recs = append(recs, &kgo.Record{Value: strconv.AppendInt(nil, int64(i), 10)})
	}
	produce(t, cl.Config(), recs...)
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "Q", Subject: "q.x"})
	b := start(t, j)
	caughtUp(t, b)
	b.Close()
	for seq := uint64(1); seq <= 3; seq++ { // somebody has done these
		if err := st.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	produce(t, cl.Config(), &kgo.Record{Value: []byte("6")})
	b = start(t, j)
	defer b.Close()
	caughtUp(t, b)
	info, err := st.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.LastSeq != 7 || info.State.Msgs != 4 {
		t.Errorf("the queue has %d messages and ends at %d", info.State.Msgs, info.State.LastSeq)
	}
}

// A seek that names one partition of a topic made anew: the others begin at their start, and not where the earlier topic's had come to.
func TestSeekInTopicMadeAnew(t *testing.T) {
	b := &Bridge{job: Job{Number: 2, Position: "0:5", Spec: &Spec{FromTopic: "t"}}, log: slog.New(slog.DiscardHandler)}
	w := &streamWriter{b: b, p: progress{Position: 1, TopicID: "old", Offsets: map[int32]int64{0: 70, 1: 90}, Done: []run{{1, 95, 95}}}}
	topic := &client.Topic{Name: "t", ID: "new", Partitions: []client.Partition{{Partition: 0, End: 10}, {Partition: 1, End: 100}}}
	if err := w.place(context.Background(), topic); err != nil {
		t.Fatal(err)
	}
	if want := map[int32]int64{0: 5, 1: 0}; !maps.Equal(w.p.Offsets, want) {
		t.Errorf("it goes on at %v", w.p.Offsets)
	}
}

// What a plan that is given up has passed, dead letters among it, is not passed again; what it has not sent is. A seek elsewhere does not change that.
func TestWhatAPlanHasPassed(t *testing.T) {
	p := &progress{Position: 1, TopicID: "t", Offsets: map[int32]int64{0: 10, 1: 5}, Plan: []run{{0, 8, 11}, {0, 14, 15}, {1, 6, 6}}, Next: map[int32]int64{0: 20, 1: 7},
		Done: []run{{1, 30, 31}}}
	p.noteBeside([]run{{0, 10, 11}, {0, 14, 15}, {1, 6, 6}})
	want := []run{{0, 12, 13}, {0, 16, 19}, {1, 5, 5}, {1, 30, 31}}
	if !slices.Equal(p.Done, want) {
		t.Errorf("%v", p.Done)
	}
	p.noteDone([]recordPlace{{0, 14}, {0, 3}, {1, 29}, {1, 6}})
	want = []run{{0, 12, 14}, {0, 16, 19}, {1, 5, 6}, {1, 29, 31}}
	if !slices.Equal(p.Done, want) {
		t.Errorf("%v", p.Done)
	}
	b := &Bridge{job: Job{Number: 2, Position: "1:0", Spec: &Spec{FromTopic: "t"}}, log: slog.New(slog.DiscardHandler)}
	w := &streamWriter{b: b, p: *p}
	topic := &client.Topic{Name: "t", ID: "t", Partitions: []client.Partition{{Partition: 0, End: 40}, {Partition: 1, End: 40}}}
	if err := w.place(context.Background(), topic); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(w.p.Offsets, map[int32]int64{0: 10, 1: 0}) || !slices.Equal(w.p.Done, want[:2]) {
		t.Errorf("it goes on at %v, without %v", w.p.Offsets, w.p.Done)
	}
}

// A transaction that fails is ended at once, so that nobody who reads committed records waits for it: there may be no next owner for long.
func TestNoTransactionIsLeftOpen(t *testing.T) {
	cl := brokertest.Start(t, brokertest.Topic("t", 1))
	const id = "6f1c"
	l, _, err := openLedger(t.Context(), cl.Config(), id, new(targets))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	adm, err := client.NewAdmin(t.Context(), cl.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	if err := l.commit(t.Context(), nil, &kgo.Record{Topic: "t", Value: []byte("a")}, &kgo.Record{Topic: "t", Partition: 7}); err == nil {
		t.Fatal("a record for a partition that there is not")
	}
	txn, err := adm.DescribeTransaction(t.Context(), TransactionalPrefix+id)
	if err != nil {
		t.Fatal(err)
	}
	if txn.State == "Ongoing" {
		t.Errorf("the transaction is open: %+v", txn)
	}
}
