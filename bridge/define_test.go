// What programs ask for.

package bridge

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

func TestAddLookRemove(t *testing.T) {
	nc := startNATS(t, 1, "")
	cl := brokertest.Cluster(t, 1, brokertest.Topic("t", 1), withBridges(&Runner{}))
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
	if err := Remove(t.Context(), ctl, "in"); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), ctl, "in"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("remove what is not there: %v", err)
	}
}
