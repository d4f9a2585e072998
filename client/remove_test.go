// Removing a broker from a fake cluster whose partitions move as they are told to.

package client_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/client"
)

// A partition that is placed on the broker while it is being emptied moves as well; and who runs is not forgotten.
func TestRemoveBrokerPlansAgain(t *testing.T) {
	t.Parallel()
	k, cfg := fake(t, kfake.SeedTopics(2, "t"))
	var mu sync.Mutex
	replicas := [][]int32{{1}} // of each partition
	k.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		resp := kreq.ResponseKind().(*kmsg.MetadataResponse)
		resp.ControllerID = 0
		for id, addr := range k.ListenAddrs() {
			mb := kmsg.NewMetadataResponseBroker()
			ap := netip.MustParseAddrPort(addr)
			mb.NodeID, mb.Host, mb.Port = int32(id), ap.Addr().String(), int32(ap.Port())
			resp.Brokers = append(resp.Brokers, mb)
		}
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.TopicID = kmsg.StringPtr("t"), [16]byte{1}
		for p, r := range replicas {
			mp := kmsg.NewMetadataResponseTopicPartition()
			mp.Partition, mp.Leader, mp.Replicas, mp.ISR = int32(p), r[0], r, r
			topic.Partitions = append(topic.Partitions, mp)
		}
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	k.ControlKey(int16(kmsg.AlterPartitionAssignments), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		for _, q := range kreq.(*kmsg.AlterPartitionAssignmentsRequest).Topics {
			for _, p := range q.Partitions {
				replicas[p.Partition] = p.Replicas
			}
		}
		if len(replicas) == 1 {
			replicas = append(replicas, []int32{1}) // somebody creates it now
		}
		return nil, nil, false
	})
	adm, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	if err := adm.RemoveBroker(ctx(t), 1, false, func(int) {}); !errors.Is(err, client.ErrBrokerRuns) {
		t.Errorf("it runs, and its removal ended with %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(replicas) != 2 || slices.Contains(replicas[0], 1) || slices.Contains(replicas[1], 1) {
		t.Errorf("it is emptied, and the partitions are on %v", replicas)
	}
	if err := adm.RemoveBroker(ctx(t), 9, false, func(int) {}); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a broker that is not there: %v", err)
	}
}

func TestRemoveBrokerWithoutPlace(t *testing.T) {
	_, cfg := fake(t)
	adm := must(client.NewAdmin(ctx(t), cfg))
	defer adm.Close()
	if _, err := adm.CreateTopic(ctx(t), client.TopicSpec{Name: "t", Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	if err := adm.RemoveBroker(ctx(t), 1, false, func(int) {}); !errors.Is(err, client.ErrNoPlace) || errors.Is(err, client.ErrInvalid) {
		t.Errorf("no other broker is left: %v", err)
	}
}
