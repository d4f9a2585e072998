// How a consumer group comes to a target, and a member to its part of it.

package coordinator

import (
	"maps"
	"slices"
)

// advance brings the target up to the group's epoch, and the step's member as far towards it as it can go. owned is what the member
// says that it owns, nil if it says nothing.
func (st *step) advance(m *consumerMember, owned partSet) {
	if st.epoch > st.assignmentEpoch {
		st.assign()
	}
	target := st.c.target
	if st.target != nil {
		target = st.target
	}
	next := st.reconcile(m.id, m.holds, target[m.id], owned)
	live := st.c.members[m.id]
	if live == nil || live.holds == nil || !next.equal(live.holds) {
		st.put(&consumerRecord{kind: keyCurrentMember, member: m.id, holds: next})
	}
	m.holds = next
}

// assign computes the target of the group's epoch, and writes what is new in it.
func (st *step) assign() {
	im := st.g.s.c.cfg.Image()
	if st.checked == nil {
		st.checked = im
	} else {
		im = st.checked // one decision sees one cluster
	}
	before := st.c.target
	if st.target != nil {
		before = st.target
	}
	members := st.members()
	assignees := make([]*assignee, len(members))
	votes := make(map[string]int)
	var names []string
	var topics []*Topic
	for i, m := range members {
		a := &assignee{id: m.id, had: before[m.id]}
		if m.says.instance != nil {
			a.instance = *m.says.instance
		}
		if wants := st.wants(m); i == 0 || !slices.Equal(wants, names) { // members mostly want the same
			names, topics = wants, nil
			for _, name := range wants {
				if t := im.Topic(name); t != nil {
					topics = append(topics, t)
				}
			}
		}
		a.topics = topics
		if assignors[m.says.assignor] != nil {
			votes[m.says.assignor]++
		}
		assignees[i] = a
	}
	target := assignors[mostVoted(votes)](assignees)
	for _, m := range members {
		if old, ok := before[m.id]; !ok || !sameIDs(old, target[m.id]) {
			st.put(&consumerRecord{kind: keyTargetMember, member: m.id, parts: target[m.id]})
		}
	}
	st.target, st.assignmentEpoch = target, st.epoch
	st.put(&consumerRecord{kind: keyTargetEpoch, epoch: st.epoch})
}

// mostVoted is the assignor that most members ask for; without any votes the default.
func mostVoted(votes map[string]int) string {
	best := assignorUniform
	for _, name := range slices.Sorted(maps.Keys(votes)) {
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// reconcile is where a member stands after this step.
func (st *step) reconcile(id string, h *memberHolds, target, owned partSet) *memberHolds {
	switch {
	case h.state == memberStable && h.epoch == st.assignmentEpoch:
		return h
	case h.state == memberUnrevoked && ownsAny(owned, h.revoking):
		return h
	}
	keep, revoke, free, unreleased := make(partSet), make(partSet), make(partSet), false
	for p, since := range h.owned {
		if _, ok := target[p]; ok {
			keep[p] = since
		} else {
			revoke[p] = since
		}
	}
	for p := range target {
		if _, ok := h.owned[p]; ok {
			continue
		}
		if owner, ok := st.c.owners[p]; !ok || owner == id || st.gone[owner] {
			free[p] = st.assignmentEpoch
		} else {
			unreleased = true
		}
	}
	if len(revoke) > 0 && ownsAny(owned, revoke) {
		return &memberHolds{epoch: h.epoch, previous: h.epoch, state: memberUnrevoked, owned: keep, revoking: revoke}
	}
	maps.Copy(keep, free)
	next := &memberHolds{epoch: st.assignmentEpoch, previous: h.epoch, state: memberStable, owned: keep}
	if unreleased {
		next.state = memberUnreleased
	}
	return next
}

// ownsAny says whether a member that says that it owns this may still own some of that. One that says nothing may.
func ownsAny(owned, of partSet) bool {
	if owned == nil {
		return true
	}
	for p := range of {
		if _, ok := owned[p]; ok {
			return true
		}
	}
	return false
}

func (h *memberHolds) equal(o *memberHolds) bool {
	return h.epoch == o.epoch && h.previous == o.previous && h.state == o.state && sameParts(h.owned, o.owned) && sameParts(h.revoking, o.revoking)
}

func sameParts(a, b partSet) bool { return maps.Equal(a, b) }

// sameIDs compares without the epochs.
func sameIDs(a, b partSet) bool {
	if len(a) != len(b) {
		return false
	}
	for p := range a {
		if _, ok := b[p]; !ok {
			return false
		}
	}
	return true
}
