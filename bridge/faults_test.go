// What else can happen to a bridge: messages that cannot be converted or are refused, streams and topics that are made anew or go back, and seeks.

package bridge

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// awaitState waits for a state, with an error that says something.
func awaitState(t testing.TB, b *Bridge, state State, says string) {
	t.Helper()
	soon(t, "the bridge is "+string(state), func() error {
		if s := b.Status(); s.State != state || !strings.Contains(s.Error, says) {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	})
}

func values(recs []*kgo.Record) (out []string) {
	for _, r := range recs {
		out = append(out, string(r.Value))
	}
	return out
}

func produce(t testing.TB, cfg client.Config, recs ...*kgo.Record) {
	t.Helper()
	p, err := client.NewProducer(t.Context(), client.ProducerConfig{Config: cfg, Topic: "t", ManualPartitions: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Produce(t.Context(), recs...); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func publishAll(t testing.TB, js jetstream.JetStream, subject string, data ...string) {
	t.Helper()
	for _, d := range data {
		if _, err := js.Publish(t.Context(), subject, []byte(d)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "max_payload: 100KB")
	cl := brokertest.Start(t, brokertest.Topic("t", 1), brokertest.Topic("in", 1, "max.message.bytes", "2000"), brokertest.Topic("dead", 1))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}})

	// Into a topic: a subject with too few tokens, and a message that is too large.
	publishAll(t, js, "in.a.k", "one")
	publishAll(t, js, "in.short", "two")
	publishAll(t, js, "in.b.k", strings.Repeat("x", 3000), "three")
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: "in", Key: "{subject[2]}"})
	b := start(t, j)
	awaitState(t, b, StateStuck, `message 2 of subject "in.short" cannot be taken over`)
	b.Close()
	if got := values(records(t, cl.Config(), "in")[0]); !slices.Equal(got, []string{"one"}) {
		t.Fatalf("before the message that cannot be converted: %q", got)
	}
	j.Spec.DeadLetters = "dead"
	b = start(t, j)
	caughtUp(t, b)
	b.Close()
	if got := values(records(t, cl.Config(), "in")[0]); !slices.Equal(got, []string{"one", "three"}) {
		t.Fatalf("%q", got)
	}
	dead := records(t, cl.Config(), "dead")[0]
	if len(dead) != 2 || string(dead[0].Value) != "two" || len(dead[1].Value) != 3000 {
		t.Fatalf("%d dead letters", len(dead))
	}
	if seq, _ := find(dead[1].Headers, headerSeq); seq != "3" {
		t.Errorf("the second one is of message %s", seq)
	}
	if why, _ := find(dead[1].Headers, headerReason); !strings.Contains(why, "max.message.bytes") {
		t.Errorf("the reason is %q", why)
	}

	// Into a stream: a header that is not there, and what the server does not take.
	h := []kgo.RecordHeader{{Key: "to", Value: []byte("x")}}
	produce(t, cl.Config(), &kgo.Record{Value: []byte("four"), Headers: h}, &kgo.Record{Value: []byte("five")}, &kgo.Record{Value: make([]byte, 200<<10), Headers: h}, &kgo.Record{Value: []byte("six"), Headers: h})
	j = job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "OUT", Subject: "out.{header:to}"})
	j.ID = "77"
	b = start(t, j)
	awaitState(t, b, StateStuck, "record t/0/1 cannot be taken over")
	b.Close()
	j.Spec.DeadLetters = "dead"
	b = start(t, j)
	caughtUp(t, b)
	s := b.Status()
	b.Close()
	if s.DeadLetters != 2 || s.Records != 1 {
		t.Errorf("%+v", s)
	}
	var got []string
	for _, m := range stored(t, js, "OUT") {
		got = append(got, string(m.Data()))
	}
	if !slices.Equal(got, []string{"four", "six"}) {
		t.Errorf("%q", got)
	}
	if dead := records(t, cl.Config(), "dead")[0]; len(dead) != 4 || string(dead[2].Value) != "five" || len(dead[3].Value) != 200<<10 {
		t.Errorf("%d dead letters", len(dead))
	}
}

