// Edge: devices that speak NATS at the edge, the log at the core, and two bridges between them.
//
//	devices ──▶ stream READINGS ──bridge──▶ topic readings ──▶ alarms that are worth one
//	devices ◀── stream ALARMS ◀──bridge── topic alarms ◀───────┘
//
// Devices publish readings into a JetStream stream near them. A bridge, which a broker carries, takes them into a topic, keyed by device; a program at the
// core makes alarms of some, and another bridge takes these back to the edge. In the middle the NATS server is killed with -9. Every reading is at the
// core once, and every alarm at the edge once, in order per device.
//
// The NATS server is a process on this machine, built the first time. With -b it has to be the brokers' machine, too.
//
//	go run ./examples/edge
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/bridge"
	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/client/serde"
	"github.com/balsamq/balsa/examples/internal/demo"
)

const (
	devices   = 8
	readings  = 600
	killAfter = readings / 2
	hot       = 90 // from here on it is an alarm
)

// Reading is what a device measures.
type Reading struct {
	Number  int `json:"number"`
	Celsius int `json:"celsius"`
}

// Alarm is what the core says to it.
type Alarm struct {
	Reading int    `json:"reading"`
	Text    string `json:"text"`
}

var (
	readingCodec = client.Codec[string, Reading]{Key: serde.String(), Value: serde.JSON[Reading]()}
	alarmCodec   = client.Codec[string, Alarm]{Key: serde.String(), Value: serde.JSON[Alarm]()}
)

func main() {
	demo.Main(demo.Example{Name: "edge", What: "NATS at the edge, topics at the core, bridges both ways; the NATS server is killed in the middle.", Brokers: 1, Run: run,
		// What makes brokers carry bridges. 'broker start' and 'broker dev' do.
		Options: []brokertest.Option{brokertest.Configure(func(_ int, cfg *broker.Config) {
			cfg.Bridges, cfg.AdminListen = &bridge.Runner{}, "127.0.0.1:0"
		})}})
}

// device and reading are of the nth message.
func device(n int) string { return fmt.Sprint("device-", n%devices) }

func reading(n int) Reading { return Reading{Number: n, Celsius: 20 + n*7%80} }

func run(ctx context.Context, d *demo.Demo) (err error) {
	if err := d.Create(ctx,
		client.TopicSpec{Name: d.Name("readings"), Partitions: 3},
		client.TopicSpec{Name: d.Name("alarms"), Partitions: 2},
	); err != nil {
		return err
	}
	server, err := startNATS(ctx, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	js, err := server.connect(ctx)
	if err != nil {
		return err
	}
	for stream, subjects := range map[string]string{"READINGS": "readings.>", "ALARMS": "alarms.>"} {
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{subjects}}); err != nil {
			return err
		}
	}
	remove, err := addBridges(ctx, d, server.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()

	working, stop := context.WithCancel(ctx)
	defer stop()
	g, working := errgroup.WithContext(working)
	g.Go(func() error { return alarms(working, d) })
	g.Go(func() error {
		defer stop()
		if err := publish(working, d, js, server); err != nil {
			return err
		}
		return check(working, d, js)
	})
	return g.Wait()
}

// addBridges makes the two bridges, as 'broker bridge nats add' would, and returns what removes them.
func addBridges(ctx context.Context, d *demo.Demo, server string) (remove func() error, err error) {
	adm, err := client.NewAdmin(ctx, d.Config)
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	ctl, err := adm.Control(ctx)
	if err != nil {
		return nil, err
	}
	in, out := d.Name("readings-in"), d.Name("alarms-out")
	var made []string
	remove = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		defer ctl.Close()
		var errs []error
		for _, name := range made {
			errs = append(errs, bridge.Remove(ctx, ctl, name))
		}
		return errors.Join(errs...)
	}
	for name, spec := range map[string]*bridge.Spec{
		in:  {Servers: []string{server}, FromStream: "READINGS", ToTopic: d.Name("readings"), Key: "{subject[1]}"},
		out: {Servers: []string{server}, FromTopic: d.Name("alarms"), ToStream: "ALARMS", Subject: "alarms.{key}"},
	} {
		if err := bridge.Add(ctx, ctl, name, spec); err != nil {
			return nil, errors.Join(err, remove())
		}
		made = append(made, name)
	}
	d.Say("Two bridges are made: %s from stream READINGS to topic %s, and %s from topic %s to stream ALARMS.", in, d.Name("readings"), out, d.Name("alarms"))
	return remove, nil
}

