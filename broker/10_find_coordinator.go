// FindCoordinator (key 10), versions 0 to 6: which broker coordinates a group or a transactional id. v1 brought the type of key, v4 many keys at once.
//
// The internal topic is created when somebody first asks; while it has no leader the answer waits a moment, and then is COORDINATOR_NOT_AVAILABLE, on which
// every client asks again.

package broker

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

const (
	coordinatesGroup = 0
	coordinatesTxn   = 1
)

const (
	// coordinatorPatience is how long an answer waits for a partition that is without a leader, or just being made. Some clients take
	// COORDINATOR_NOT_AVAILABLE for the end of a transaction (franz-go 1.22), and an election is over soon.
	coordinatorPatience = time.Second
	// coordinatorPause is between two looks.
	coordinatorPause = 25 * time.Millisecond
)

func (s *server) findCoordinators(r *request) {
	s.awaitCoordinators(r, time.Now().Add(coordinatorPatience))
}

// awaitCoordinators answers once all coordinators are known, and at the deadline with what is. Between two looks it is a timer.
func (s *server) awaitCoordinators(r *request, deadline time.Time) {
	req := r.msg.(*kmsg.FindCoordinatorRequest)
	resp := kmsg.NewPtrFindCoordinatorResponse()
	resp.NodeID = -1
	keys := req.CoordinatorKeys
	if req.Version < 4 {
		keys = []string{req.CoordinatorKey}
	}
	missing := false
	for _, key := range keys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Port = key, -1, -1
		var b *coordinator.Broker
		var err error
		switch req.CoordinatorType {
		case coordinatesGroup:
			b, err = s.findCoordinator(key)
		case coordinatesTxn:
			b, err = s.findTxnCoordinator(key)
		default:
			err = refuse(kerr.InvalidRequest, "this broker coordinates consumer groups and transactions only")
		}
		if err == nil {
			if ep, ok := b.Endpoint(r.c.listener); ok {
				c.NodeID, c.Host, c.Port = int32(b.ID), ep.Host, ep.Port
			} else {
				err = refuse(kerr.ListenerNotFound, "the coordinator has no listener "+r.c.listener)
			}
		}
		missing = missing || errors.Is(err, kerr.CoordinatorNotAvailable)
		c.ErrorCode, c.ErrorMessage = codeOf(err), messageOf(err)
		resp.Coordinators = append(resp.Coordinators, c)
	}
	if missing && time.Now().Before(deadline) && r.c.ctx.Err() == nil {
		time.AfterFunc(coordinatorPause, func() { s.awaitCoordinators(r, deadline) })
		return
	}
	if req.Version < 4 {
		c := &resp.Coordinators[0]
		resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = c.ErrorCode, c.ErrorMessage, c.NodeID, c.Host, c.Port
	}
	r.respond(resp)
}
