// The coordinator's own assignors. Both are functions of the members, the topics and the last target: no clock, no chance, so
// that the same group gets the same target from any coordinator.

package coordinator

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// assignee is a member as an assignor sees it.
type assignee struct {
	id, instance string
	topics       []*Topic // that it wants, by name
	had          partSet  // its part of the last target
}

// Names of assignors, as in Kafka. The first is the default.
const (
	assignorUniform = "uniform"
	assignorRange   = "range"
)

var assignors = map[string]func([]*assignee) map[string]partSet{assignorUniform: assignUniform, assignorRange: assignRange}

// assignRange gives each member a range of neighbouring partitions of each topic; members that want the same topics of the same size
// get the same numbers, so that what belongs together by key stays together. Static members come in the order of their
// instance ids: a new member id under an old instance changes nothing.
func assignRange(members []*assignee) map[string]partSet {
	out := make(map[string]partSet, len(members))
	wanted := make(map[*Topic][]*assignee)
	order := slices.Clone(members)
	slices.SortFunc(order, func(a, b *assignee) int {
		switch {
		case (a.instance == "") != (b.instance == ""):
			return strings.Compare(b.instance, a.instance) // those that have one come first
		case a.instance != "":
			return strings.Compare(a.instance, b.instance)
		}
		return strings.Compare(a.id, b.id)
	})
	for _, m := range order {
		out[m.id] = make(partSet)
		for _, t := range m.topics {
			wanted[t] = append(wanted[t], m)
		}
	}
	for t, ms := range wanted {
		n, p := len(t.Partitions), 0
		for i, m := range ms {
			share := n / len(ms)
			if i < n%len(ms) {
				share++
			}
			for range share {
				out[m.id][partID{t.ID, int32(p)}] = 0
				p++
			}
		}
	}
	return out
}

// assignUniform gives all members as many partitions as possible alike, and moves as few as that needs.
//
// Each member keeps what it had, up to its share; what is left goes to who has least. Where members want different topics
// there is no share to reckon with: then partitions move, one by one, from who has most of those that want a topic to
// who has least, until no such two differ by more than one.
func assignUniform(members []*assignee) map[string]partSet {
	u := newUniform(members)
	alike := !slices.ContainsFunc(members, func(m *assignee) bool { return !slices.Equal(m.topics, members[0].topics) })
	u.keep(alike)
	u.handOut(alike)
	if !alike {
		u.level()
	}
	return u.out
}

// uniform is the work of assignUniform.
type uniform struct {
	members []*assignee // by id
	topics  []*Topic    // those fewest want first, then by id
	wanted  map[*Topic][]*assignee
	total   int
	out     map[string]partSet
	taken   map[partID]bool
}

func newUniform(members []*assignee) *uniform {
	u := &uniform{members: slices.Clone(members), wanted: make(map[*Topic][]*assignee), out: make(map[string]partSet, len(members)), taken: make(map[partID]bool)}
	slices.SortFunc(u.members, func(a, b *assignee) int { return strings.Compare(a.id, b.id) })
	for _, m := range u.members {
		u.out[m.id] = make(partSet)
		for _, t := range m.topics {
			u.wanted[t] = append(u.wanted[t], m)
		}
	}
	u.topics = slices.SortedFunc(maps.Keys(u.wanted), func(a, b *Topic) int {
		return cmp.Or(cmp.Compare(len(u.wanted[a]), len(u.wanted[b])), strings.Compare(a.Name, b.Name))
	})
	for _, t := range u.topics {
		u.total += len(t.Partitions)
	}
	return u
}

func (u *uniform) give(m *assignee, id partID) {
	u.out[m.id][id] = 0
	u.taken[id] = true
}

// keep leaves members what they had and may still have, to their equal shares if capped is set.
func (u *uniform) keep(capped bool) {
	if len(u.members) == 0 {
		return
	}
	share, extra := u.total/len(u.members), u.total%len(u.members)
	sizes := make(map[TopicID]int, len(u.topics))
	for _, t := range u.topics {
		sizes[t.ID] = len(t.Partitions)
	}
	for _, m := range u.members {
		mine := make(map[TopicID]bool, len(m.topics))
		for _, t := range m.topics {
			mine[t.ID] = true
		}
		for _, id := range m.had.sorted() {
			if !mine[id.topic] || id.partition < 0 || int(id.partition) >= sizes[id.topic] || u.taken[id] {
				continue
			}
			if n := len(u.out[m.id]); capped && n >= share {
				if n > share || extra == 0 {
					break
				}
				extra--
			}
			u.give(m, id)
		}
	}
}

// handOut gives what nobody has to who has least. Where all want the same topics one heap does for all of them.
func (u *uniform) handOut(alike bool) {
	var heap *loads
	for _, t := range u.topics {
		if !alike {
			heap = nil
		}
		for p := range t.Partitions {
			id := partID{t.ID, int32(p)}
			if u.taken[id] {
				continue
			}
			if heap == nil {
				heap = newLoads(u, u.wanted[t])
			}
			u.give(heap.least(), id)
			heap.grown()
		}
	}
}

// level moves partitions from who has most to who has least among those that want a topic. Each move makes the sum of the squares of what
// members have smaller, so it ends.
func (u *uniform) level() {
	for moved := true; moved; {
		moved = false
		for _, t := range u.topics {
			ms := u.wanted[t]
			for {
				least := slices.MinFunc(ms, u.byLoad)
				var most *assignee
				for _, m := range ms {
					if len(u.out[m.id]) >= len(u.out[least.id])+2 && (most == nil || u.byLoad(m, most) > 0) && u.hasOf(m, t) {
						most = m
					}
				}
				if most == nil {
					break
				}
				id := u.lastOf(most, t)
				delete(u.out[most.id], id)
				u.give(least, id)
				moved = true
			}
		}
	}
}

func (u *uniform) byLoad(a, b *assignee) int {
	return cmp.Or(cmp.Compare(len(u.out[a.id]), len(u.out[b.id])), strings.Compare(a.id, b.id))
}

func (u *uniform) hasOf(m *assignee, t *Topic) bool {
	for p := range t.Partitions {
		if _, ok := u.out[m.id][partID{t.ID, int32(p)}]; ok {
			return true
		}
	}
	return false
}

// lastOf is the partition of a topic with the highest number that a member has, one that it did not have before if there is one.
func (u *uniform) lastOf(m *assignee, t *Topic) (last partID) {
	found, fresh := false, false
	for p := range t.Partitions {
		id := partID{t.ID, int32(p)}
		if _, ok := u.out[m.id][id]; !ok {
			continue
		}
		_, had := m.had[id]
		if !found || !had || !fresh {
			last, found, fresh = id, true, fresh || !had
		}
	}
	return last
}

// loads is a heap of members by how much they have.
type loads struct {
	u  *uniform
	ms []*assignee
}

func newLoads(u *uniform, ms []*assignee) *loads {
	h := &loads{u, slices.Clone(ms)}
	slices.SortFunc(h.ms, u.byLoad) // a sorted slice is a heap
	return h
}

func (h *loads) least() *assignee { return h.ms[0] }

// grown puts the least, who has got more, where it belongs.
func (h *loads) grown() {
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(h.ms) {
			return
		}
		if c+1 < len(h.ms) && h.u.byLoad(h.ms[c+1], h.ms[c]) < 0 {
			c++
		}
		if h.u.byLoad(h.ms[i], h.ms[c]) <= 0 {
			return
		}
		h.ms[i], h.ms[c] = h.ms[c], h.ms[i]
		i = c
	}
}
