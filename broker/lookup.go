// Looking up a key: ListOffsets with a tagged field (KIP-482) asks for the last record of a key, where without it the request asks for a time. It is for
// topics with balsa.conditional.append; see docs/design/0027-kv.md.
//
// Of the request's partition the tag holds the key; a second one may hold the id of the topic that is meant, which the request has no field for: a
// topic made anew has no key of the earlier one. Of the response's it holds a zero byte and the record's value; Offset, Timestamp and LeaderEpoch
// are the record's. Offset -1: the key does not exist. Without the tag in the response the broker is one that does not know of it. A request has one
// look-up, so that an answer holds one record at most.

package broker

import (
	"bytes"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
)

// tagKey and tagTopic are the numbers of the tagged fields. Kafka's own begin at 0.
const (
	tagKey   = 10001
	tagTopic = 10002
)

// keyTag is the key that a partition of a request looks up. It lies in the request's frame.
func keyTag(p *kmsg.ListOffsetsRequestTopicPartition) (key []byte, ok bool) { return tagged(p, tagKey) }

func tagged(p *kmsg.ListOffsetsRequestTopicPartition, wanted uint32) (value []byte, ok bool) {
	if p.UnknownTags.Len() == 0 {
		return nil, false
	}
	p.UnknownTags.Each(func(tag uint32, v []byte) {
		if tag == wanted {
			value, ok = v, true
		}
	})
	return value, ok
}

// lookupsIn counts the look-ups of a request.
func lookupsIn(req *kmsg.ListOffsetsRequest) (n int) {
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			if _, ok := keyTag(&req.Topics[i].Partitions[j]); ok {
				n++
			}
		}
	}
	return n
}

// mayLookUp refuses a look-up that may not be.
func (r *request) mayLookUp(t *coordinator.Topic, p *kmsg.ListOffsetsRequestTopicPartition, lookups int) error {
	if id, ok := tagged(p, tagTopic); ok && !bytes.Equal(id, t.ID[:]) {
		return kerr.UnknownTopicID
	}
	if lookups > 1 {
		return refuse(kerr.InvalidRequest, fmt.Sprintf("%d keys are looked up in one request, at most one is", lookups))
	}
	return r.mayTopic(coordinator.OpRead, t)
}

// lookUp answers a look-up, once the replica is confirmed to know all that was acknowledged before the request. That comes from the worker of the partition's
// group, which has other things to do than to read a disk.
func (r *request) lookUp(g *gather, rep replica, key []byte, epoch int32, place *kmsg.ListOffsetsResponseTopicPartition) {
	var res partition.KeyResult
	g.await(func(done func(error)) {
		rep.Linearize(func(err error) {
			if err != nil {
				done(err)
				return
			}
			go func() {
				res, err = rep.LookupKey(key, epoch)
				done(err)
			}()
		})
	}, func(err error) {
		if place.ErrorCode = codeOf(err); err != nil {
			return
		}
		place.Offset, place.Timestamp, place.LeaderEpoch = res.Offset, res.Timestamp, res.LeaderEpoch
		value := append(make([]byte, 0, 1+len(res.Value)), 0)
		place.UnknownTags.Set(tagKey, append(value, res.Value...))
		r.c.s.met.fetchedBytes.Add(float64(len(res.Value)))
		r.charge(quotaConsume, float64(len(res.Value)), false)
	})
}

// checkConditional refuses configs of a topic that do not go with conditional appends. was are those that it has; new: it has none yet.
func checkConditional(im *coordinator.Image, was, set map[string]string, isNew bool) error {
	const name = coordinator.ConditionalAppend
	switch {
	case !isNew && coordinator.Conditional(was) != coordinator.Conditional(set):
		return refuse(kerr.InvalidConfig, name+" is given when a topic is created, and cannot be changed: make another topic, and copy what is in this one")
	case !coordinator.Conditional(set):
		return nil
	case !compacts(set["cleanup.policy"]):
		return refuse(kerr.InvalidConfig, name+"=true needs cleanup.policy=compact, set on the topic itself: a key's last record must stay")
	case isNew && im.Feature(coordinator.MetadataVersion) < coordinator.LevelApps:
		return refuse(kerr.UnsupportedVersion, fmt.Sprintf("%s needs %s %d, which is at %d: 'broker cluster upgrade', once all brokers run this version", name,
			coordinator.MetadataVersion, coordinator.LevelApps, im.Feature(coordinator.MetadataVersion)))
	}
	return nil
}