// What a topic does not take is seen before it is asked, or by its refusal, and then looked for among those of its batch. Without dead letters the bridge says which
// message it is and how to go on behind it; with them what is behind it is not held up. All others are there once.
func TestRefusedByTopic(t *testing.T) {
	t.Parallel()
	const n, bad = 300, 217
	times, sizes := []string{"message.timestamp.before.max.ms", "3600000"}, []string{"max.message.bytes", "600"}
	for _, tc := range []struct {
		name    string
		configs []string
		says    string
		blind   bool
	}{
		{"of another time", times, "message.timestamp.before.max.ms", false},
		{"too large", sizes, "max.message.bytes", false},
		{"of another time, which only the topic knows", times, "INVALID_TIMESTAMP", true},
		{"too large, which only the topic knows", sizes, "MESSAGE_TOO_LARGE", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			nc := startNATS(t, 1, "")
			cl := brokertest.Start(t, brokertest.Topic("in", 2, tc.configs...), brokertest.Topic("dead", 1, "cleanup.policy", "compact", "message.timestamp.before.max.ms", "60000"))
			_, js := nc.dial()
			nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
			publish(t, js, n, func(i int) *nats.Msg {
				m := nats.NewMsg(fmt.Sprintf("in.%d", i%5))
				if m.Data = fmt.Append(nil, i+1); i+1 == bad {
					m.Header.Set(headerTimestamp, "1700000000000")
					m.Data = fmt.Appendf(m.Data, "%1000d", 0)
				}
				return m
			})
			once := func(id string, want int) {
				t.Helper()
				got := make(map[string]int)
				for _, recs := range records(t, cl.Config(), "in") {
					for _, r := range recs {
						seq, _ := find(r.Headers, headerSeq)
						got[seq]++
					}
				}
				for i := 1; i <= n; i++ {
					if c := got[fmt.Sprint(i)]; i == bad && c != 0 || i != bad && c != want {
						t.Fatalf("bridge %s: message %d is there %d times", id, i, c)
					}
				}
			}
			j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: "in"})
			j.blind = tc.blind
			b := start(t, j)
			awaitState(t, b, StateStuck, tc.says)
			s := b.Status()
			b.Close()
			if s.Position != fmt.Sprint(bad) || s.Records != bad-1 || !strings.Contains(s.Error, fmt.Sprintf("message %d ", bad)) || !strings.Contains(s.Error, fmt.Sprintf("nats seek b --to %d'", bad+1)) {
				t.Errorf("%+v", s)
			}
			j.Number, j.Position = 2, fmt.Sprint(bad+1)
			b = start(t, j)
			caughtUp(t, b)
			b.Close()
			once(j.ID, 1)

			j.ID, j.Number, j.Position, j.Spec.DeadLetters = "77", 1, PositionFirst, "dead"
			b = start(t, j)
			caughtUp(t, b)
			s = b.Status()
			b.Close()
			once(j.ID, 2)
			dead := records(t, cl.Config(), "dead")[0]
			if s.DeadLetters != 1 || len(dead) != 1 {
				t.Fatalf("%d dead letters, and the bridge says %+v", len(dead), s)
			}
			seq, _ := find(dead[0].Headers, headerSeq)
			if why, _ := find(dead[0].Headers, headerReason); seq != fmt.Sprint(bad) || !strings.Contains(why, tc.says) {
				t.Errorf("the dead letter is of message %s: %s", seq, why)
			}
		})
	}
}

// A record that only the topic knows it refuses is the one that is put aside, also where messages that are left out stand behind it.
func TestRefusedBeforeSkipped(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("in", 1, "message.timestamp.before.max.ms", "3600000"), brokertest.Topic("dead", 1))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	publish(t, js, 20, func(i int) *nats.Msg {
		m := nats.NewMsg("in.a")
		if m.Data = fmt.Append(nil, i+1); i == 0 {
			m.Header.Set(headerTimestamp, "1700000000000")
		} else {
			m.Header.Set(headerBridges, "c/b")
		}
		return m
	})
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: "in"})
	j.blind = true
	b := start(t, j)
	awaitState(t, b, StateStuck, "message 1 ")
	b.Close()
	j.Spec.DeadLetters = "dead"
	b = start(t, j)
	caughtUp(t, b)
	s := b.Status()
	b.Close()
	if dead := records(t, cl.Config(), "dead")[0]; s.DeadLetters != 1 || len(dead) != 1 {
		t.Fatalf("%d dead letters, and the bridge says %+v", len(dead), s)
	}
}

