// DescribeCluster (key 60), versions 0 to 2: the cluster's id, controller and brokers. v1 asks for brokers or
// controllers (KIP-919): ours are the same processes, yet no client port speaks the controllers' part. v2 may list
// fenced brokers too.

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const endpointBrokers = 1

func (s *server) describeCluster(r *request) {
	req := r.msg.(*kmsg.DescribeClusterRequest)
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.EndpointType = endpointBrokers
	if req.Version >= 1 && req.EndpointType != endpointBrokers {
		err := refuse(kerr.MismatchedEndpointType, "this is a broker's endpoint; the request asks for controllers")
		if req.EndpointType != 2 {
			err = refuse(kerr.UnsupportedEndpointType, "unknown endpoint type")
		}
		resp.EndpointType = req.EndpointType
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.respond(resp)
		return
	}
	im := s.b.Image()
	resp.ClusterID = im.ClusterID()
	resp.ControllerID = controllerID(s.b)
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	brokers := s.visibleBrokers(im)
	if req.Version >= 2 && req.IncludeFencedBrokers {
		brokers = im.Brokers()
	}
	for _, b := range brokers {
		n := kmsg.NewDescribeClusterResponseBroker()
		ep, ok := b.Endpoint(r.c.listener)
		if !ok {
			continue
		}
		n.NodeID, n.Host, n.Port, n.Rack, n.IsFenced = int32(b.ID), ep.Host, ep.Port, optional(b.Rack), b.Fenced
		resp.Brokers = append(resp.Brokers, n)
	}
	r.respond(resp)
}
