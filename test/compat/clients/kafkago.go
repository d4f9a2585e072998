// kafka-go: old versions of most requests, a producer without idempotence, and a group protocol of its own making.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/scram"
)

var kafkaGoCodecs = []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd}

// byPartition sends a record to the partition that it names.
type byPartition struct{}

func (byPartition) Balance(m kafka.Message, _ ...int) int { return int(m.Key[0]) }

// kafkaGo is the client with what it needs to connect.
type kafkaGo struct {
	*connection
	dialer    *kafka.Dialer
	transport *kafka.Transport
	client    *kafka.Client
}

func checkKafkaGo(c *connection) error {
	var mechanism sasl.Mechanism
	if c.user != "" {
		var err error
		if mechanism, err = scram.Mechanism(scram.SHA512, c.user, c.password); err != nil {
			return err
		}
	}
	k := &kafkaGo{connection: c,
		dialer:    &kafka.Dialer{ClientID: "compat-kafka-go", Timeout: 10 * time.Second, DualStack: true, TLS: c.tls, SASLMechanism: mechanism},
		transport: &kafka.Transport{ClientID: "compat-kafka-go", TLS: c.tls, SASL: mechanism, MetadataTTL: time.Second},
	}
	defer k.transport.CloseIdleConnections()
	k.client = &kafka.Client{Addr: kafka.TCP(c.brokers...), Timeout: 30 * time.Second, Transport: k.transport}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	run := fmt.Sprintf("compat-kafka-go-%d", time.Now().UnixNano())
	var topics []string
	for _, codec := range kafkaGoCodecs {
		topic := run + "-" + codec.String()
		if codec == 0 {
			topic = run + "-none"
		}
		topics = append(topics, topic)
		if err := k.create(ctx, topic); err != nil {
			return fmt.Errorf("create %s: %w", topic, err)
		}
		if err := k.produce(ctx, topic, codec); err != nil {
			return fmt.Errorf("produce %s: %w", topic, err)
		}
		if err := k.read(ctx, topic); err != nil {
			return fmt.Errorf("read %s: %w", topic, err)
		}
	}
	if err := k.group(ctx, topics[1], run+"-group"); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	if err := k.admin(ctx, topics, run+"-group"); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	fmt.Printf("ok    kafka-go: %d codecs, a group, admin\n", len(kafkaGoCodecs))
	return nil
}

func (k *kafkaGo) create(ctx context.Context, topic string) error {
	return k.again(func() error {
		r, err := k.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: partitions, ReplicationFactor: 3,
			ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "3600000"}}}}})
		if err == nil {
			err = r.Errors[topic]
		}
		if k.kills && errors.Is(err, kafka.TopicAlreadyExists) {
			return nil
		}
		return err
	})
}

func (k *kafkaGo) produce(ctx context.Context, topic string, codec kafka.Compression) error {
	w := &kafka.Writer{Addr: kafka.TCP(k.brokers...), Topic: topic, Balancer: byPartition{}, RequiredAcks: kafka.RequireAll, Compression: codec, BatchSize: 50,
		BatchTimeout: 10 * time.Millisecond, MaxAttempts: 60, Transport: k.transport}
	for n := 0; n < perPartition; n += 50 {
		var batch []kafka.Message
		for i := n; i < n+50; i++ {
			for partition := range partitions {
				batch = append(batch, kafka.Message{Key: []byte{byte(partition)}, Value: []byte(value(partition, i)), Headers: []kafka.Header{{Key: "h", Value: []byte("v")}}})
			}
		}
		err := k.again(func() error { return w.WriteMessages(ctx, batch...) })
		if err != nil {
			return errors.Join(err, w.Close())
		}
	}
	return w.Close()
}

// ends are the offsets behind the last records of a topic's partitions.
func (k *kafkaGo) ends(ctx context.Context, topic string) ([]int64, error) {
	ends := make([]int64, partitions)
	err := k.again(func() error {
		var ask []kafka.OffsetRequest
		for p := range partitions {
			ask = append(ask, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
		}
		r, err := k.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: ask}})
		if err != nil {
			return err
		}
		for _, o := range r.Topics[topic] {
			if o.Error != nil {
				return o.Error
			}
			if o.FirstOffset != 0 {
				return fmt.Errorf("partition %d begins at %d", o.Partition, o.FirstOffset)
			}
			ends[o.Partition] = o.LastOffset
		}
		return nil
	})
	return ends, err
}