// A compacted topic takes no records without keys, and one with conditional appends no transactions: the bridge says so.
func TestTopicsThatDoNotFit(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("compacted", 1, "cleanup.policy", "compact"), brokertest.Topic("conditional", 1, "cleanup.policy", "compact", "balsa.conditional.append", "true"))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	publishAll(t, js, "in.a", "1")
	for topic, says := range map[string]string{"compacted": "no key", "conditional": "takes no transactions"} {
		j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: topic, Key: noKey})
		j.ID = topic
		b := start(t, j)
		awaitState(t, b, StateStuck, says)
		b.Close()
	}
}

// A stream that is deleted and made anew is read from its start, once; a topic likewise.
func TestMadeAnew(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("in", 1), brokertest.Topic("t", 1))
	_, js := nc.dial()
	cfg := jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}}
	nc.stream(js, cfg)
	nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}})
	in := start(t, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: "in"}))
	defer in.Close()
	jo := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "OUT", Subject: "out.x"})
	jo.ID = "77"
	out := start(t, jo)
	defer out.Close()

	publishAll(t, js, "in.a", "1", "2", "3")
	produce(t, cl.Config(), &kgo.Record{Value: []byte("a")}, &kgo.Record{Value: []byte("b")})
	awaitRecords(t, cl.Config(), "in", 3)
	await := func(want ...string) {
		t.Helper()
		soon(t, fmt.Sprintf("the stream has %q", want), func() error {
			var got []string
			for _, m := range stored(t, js, "OUT") {
				got = append(got, string(m.Data()))
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("it has %q", got)
			}
			return nil
		})
	}
	await("a", "b")

	if err := js.DeleteStream(t.Context(), "IN"); err != nil {
		t.Fatal(err)
	}
	nc.stream(js, cfg)
	publishAll(t, js, "in.a", "4", "5", "6", "7")
	awaitRecords(t, cl.Config(), "in", 7)
	if got := values(records(t, cl.Config(), "in")[0]); !slices.Equal(got, []string{"1", "2", "3", "4", "5", "6", "7"}) {
		t.Errorf("%q", got)
	}

	adm, err := client.NewAdmin(t.Context(), cl.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	if err := adm.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	soon(t, "the topic is made anew", func() error {
		_, err := adm.CreateTopic(t.Context(), client.TopicSpec{Name: "t", Partitions: 1})
		return err
	})
	produce(t, cl.Config(), &kgo.Record{Value: []byte("c")}, &kgo.Record{Value: []byte("d")}, &kgo.Record{Value: []byte("e")})
	await("a", "b", "c", "d", "e")
}

// A stream that has lost what it had acknowledged will use the same numbers again: the bridge does not guess.
func TestStreamGoesBack(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("in", 1))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	publishAll(t, js, "in.a", "1", "2", "3")
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: "in"})
	b := start(t, j)
	awaitRecords(t, cl.Config(), "in", 3)
	b.Close()
	// The progress says more than there is: as if the stream had ended at 3 after a crash, where it had acknowledged 9.
	l, p, err := openLedger(t.Context(), cl.Config(), j.ID, new(targets))
	if err != nil {
		t.Fatal(err)
	}
	p.Seq = 10
	if err := l.commit(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	l.close()
	b = start(t, j)
	awaitState(t, b, StateStuck, "ends at 3, and the bridge had come to 9")
	b.Close()
	j.Number, j.Position = 2, "2"
	b = start(t, j)
	defer b.Close()
	awaitRecords(t, cl.Config(), "in", 5)
	if got := values(records(t, cl.Config(), "in")[0]); !slices.Equal(got, []string{"1", "2", "3", "2", "3"}) {
		t.Errorf("%q", got)
	}
}

