// What orders about bridges are refused for before anybody is asked.

package broker

import (
	"encoding/json"
	"testing"

	"github.com/balsamq/balsa/coordinator"
)

// A definition that was made from another one than the bridge has by now would take back what somebody else has changed: it is refused. The order of
// keys, spaces and escapes say nothing.
func TestBridgeOrderStandsOnADefinition(t *testing.T) {
	br := &coordinator.Bridge{Name: "in", Spec: json.RawMessage(`{"fromStream":"S","toTopic":"t","key":"<a>"}`)}
	for was, fits := range map[string]bool{
		"": true,
		`{"toTopic": "t", "key": "\u003ca\u003e", "fromStream": "S"}`:       true,
		`{"toTopic":"t","key":"<a>","fromStream":"S","deadLetters":"dead"}`: false,
		`{"toTopic":"t","fromStream":"S"}`:                                  false,
		`null`:                                                              false,
	} {
		o := &bridgeOrder{Was: json.RawMessage(was)}
		if err := o.standsOn(br); (err == nil) != fits {
			t.Errorf("from %q: %v", was, err)
		}
	}
}

// What the cluster's level does not have is refused before NATS is asked, and by a dry run as well.
func TestBridgeOrderNeedsItsLevel(t *testing.T) {
	h := newHarness(t, serverOptions{})
	set := &coordinator.Command{AlterBridge: &coordinator.AlterBridge{Name: "in", ID: coordinator.TopicID{1}, Spec: json.RawMessage(`{}`)}}
	if err := bridgeLevel(h.back.Image(), set); err != nil {
		t.Fatal(err)
	}
	if err := h.back.apply(&coordinator.Command{SetFeature: &coordinator.SetFeature{Name: metadataVersion, Level: coordinator.LevelApps}}).Err(); err != nil {
		t.Fatal(err)
	}
	if err := bridgeLevel(h.back.Image(), set); err == nil {
		t.Error("a level too low is not noticed")
	}
}
