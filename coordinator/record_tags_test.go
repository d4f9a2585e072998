package coordinator

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A record that claims billions of tagged fields is malformed, by our own word and before kmsg counts them, which takes it a minute; one that
// has some is read.
func TestTaggedFieldsAreChecked(t *testing.T) {
	unknown := func(tags *kmsg.Tags) { tags.Set(77, []byte("from a version to come")) }
	txn := kmsg.NewTxnMetadataValue()
	txn.Version, txn.ProducerID, txn.NextProducerID = txnValue, 4, 9
	txn.Topics = []kmsg.TxnMetadataValueTopic{{Topic: "a", Partitions: []int32{1, 2}}, {Topic: "b"}}
	unknown(&txn.Topics[0].UnknownTags)
	unknown(&txn.UnknownTags)
	offset := kmsg.NewOffsetCommitValue()
	offset.Version, offset.Offset, offset.Metadata, offset.TopicID = offsetValue, 7, "m", [16]byte{1}
	unknown(&offset.UnknownTags)
	group := kmsg.NewGroupMetadataValue()
	leader := "m1"
	group.Version, group.ProtocolType, group.Leader = 4, "consumer", &leader
	group.Members = []kmsg.GroupMetadataValueMember{{MemberID: "m1", InstanceID: &leader, ClientID: "c", ClientHost: "h", Subscription: []byte("s")}, {MemberID: "m2", Assignment: []byte("a")}}
	unknown(&group.Members[1].UnknownTags)
	unknown(&group.UnknownTags)
	for _, tc := range []struct {
		what       string
		key, value []byte
		read       func(key, value []byte) (any, error)
	}{
		{"transaction", (&txnRecord{id: "x"}).key(), txn.AppendTo(nil), func(k, v []byte) (any, error) { return decodeTxnRecord(k, v) }},
		{"offset", (&groupRecord{isOffset: true}).key(), offset.AppendTo(nil), func(k, v []byte) (any, error) { return decodeGroupRecord(k, v) }},
		{"group", (&groupRecord{}).key(), group.AppendTo(nil), func(k, v []byte) (any, error) { return decodeGroupRecord(k, v) }},
	} {
		got, err := tc.read(tc.key, tc.value)
		if err != nil {
			t.Errorf("%s: %v", tc.what, err)
			continue
		}
		switch r := got.(type) {
		case txnRecord:
			if r.data.next != 9 || !reflect.DeepEqual(r.data.parts, []TopicPartition{{Topic: "a", Partition: 1}, {Topic: "a", Partition: 2}}) {
				t.Errorf("%+v", r.data)
			}
		case groupRecord:
			if r.isOffset && (r.offset.Offset != 7 || r.offset.TopicID != TopicID{1}) || !r.isOffset && len(r.meta.Members) != 2 {
				t.Errorf("%+v", r)
			}
		}
	}
	many := kbin.AppendUvarint(nil, 1<<32-1)
	txn.UnknownTags, offset.UnknownTags, group.UnknownTags, offset.TopicID = kmsg.Tags{}, kmsg.Tags{}, kmsg.Tags{}, [16]byte{}
	txn.PreviousProducerID, txn.NextProducerID = -1, -1
	cut := func(b []byte) []byte { return append(b[:len(b)-1:len(b)-1], many...) } // the last byte says that there are none
	for what, err := range map[string]error{
		"transaction": second(decodeTxnRecord((&txnRecord{id: "x"}).key(), cut(txn.AppendTo(nil)))),
		"offset":      second(decodeGroupRecord((&groupRecord{isOffset: true}).key(), cut(offset.AppendTo(nil)))),
		"group":       second(decodeGroupRecord((&groupRecord{}).key(), cut(group.AppendTo(nil)))),
	} {
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "tagged fields") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
