// The configs of consumer groups (KIP-848): what a group may have otherwise than the brokers' own configs say.

package broker

import (
	"fmt"
	"math"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The configs of a group that do something.
const (
	groupSession   = "consumer.session.timeout.ms"
	groupHeartbeat = "consumer.heartbeat.interval.ms"
)

const (
	noShare   = "there are no share groups"
	noStreams = "there are no streams groups"
)

// groupConfigDefs are the configs of groups, sorted by name.
var groupConfigDefs = []configDef{
	{name: groupHeartbeat, typ: kmsg.ConfigTypeInt, broker: "group.consumer.heartbeat.interval.ms", does: obeyed, least: 1, most: math.MaxInt32,
		doc: "How often members of the group send heartbeats, in the protocol of KIP-848."},
	{name: groupSession, typ: kmsg.ConfigTypeInt, broker: "group.consumer.session.timeout.ms", does: obeyed, least: 1, most: math.MaxInt32,
		doc: "How long a member of the group may be silent, in the protocol of KIP-848."},
	{name: "share.auto.offset.reset", typ: kmsg.ConfigTypeString, def: "latest", why: noShare, doc: "Where a share group begins."},
	{name: "share.heartbeat.interval.ms", typ: kmsg.ConfigTypeInt, def: "5000", why: noShare, most: math.MaxInt32, doc: "How often members of a share group send heartbeats."},
	{name: "share.isolation.level", typ: kmsg.ConfigTypeString, def: "read_uncommitted", why: noShare, doc: "Which records a share group reads."},
	{name: "share.record.lock.duration.ms", typ: kmsg.ConfigTypeInt, def: "30000", why: noShare, most: math.MaxInt32, doc: "For how long a share group's member has a record."},
	{name: "share.session.timeout.ms", typ: kmsg.ConfigTypeInt, def: "45000", why: noShare, most: math.MaxInt32, doc: "How long a member of a share group may be silent."},
	{name: "streams.heartbeat.interval.ms", typ: kmsg.ConfigTypeInt, def: "5000", why: noStreams, most: math.MaxInt32, doc: "How often members of a streams group send heartbeats."},
	{name: "streams.num.standby.replicas", typ: kmsg.ConfigTypeInt, def: "0", why: noStreams, most: math.MaxInt32, doc: "Standby replicas of each task of a streams group."},
	{name: "streams.session.timeout.ms", typ: kmsg.ConfigTypeInt, def: "45000", why: noStreams, most: math.MaxInt32, doc: "How long a member of a streams group may be silent."},
}

func groupConfigByName(name string) *configDef {
	for i := range groupConfigDefs {
		if groupConfigDefs[i].name == name {
			return &groupConfigDefs[i]
		}
	}
	return nil
}

// checkGroupConfig refuses a group config that does not exist, and a value that it cannot have: the brokers bound both times.
func (s *server) checkGroupConfig(name, value string) error {
	d := groupConfigByName(name)
	if d == nil {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("unknown group config %q", name))
	}
	if err := d.check(value); err != nil {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("invalid value %q for %s: %v", value, name, err))
	}
	if d.does == fixed {
		return d.possible(value)
	}
	kind := "session.timeout.ms"
	if name == groupHeartbeat {
		kind = "heartbeat.interval.ms"
	}
	n, _ := strconv.Atoi(d.canonical(value)) // check has read it
	least, most := s.configInt("group.consumer.min."+kind), s.configInt("group.consumer.max."+kind)
	if n < least || n > most {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("invalid value %q for %s: the brokers allow %d to %d (group.consumer.min.%s, max)", value, name, least, most, kind))
	}
	return nil
}

// checkGroupConfigs holds a group's configs against one another.
func (s *server) checkGroupConfigs(set map[string]string) error {
	number := func(name string) int {
		d := groupConfigByName(name)
		if v, ok := set[name]; ok {
			n, _ := strconv.Atoi(d.canonical(v)) // checked when it was set
			return n
		}
		return s.configInt(d.broker)
	}
	if session, beat := number(groupSession), number(groupHeartbeat); session <= beat {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("%s=%d must be above %s=%d", groupSession, session, groupHeartbeat, beat))
	}
	return nil
}
