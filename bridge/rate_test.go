// How fast a bridge is, both ways, on brokers and a nats-server on this machine:
//
//	go test ./bridge -run TestRate -v -bridge-rate 1000000

package bridge

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

var (
	rateMessages = flag.Int("bridge-rate", 0, "measure how fast so many messages go through a bridge")
	rateBytes    = flag.Int("bridge-bytes", 200, "bytes of each of these messages")
	rateNodes    = flag.Int("bridge-nodes", 1, "nodes of both sides: 1 or 3")
)

func TestRate(t *testing.T) {
	n := *rateMessages
	if n == 0 {
		t.Skip("-bridge-rate says how many messages")
	}
	data := make([]byte, *rateBytes)
	subject := func(i int) string { return fmt.Sprintf("s.%d", i%1000) }
	t.Run("stream to topic", func(t *testing.T) {
		nc := startNATS(t, *rateNodes, "")
		cl := brokertest.Cluster(t, *rateNodes, brokertest.Topic("t", 6))
		_, js := nc.dial()
		nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		publish(t, js, n, func(i int) *nats.Msg { return &nats.Msg{Subject: subject(i), Data: data} })
		measure(t, n, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "t"}))
	})
	t.Run("topic to stream", func(t *testing.T) {
		nc := startNATS(t, *rateNodes, "")
		cl := brokertest.Cluster(t, *rateNodes, brokertest.Topic("t", 6))
		_, js := nc.dial()
		nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		p, err := client.NewProducer(t.Context(), client.ProducerConfig{Config: cl.Config(), Topic: "t"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			p.ProduceAsync(t.Context(), &kgo.Record{Key: []byte(subject(i)), Value: data}, nil)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		measure(t, n, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "S", Subject: "{key.*}"}))
	})
}

func TestRateOfCore(t *testing.T) {
	const ahead = 20_000 // of what is taken over: who publishes faster than that has messages dropped
	n := *rateMessages
	if n == 0 {
		t.Skip("-bridge-rate says how many messages")
	}
	data := make([]byte, *rateBytes)
	nc := startNATS(t, *rateNodes, "")
	cl := brokertest.Cluster(t, *rateNodes, brokertest.Topic("t", 6))
	conn, _ := nc.dial()
	j := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromSubject: "s.>", ToTopic: "t"})
	j.Position = ""
	b := start(t, j)
	defer b.Close()
	awaitState(t, b, StateRunning, "")
	began := time.Now()
	for i := range n {
		if i%1000 == 0 {
			soon(t, "it is taken over", func() error {
				if s := b.Status(); s.Records+s.Dropped+ahead < uint64(i) {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
		}
		if err := conn.Publish(fmt.Sprintf("s.%d", i%1000), data); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	soon(t, "everything is taken over", func() error {
		if s := b.Status(); s.Records+s.Dropped < uint64(n) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	t.Logf("%s, %d of them dropped", rate(n, time.Since(began)), b.Status().Dropped)
}

// measure times a bridge from its start until it has taken everything over.
func measure(t *testing.T, n int, j Job) {
	began := time.Now()
	b := start(t, j)
	defer b.Close()
	soon(t, "everything is taken over", func() error {
		if s := b.Status(); s.Records < uint64(n) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if s := b.Status(); s.Records != uint64(n) {
		t.Fatalf("%d records of %d messages", s.Records, n)
	}
	t.Log(rate(n, time.Since(began)))
}
