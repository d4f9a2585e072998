// Command roundtrip writes numbered records to a new topic of six partitions with an unmodified franz-go client, and reads
// back exactly those: in order within each partition, the first at offset 0, the end minus the beginning being the count.
// It connects as the broker's command line does: BALSA_TLS_CA, BALSA_TLS_CLIENT_CERT, BALSA_USER and so on.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const partitions = 6

func main() {
	brokers := flag.String("brokers", "localhost:9092", "addresses of brokers")
	records := flag.Int("records", 60_000, "how many records")
	replicas := flag.Int("replicas", 3, "replicas of each partition")
	limit := flag.Duration("timeout", 2*time.Minute, "for all of it")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	topic := fmt.Sprintf("compat-roundtrip-%d", time.Now().UnixNano())
	connect, err := connection(strings.Split(*brokers, ","))
	if err == nil {
		err = run(ctx, connect, topic, *records, int16(*replicas))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL  %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("ok    %d records in %d partitions came back exactly\n", *records, partitions)
}

// connection is how to reach the brokers, by what the environment says.
func connection(brokers []string) ([]kgo.Opt, error) {
	// A broker that is killed at the first request of a connection looks to the client as one that wants SASL.
	opts := []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.AlwaysRetryEOF()}
	if file := os.Getenv("BALSA_TLS_CA"); file != "" {
		ca, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		c := &tls.Config{RootCAs: x509.NewCertPool()}
		c.RootCAs.AppendCertsFromPEM(ca)
		if cert := os.Getenv("BALSA_TLS_CLIENT_CERT"); cert != "" {
			pair, err := tls.LoadX509KeyPair(cert, os.Getenv("BALSA_TLS_CLIENT_KEY"))
			if err != nil {
				return nil, err
			}
			c.Certificates = append(c.Certificates, pair)
		}
		opts = append(opts, kgo.DialTLSConfig(c))
	}
	if user := os.Getenv("BALSA_USER"); user != "" {
		password, err := os.ReadFile(os.Getenv("BALSA_PASSWORD_FILE"))
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(scram.Auth{User: user, Pass: strings.TrimSpace(string(password))}.AsSha512Mechanism()))
	}
	return opts, nil
}

func run(ctx context.Context, connect []kgo.Opt, topic string, records int, replicas int16) error {
	producer, err := kgo.NewClient(slices.Concat(connect, []kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner())})...)
	if err != nil {
		return err
	}
	defer producer.Close()
	adm := kadm.NewClient(producer)
	if _, err := adm.CreateTopic(ctx, partitions, replicas, nil, topic); err != nil {
		return fmt.Errorf("create the topic: %w", err)
	}

	var written [partitions]int
	var failed atomic.Int64
	for i := range records {
		p := int32(i % partitions)
		r := &kgo.Record{Partition: p, Value: value(p, written[p])}
		written[p]++
		producer.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	if err := producer.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if n := failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d records were refused", n, records)
	}

	starts, err := adm.ListStartOffsets(ctx, topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return fmt.Errorf("list start offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return fmt.Errorf("list end offsets: %w", err)
	}
	for p := range int32(partitions) {
		start, _ := starts.Lookup(topic, p)
		end, _ := ends.Lookup(topic, p)
		if start.Offset != 0 || end.Offset != int64(written[p]) {
			return fmt.Errorf("partition %d goes from %d to %d, and %d records were written", p, start.Offset, end.Offset, written[p])
		}
	}

	consumer, err := kgo.NewClient(slices.Concat(connect, []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())})...)
	if err != nil {
		return err
	}
	defer consumer.Close()
	var read [partitions]int
	for got := 0; got < records; {
		fetches := consumer.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("after %d of %d records: %w", got, records, err)
		}
		for r := range fetches.RecordsAll() {
			n := read[r.Partition]
			if r.Offset != int64(n) || string(r.Value) != string(value(r.Partition, n)) {
				return fmt.Errorf("partition %d: offset %d holds %q, want %q at offset %d", r.Partition, r.Offset, r.Value, value(r.Partition, n), n)
			}
			read[r.Partition]++
			got++
		}
	}
	if _, err := adm.DeleteTopic(ctx, topic); err != nil {
		return fmt.Errorf("delete the topic: %w", err)
	}
	return nil
}

func value(partition int32, n int) []byte {
	return fmt.Appendf(nil, "record %d of partition %d", n, partition)
}
