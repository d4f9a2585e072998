// ApiVersions (key 18), versions 0 to 5: what this broker speaks. The first thing that a client asks.
//
// A version that we lack is answered in version 0 with UNSUPPORTED_VERSION and the list (KIP-511), before the body is
// looked at. v3 brought the client's software name and version, v4 features with a minimum of 0 (KAFKA-17492), v5 the
// cluster and node that the client believes to talk to (KIP-1242).

package broker

import (
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// maxSoftwareName bounds the client's name and version, which we keep for the log.
const maxSoftwareName = 256

// apiList is the answer's main part: the same for everyone.
var apiList = sync.OnceValue(func() []kmsg.ApiVersionsResponseApiKey {
	var list []kmsg.ApiVersionsResponseApiKey
	for _, a := range apiByKey {
		if a == nil {
			continue
		}
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.listed, a.max
		list = append(list, k)
	}
	return list
})

func (s *server) apiVersions(r *request) {
	req := r.msg.(*kmsg.ApiVersionsRequest)
	resp := kmsg.NewPtrApiVersionsResponse()
	if a := findAPI(keyApiVersions); req.Version < a.min || req.Version > a.max {
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		resp.ApiKeys = apiList()
		resp.SetVersion(0)
		r.respondVersion(resp)
		return
	}
	if req.Version >= 3 {
		if !softwareName(req.ClientSoftwareName) || !softwareName(req.ClientSoftwareVersion) {
			resp.ErrorCode = kerr.InvalidRequest.Code
			r.respond(resp)
			return
		}
		name := req.ClientSoftwareName + " " + req.ClientSoftwareVersion
		r.c.client.Store(&name)
	}
	if req.Version >= 5 {
		switch {
		case (req.ClusterID == nil) != (req.NodeID == -1):
			resp.ErrorCode = kerr.InvalidRequest.Code
			r.respond(resp)
			return
		case req.ClusterID != nil && (*req.ClusterID != s.b.Image().ClusterID() || req.NodeID != int32(s.b.NodeID())):
			resp.ErrorCode = kerr.RebootstrapRequired.Code
			r.respond(resp)
			return
		}
	}
	resp.ApiKeys = apiList()
	if req.Version >= 3 {
		describeFeatures(s.b.Image(), req.Version, resp)
	}
	r.respond(resp)
}

// describeFeatures fills in what this broker supports and what the cluster uses of it. Clients of v3 take a range that begins at 0 for
// an error (KAFKA-17492).
func describeFeatures(im *coordinator.Image, version int16, resp *kmsg.ApiVersionsResponse) {
	for _, f := range coordinator.SupportedFeatures() {
		if f.Min == 0 && version < 4 {
			continue
		}
		sf := kmsg.NewApiVersionsResponseSupportedFeature()
		sf.Name, sf.MinVersion, sf.MaxVersion = f.Name, f.Min, f.Max
		resp.SupportedFeatures = append(resp.SupportedFeatures, sf)
	}
	levels := im.Features()
	for _, name := range slices.Sorted(maps.Keys(levels)) {
		if levels[name] == 0 {
			continue
		}
		ff := kmsg.NewApiVersionsResponseFinalizedFeature()
		ff.Name, ff.MinVersionLevel, ff.MaxVersionLevel = name, levels[name], levels[name]
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, ff)
	}
	resp.FinalizedFeaturesEpoch = int64(im.Version())
}

// softwareName is KIP-511's pattern: [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?
func softwareName(s string) bool {
	if s == "" || len(s) > maxSoftwareName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || c != '-' && c != '.') {
			return false
		}
	}
	return true
}
