package coordinator

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func testTopic(name string, partitions int) *Topic {
	var id TopicID
	copy(id[:], name)
	return &Topic{Name: name, ID: id, Partitions: make([]Partition, partitions)}
}

// Every assignor gives every partition to exactly one of those that want it, is a function of what it is given, and the uniform one is
// as even as can be and moves nothing without need.
func TestAssignors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var topics []*Topic
		for i := range rapid.IntRange(1, 5).Draw(t, "topics") {
			topics = append(topics, testTopic(fmt.Sprint("t", i), rapid.IntRange(1, 12).Draw(t, "partitions")))
		}
		alike := rapid.Bool().Draw(t, "alike")
		var members []*assignee
		draw := func(i int) *assignee {
			m := &assignee{id: fmt.Sprint("m", i)}
			for _, topic := range topics {
				if alike || rapid.Bool().Draw(t, "wants") {
					m.topics = append(m.topics, topic)
				}
			}
			return m
		}
		n := rapid.IntRange(1, 8).Draw(t, "members")
		for i := range n {
			members = append(members, draw(i))
		}
		checkAssignment(t, members, assignRange(members))
		target := assignUniform(members)
		checkAssignment(t, members, target)
		checkEven(t, members, target)
		// The same again moves nothing.
		for _, m := range members {
			m.had = target[m.id]
		}
		if moved := moves(members, assignUniform(members)); moved != 0 {
			t.Fatalf("%d partitions move though nothing has changed", moved)
		}
		// A newcomer gets its share from those who have most, and nobody else gets anything.
		members = append(members, draw(n))
		next := assignUniform(members)
		checkAssignment(t, members, next)
		checkEven(t, members, next)
		if moved := moves(members, next); alike && moved != len(next[members[n].id]) {
			t.Fatalf("%d partitions move for a newcomer that gets %d", moved, len(next[members[n].id]))
		}
		for _, m := range members {
			m.had = next[m.id]
		}
		// A topic grows, and somebody leaves.
		topics[0].Partitions = append(topics[0].Partitions, Partition{})
		members = members[1:]
		last := assignUniform(members)
		checkAssignment(t, members, last)
		checkEven(t, members, last)
		slices.Reverse(members)
		for id, parts := range assignUniform(members) {
			if !sameIDs(parts, last[id]) {
				t.Fatal("it depends on the order of the members")
			}
		}
	})
}

func checkAssignment(t *rapid.T, members []*assignee, target map[string]partSet) {
	owners := make(map[partID]string)
	wanted := 0
	seen := make(map[*Topic]bool)
	for _, m := range members {
		mine := make(map[TopicID]int)
		for _, topic := range m.topics {
			mine[topic.ID] = len(topic.Partitions)
			if !seen[topic] {
				seen[topic] = true
				wanted += len(topic.Partitions)
			}
		}
		for id := range target[m.id] {
			if owners[id] != "" || int(id.partition) >= mine[id.topic] {
				t.Fatalf("%s has %v, which it may not have: %s", m.id, id, owners[id])
			}
			owners[id] = m.id
		}
	}
	if len(owners) != wanted {
		t.Fatalf("%d of %d partitions are assigned", len(owners), wanted)
	}
}

// checkEven: nobody could give a partition to somebody who has two fewer.
func checkEven(t *rapid.T, members []*assignee, target map[string]partSet) {
	for _, a := range members {
		for _, b := range members {
			if len(target[a.id]) < len(target[b.id])+2 {
				continue
			}
			for _, topic := range b.topics {
				for p := range topic.Partitions {
					if _, ok := target[a.id][partID{topic.ID, int32(p)}]; ok {
						t.Fatalf("%s has %d, %s has %d, and both want %s", a.id, len(target[a.id]), b.id, len(target[b.id]), topic.Name)
					}
				}
			}
		}
	}
}

// moves counts the partitions that somebody had and somebody else gets.
func moves(members []*assignee, target map[string]partSet) (n int) {
	had := make(map[partID]string)
	for _, m := range members {
		for id := range m.had {
			had[id] = m.id
		}
	}
	for member, parts := range target {
		for id := range parts {
			if had[id] != "" && had[id] != member {
				n++
			}
		}
	}
	return n
}

func TestAssignRange(t *testing.T) {
	x, y := testTopic("x", 5), testTopic("y", 5)
	a, b, c := &assignee{id: "zz", instance: "1", topics: []*Topic{x, y}}, &assignee{id: "b", topics: []*Topic{x, y}}, &assignee{id: "c", topics: []*Topic{y}}
	got := assignRange([]*assignee{c, b, a})
	for id, want := range map[string]string{"zz": "x0 x1 x2 y0 y1", "b": "x3 x4 y2 y3", "c": "y4"} {
		var text string
		for i, p := range got[id].sorted() {
			if i > 0 {
				text += " "
			}
			text += fmt.Sprint(string(p.topic[:1]), p.partition)
		}
		if text != want {
			t.Errorf("%s: %s, want %s", id, text, want)
		}
	}
}

func BenchmarkAssignUniform(b *testing.B) {
	topic := testTopic("t", 10_000)
	var members []*assignee
	for i := range 1000 {
		members = append(members, &assignee{id: fmt.Sprint("m", i), topics: []*Topic{topic}})
	}
	target := assignUniform(members)
	for _, m := range members {
		m.had = target[m.id]
	}
	members = append(members, &assignee{id: "new", topics: []*Topic{topic}})
	for b.Loop() {
		assignUniform(members)
	}
}
