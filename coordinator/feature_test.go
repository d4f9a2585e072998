package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/balsamq/balsa/raft"
)

// askFeatures has a controller carry out updates, and returns what came of each.
func askFeatures(t *testing.T, ctl *Controller, validate bool, ups ...FeatureUpdate) []error {
	t.Helper()
	askFeaturesSeq++
	r, err := ctl.Do(t.Context(), &Intent{Request: fmt.Sprint("features-", askFeaturesSeq), Features: &FeatureUpdates{Updates: ups, ValidateOnly: validate}})
	if err == nil {
		err = r.Err()
	}
	if err != nil || len(r.Features) != len(ups) {
		t.Fatalf("%+v, %v", r, err)
	}
	errs := make([]error, len(ups))
	for i := range errs {
		errs[i] = r.Features[i].Err()
	}
	return errs
}

var askFeaturesSeq int

func TestFeaturesAreRaisedWhenAllBrokersSupportThem(t *testing.T) {
	c, ctl := newControlled(t, 3)
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelMoves}})
	supports := map[raft.NodeID][]FeatureRange{2: OldFeatures(), 3: SupportedFeatures()}
	unreachable := errors.New("connection refused")
	ctl.cfg.Supports = func(_ context.Context, node raft.NodeID) ([]FeatureRange, error) {
		if f, ok := supports[node]; ok {
			return f, nil
		}
		return nil, unreachable
	}
	level := func() int16 { return c.md.Image().Feature(MetadataVersion) }
	up := FeatureUpdate{Name: MetadataVersion, Level: LevelAdmin}

	if err := askFeatures(t, ctl, false, up)[0]; !errors.Is(err, ErrFeatureUpdate) || !strings.Contains(err.Error(), "broker 2 only supports 1 to 2") || level() != LevelMoves {
		t.Fatalf("raised to %d although broker 2 is too old: %v", level(), err)
	}
	delete(supports, 2)
	if err := askFeatures(t, ctl, false, up)[0]; !errors.Is(err, ErrFeatureUpdate) || !strings.Contains(err.Error(), "connection refused") || level() != LevelMoves {
		t.Fatalf("raised to %d although broker 2 does not answer: %v", level(), err)
	}
	// Once it is fenced nobody waits for it.
	c.do(&Command{Fence: &FenceBroker{Node: 2, Epoch: c.md.Image().Broker(2).Epoch, Fenced: true}})
	if err := askFeatures(t, ctl, true, up)[0]; err != nil || level() != LevelMoves {
		t.Fatalf("validating: %v, level %d", err, level())
	}
	if err := askFeatures(t, ctl, false, up)[0]; err != nil || level() != LevelAdmin {
		t.Fatalf("%v, level %d", err, level())
	}
	if err := askFeatures(t, ctl, false, up)[0]; err != nil { // again: nothing to do
		t.Fatal(err)
	}

	// From now on a broker of the old version is not let in, and one of this version is.
	b := c.md.Image().Broker(2)
	reg := &Command{Register: &RegisterBroker{Node: 2, Incarnation: b.Incarnation, Endpoints: b.Endpoints, RPC: b.RPC}}
	r, err := ctl.Do(t.Context(), &Intent{Request: "old", Command: reg})
	if err != nil || !errors.Is(r.Err(), ErrFeatureLevel) {
		t.Fatalf("a broker of an older version is let in: %+v, %v", r, err)
	}
	if r, err = ctl.Do(t.Context(), &Intent{Request: "new", Command: reg, Supported: SupportedFeatures()}); err != nil || r.Err() != nil {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestFeatureUpdatesThatAreRefused(t *testing.T) {
	c, ctl := newControlled(t, 1)
	for _, tc := range []struct {
		up   FeatureUpdate
		want string
	}{
		{FeatureUpdate{Name: "share.version", Level: 1}, "no feature"},
		{FeatureUpdate{Name: MetadataVersion, Level: LevelLatest + 1}, "supports 1 to"},
		{FeatureUpdate{Name: MetadataVersion, Level: -1}, "negative"},
		{FeatureUpdate{Name: MetadataVersion, Level: 0, Lower: true}, "cannot be switched off"},
		{FeatureUpdate{Name: MetadataVersion, Level: LevelMoves}, "as a downgrade"},
	} {
		c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelAdmin}})
		if err := askFeatures(t, ctl, false, tc.up)[0]; !errors.Is(err, ErrFeatureUpdate) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc.up, err)
		}
	}
	// The log of the metadata may have what a lower level cannot open, whether or not there are topics.
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelPadded}})
	if err := askFeatures(t, ctl, true, FeatureUpdate{Name: MetadataVersion, Level: LevelRelaxed, Lower: true})[0]; !errors.Is(err, ErrFeatureUpdate) || !strings.Contains(err.Error(), "cannot open") {
		t.Errorf("lowered without a topic: %v", err)
	}
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelAdmin}})
	// All or nothing.
	errs := askFeatures(t, ctl, false, FeatureUpdate{Name: MetadataVersion, Level: LevelMoves, Lower: true}, FeatureUpdate{Name: "nonsense", Level: 1})
	if errs[0] != nil || errs[1] == nil || c.md.Image().Feature(MetadataVersion) != LevelAdmin {
		t.Fatalf("%v, level %d", errs, c.md.Image().Feature(MetadataVersion))
	}
}

// A command that an older version would stop at does not get into the log before the level is there.
func TestCommandsAreGated(t *testing.T) {
	c, ctl := newControlled(t, 1)
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: 1}})
	before := c.md.Image().Version()
	r, err := ctl.Do(t.Context(), &Intent{Request: "r", Command: &Command{Unregister: &UnregisterBroker{Node: 9}}})
	if err != nil || !errors.Is(r.Err(), ErrFeatureLevel) || c.md.Image().Version() != before {
		t.Fatalf("%+v, %v: the log went from %d to %d", r, err, before, c.md.Image().Version())
	}
	// Should it be there all the same, it does nothing.
	if err := c.do(&Command{Unregister: &UnregisterBroker{Node: 1}}).Err(); !errors.Is(err, ErrFeatureLevel) {
		t.Fatal(err)
	}
}

// A level that is not known stops a broker, from the log as from a snapshot.
func TestUnknownLevelStops(t *testing.T) {
	l := newLog(t)
	l.found(1)
	body, err := (&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelLatest + 1}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	at := l.md.Image().Version() + 1
	if _, err := l.md.Apply([]raft.Entry{{Term: 1, Index: at, Type: raft.EntryCommand, Payload: body}}); !errors.Is(err, ErrFeatureLevel) {
		t.Fatalf("applied: %v", err)
	}
	d := l.md.Image().draft()
	d.setFeature(MetadataVersion, LevelLatest+1)
	l.md.image.Store(d.Image)
	snap, err := l.md.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := NewMetadata().Restore(raft.SnapshotMeta{Index: at}, snap); !errors.Is(err, ErrFeatureLevel) {
		t.Fatalf("restored: %v", err)
	}
}
