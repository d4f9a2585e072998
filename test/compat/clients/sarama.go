// sarama: programs pin a version of Kafka, and it sends each request in the newest version of that release.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// saramaVersions are the oldest whose record batches there are still, the client's default, and the newest that Balsa is like.
var saramaVersions = []sarama.KafkaVersion{sarama.V1_0_0_0, sarama.DefaultVersion, sarama.V4_1_0_0}

var saramaCodecs = []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD}

// scramClient is SCRAM for sarama, which leaves it to the program.
type scramClient struct{ *scram.ClientConversation }

func (s *scramClient) Begin(user, password, authzID string) error {
	c, err := scram.SHA512.NewClient(user, password, authzID)
	if err == nil {
		s.ClientConversation = c.NewConversation()
	}
	return err
}

func (c *connection) sarama(version sarama.KafkaVersion) *sarama.Config {
	conf := sarama.NewConfig()
	conf.Version = version
	conf.ClientID = "compat-sarama"
	conf.Admin.Timeout = 30 * time.Second
	conf.Admin.Retry.Max, conf.Admin.Retry.Backoff = 50, 200*time.Millisecond
	conf.Metadata.Retry.Max = 50
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Idempotent, conf.Net.MaxOpenRequests = true, 1
	conf.Producer.Retry.Max, conf.Producer.Retry.Backoff = 100, 200*time.Millisecond
	conf.Producer.Transaction.Retry.Max, conf.Producer.Transaction.Retry.Backoff = 200, 100*time.Millisecond
	conf.Producer.Return.Successes, conf.Producer.Return.Errors = true, true
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	conf.Consumer.Offsets.AutoCommit.Interval = 200 * time.Millisecond
	conf.Consumer.Group.Rebalance.Retry.Max = 50
	conf.Consumer.Retry.Backoff = 200 * time.Millisecond
	if c.tls != nil {
		conf.Net.TLS.Enable, conf.Net.TLS.Config = true, c.tls
	}
	if c.user != "" {
		conf.Net.SASL.Enable, conf.Net.SASL.Mechanism = true, sarama.SASLTypeSCRAMSHA512
		conf.Net.SASL.User, conf.Net.SASL.Password = c.user, c.password
		conf.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{} }
	}
	return conf
}

func checkSarama(c *connection) error {
	sarama.Logger = stdlog.New(io.Discard, "", 0)
	for _, version := range saramaVersions {
		if err := c.checkSaramaVersion(version); err != nil {
			return fmt.Errorf("as of Kafka %s: %w", version, err)
		}
		fmt.Printf("ok    sarama as of Kafka %s: each codec, a group, transactions, admin\n", version)
	}
	return nil
}

