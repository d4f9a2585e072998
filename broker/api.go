// The APIs that the broker speaks: one line each, one file each.

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// api is one request type. Versions are contiguous ranges of Apache Kafka 4, with older ones where they cost nothing.
type api struct {
	key      int16
	min, max int16
	// listed is the minimum that ApiVersions shows, where it is not min: see produceListed.
	listed int16
	// maxBytes bounds the frame; 0 is maxSmallRequest.
	maxBytes int
	// maxElements bounds what the body's arrays hold; 0 is maxRequestElements.
	maxElements int
	serve       func(*server, *request)

	flexible int16 // the first flexible version, or one above max; filled in at start
}

const (
	keyProduce     = 0
	keyApiVersions = 18

	// maxSmallRequest bounds every request but those that carry records or a group's metadata: a million bytes of
	// topic names is more than anyone asks for at once, and kmsg may take a hundred times the body's size (one
	// array element per remaining byte).
	maxSmallRequest = 1 << 20
	// maxGroupRequest is for JoinGroup, SyncGroup, OffsetCommit and Fetch: a leader's assignment of a large group.
	maxGroupRequest = 4 << 20
)

// apis is what we serve. A new API is a new file and a line here.
var apis = apiTable(
	api{key: 0, min: 3, max: 13, listed: produceListed, maxBytes: maxRecordRequest, maxElements: maxProducePartitions, serve: (*server).produce},
	api{key: 1, min: 4, max: 18, maxBytes: maxGroupRequest, serve: (*server).fetch},
	api{key: 2, min: 1, max: 11, serve: (*server).listOffsets},
	api{key: 3, min: 0, max: 13, serve: (*server).metadata},
	api{key: 8, min: 1, max: 10, maxBytes: maxGroupRequest, serve: (*server).offsetCommit},
	api{key: 9, min: 1, max: 10, serve: (*server).offsetFetch},
	api{key: 10, min: 0, max: 6, serve: (*server).findCoordinators},
	api{key: 11, min: 0, max: 9, maxBytes: maxGroupRequest, serve: (*server).joinGroup},
	api{key: 12, min: 0, max: 4, serve: (*server).heartbeat},
	api{key: 13, min: 0, max: 5, serve: (*server).leaveGroup},
	api{key: 14, min: 0, max: 5, maxBytes: maxGroupRequest, serve: (*server).syncGroup},
	api{key: 15, min: 0, max: 6, serve: (*server).describeGroups},
	api{key: 16, min: 0, max: 5, serve: (*server).listGroups},
	api{key: 17, min: 0, max: 1, maxBytes: maxHelloRequest, serve: (*server).saslHandshake},
	api{key: 18, min: 0, max: 5, maxBytes: maxHelloRequest, serve: (*server).apiVersions},
	api{key: 19, min: 0, max: 7, serve: (*server).createTopics},
	api{key: 20, min: 0, max: 6, serve: (*server).deleteTopics},
	api{key: 21, min: 0, max: 2, serve: (*server).deleteRecords},
	api{key: 22, min: 0, max: 5, serve: (*server).initProducerID},
	api{key: 23, min: 0, max: 4, serve: (*server).offsetForLeaderEpoch},
	api{key: 24, min: 0, max: 5, serve: (*server).addPartitionsToTxn},
	api{key: 25, min: 0, max: 4, serve: (*server).addOffsetsToTxn},
	api{key: 26, min: 0, max: 5, serve: (*server).endTxn},
	api{key: 28, min: 0, max: 5, maxBytes: maxGroupRequest, serve: (*server).txnOffsetCommit},
	api{key: 29, min: 0, max: 3, serve: (*server).describeACLs},
	api{key: 30, min: 0, max: 3, serve: (*server).createACLs},
	api{key: 31, min: 0, max: 3, serve: (*server).deleteACLs},
	api{key: 32, min: 0, max: 4, serve: (*server).describeConfigs},
	api{key: 33, min: 0, max: 2, serve: (*server).replaceConfigs},
	api{key: 34, min: 1, max: 2, serve: (*server).alterReplicaLogDirs},
	api{key: 35, min: 1, max: 4, serve: (*server).describeLogDirs},
	api{key: 36, min: 0, max: 2, maxBytes: maxHelloRequest, serve: (*server).saslAuthenticate},
	api{key: 37, min: 0, max: 3, serve: (*server).createPartitions},
	api{key: 42, min: 0, max: 2, serve: (*server).deleteGroups},
	api{key: 43, min: 0, max: 2, serve: (*server).electLeaders},
	api{key: 44, min: 0, max: 1, serve: (*server).incrementalAlterConfigs},
	api{key: 45, min: 0, max: 1, serve: (*server).alterPartitionReassignments},
	api{key: 46, min: 0, max: 0, serve: (*server).listPartitionReassignments},
	api{key: 47, min: 0, max: 0, serve: (*server).offsetDelete},
	api{key: 50, min: 0, max: 0, serve: (*server).describeUserScramCredentials},
	api{key: 51, min: 0, max: 0, serve: (*server).alterUserScramCredentials},
	api{key: 48, min: 0, max: 1, serve: (*server).describeClientQuotas},
	api{key: 49, min: 0, max: 1, serve: (*server).alterClientQuotas},
	api{key: 55, min: 0, max: 2, serve: (*server).describeQuorum},
	api{key: 57, min: 0, max: 2, serve: (*server).updateFeatures},
	api{key: 60, min: 0, max: 2, serve: (*server).describeCluster},
	api{key: 61, min: 0, max: 0, serve: (*server).describeProducers},
	api{key: 64, min: 0, max: 0, serve: (*server).unregisterBroker},
	api{key: 65, min: 0, max: 0, serve: (*server).describeTransactions},
	api{key: 66, min: 0, max: 2, serve: (*server).listTransactions},
	api{key: 68, min: 0, max: 1, serve: (*server).consumerGroupHeartbeat},
	api{key: 69, min: 0, max: 1, serve: (*server).consumerGroupDescribe},
	api{key: 74, min: 0, max: 1, serve: (*server).listConfigResources},
	api{key: 75, min: 0, max: 0, serve: (*server).describeTopicPartitions},
)

