// ListConfigResources (key 74), versions 0 and 1: the resources that have configs, by type (KIP-1142). v0 was for client metrics alone, of
// which there are none here; v1 asks for types, none of them for all.

package broker

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *server) listConfigResources(r *request) {
	req := r.msg.(*kmsg.ListConfigResourcesRequest)
	resp := kmsg.NewPtrListConfigResourcesResponse()
	all := []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger, resourceClientMetrics, resourceGroup}
	var types []kmsg.ConfigResourceType
	switch {
	case req.Version == 0:
		types = []kmsg.ConfigResourceType{resourceClientMetrics}
	case len(req.ResourceTypes) == 0:
		types = all
	}
	if req.Version >= 1 {
		for _, t := range req.ResourceTypes {
			kind := kmsg.ConfigResourceType(t)
			if !slices.Contains(all, kind) {
				err := refuse(kerr.UnsupportedVersion, fmt.Sprintf("there are no configs of resource type %d", t))
				resp.ErrorCode = codeOf(err)
				r.respond(resp)
				return
			}
			if !slices.Contains(types, kind) {
				types = append(types, kind)
			}
		}
	}
	add := func(kind kmsg.ConfigResourceType, name string) {
		e := kmsg.NewListConfigResourcesResponseConfigResource()
		e.Name, e.Type = name, int8(kind)
		resp.ConfigResources = append(resp.ConfigResources, e)
	}
	im := s.b.Image()
	for _, kind := range types {
		switch kind {
		case kmsg.ConfigResourceTypeTopic:
			for _, t := range im.Topics() {
				add(kind, t.Name)
			}
		case kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger:
			for _, b := range im.LiveBrokers() {
				add(kind, brokerName(b.ID))
			}
		case resourceGroup:
			for _, g := range im.ConfiguredGroups() {
				add(kind, g)
			}
		}
	}
	r.respond(resp)
}