func (c *connection) checkSaramaVersion(version sarama.KafkaVersion) error {
	conf := c.sarama(version)
	var admin sarama.ClusterAdmin
	err := c.again(func() (err error) {
		admin, err = sarama.NewClusterAdmin(c.brokers, conf)
		return err
	})
	if err != nil {
		return err
	}
	defer admin.Close()
	run := fmt.Sprintf("compat-sarama-%d", time.Now().UnixNano())
	hour := "3600000"
	var topics []string
	for _, codec := range saramaCodecs {
		if codec == sarama.CompressionZSTD && !version.IsAtLeast(sarama.V2_1_0_0) {
			continue // as Kafka, which refuses it from clients of before
		}
		topic := run + "-" + codec.String()
		if err := c.saramaCreate(admin, topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 3, ConfigEntries: map[string]*string{"retention.ms": &hour}}); err != nil {
			return fmt.Errorf("create %s: %w", topic, err)
		}
		topics = append(topics, topic)
		if err := c.saramaProduce(version, codec, topic); err != nil {
			return fmt.Errorf("produce, %s: %w", codec, err)
		}
		if err := c.saramaRead(conf, topic); err != nil {
			return fmt.Errorf("read, %s: %w", codec, err)
		}
	}
	if err := c.saramaGroup(conf, admin, topics[0], run+"-group"); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	if err := c.saramaTransactions(version, admin, topics[0], run); err != nil {
		return fmt.Errorf("transactions: %w", err)
	}
	if err := c.again(func() error { return c.saramaAdmin(version, admin, topics[0], run) }); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	for _, topic := range append(topics, run+"-txn") {
		err := c.again(func() error {
			err := admin.DeleteTopic(topic)
			if errors.Is(err, sarama.ErrUnknownTopicOrPartition) { // a retry finds it done
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("delete %s: %w", topic, err)
		}
	}
	return nil
}

func (c *connection) saramaCreate(admin sarama.ClusterAdmin, topic string, d *sarama.TopicDetail) error {
	return c.again(func() error {
		err := admin.CreateTopic(topic, d, false)
		if c.kills && errors.Is(err, sarama.ErrTopicAlreadyExists) { // by the try before
			return nil
		}
		return err
	})
}

func (c *connection) saramaProduce(version sarama.KafkaVersion, codec sarama.CompressionCodec, topic string) error {
	conf := c.sarama(version)
	conf.Producer.Compression = codec
	var p sarama.SyncProducer
	err := c.again(func() (err error) {
		p, err = sarama.NewSyncProducer(c.brokers, conf)
		return err
	})
	if err != nil {
		return err
	}
	var all []*sarama.ProducerMessage
	for n := range perPartition {
		for partition := range partitions {
			all = append(all, &sarama.ProducerMessage{Topic: topic, Partition: int32(partition), Key: sarama.StringEncoder("k"), Value: sarama.StringEncoder(value(partition, n)),
				Headers: []sarama.RecordHeader{{Key: []byte("h"), Value: []byte("v")}}})
		}
	}
	return errors.Join(p.SendMessages(all), p.Close())
}

// saramaReadUp reads the first n records of a partition, and says where it ends.
func (c *connection) saramaReadUp(conf *sarama.Config, topic string, partition int32, n int) (read log, end int64, err error) {
	var client sarama.Client
	var pc sarama.PartitionConsumer
	err = c.again(func() (err error) {
		if client, err = sarama.NewClient(c.brokers, conf); err != nil {
			return err
		}
		if end, err = client.GetOffset(topic, partition, sarama.OffsetNewest); err != nil {
			return errors.Join(err, client.Close())
		}
		consumer, err := sarama.NewConsumerFromClient(client)
		if err == nil {
			pc, err = consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
		}
		if err != nil {
			return errors.Join(err, client.Close())
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	defer client.Close()
	defer pc.Close()
	late := time.After(generous)
	for len(read) < n {
		select {
		case m := <-pc.Messages():
			if m == nil {
				return nil, 0, fmt.Errorf("the consumer of partition %d has ended", partition)
			}
			read = append(read, string(m.Value))
		case <-late:
			return nil, 0, fmt.Errorf("partition %d: %d of %d records in time, its end is %d", partition, len(read), n, end)
		}
	}
	return read, end, nil
}

func (c *connection) saramaRead(conf *sarama.Config, topic string) error {
	for partition := range partitions {
		read, end, err := c.saramaReadUp(conf, topic, int32(partition), perPartition)
		if err == nil && end != perPartition {
			err = fmt.Errorf("partition %d ends at %d, and %d records were written", partition, end, perPartition)
		}
		if err == nil {
			err = read.verify(partition, perPartition, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// member collects what members of a group read.
type member struct {
	mu   sync.Mutex
	seen map[string]bool
	many chan struct{} // closed when all has been seen
}

func (*member) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*member) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (m *member) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case r, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			m.mu.Lock()
			m.seen[string(r.Value)] = true
			if len(m.seen) == partitions*perPartition && m.many != nil {
				close(m.many)
				m.many = nil
			}
			m.mu.Unlock()
			s.MarkMessage(r, "")
		case <-s.Context().Done():
			return nil
		}
	}
}

func (c *connection) saramaGroup(conf *sarama.Config, admin sarama.ClusterAdmin, topic, group string) error {
	all := make(chan struct{})
	m := &member{seen: map[string]bool{}, many: all}
	ctx, cancel := context.WithTimeout(context.Background(), generous)
	defer cancel()
	var members sync.WaitGroup
	for range 2 {
		g, err := sarama.NewConsumerGroup(c.brokers, group, conf)
		if err != nil {
			return err
		}
		members.Go(func() {
			for ctx.Err() == nil {
				_ = g.Consume(ctx, []string{topic}, m) // ends at each rebalance, and for what passes
			}
			_ = g.Close() // commits what is marked
		})
	}
	select {
	case <-all:
	case <-ctx.Done():
	}
	late := ctx.Err() != nil
	cancel()
	members.Wait()
	if late {
		m.mu.Lock()
		defer m.mu.Unlock()
		return fmt.Errorf("its members saw %d of %d records in time", len(m.seen), partitions*perPartition)
	}

	return c.again(func() error { return c.saramaGroupAdmin(conf, admin, topic, group) })
}

// saramaGroupAdmin asks about a group that has read all and is empty now, and deletes it.
func (c *connection) saramaGroupAdmin(conf *sarama.Config, admin sarama.ClusterAdmin, topic, group string) error {
	var which map[string][]int32                  // all
	if !conf.Version.IsAtLeast(sarama.V2_0_0_0) { // which could not ask for all
		which = map[string][]int32{topic: {}}
		for p := range partitions {
			which[topic] = append(which[topic], int32(p))
		}
	}
	offsets, err := admin.ListConsumerGroupOffsets(group, which)
	if err != nil {
		return err
	}
	for partition := range partitions {
		block := offsets.GetBlock(topic, int32(partition))
		// A member that died with its session may have left the last of its marks uncommitted.
		if block == nil || block.Offset > perPartition || block.Offset != perPartition && !c.kills {
			return fmt.Errorf("partition %d: committed is %+v, read were %d", partition, block, perPartition)
		}
	}
	groups, err := admin.ListConsumerGroups()
	if err == nil && groups[group] != "consumer" {
		err = fmt.Errorf("the list has %q", groups[group])
	}
	if err != nil {
		return err
	}
	described, err := admin.DescribeConsumerGroups([]string{group})
	if err == nil && (len(described) != 1 || described[0].State != "Empty") {
		err = fmt.Errorf("described as %+v", described)
	}
	if err != nil {
		return err
	}
	if !conf.Version.IsAtLeast(sarama.V1_1_0_0) { // which could not
		return nil
	}
	err = admin.DeleteConsumerGroup(group)
	if c.kills && errors.Is(err, sarama.ErrGroupIDNotFound) { // by the try before
		return nil
	}
	return err
}

// saramaTransactions writes six transactions, of which every other is aborted, and reads what was committed.
func (c *connection) saramaTransactions(version sarama.KafkaVersion, admin sarama.ClusterAdmin, from, run string) error {
	topic := run + "-txn"
	if err := c.saramaCreate(admin, topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 3}); err != nil {
		return err
	}
	conf := c.sarama(version)
	conf.Producer.Transaction.ID = run
	const txns, records = 6, 50
	var p sarama.SyncProducer
	defer func() {
		if p != nil {
			_ = p.Close()
		}
	}()
	next := 0
	for txn := 0; txn < txns; {
		if p == nil {
			err := c.again(func() (err error) {
				p, err = sarama.NewSyncProducer(c.brokers, conf)
				return err
			})
			if err != nil {
				return err
			}
		}
		abort := txn%2 == 1
		err := p.BeginTxn()
		if err == nil {
			var all []*sarama.ProducerMessage
			for i := range records {
				v := value(0, next+i)
				if abort {
					v = "aborted"
				}
				all = append(all, &sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(v)})
			}
			err = p.SendMessages(all)
		}
		if err == nil && !abort {
			err = p.AddOffsetsToTxn(map[string][]*sarama.PartitionOffsetMetadata{from: {{Partition: 0, Offset: int64(next + records)}}}, run+"-txn-group")
		}
		if err == nil && abort {
			err = p.AbortTxn()
		} else if err == nil {
			if err = p.CommitTxn(); err == nil {
				next += records
			}
		}
		if err == nil {
			txn++
			continue
		}
		if !c.kills {
			return err
		}
		// As its documentation has it: what can be aborted is done again, and a producer that is beyond that is replaced. Whether a commit without an
		// answer has happened tell the offsets that went with it.
		fmt.Printf("      transaction %d: %v\n", txn, err)
		_ = p.Close()
		p = nil
		err = c.again(func() (err error) {
			p, err = sarama.NewSyncProducer(c.brokers, conf) // ends what is open
			return err
		})
		if err != nil {
			return err
		}
		var committed *sarama.OffsetFetchResponse
		err = c.again(func() (err error) {
			committed, err = admin.ListConsumerGroupOffsets(run+"-txn-group", map[string][]int32{from: {0}})
			return err
		})
		if err != nil {
			return err
		}
		if block := committed.GetBlock(from, 0); block != nil && block.Offset > int64(next) {
			next = int(block.Offset)
			txn++
		}
	}
	err := c.again(func() error {
		committed, err := admin.ListConsumerGroupOffsets(run+"-txn-group", map[string][]int32{from: {0}})
		if err != nil {
			return err
		}
		if block := committed.GetBlock(from, 0); block == nil || block.Offset != int64(next) {
			return fmt.Errorf("committed is %+v, want %d", block, next)
		}
		return nil
	})
	if err != nil {
		return err
	}
	conf = c.sarama(version)
	conf.Consumer.IsolationLevel = sarama.ReadCommitted
	// Behind the last committed record lie an aborted transaction, which shows nothing, and markers.
	read, _, err := c.saramaReadUp(conf, topic, 0, next)
	if err != nil {
		return err
	}
	return read.verify(0, next, false)
}

// saramaAdmin asks for what admin programs ask for.
func (c *connection) saramaAdmin(version sarama.KafkaVersion, admin sarama.ClusterAdmin, topic, run string) error {
	brokers, controller, err := admin.DescribeCluster()
	if err == nil && (len(brokers) == 0 || controller < 1) {
		err = fmt.Errorf("%d brokers, controller %d", len(brokers), controller)
	}
	if err != nil {
		return err
	}
	right := func(n int) bool { return n == partitions || c.kills && n == partitions+2 } // done again, it finds what it has made before something failed
	list, err := admin.ListTopics()
	if err == nil && !right(int(list[topic].NumPartitions)) {
		err = fmt.Errorf("the list has %+v", list[topic])
	}
	if err != nil {
		return err
	}
	described, err := admin.DescribeTopics([]string{topic})
	if err == nil && (len(described) != 1 || !right(len(described[0].Partitions))) {
		err = fmt.Errorf("described as %+v", described)
	}
	if err != nil {
		return err
	}
	set := "7200000"
	if version.IsAtLeast(sarama.V2_3_0_0) {
		err = admin.IncrementalAlterConfig(sarama.TopicResource, topic, map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &set}}, false)
	} else {
		err = admin.AlterConfig(sarama.TopicResource, topic, map[string]*string{"retention.ms": &set}, false)
	}
	if err != nil {
		return err
	}
	deadline := time.Now().Add(generous)
	for { // the broker that answers may learn of it a moment later
		entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}})
		if err != nil {
			return err
		}
		if len(entries) == 1 && entries[0].Value == set {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the config is %+v", entries)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := admin.CreatePartitions(topic, partitions+2, nil, false); err != nil && !(c.kills && errors.Is(err, sarama.ErrInvalidPartitions)) { // a retry finds them there
		return fmt.Errorf("create partitions: %w", err)
	}
	if err := admin.DeleteRecords(topic, map[int32]int64{0: 7}); err != nil {
		return fmt.Errorf("delete records: %w", err)
	}
	if version.IsAtLeast(sarama.V2_0_0_0) { // version 0 of the request is gone from Kafka, too
		if _, err := admin.DescribeLogDirs([]int32{controller}); err != nil {
			return fmt.Errorf("log dirs: %w", err)
		}
	}
	if version.IsAtLeast(sarama.V2_7_0_0) {
		if _, err := admin.UpsertUserScramCredentials([]sarama.AlterUserScramCredentialsUpsert{{Name: run, Mechanism: sarama.SCRAM_MECHANISM_SHA_512, Iterations: 4096, Salt: []byte("salt"), Password: []byte("secret")}}); err != nil {
			return fmt.Errorf("SCRAM: %w", err)
		}
		users, err := admin.DescribeUserScramCredentials([]string{run})
		if err == nil && (len(users) != 1 || len(users[0].CredentialInfos) != 1) {
			err = fmt.Errorf("described as %+v", users)
		}
		if err != nil {
			return fmt.Errorf("SCRAM: %w", err)
		}
		if _, err := admin.DeleteUserScramCredentials([]sarama.AlterUserScramCredentialsDelete{{Name: run, Mechanism: sarama.SCRAM_MECHANISM_SHA_512}}); err != nil {
			return fmt.Errorf("SCRAM: %w", err)
		}
	}
	return nil
}
