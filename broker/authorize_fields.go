// Reaching into requests and answers by the names of their fields: the messages are kmsg's, a type each, and what the guards
// want of them is the same for many. It costs reflection where a request names things, under an authorizer; produce and
// fetch do not come by here. TestGuards sends every version of every request through it.

package broker

import (
	"reflect"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// askedTopic is a topic of a request.
type askedTopic struct {
	name       string
	id         coordinator.TopicID
	partitions []int32
}

func structOf(v any) reflect.Value {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer {
		rv = rv.Elem()
	}
	return rv
}

// textField is a field that is a string, or may be null.
func textField(v any, name string) string {
	f := structOf(v).FieldByName(name)
	if f.Kind() == reflect.Pointer {
		if f.IsNil() {
			return ""
		}
		f = f.Elem()
	}
	return f.String()
}

func setText(v any, name, text string) {
	f := structOf(v).FieldByName(name)
	if f.Kind() == reflect.Pointer {
		f.Set(reflect.ValueOf(&text))
		return
	}
	f.SetString(text)
}

const refusedText = "not authorized: the broker's audit log says for what"

// setError sets ErrorCode, and ErrorMessage where there is one.
func setError(v any, code *kerr.Error) {
	s := structOf(v)
	s.FieldByName("ErrorCode").SetInt(int64(code.Code))
	if m := s.FieldByName("ErrorMessage"); m.IsValid() {
		text := refusedText
		m.Set(reflect.ValueOf(&text))
	}
}

func listLen(v any, name string) int { return structOf(v).FieldByName(name).Len() }

// appendElement makes a list in v longer by an element with its defaults, and returns a pointer to it.
func appendElement(v any, list string) any {
	f := structOf(v).FieldByName(list)
	e := reflect.New(f.Type().Elem())
	if d, ok := e.Interface().(interface{ Default() }); ok {
		d.Default()
	}
	f.Set(reflect.Append(f, e.Elem()))
	return f.Index(f.Len() - 1).Addr().Interface()
}

// dropElements keeps the elements of a list for which keep, given a pointer, is true.
func dropElements(v any, list string, keep func(e any) bool) {
	f := structOf(v).FieldByName(list)
	n := 0
	for i := range f.Len() {
		if keep(f.Index(i).Addr().Interface()) {
			if n != i {
				f.Index(n).Set(f.Index(i))
			}
			n++
		}
	}
	f.SetLen(n)
}

// dropNames is dropElements for a list of strings; it returns what was dropped.
func dropNames(v any, list string, keep func(string) bool) (dropped []string) {
	dropElements(v, list, func(e any) bool {
		name := *e.(*string)
		if keep(name) {
			return true
		}
		dropped = append(dropped, name)
		return false
	})
	return dropped
}

// topicOf reads one element of a request's Topics.
func topicOf(e any) (t askedTopic) {
	s := structOf(e)
	if f := s.FieldByName("Topic"); f.Kind() == reflect.Pointer {
		if !f.IsNil() {
			t.name = f.Elem().String()
		}
	} else if f.IsValid() {
		t.name = f.String()
	}
	if f := s.FieldByName("TopicID"); f.IsValid() {
		t.id = coordinator.TopicID(f.Interface().([16]byte))
	}
	parts := s.FieldByName("Partitions")
	if !parts.IsValid() {
		return t
	}
	for i := range parts.Len() {
		p := parts.Index(i)
		if p.Kind() == reflect.Struct {
			p = p.FieldByName("Partition")
		}
		t.partitions = append(t.partitions, int32(p.Int()))
	}
	return t
}

func allTopics(msg kmsg.Request) (out []askedTopic) {
	list := structOf(msg).FieldByName("Topics")
	for i := range list.Len() {
		out = append(out, topicOf(list.Index(i).Addr().Interface()))
	}
	return out
}

// dropTopics takes topics out of a request.
func dropTopics(msg kmsg.Request, keep func(name string, id coordinator.TopicID) bool) (dropped []askedTopic) {
	dropElements(msg, "Topics", func(e any) bool {
		s := structOf(e)
		var name string
		var id coordinator.TopicID
		if f := s.FieldByName("Topic"); f.IsValid() && f.Kind() == reflect.String {
			name = f.String()
		}
		if f := s.FieldByName("TopicID"); f.IsValid() {
			id = coordinator.TopicID(f.Interface().([16]byte))
		}
		if keep(name, id) {
			return true
		}
		dropped = append(dropped, topicOf(e))
		return false
	})
	return dropped
}

// appendTopic puts a refused topic into v's Topics: with an error of its own, or one for each of its partitions.
func appendTopic(v any, t askedTopic, code *kerr.Error) {
	e := appendElement(v, "Topics")
	s := structOf(e)
	if f := s.FieldByName("Topic"); f.IsValid() {
		setText(e, "Topic", t.name)
	}
	if f := s.FieldByName("TopicID"); f.IsValid() {
		f.Set(reflect.ValueOf([16]byte(t.id)))
	}
	if s.FieldByName("ErrorCode").IsValid() {
		setError(e, code)
		return
	}
	for _, p := range t.partitions {
		pe := appendElement(e, "Partitions")
		ps := structOf(pe)
		ps.FieldByName("Partition").SetInt(int64(p))
		setError(pe, code)
		for _, unset := range [...]string{"Offset", "Timestamp", "LeaderEpoch", "EndOffset", "LowWatermark"} {
			if f := ps.FieldByName(unset); f.IsValid() {
				f.SetInt(-1)
			}
		}
		if f := ps.FieldByName("Metadata"); f.IsValid() {
			setText(pe, "Metadata", "")
		}
	}
}

// askedConfig is a resource of a request for configs.
type askedConfig struct {
	kind kmsg.ConfigResourceType
	name string
	on   coordinator.ResourceType
}

func dropConfigs(msg kmsg.Request, keep func(kmsg.ConfigResourceType, string) (coordinator.ResourceType, bool)) (dropped []askedConfig) {
	dropElements(msg, "Resources", func(e any) bool {
		c := askedConfig{kind: structOf(e).FieldByName("ResourceType").Interface().(kmsg.ConfigResourceType), name: textField(e, "ResourceName")}
		on, ok := keep(c.kind, c.name)
		if !ok {
			c.on = on
			dropped = append(dropped, c)
		}
		return ok
	})
	return dropped
}

func appendConfig(v any, c askedConfig, code *kerr.Error) {
	e := appendElement(v, "Resources")
	structOf(e).FieldByName("ResourceType").Set(reflect.ValueOf(c.kind))
	setText(e, "ResourceName", c.name)
	setError(e, code)
}
