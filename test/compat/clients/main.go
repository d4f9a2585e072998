// Command clients checks what two Go clients do against a cluster: sarama, in the protocol versions that programs pin, and kafka-go. Each makes
// topics, writes with every codec, reads back what it wrote, shares it among the members of a group, and asks for what admins ask for.
//
// It connects as the broker's command line does: BALSA_TLS_CA, BALSA_TLS_CLIENT_CERT, BALSA_USER and so on. With COMPAT_KILLS brokers are killed
// meanwhile: a producer without idempotence may repeat records then.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	partitions = 6
	// perPartition is how many records each codec gets there.
	perPartition = 200
	// generous bounds everything that is waited for.
	generous = 90 * time.Second
)

// connection is how to reach the brokers.
type connection struct {
	brokers        []string
	tls            *tls.Config // nil: no TLS
	user, password string      // SCRAM-SHA-512, if there is a user
	kills          bool        // brokers are killed meanwhile
}

func main() {
	brokers := flag.String("brokers", "localhost:9092", "addresses of brokers")
	flag.Parse()
	checks := map[string]func(*connection) error{"sarama": checkSarama, "kafka-go": checkKafkaGo}
	check := checks[flag.Arg(0)]
	if check == nil {
		fmt.Fprintln(os.Stderr, "which client? sarama or kafka-go")
		os.Exit(2)
	}
	c, err := connect(strings.Split(*brokers, ","))
	if err == nil {
		err = check(c)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL  %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

// connect reads the environment.
func connect(brokers []string) (*connection, error) {
	c := &connection{brokers: brokers, user: os.Getenv("BALSA_USER"), kills: os.Getenv("COMPAT_KILLS") != ""}
	if file := os.Getenv("BALSA_TLS_CA"); file != "" {
		ca, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		c.tls = &tls.Config{RootCAs: x509.NewCertPool()}
		c.tls.RootCAs.AppendCertsFromPEM(ca)
		if cert := os.Getenv("BALSA_TLS_CLIENT_CERT"); cert != "" {
			pair, err := tls.LoadX509KeyPair(cert, os.Getenv("BALSA_TLS_CLIENT_KEY"))
			if err != nil {
				return nil, err
			}
			c.tls.Certificates = append(c.tls.Certificates, pair)
		}
	}
	if c.user != "" {
		password, err := os.ReadFile(os.Getenv("BALSA_PASSWORD_FILE"))
		if err != nil {
			return nil, err
		}
		c.password = strings.TrimSpace(string(password))
	}
	return c, nil
}

// again does what a client leaves to its program to repeat, until it succeeds, if brokers are killed.
func (c *connection) again(do func() error) error {
	for deadline := time.Now().Add(generous); ; time.Sleep(200 * time.Millisecond) {
		if err := do(); err == nil || !c.kills || time.Now().After(deadline) {
			return err
		}
	}
}

// value is what is written as record n of a partition.
func value(partition, n int) string { return fmt.Sprintf("record %d of partition %d", n, partition) }

// log is what was read of a partition: values by offset.
type log []string

// verify says in which way a partition is not what was written to it: n records in order. repeats allows a record, or a run of them, to be there again,
// as after a retry of a producer without idempotence.
func (l log) verify(partition, n int, repeats bool) error {
	next := 0
	for offset, v := range l {
		switch {
		case next < n && v == value(partition, next):
			next++
		case repeats && slices.Contains(l[:offset], v):
		default:
			return fmt.Errorf("partition %d: offset %d holds %q, want %q", partition, offset, v, value(partition, next))
		}
	}
	if next != n {
		return fmt.Errorf("partition %d: %d of %d records", partition, next, n)
	}
	return nil
}
