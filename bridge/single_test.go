// Messages that NATS's clients take for the server's own.

package bridge

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// statusMsg has no body, and a header called Status.
func statusMsg(subject, status, description string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set("Status", status)
	m.Header.Set("Description", description)
	return m
}

// A message without a body and with a header called Status, which a program has written, makes nats.go's consumers begin anew where it is, or leave it out. A bridge
// takes it over as any other, in its place; from a time on, too, and with filters.
func TestStatusMessagesIntoTopic(t *testing.T) {
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("all", 1), brokertest.Topic("some", 1), brokertest.Topic("late", 1))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}, AllowDirect: true})
	plain := func(subject, data string) *nats.Msg { m := nats.NewMsg(subject); m.Data = []byte(data); return m }
	var want, odd []string
	var third time.Time
	for i, m := range []*nats.Msg{plain("in.a", "1"), statusMsg("in.a", "100", "Idle Heartbeat"), plain("in.b", "2"), statusMsg("in.b", "404", "No Messages"),
		statusMsg("in.a", "409", "Consumer Deleted"), statusMsg("in.b", "503", ""), plain("in.b", "3"), statusMsg("in.b", "200", "ok"), statusMsg("in.a", "100", "")} {
		if i == 3 {
			third = time.Now()
		}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		text := string(m.Data) + m.Header.Get("Status")
		if want = append(want, text); m.Subject == "in.b" {
			odd = append(odd, text)
		}
	}
	got := func(topic string) (out []string) {
		for _, r := range records(t, cl.Config(), topic)[0] {
			status, _ := find(r.Headers, "Status")
			out = append(out, string(r.Value)+status)
		}
		return out
	}
	run := func(id, topic, position string, filters []string, want []string) {
		j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "IN", ToTopic: topic, Filters: filters})
		j.ID, j.Position = id, position
		b := start(t, j)
		defer b.Close()
		soon(t, "all messages are taken over", func() error {
			if out := got(topic); !slices.Equal(out, want) {
				return fmt.Errorf("topic %s has %q, and the bridge is %+v", topic, out, b.Status())
			}
			return nil
		})
		caughtUp(t, b)
	}
	run("1", "all", PositionFirst, nil, want)
	run("2", "some", PositionFirst, []string{"in.b", "in.c"}, odd)
	run("3", "late", third.Format(time.RFC3339Nano), nil, want[3:])
}

// Reading the end of a target stream back, foreign messages are no trouble either, though a consumer that asks for headers only gets none with a body.
func TestStatusMessagesInTarget(t *testing.T) {
	nc := startNATS(t, 1, "")
	cl := brokertest.Start(t, brokertest.Topic("t", 1))
	_, js := nc.dial()
	st := nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}, AllowDirect: true})
	produce(t, cl.Config(), &kgo.Record{Value: []byte("a")}, &kgo.Record{Value: []byte("b")})
	adm, err := client.NewAdmin(t.Context(), cl.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	topic, err := adm.Topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "OUT", Subject: "out.x"})
	l, p, err := openLedger(t.Context(), cl.Config(), j.ID, new(targets))
	if err != nil {
		t.Fatal(err)
	}
	p = progress{Position: 1, Stream: "OUT", Created: st.CachedInfo().Created, TopicID: topic.ID, Offsets: map[int32]int64{0: 0}, Plan: []run{{0, 0, 1}}, Next: map[int32]int64{0: 2}}
	if err := l.commit(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	l.close()
	body := statusMsg("out.other", "503", "")
	body.Data = []byte("other")
	for _, m := range []*nats.Msg{body, statusMsg("out.other", "409", "Consumer Deleted")} {
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	b := start(t, j)
	defer b.Close()
	caughtUp(t, b)
	info, err := st.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := st.GetMsg(t.Context(), seq)
		if err != nil {
			got = append(got, "-")
			continue
		}
		got = append(got, string(m.Data))
	}
	if !slices.Equal(got, []string{"other", "-", "a", "b"}) {
		t.Errorf("the stream has %q", got)
	}
}
