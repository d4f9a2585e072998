// DeleteGroups (key 42), versions 0 to 2: forgets empty groups and all that they have committed.

package broker

import "github.com/twmb/franz-go/pkg/kmsg"

func (s *server) deleteGroups(r *request) {
	req := r.msg.(*kmsg.DeleteGroupsRequest)
	resp := kmsg.NewPtrDeleteGroupsResponse()
	resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(req.Groups))
	f := newFanIn(func() { r.respond(resp) })
	for i, name := range req.Groups {
		place := &resp.Groups[i]
		place.Default()
		place.Group = name
		f.add()
		s.b.Groups().DeleteGroup(name, func(err error) {
			place.ErrorCode = codeOf(err)
			f.done()
		})
	}
	f.done()
}
