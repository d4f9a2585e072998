// What programs ask for.

package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

func TestAddLookRemove(t *testing.T) {
	nc := startNATS(t, 1, "")
	cl := brokertest.Cluster(t, 1, brokertest.Topic("t", 1), brokertest.Topic("keyed", 1), brokertest.Topic("dead", 1), withBridges(&Runner{}))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	ctl := control(t, cl)
	defer ctl.Close()
	for what, spec := range map[string]*Spec{
		"no source":             {Servers: nc.urls(), ToTopic: "t"},
		"a stream that is none": {Servers: nc.urls(), FromStream: "NONE", ToTopic: "t"},
		"a topic that is none":  {Servers: nc.urls(), FromStream: "S", ToTopic: "none"},
	} {
		if err := Add(t.Context(), ctl, "in", spec); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Look(t.Context(), ctl, "in"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a bridge that is not there: %v", err)
	}
	spec := &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "t"}
	if err := Add(t.Context(), ctl, "in", spec); err != nil {
		t.Fatal(err)
	}
	if err := Add(t.Context(), ctl, "in", spec); err == nil {
		t.Error("it was made twice")
	}
	soon(t, "the bridge runs", func() error {
		s, err := Look(t.Context(), ctl, "in")
		if err == nil && s.State != string(StateRunning) {
			err = fmt.Errorf("it is %+v", s)
		}
		return err
	})
	// It stops at a message that cannot be converted, and goes on there when it has a topic for dead letters: nothing is written twice.
	keyed := &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "keyed", Key: "{subject[2]}"}
	publishAll(t, js, "s.a.k", "one")
	publishAll(t, js, "s.short", "two")
	publishAll(t, js, "s.b.k", "three")
	if err := Add(t.Context(), ctl, "keyed", keyed); err != nil {
		t.Fatal(err)
	}
	soon(t, "the bridge is stuck", func() error {
		s, err := Look(t.Context(), ctl, "keyed")
		if err == nil && s.State != string(StateStuck) {
			err = fmt.Errorf("it is %+v", s)
		}
		return err
	})
	other, dead, gone := *keyed, *keyed, *keyed
	other.Key, dead.DeadLetters, gone.DeadLetters = "none", "dead", "none"
	for what, s := range map[string]*Spec{"other keys": &other, "a topic that is none": &gone, "nothing": {}} {
		if err := Change(t.Context(), ctl, "keyed", s); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := Change(t.Context(), ctl, "none", &dead); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a bridge that is not there is changed: %v", err)
	}
	stale := map[string]any{"spec": dead, "was": map[string]any{"fromStream": "ANOTHER"}, "noProbe": true}
	if _, err := order(t, cl, "/v1/bridges/keyed/set", stale); err == nil || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("it is changed from what it was not: %v", err)
	}
	if _, err := order(t, cl, "/v1/bridges/keyed/set", map[string]any{"spec": dead, "was": keyed, "dryRun": true}); err != nil {
		t.Errorf("it cannot be changed from what it is: %v", err)
	}
	if err := Change(t.Context(), ctl, "keyed", &dead); err != nil {
		t.Fatal(err)
	}
	awaitRecords(t, cl.Config(), "dead", 1)
	awaitRecords(t, cl.Config(), "keyed", 2)
	soon(t, "the bridge runs", func() error {
		s, err := Look(t.Context(), ctl, "keyed")
		if err == nil && (s.State != string(StateRunning) || s.Lag != 0) {
			err = fmt.Errorf("it is %+v", s)
		}
		return err
	})
	if got := values(records(t, cl.Config(), "keyed")[0]); !slices.Equal(got, []string{"one", "three"}) {
		t.Errorf("%q", got)
	}
	if err := Remove(t.Context(), ctl, "in"); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), ctl, "in"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("remove what is not there: %v", err)
	}
}
