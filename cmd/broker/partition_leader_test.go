// Leadership by hand, against brokers in this process.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

// realCluster is three brokers in this process, with admin listeners; it returns their addresses for clients.
func realCluster(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var kafka, join []string
	for i := range 3 {
		b, err := broker.Start(ctx, broker.Config{DataDir: filepath.Join(t.TempDir(), fmt.Sprint(i)), Listen: "127.0.0.1:0", ListenRPC: "127.0.0.1:0",
			AdminListen: "127.0.0.1:0", Join: join, CloseTimeout: -1, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		kafka, join = append(kafka, b.KafkaAddr()), []string{b.RPCAddr()}
	}
	return strings.Join(kafka, ",")
}

func TestPartitionLeader(t *testing.T) {
	if testing.Short() {
		t.Skip("runs three brokers")
	}
	c := newCLI(t)
	c.env["BALSA_BROKERS"] = realCluster(t)
	c.must("topic", "create", "orders", "-p", "3", "-r", "3")
	describe := func() []client.Partition {
		t.Helper()
		var topic client.Topic
		if err := json.Unmarshal([]byte(c.must("topic", "describe", "orders", "-o", "json")), &topic); err != nil {
			t.Fatal(err)
		}
		return topic.Partitions
	}
	preferred := describe()[0].Replicas[0]
	other := describe()[0].Replicas[1]
	transfer := func(to int32) client.LeaderMoved {
		t.Helper()
		var moved client.LeaderMoved
		deadline := time.Now().Add(30 * time.Second)
		for { // a replica that is not caught up yet is refused
			code, out, errText := c.run("partition", "transfer-leader", "orders/0", "--to", fmt.Sprint(to), "-o", "json")
			if code == exitOK {
				if err := json.Unmarshal([]byte(out), &moved); err != nil {
					t.Fatal(err)
				}
				return moved
			}
			if time.Now().After(deadline) {
				t.Fatal(errText)
			}
		}
	}
	// A broker that is not heard from just now is refused, which a machine under load makes of any.
	again := func(args ...string) string {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for {
			code, out, errText := c.run(args...)
			if code == exitOK {
				return out
			}
			if time.Now().After(deadline) {
				t.Fatal(errText)
			}
		}
	}
	transfer(preferred)
	if m := transfer(other); m.Leader != other || m.From != preferred {
		t.Fatalf("%+v", m)
	}
	if l := describe()[0].Leader; l != other {
		t.Fatalf("broker %d leads, not %d", l, other)
	}
	if out := c.must("partition", "transfer-leader", "orders/0", "--to", fmt.Sprint(other)); !strings.Contains(out, "led already") {
		t.Errorf("%q", out)
	}
	if out := c.must("partition", "elect-preferred", "orders/1"); out != "no leadership moved\n" {
		t.Errorf("%q", out)
	}
	if out := again("partition", "elect-preferred", "orders/0"); out != "1 partition is led by its preferred replica again\n" {
		t.Errorf("%q", out)
	}
	if l := describe()[0].Leader; l != preferred {
		t.Fatalf("broker %d leads, not %d", l, preferred)
	}
	if out := c.must("partition", "transfer-leader", "orders/0"); !strings.Contains(out, "leads, before it was") {
		t.Errorf("%q", out)
	}
	var elected []client.Election
	if err := json.Unmarshal([]byte(again("partition", "elect-preferred", "-o", "json")), &elected); err != nil || len(elected) == 0 || elected[0].Topic != "orders" || elected[0].Error != "" {
		t.Errorf("%+v, %v", elected, err)
	}
	if out := c.must("partition", "elect-preferred", "orders"); out != "no leadership moved\n" {
		t.Errorf("%q", out)
	}
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"topic", "trim", "orders", "-p", "9", "--before", "end"}, exitNotFound, "partition orders/9 does not exist: topic orders has partitions 0 to 2"},
		{[]string{"topic", "create", "x", "--partitions", "0"}, exitUsage, "--partitions 0"},
		{[]string{"topic", "list", "--timeout", "0s"}, exitUsage, "--timeout 0s"},
		{[]string{"cluster", "remove", "9"}, exitNotFound, "there is no broker 9"},
		{[]string{"cluster", "remove", "2"}, exitFailure, "--shrink"},
	} {
		if code, _, errText := c.run(tc.args...); code != tc.code || !strings.Contains(errText, tc.says) || !strings.Contains(errText, "mend:") {
			t.Errorf("%v: exit code %d, want %d\n%s", tc.args, code, tc.code, errText)
		}
	}
	for _, tc := range []struct {
		args []string
		code int
	}{
		{[]string{"transfer-leader", "orders"}, exitUsage},
		{[]string{"transfer-leader", "orders/-1"}, exitUsage},
		{[]string{"transfer-leader", "orders/0", "--to", "-1"}, exitUsage},
		{[]string{"transfer-leader", "orders/9"}, exitNotFound},
		{[]string{"elect-preferred", "orders/9"}, exitNotFound},
		{[]string{"move", "orders/9", "--to", "1"}, exitNotFound},
		{[]string{"cancel", "orders/9"}, exitNotFound},
		{[]string{"status", "orders/9"}, exitNotFound},
		{[]string{"status", "nothing"}, exitNotFound},
		{[]string{"status", "a", "b"}, exitUsage},
		{[]string{"transfer-leader", "orders/0", "--to", "99"}, exitFailure},
		{[]string{"elect-preferred", "nothing"}, exitNotFound},
		{[]string{"elect-preferred", "a", "b"}, exitUsage},
	} {
		code, _, errText := c.run(append([]string{"partition"}, tc.args...)...)
		if code != tc.code || !strings.Contains(errText, "mend:") || slices.Contains(tc.args, "orders/9") && !strings.Contains(errText, "partition orders/9 does not exist: ") {
			t.Errorf("%v: exit code %d, want %d\n%s", tc.args, code, tc.code, errText)
		}
	}
}
