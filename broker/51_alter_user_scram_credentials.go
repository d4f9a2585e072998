// AlterUserScramCredentials (key 51), version 0: makes, changes and deletes users (KIP-554). What comes is the salted password,
// from which the broker keeps the two keys of RFC 5802 only. One answer per user: where one of his changes is wrong none is made.

package broker

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// changeTimeout bounds a change of users or ACLs.
const changeTimeout = 30 * time.Second

// loginSecret is a new AlterUsers.Secret.
func loginSecret() []byte {
	b := make([]byte, 32)
	_, _ = crand.Read(b) // never fails
	return b
}

func (s *server) alterUserScramCredentials(r *request) {
	req := r.msg.(*kmsg.AlterUserSCRAMCredentialsRequest)
	resp := kmsg.NewPtrAlterUserSCRAMCredentialsResponse()
	var order []string
	errs := make(map[string]error) // by user; nil: nothing is wrong so far
	seen := make(map[coordinator.UserMechanism]bool)
	note := func(user string, u coordinator.UserMechanism, err error) {
		old, there := errs[user]
		if !there {
			order = append(order, user)
		}
		if err == nil && seen[u] {
			err = refuse(kerr.DuplicateResource, fmt.Sprintf("the request changes user %q for %s more than once", user, u.Mechanism))
		}
		seen[u] = true
		if old == nil {
			errs[user] = err
		}
	}
	cmd := &coordinator.AlterUsers{Secret: loginSecret()}
	im := s.b.Image()
	for i := range req.Deletions {
		d := &req.Deletions[i]
		u := coordinator.UserMechanism{User: d.Name, Mechanism: scramMechanisms[d.Mechanism]}
		err := checkScramUser(u)
		if err == nil && im.User(u.User, u.Mechanism) == nil {
			err = fmt.Errorf("%w: %q has no credential for %s", coordinator.ErrUnknownUser, u.User, u.Mechanism)
		}
		note(d.Name, u, err)
		cmd.Delete = append(cmd.Delete, u)
	}
	for i := range req.Upsertions {
		up := &req.Upsertions[i]
		c, err := upsertedCredential(up)
		note(up.Name, c.UserMechanism, err)
		cmd.Set = append(cmd.Set, c)
	}
	cmd.Delete = slices.DeleteFunc(cmd.Delete, func(u coordinator.UserMechanism) bool { return errs[u.User] != nil })
	cmd.Set = slices.DeleteFunc(cmd.Set, func(c coordinator.ScramCredential) bool { return errs[c.User] != nil })
	answer := func() {
		for _, user := range order {
			res := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
			res.User, res.ErrorCode, res.ErrorMessage = user, codeOf(errs[user]), messageOf(errs[user])
			resp.Results = append(resp.Results, res)
		}
		r.respond(resp)
	}
	if len(cmd.Delete)+len(cmd.Set) == 0 {
		answer()
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, changeTimeout)
	s.b.Change(ctx, &coordinator.Command{AlterUsers: cmd}, func(res *coordinator.Result, err error) {
		cancel()
		for i, u := range cmd.Delete {
			if err == nil {
				errs[u.User] = res.Users[i].Err()
			}
		}
		for user := range errs {
			if errs[user] == nil {
				errs[user] = err
			}
		}
		s.auditUsers(r, cmd, errs)
		answer()
	})
}

func checkScramUser(u coordinator.UserMechanism) error {
	switch {
	case u.User == "" || len(u.User) > coordinator.MaxUserName:
		return refuse(kerr.UnacceptableCredential, fmt.Sprintf("a user's name has 1 to %d bytes", coordinator.MaxUserName))
	case u.Mechanism == "":
		return refuse(kerr.UnsupportedSaslMechanism, "the mechanism is neither SCRAM-SHA-256 nor SCRAM-SHA-512")
	}
	return nil
}

func upsertedCredential(up *kmsg.AlterUserSCRAMCredentialsRequestUpsertion) (coordinator.ScramCredential, error) {
	c := coordinator.ScramCredential{UserMechanism: coordinator.UserMechanism{User: up.Name, Mechanism: scramMechanisms[up.Mechanism]},
		Salt: slices.Clone(up.Salt), Iterations: int(up.Iterations)}
	if err := checkScramUser(c.UserMechanism); err != nil {
		return c, err
	}
	const lo, hi = coordinator.MinScramIterations, coordinator.MaxScramIterations
	switch {
	case c.Iterations < lo || c.Iterations > hi:
		return c, refuse(kerr.UnacceptableCredential, fmt.Sprintf("%d iterations: allowed are %d to %d", c.Iterations, lo, hi))
	case len(up.Salt) == 0 || len(up.Salt) > 256:
		return c, refuse(kerr.UnacceptableCredential, fmt.Sprintf("a salt of %d bytes: allowed are 1 to 256", len(up.Salt)))
	case len(up.SaltedPassword) == 0: // of any other length keys are made, as Kafka does, though only one of the hash's length comes of a password
		return c, refuse(kerr.UnacceptableCredential, "a salted password of 0 bytes")
	}
	c.StoredKey, c.ServerKey = scramKeys(c.Mechanism, up.SaltedPassword)
	return c, nil
}
