package main

import (
	"encoding/json"
	"log/slog"
	"slices"
	"testing"

	"github.com/balsamq/balsa/bridge"
	"github.com/balsamq/balsa/broker"
)

// What 'bridge nats set' shows is the bridge as it is then: what was taken away is gone, and what was not given has stayed.
func TestBridgeSet(t *testing.T) {
	b, err := broker.Start(t.Context(), broker.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", ListenRPC: "127.0.0.1:0", AdminListen: "127.0.0.1:0", CloseTimeout: -1,
		Logger: slog.New(slog.DiscardHandler), Bridges: &bridge.Runner{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	c := newCLI(t)
	c.env["BALSA_BROKERS"] = b.KafkaAddr()
	c.must("topic", "create", "t")
	c.must("bridge", "nats", "add", "in", "--from-stream", "S", "--to-topic", "t", "--server", "nats://127.0.0.1:1", "--dead-letters", "dead", "--nats-tls", "--paused", "--no-probe")
	shows := func(args ...string) (s bridge.Spec) {
		t.Helper()
		var shown struct{ Spec bridge.Spec }
		if err := json.Unmarshal([]byte(c.must(append(args, "-o", "json")...)), &shown); err != nil {
			t.Fatal(err)
		}
		return shown.Spec
	}
	if s := shows("bridge", "nats", "set", "in", "--nats-tls=false", "--dead-letters", "", "--no-probe"); s.TLS || s.DeadLetters != "" || s.FromStream != "S" || !slices.Equal(s.Servers, []string{"nats://127.0.0.1:1"}) {
		t.Errorf("%+v", s)
	}
	for _, args := range [][]string{{"in"}, {"in", "--server", "", "--no-probe"}, {"in", "--dead-letters", "t", "--no-probe"}, {"in", "--nats-user", "u", "--no-probe"}, {"in", "--from-stream", "X"}} {
		if code, _, errs := c.run(append([]string{"bridge", "nats", "set"}, args...)...); code != exitUsage {
			t.Errorf("%q: exit code %d\n%s", args, code, errs)
		}
	}
}
