// Features: what the brokers of a cluster can do, and which level of it the cluster uses.

package client

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Feature is a feature's level in use, and those that the brokers support.
type Feature struct {
	Name string `json:"name" yaml:"name"`
	// Level is the finalized one; 0: off.
	Level int16 `json:"level" yaml:"level"`
	// Min and Max are the levels that every broker supports that answered; Max below Min: there is none.
	Min int16 `json:"min" yaml:"min"`
	Max int16 `json:"max" yaml:"max"`
	// Brokers are the ranges one by one, by id.
	Brokers []BrokerFeature `json:"brokers" yaml:"brokers"`
}

// BrokerFeature is what one broker supports of a feature. Both zero: it does not know it.
type BrokerFeature struct {
	Broker int32 `json:"broker" yaml:"broker"`
	Min    int16 `json:"min" yaml:"min"`
	Max    int16 `json:"max" yaml:"max"`
}

// FeatureLevel is a level that a feature is to have; 0: off.
type FeatureLevel struct {
	Name  string `json:"name" yaml:"name"`
	Level int16  `json:"level" yaml:"level"`
}

// Features asks every broker that is there. The list is by name.
func (a *Admin) Features(ctx context.Context) ([]Feature, error) {
	const op = "ask for the features of the cluster"
	all, err := a.members(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := a.raw.BrokerMetadata(fresh(ctx)); err != nil { // from it the client has the brokers' addresses
		return nil, a.wrap(op, "", err)
	}
	answers := make([]*kmsg.ApiVersionsResponse, len(all.Brokers))
	errs := make([]error, len(all.Brokers))
	var wg sync.WaitGroup
	slots := make(chan struct{}, statusAtOnce)
	for i, b := range all.Brokers {
		if b.IsFenced {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			part, cancel := context.WithTimeout(ctx, statusWait)
			defer cancel()
			req := kmsg.NewPtrApiVersionsRequest()
			req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 4, "balsa-client", "1"
			answers[i], errs[i] = req.RequestWith(part, a.cl.Broker(int(b.NodeID)))
			if errs[i] == nil {
				errs[i] = kerr.ErrorForCode(answers[i].ErrorCode)
			}
			if errs[i] != nil {
				answers[i] = nil
			}
		})
	}
	wg.Wait()
	byName := make(map[string]*Feature)
	feature := func(name string) *Feature {
		if byName[name] == nil {
			byName[name] = &Feature{Name: name}
		}
		return byName[name]
	}
	var epoch int64 = -1
	for _, r := range answers {
		if r == nil {
			continue
		}
		for _, f := range r.SupportedFeatures {
			feature(f.Name)
		}
		for _, f := range r.FinalizedFeatures {
			feature(f.Name)
		}
	}
	found := false
	for i, r := range answers {
		if r == nil {
			continue
		}
		for name, f := range byName {
			b := BrokerFeature{Broker: all.Brokers[i].NodeID}
			for _, s := range r.SupportedFeatures {
				if s.Name == name {
					b.Min, b.Max = s.MinVersion, s.MaxVersion
				}
			}
			if len(f.Brokers) == 0 {
				f.Min, f.Max = b.Min, b.Max
			}
			f.Min, f.Max = max(f.Min, b.Min), min(f.Max, b.Max)
			f.Brokers = append(f.Brokers, b)
		}
		// What the broker says whose metadata is the newest. One that knows of no features says nothing of levels either.
		if len(r.SupportedFeatures) > 0 && r.FinalizedFeaturesEpoch >= epoch {
			epoch = r.FinalizedFeaturesEpoch
			for _, f := range byName {
				f.Level = 0
			}
			for _, s := range r.FinalizedFeatures {
				feature(s.Name).Level = s.MaxVersionLevel
			}
		}
		found = true
	}
	if !found {
		i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
		if i < 0 {
			return nil, &Error{Op: op, Kind: ErrUnreachable, Err: kerr.BrokerNotAvailable}
		}
		return nil, a.wrap(op, "", errs[i])
	}
	out := make([]Feature, 0, len(byName))
	for _, f := range byName {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(x, y Feature) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}

// UpdateFeatures finalizes levels of features, all or none: higher ones, or with lower set, lower ones of which nothing is in use that
// they do not have. Every live broker must support them. With validateOnly it only says whether that could be done.
func (a *Admin) UpdateFeatures(ctx context.Context, levels []FeatureLevel, lower, validateOnly bool) error {
	req := kmsg.NewPtrUpdateFeaturesRequest()
	req.ValidateOnly = validateOnly
	for _, l := range levels {
		u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
		u.Feature, u.MaxVersionLevel, u.UpgradeType = l.Name, l.Level, 1
		if lower {
			u.UpgradeType, u.AllowDowngrade = 2, true
		}
		req.FeatureUpdates = append(req.FeatureUpdates, u)
	}
	const op = "update the features of the cluster"
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return a.wrap(op, "", err)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return a.explain(op, "", err, text(resp.ErrorMessage))
	}
	for _, r := range resp.Results {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return a.explain(op, r.Feature, err, text(r.ErrorMessage))
		}
	}
	return nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