// Positions: by number, by time, at both ends; what is sent again on purpose is not dropped as a repeat.
func TestSeek(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("in", 1), brokertest.Topic("t", 2))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}})
	publishAll(t, js, "in.a", "1", "2", "3")
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: "in"})
	j.Position = PositionNew
	b := start(t, j)
	caughtUp(t, b)
	publishAll(t, js, "in.a", "4")
	awaitRecords(t, cl.Config(), "in", 1)
	b.Close()
	third := stored(t, js, "IN")[2]
	meta, err := third.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	j.Number, j.Position = 2, meta.Timestamp.Format(time.RFC3339Nano)
	b = start(t, j)
	awaitRecords(t, cl.Config(), "in", 3)
	b.Close()
	b = start(t, j) // the same seek again is none
	caughtUp(t, b)
	b.Close()
	if got := values(records(t, cl.Config(), "in")[0]); !slices.Equal(got, []string{"4", "3", "4"}) {
		t.Errorf("%q", got)
	}

	produce(t, cl.Config(), &kgo.Record{Value: []byte("a")}, &kgo.Record{Value: []byte("b")}, &kgo.Record{Partition: 1, Value: []byte("c")})
	j = job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "OUT", Subject: "out.x"})
	j.ID = "77"
	b = start(t, j)
	caughtUp(t, b)
	b.Close()
	j.Number, j.Position = 2, "0:1"
	b = start(t, j)
	caughtUp(t, b)
	b.Close()
	got := make(map[string]int)
	for _, m := range stored(t, js, "OUT") {
		got[string(m.Data())]++
	}
	if got["a"] != 1 || got["b"] != 2 || got["c"] != 1 {
		t.Errorf("%v", got)
	}
}

