// UpdateFeatures (key 57), versions 0 to 2: finalizes other levels of features (KIP-584, KIP-1022), once every live broker
// supports them. All or nothing: if one update is refused, none is carried out. The answer's own error is that of
// the first update that was refused; v0 and v1 have one for each as well. v0 asks for a downgrade by a flag, v1 by a type and may only validate.
//
// A safe downgrade is one after which nothing is there that the lower level could not hold. An unsafe one, which would drop
// that, is not done.

package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/transport"
)

// The types of an update.
const (
	featureUpgrade         = 1
	featureSafeDowngrade   = 2
	featureUnsafeDowngrade = 3
)

func (s *server) updateFeatures(r *request) {
	req := r.msg.(*kmsg.UpdateFeaturesRequest)
	in := &coordinator.FeatureUpdates{ValidateOnly: req.Version >= 1 && req.ValidateOnly}
	errs := make([]error, len(req.FeatureUpdates))
	failed := false
	for i := range req.FeatureUpdates {
		q := &req.FeatureUpdates[i]
		lower := q.AllowDowngrade
		if req.Version >= 1 {
			switch q.UpgradeType {
			case featureUpgrade, featureSafeDowngrade:
				lower = q.UpgradeType == featureSafeDowngrade
			case featureUnsafeDowngrade:
				errs[i] = refuse(kerr.InvalidUpdateVersion, "an unsafe downgrade, which would drop what the lower level does not have, is not done: remove that first, and ask for a safe one")
			default:
				errs[i] = refuse(kerr.InvalidUpdateVersion, fmt.Sprintf("unknown type of update %d", q.UpgradeType))
			}
		}
		failed = failed || errs[i] != nil
		in.Updates = append(in.Updates, coordinator.FeatureUpdate{Name: q.Feature, Level: q.MaxVersionLevel, Lower: lower})
	}
	if failed || len(in.Updates) == 0 {
		r.respond(updatedFeatures(req, errs, nil))
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(req.TimeoutMillis))
	s.b.UpdateFeatures(ctx, in, func(errs []error, err error) {
		cancel()
		r.respond(updatedFeatures(req, errs, err))
	})
}

// updatedFeatures is the answer: err is about the whole request, errs are by update.
func updatedFeatures(req *kmsg.UpdateFeaturesRequest, errs []error, err error) *kmsg.UpdateFeaturesResponse {
	resp := kmsg.NewPtrUpdateFeaturesResponse()
	first := err
	for i := range errs {
		if first == nil {
			first = errs[i]
		}
	}
	// Kafka, too, fails the whole request for one update in every version, and clients look there first.
	resp.ErrorCode, resp.ErrorMessage = codeOf(first), messageOf(first)
	if err != nil || req.Version >= 2 {
		return resp
	}
	for i := range req.FeatureUpdates {
		rr := kmsg.NewUpdateFeaturesResponseResult()
		rr.Feature = req.FeatureUpdates[i].Feature
		own := errs[i]
		if own == nil && first != nil {
			own = refuse(kerr.FeatureUpdateFailed, "nothing was changed, as another update of the request was refused")
		}
		rr.ErrorCode, rr.ErrorMessage = codeOf(own), messageOf(own)
		resp.Results = append(resp.Results, rr)
	}
	return resp
}

// UpdateFeatures implements backend.
func (b *Broker) UpdateFeatures(ctx context.Context, in *coordinator.FeatureUpdates, done func([]error, error)) {
	b.admin(ctx, func(ctx context.Context) {
		r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Features: in})
		if err == nil {
			err = r.Err()
		}
		if errors.Is(err, coordinator.ErrMalformed) {
			err = refuse(kerr.InvalidUpdateVersion, "the metadata's leader runs a version that cannot update features: upgrade all brokers first")
		}
		if err == nil && len(r.Features) != len(in.Updates) {
			err = errRPC
		}
		if err == nil && !in.ValidateOnly {
			err = b.awaitCluster(ctx, r.Index, nil)
		}
		if err != nil {
			done(nil, err)
			return
		}
		errs := make([]error, len(in.Updates))
		for i := range errs {
			errs[i] = r.Features[i].Err()
		}
		done(errs, nil)
	}, func(err error) { done(nil, err) })
}

// featuresReply answers methodFeatures.
type featuresReply struct {
	Supported []coordinator.FeatureRange `json:"supported"`
}

// askFeatures asks another broker for what it supports.
func (b *Broker) askFeatures(ctx context.Context, node raft.NodeID) ([]coordinator.FeatureRange, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout/2)
	defer cancel()
	body, err := b.tr.Call(ctx, node, methodFeatures, []byte{rpcVersion})
	if e, ok := errors.AsType[*transport.RPCError](err); ok && e.Code == transport.CodeUnknownMethod {
		return coordinator.OldFeatures(), nil
	}
	if err != nil {
		return nil, err
	}
	var reply featuresReply
	if err := decodeJSON(body, &reply); err != nil {
		return nil, err
	}
	return reply.Supported, nil
}
