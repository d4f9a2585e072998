package broker

// Features: what ApiVersions shows in each version, and an update over the wire on a real cluster.

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func updateFeaturesRequest(version int16, name string, level int16, kind int8) *kmsg.UpdateFeaturesRequest {
	req := kmsg.NewPtrUpdateFeaturesRequest()
	req.Version = version
	u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
	u.Feature, u.MaxVersionLevel, u.UpgradeType, u.AllowDowngrade = name, level, kind, kind > featureUpgrade
	req.FeatureUpdates = append(req.FeatureUpdates, u)
	return req
}

func TestApiVersionsShowsFeatures(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = v, "test", "1"
		resp := ask[*kmsg.ApiVersionsResponse](c, req)
		if v < 3 {
			if len(resp.SupportedFeatures)+len(resp.FinalizedFeatures) > 0 {
				t.Fatalf("v%d has no features: %+v", v, resp)
			}
			continue
		}
		supported := make(map[string]kmsg.ApiVersionsResponseSupportedFeature)
		for _, f := range resp.SupportedFeatures {
			supported[f.Name] = f
			if f.MinVersion == 0 && v < 4 {
				t.Fatalf("v%d: %s begins at 0, which its clients refuse", v, f.Name)
			}
		}
		for _, f := range coordinator.SupportedFeatures() {
			if s, ok := supported[f.Name]; (f.Min > 0 || v >= 4) && (!ok || s.MinVersion != f.Min || s.MaxVersion != f.Max) {
				t.Fatalf("v%d: %s is not shown as %d to %d: %+v", v, f.Name, f.Min, f.Max, s)
			}
		}
		finalized := make(map[string]int16)
		for _, f := range resp.FinalizedFeatures {
			finalized[f.Name] = f.MaxVersionLevel
		}
		if finalized[metadataVersion] != coordinator.LevelLatest || resp.FinalizedFeaturesEpoch != int64(h.back.Image().Version()) {
			t.Fatalf("v%d: %+v", v, resp)
		}
	}
}

func TestUpdateFeaturesInEveryVersion(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	for v := int16(0); v <= 2; v++ {
		good := updateFeaturesRequest(v, metadataVersion, 2, featureSafeDowngrade)
		resp := ask[*kmsg.UpdateFeaturesResponse](c, good)
		if resp.ErrorCode != 0 || v < 2 && (len(resp.Results) != 1 || resp.Results[0].ErrorCode != 0 || resp.Results[0].Feature != metadataVersion) {
			t.Fatalf("v%d: %+v", v, resp)
		}
		bad := updateFeaturesRequest(v, metadataVersion, 2, featureSafeDowngrade)
		bad.FeatureUpdates = append(bad.FeatureUpdates, updateFeaturesRequest(v, "nonsense", 1, featureUpgrade).FeatureUpdates...)
		resp = ask[*kmsg.UpdateFeaturesResponse](c, bad)
		if resp.ErrorCode != kerr.InvalidUpdateVersion.Code { // sarama asks in v1, and looks at this one only
			t.Fatalf("v%d: %+v", v, resp)
		}
		if v < 2 && (len(resp.Results) != 2 || resp.Results[0].ErrorCode != kerr.FeatureUpdateFailed.Code || resp.Results[1].ErrorCode != kerr.InvalidUpdateVersion.Code) {
			t.Fatalf("v%d: %+v", v, resp)
		}
	}
	for _, kind := range []int8{0, featureUnsafeDowngrade, 4} {
		if resp := ask[*kmsg.UpdateFeaturesResponse](c, updateFeaturesRequest(2, metadataVersion, 2, kind)); resp.ErrorCode != kerr.InvalidUpdateVersion.Code {
			t.Fatalf("type %d: %+v", kind, resp)
		}
	}
}

// An existing cluster of three goes up a level, by way of down: asked of each broker, whoever leads.
func TestClusterIsUpgraded(t *testing.T) {
	c := newCluster(t, 3, true)
	c.calm()
	c.start(c.nodes...)
	c.awaitVoters(3)
	clients := make([]*kgo.Client, len(c.nodes))
	for i, n := range c.nodes {
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		clients[i] = cl
	}
	level := func(want int16) {
		t.Helper()
		for _, n := range c.nodes { // who seems to be away, on a slow machine, is not waited for
			soon(t, fmt.Sprintf("broker %d has metadata.version %d", n.NodeID(), want), func() bool { return n.Image().Feature(metadataVersion) == want })
		}
	}
	// What needs a level keeps it.
	seed := clients[0].SeedBrokers()[0]
	resp, err := updateFeaturesRequest(2, coordinator.FeatureGroupVersion, 0, featureSafeDowngrade).RequestWith(context.Background(), seed)
	if err != nil || resp.ErrorCode != 0 {
		t.Fatalf("switch %s off: %v, %v", coordinator.FeatureGroupVersion, err, resp)
	}
	for i, step := range []struct {
		level int16
		kind  int8
		code  *kerr.Error
		after int16
	}{
		{coordinator.LevelMoves, featureUpgrade, kerr.InvalidUpdateVersion, coordinator.LevelLatest},
		{coordinator.LevelMoves, featureSafeDowngrade, kerr.InvalidUpdateVersion, coordinator.LevelLatest}, // for the log of the metadata, though there are no topics
		{coordinator.LevelLatest + 1, featureUpgrade, kerr.InvalidUpdateVersion, coordinator.LevelLatest},
		{coordinator.LevelLatest, featureUpgrade, nil, coordinator.LevelLatest},
	} {
		seed := clients[i%len(clients)].SeedBrokers()[0]
		resp, err := updateFeaturesRequest(2, metadataVersion, step.level, step.kind).RequestWith(context.Background(), seed)
		if err != nil {
			t.Fatal(err)
		}
		if got := kerr.ErrorForCode(resp.ErrorCode); step.code == nil && got != nil || step.code != nil && got != step.code {
			t.Fatalf("to %d by %d: %v %v", step.level, step.kind, got, resp.ErrorMessage)
		}
		if resp.ErrorMessage != nil && !strings.Contains(*resp.ErrorMessage, metadataVersion) {
			t.Fatalf("an error that does not name the feature: %s", *resp.ErrorMessage)
		}
		level(step.after)
	}
	// What has been switched off is a state to start from.
	c.stop(c.nodes...)
	c.start(c.nodes...)
	level(coordinator.LevelLatest)
}