func (k *kafkaGo) read(ctx context.Context, topic string) error {
	ends, err := k.ends(ctx, topic)
	if err != nil {
		return err
	}
	for partition, end := range ends {
		if end < perPartition || end > perPartition && !k.kills {
			return fmt.Errorf("partition %d ends at %d, and %d records were written", partition, end, perPartition)
		}
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: k.brokers, Topic: topic, Partition: partition, Dialer: k.dialer, MaxWait: 200 * time.Millisecond, MaxAttempts: 20})
		var read log
		for int64(len(read)) < end {
			m, err := r.ReadMessage(ctx)
			if err == nil && m.Offset != int64(len(read)) {
				err = fmt.Errorf("offset %d comes where %d should", m.Offset, len(read))
			}
			if err != nil {
				return errors.Join(fmt.Errorf("partition %d: %w", partition, err), r.Close())
			}
			read = append(read, string(m.Value))
		}
		if err := errors.Join(read.verify(partition, perPartition, k.kills), r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// group has two members read all records, and commit them.
func (k *kafkaGo) group(ctx context.Context, topic, group string) error {
	ends, err := k.ends(ctx, topic)
	if err != nil {
		return err
	}
	want := 0
	for _, end := range ends {
		want += int(end)
	}
	ctx, cancel := context.WithTimeout(ctx, generous)
	defer cancel()
	type position struct {
		partition int
		offset    int64
	}
	records := make(chan position)
	members := make(chan error, 2)
	for range 2 {
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: k.brokers, GroupID: group, Topic: topic, Dialer: k.dialer, MaxWait: 200 * time.Millisecond, StartOffset: kafka.FirstOffset,
			HeartbeatInterval: 500 * time.Millisecond, RebalanceTimeout: 10 * time.Second, MaxAttempts: 20})
		go func() {
			defer func() { members <- r.Close() }()
			for {
				m, err := r.FetchMessage(ctx)
				if err != nil {
					return
				}
				select {
				case records <- position{m.Partition, m.Offset}:
				case <-ctx.Done():
					return
				}
				_ = r.CommitMessages(ctx, m) // a member that has lost the partition may not; whoever has it reads on
			}
		}()
	}
	seen := map[position]bool{}
	for len(seen) < want && ctx.Err() == nil {
		select {
		case p := <-records:
			seen[p] = true
		case <-ctx.Done():
		}
	}
	// The commit of the last record is under way: the members end when it has its answer.
	committed := k.again(func() error { return k.committed(ctx, topic, group, ends) })
	for !k.kills && committed != nil && ctx.Err() == nil {
		select {
		case <-records:
		case <-time.After(50 * time.Millisecond):
		}
		committed = k.committed(ctx, topic, group, ends)
	}
	cancel()
	err = errors.Join(<-members, <-members)
	if len(seen) < want {
		return fmt.Errorf("its members saw %d of %d records in time", len(seen), want)
	}
	if committed != nil && !k.kills {
		return committed
	}
	return err
}

// committed says which offsets of the group are not the ends.
func (k *kafkaGo) committed(ctx context.Context, topic, group string, ends []int64) error {
	var all []int
	for p := range partitions {
		all = append(all, p)
	}
	r, err := k.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: all}})
	if err == nil {
		err = r.Error
	}
	if err != nil {
		return err
	}
	for _, o := range r.Topics[topic] {
		if o.Error != nil || o.CommittedOffset != ends[o.Partition] {
			return fmt.Errorf("partition %d: committed is %d, its end is %d (%v)", o.Partition, o.CommittedOffset, ends[o.Partition], o.Error)
		}
	}
	return nil
}

func (k *kafkaGo) admin(ctx context.Context, topics []string, group string) error {
	var m *kafka.MetadataResponse
	err := k.again(func() (err error) {
		m, err = k.client.Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
		return err
	})
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	if len(m.Topics) != len(topics) || len(m.Topics[0].Partitions) != partitions || m.ClusterID == "" {
		return fmt.Errorf("metadata: %+v", m)
	}
	set := func() error {
		r, err := k.client.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{ResourceType: kafka.ResourceTypeTopic,
			ResourceName: topics[0], Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: "retention.ms", Value: "7200000", ConfigOperation: kafka.ConfigOperationSet}}}}})
		if err == nil && len(r.Resources) == 1 {
			err = r.Resources[0].Error
		}
		return err
	}
	if err := k.again(set); err != nil {
		return fmt.Errorf("set a config: %w", err)
	}
	deadline := time.Now().Add(generous)
	for { // the broker that answers may learn of it a moment later
		var got string
		err := k.again(func() error {
			r, err := k.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic,
				ResourceName: topics[0], ConfigNames: []string{"retention.ms"}}}})
			if err == nil && len(r.Resources) == 1 && len(r.Resources[0].ConfigEntries) == 1 {
				got = r.Resources[0].ConfigEntries[0].ConfigValue
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("describe configs: %w", err)
		}
		if got == "7200000" {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the config is %q", got)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := k.again(func() error { return k.groups(ctx, group) }); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	return k.again(func() error {
		r, err := k.client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: topics})
		if err != nil {
			return err
		}
		for _, err := range r.Errors {
			if err != nil && !(k.kills && errors.Is(err, kafka.UnknownTopicOrPartition)) {
				return err
			}
		}
		return nil
	})
}

// groups asks each broker for its groups, and then deletes the one.
func (k *kafkaGo) groups(ctx context.Context, group string) error {
	found := false
	for _, b := range k.brokers {
		addr, err := net.ResolveTCPAddr("tcp", b)
		if err != nil {
			return err
		}
		r, err := k.client.ListGroups(ctx, &kafka.ListGroupsRequest{Addr: addr})
		if err == nil {
			err = r.Error
		}
		if err != nil {
			return err
		}
		for _, g := range r.Groups {
			found = found || g.GroupID == group
		}
	}
	if !found && !k.kills { // a repetition may find it deleted
		return errors.New("the list does not have it")
	}
	d, err := k.client.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{group}})
	if err == nil && (len(d.Groups) != 1 || d.Groups[0].GroupState != "Empty" && !k.kills) {
		err = fmt.Errorf("described as %+v", d.Groups)
	}
	if err != nil {
		return err
	}
	del, err := k.client.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: []string{group}})
	if err == nil {
		err = del.Errors[group]
	}
	if k.kills && errors.Is(err, kafka.GroupIdNotFound) {
		return nil
	}
	return err
}
