// Bridges for programs: what `broker bridge nats add`, `status` and `remove` do.

package bridge

import (
	"context"
	"net/url"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

const bridgesPath = "/v1/bridges"

// Add makes a bridge in a cluster, which begins at once where the source does; from a core subject, with what comes from now on. Before that the broker that
// is asked connects to NATS and looks for source and target: the error is of kind [client.ErrInvalid] if it does not find them, or if the definition is wrong.
func Add(ctx context.Context, ctl *client.Control, name string, s *Spec) error {
	if err := s.Check(); err != nil {
		return &client.Error{Op: "add bridge", Subject: name, Kind: client.ErrInvalid, Err: err}
	}
	return ctl.Post(ctx, bridgesPath, map[string]any{"name": name, "kind": "nats", "spec": s}, nil)
}

// Change gives a bridge another definition, with which it goes on where it was: other servers, dead letters or credentials. All else has to be as it was
// ([client.ErrInvalid]). The broker that is asked looks for source and target first, as for [Add].
func Change(ctx context.Context, ctl *client.Control, name string, s *Spec) error {
	if err := s.Check(); err != nil {
		return &client.Error{Op: "change bridge", Subject: name, Kind: client.ErrInvalid, Err: err}
	}
	return ctl.Post(ctx, bridgesPath+"/"+url.PathEscape(name)+"/set", map[string]any{"spec": s}, nil)
}

// Look asks how a bridge is: [client.ErrNotFound] if there is none. Its State is "unassigned" while no broker has it yet.
func Look(ctx context.Context, ctl *client.Control, name string) (broker.BridgeStatus, error) {
	var b struct{ Status broker.BridgeStatus }
	err := ctl.Get(ctx, bridgesPath+"/"+url.PathEscape(name), &b)
	return b.Status, err
}

// Remove ends a bridge. What it has taken over stays, and where it was is forgotten.
func Remove(ctx context.Context, ctl *client.Control, name string) error {
	return ctl.Post(ctx, bridgesPath+"/"+url.PathEscape(name)+"/remove", struct{}{}, nil)
}