// publish is what the devices do. The server is killed in the middle; a message that has got no answer is sent again under the same id.
func publish(ctx context.Context, d *demo.Demo, js jetstream.JetStream, server *natsServer) error {
	for n := range readings {
		if n == killAfter {
			if err := server.restart(); err != nil {
				return err
			}
			d.Say("The NATS server was killed with -9 after %d readings, and started again.", n)
		}
		value, err := json.Marshal(reading(n))
		if err != nil {
			return err
		}
		msg := &nats.Msg{Subject: "readings." + device(n), Data: value, Header: nats.Header{nats.MsgIdHdr: {fmt.Sprint("reading-", n)}}}
		for {
			one, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err = js.PublishMsg(one, msg)
			cancel()
			if err == nil {
				break
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("publish a reading: %w", err)
			}
		}
	}
	d.Say("%d devices have published %d readings.", devices, readings)
	return nil
}

// alarms is a program at the core: it makes alarms of readings, exactly once.
func alarms(ctx context.Context, d *demo.Demo) error {
	return client.Transform(ctx, client.TransformConfig{
		Config: d.Config,
		Topics: []string{d.Name("readings")}, Group: d.Name("alarms"), Topic: d.Name("alarms"),
	}, client.TypedTransform(readingCodec, alarmCodec, func(_ context.Context, m client.Message[string, Reading]) ([]client.Message[string, Alarm], error) {
		if m.Value.Celsius < hot {
			return nil, nil
		}
		return []client.Message[string, Alarm]{{Key: m.Key, Value: Alarm{Reading: m.Value.Number, Text: fmt.Sprintf("%d degrees", m.Value.Celsius)}}}, nil
	}))
}

// check reads the alarms as devices do, until all are there, and then looks at both sides.
func check(ctx context.Context, d *demo.Demo, js jetstream.JetStream) error {
	want := 0
	for n := range readings {
		if reading(n).Celsius >= hot {
			want++
		}
	}
	consumer, err := js.OrderedConsumer(ctx, "ALARMS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	it, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer it.Stop()
	last := make(map[string]int) // by device
	for got := range want {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("%d alarms of %d have come: %w", got, want, err)
		}
		var a Alarm
		if err := json.Unmarshal(msg.Data(), &a); err != nil {
			return err
		}
		dev := device(a.Reading)
		if before, ok := last[dev]; msg.Subject() != "alarms."+dev || reading(a.Reading).Celsius < hot || ok && a.Reading <= before {
			return fmt.Errorf("%s has got an alarm for reading %d after that for %d", msg.Subject(), a.Reading, before)
		}
		last[dev] = a.Reading
	}
	stream, err := js.Stream(ctx, "ALARMS")
	if err != nil {
		return err
	}
	if n := stream.CachedInfo().State.Msgs; n != uint64(want) {
		return fmt.Errorf("stream ALARMS has %d messages, %d alarms are due", n, want)
	}
	d.Say("The devices have got %d alarms, each one once.", want)

	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: d.Config, Topics: []string{d.Name("readings")}, StopAtEnd: true})
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	count := 0
	clear(last)
	for m, err := range client.NewTypedConsumer(c, readingCodec).Messages(ctx) {
		if err != nil {
			return err
		}
		n := m.Value.Number
		if before, ok := last[m.Key]; m.Key != device(n) || m.Value != reading(n) || ok && n <= before {
			return fmt.Errorf("reading %d of %s is %+v, after reading %d", n, m.Key, m.Value, before)
		}
		last[m.Key] = n
		count++
	}
	if count != readings {
		return fmt.Errorf("topic readings has %d readings of %d", count, readings)
	}
	d.Say("Right: %d readings went to the core and %d alarms came back; none lost, none twice, in order per device.", count, want)
	return nil
}