func TestCoreIntoTopic(t *testing.T) {
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("t", 2))
	conn, _ := nc.dial()
	// Two carry it, as during a move: the queue group gives each message to one of them.
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromSubject: "core.>", ToTopic: "t"})
	j.Position = ""
	one, two := start(t, j), start(t, j)
	defer one.Close()
	awaitState(t, one, StateRunning, "")
	awaitState(t, two, StateRunning, "")
	for i := range 200 {
		if err := conn.PublishRequest(fmt.Sprintf("core.%d", i%7), "back", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	awaitRecords(t, cl.Config(), "t", 200)
	two.Close()
	for _, recs := range records(t, cl.Config(), "t") {
		for _, r := range recs {
			if to, _ := find(r.Headers, headerReply); to != "back" || !strings.HasPrefix(string(r.Key), "core.") {
				t.Fatalf("key %q, reply to %q", r.Key, to)
			}
		}
	}
	// Alone, it keeps the order of a subject.
	for i := range 100 {
		if err := conn.Publish("core.order", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	awaitRecords(t, cl.Config(), "t", 300)
	next := 0
	for _, recs := range records(t, cl.Config(), "t") {
		for _, r := range recs {
			if string(r.Key) == "core.order" {
				if string(r.Value) != fmt.Sprint(next) {
					t.Fatalf("%q where %d should be", r.Value, next)
				}
				next++
			}
		}
	}
}

// A bridge that ends in order writes what it has received: what waits in NATS's client, and what waits in Kafka's.
func TestCoreHandOver(t *testing.T) {
	const n = 3000
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("t", 2))
	conn, _ := nc.dial()
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromSubject: "core.>", ToTopic: "t"})
	j.Position = ""
	b := start(t, j)
	awaitState(t, b, StateRunning, "")
	cl.Pause()
	for i := range n {
		if err := conn.Publish(fmt.Sprintf("core.%d", i%7), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.FlushTimeout(2 * time.Minute); err != nil {
		t.Fatal(err)
	}
	b.cancel() // as Close does, which waits
	cl.Resume()
	b.Close()
	s := b.Status()
	if got := countRecords(t, cl.Config(), "t"); got != n || s.Records != n || s.Dropped != 0 {
		t.Errorf("%d of %d messages are written, and the bridge says %+v", got, n, s)
	}
	// None of those that come later: nobody listens.
	if err := conn.Publish("core.late", nil); err != nil {
		t.Fatal(err)
	}
}

// What the stream refuses for good goes to the dead letters, at once where the answer says so, after some tries where it may pass; and what is behind it is not held
// up. Without dead letters the bridge says which record it is, and goes on once it is taken.
func TestRefusedByStream(t *testing.T) {
	nc := startNATS(t, 1, `authorization { users: [
		{ user: all, password: all }
		{ user: some, password: "open sesame", permissions: { publish: { deny: [ "out.secret" ] } } } ] }`)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("open sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	cl := brokertest.Start(t, brokertest.Topic("t", 1), brokertest.Topic("dead", 1))
	_, js := nc.dial(nats.UserInfo("all", "all"))
	st := nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true})
	long := []kgo.RecordHeader{{Key: "long", Value: make([]byte, 70_000)}}
	produce(t, cl.Config(), &kgo.Record{Key: []byte("a"), Value: []byte("1")}, &kgo.Record{Key: []byte("a"), Value: []byte("2")}, &kgo.Record{Key: []byte("b"), Value: []byte("3")},
		&kgo.Record{Key: []byte("c"), Value: []byte("4"), Headers: long}, &kgo.Record{Key: []byte("secret"), Value: []byte("5")}, &kgo.Record{Key: []byte("d"), Value: []byte("6")})
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "OUT", Subject: "out.{key}", Auth: Auth{User: "some", PasswordFile: "password"}})
	j.Secrets, j.tries = dir, 3
	b := start(t, j)
	awaitState(t, b, StateStuck, "did not take record t/0/1")
	b.Close()
	j.Spec.DeadLetters = "dead"
	b = start(t, j)
	defer b.Close()
	caughtUp(t, b)
	var got []string
	for _, m := range stored(t, js, "OUT") {
		got = append(got, string(m.Data()))
	}
	dead := records(t, cl.Config(), "dead")[0]
	if !slices.Equal(got, []string{"1", "3", "6"}) || !slices.Equal(values(dead), []string{"2", "4", "5"}) {
		t.Fatalf("the stream has %q, and the dead letters are %q", got, values(dead))
	}
	for i, says := range []string{"per subject", "headers", "out.secret"} {
		if why, _ := find(dead[i].Headers, headerReason); !strings.Contains(why, says) {
			t.Errorf("dead letter %q says %q", dead[i].Value, why)
		}
	}
	if s := b.Status(); s.DeadLetters != 3 {
		t.Errorf("%+v", s)
	}

	// A stream that is full is no fault of a record: it waits.
	cfg := st.CachedInfo().Config
	cfg.MaxMsgs = 3
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	produce(t, cl.Config(), &kgo.Record{Key: []byte("e"), Value: []byte("7")})
	soon(t, "it has been tried more often than a refused record is", func() error {
		if s := b.Status(); s.Restarts < 10 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	cfg.MaxMsgs = -1
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, b)
	if n := countRecords(t, cl.Config(), "dead"); n != 3 {
		t.Errorf("%d dead letters", n)
	}
	if msgs := stored(t, js, "OUT"); string(msgs[len(msgs)-1].Data()) != "7" {
		t.Errorf("the last message is %q", msgs[len(msgs)-1].Data())
	}
}

// A stream that deletes what is acknowledged is refused: a bridge would have to change it.
func TestWorkQueuesAreRefused(t *testing.T) {
	nc := startNATS(t, 1, "")
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "Q", Subjects: []string{"q.>"}, Retention: jetstream.WorkQueuePolicy})
	s := &Spec{Servers: nc.urls(), FromStream: "Q", ToTopic: "t"}
	c, err := connect(t.Context(), s, "", "b", 1, job(t, client.Config{}, s).Logger, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, _, err := c.openSource(context.Background(), "Q"); err == nil || !strings.Contains(err.Error(), "sources from it") {
		t.Fatal(err)
	}
}