// lastAPIKey bounds the table.
const lastAPIKey = 128

// apiTable indexes by key, so that a request is found without hashing. It is built once, and panics on a line that
// contradicts itself or kmsg.
func apiTable(list ...api) *[lastAPIKey]*api {
	var t [lastAPIKey]*api
	for i := range list {
		a := &list[i]
		if t[a.key] != nil || a.min > a.max || kmsg.RequestForKey(a.key) == nil || kmsg.RequestForKey(a.key).MaxVersion() < a.max || bodies[a.key] == nil {
			panic("broker: bad line in the table of APIs: " + kmsg.NameForKey(a.key))
		}
		if a.listed == 0 && a.key != keyProduce {
			a.listed = a.min
		}
		if a.maxBytes == 0 {
			a.maxBytes = maxSmallRequest
		}
		if a.maxElements == 0 {
			a.maxElements = maxRequestElements
		}
		req := kmsg.RequestForKey(a.key)
		for a.flexible = a.min; a.flexible <= a.max; a.flexible++ {
			if req.SetVersion(a.flexible); req.IsFlexible() {
				break
			}
		}
		t[a.key] = a
	}
	return &t
}

// apiName is Kafka's name of an API. kmsg has another for one of them.
func apiName(key int16) string {
	if key == int16(kmsg.AlterPartitionAssignments) {
		return "AlterPartitionReassignments"
	}
	return kmsg.NameForKey(key)
}

func findAPI(key int16) *api {
	if key < 0 || key >= lastAPIKey {
		return nil
	}
	return apiByKey[key]
}

// apiByKey is apis, set at start-up because handlers themselves refer to the table.
var apiByKey *[lastAPIKey]*api

func init() { apiByKey = apis }

// headerVersion is the form of a request's header, and whether we serve that request at all.
func headerVersion(key, version int16) (protocol.HeaderVersion, bool) {
	a := findAPI(key)
	if a == nil {
		return 0, false
	}
	if version < a.min || version > a.max {
		// ApiVersions in a version to come: the client learns from our answer which one to use, so its header is read as
		// far as every version has it, and its body not at all.
		return 1, key == keyApiVersions
	}
	if version >= a.flexible {
		return 2, true
	}
	return 1, true
}
