// DescribeUserScramCredentials (key 50), version 0: which users have which credentials, and nothing of the credentials themselves
// (KIP-554). No list of users means all.

package broker

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// scramMechanisms are the mechanisms by Kafka's numbers.
var scramMechanisms = map[int8]string{1: MechanismScramSHA256, 2: MechanismScramSHA512}

func scramNumber(mechanism string) int8 {
	for n, m := range scramMechanisms {
		if m == mechanism {
			return n
		}
	}
	return 0
}

func (s *server) describeUserScramCredentials(r *request) {
	req := r.msg.(*kmsg.DescribeUserSCRAMCredentialsRequest)
	resp := kmsg.NewPtrDescribeUserSCRAMCredentialsResponse()
	byUser := make(map[string][]*coordinator.ScramCredential)
	var order []string
	for _, c := range s.b.Image().Users() {
		if byUser[c.User] == nil {
			order = append(order, c.User)
		}
		byUser[c.User] = append(byUser[c.User], c)
	}
	count := make(map[string]int)
	if len(req.Users) > 0 {
		order = order[:0]
		for _, u := range req.Users {
			if count[u.Name]++; count[u.Name] == 1 {
				order = append(order, u.Name)
			}
		}
	}
	for _, user := range order {
		res := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		res.User = user
		var err error
		switch {
		case count[user] > 1:
			err = refuse(kerr.DuplicateResource, fmt.Sprintf("the request names user %q more than once", user))
		case byUser[user] == nil:
			err = refuse(kerr.ResourceNotFound, fmt.Sprintf("there is no user %q", user))
		}
		if res.ErrorCode, res.ErrorMessage = codeOf(err), messageOf(err); err == nil {
			for _, c := range byUser[user] {
				info := kmsg.NewDescribeUserSCRAMCredentialsResponseResultCredentialInfo()
				info.Mechanism, info.Iterations = scramNumber(c.Mechanism), int32(c.Iterations)
				res.CredentialInfos = append(res.CredentialInfos, info)
			}
		}
		resp.Results = append(resp.Results, res)
	}
	r.respond(resp)
}
