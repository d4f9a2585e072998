// ApiVersions (key 18), versions 0 to 5: what this broker speaks. The first thing that a client asks.
//
// A version that we lack is answered in version 0 with UNSUPPORTED_VERSION and the list (KIP-511), before the body is
// looked at. v3 brought the client's software name and version, v4 features with a minimum of 0 (KAFKA-17492), v5 the
// cluster and node that the client believes to talk to (KIP-1242).

package broker

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	// No features are advertised before there is one that changes what a client does.
	resp.FinalizedFeaturesEpoch = int64(s.b.Image().Version())
	r.respond(resp)
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
