// The map against real brokers: what each call does and reports.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

func soon(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

func createKV(t *testing.T, cfg client.Config, change func(*client.KVConfig)) *client.KV {
	t.Helper()
	c := client.KVConfig{Config: cfg, Topic: "map", Partitions: 2}
	if change != nil {
		change(&c)
	}
	kv, err := client.CreateKV(soon(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kv.Close)
	return kv
}

func conflictOf(t *testing.T, what string, err error, current int64) {
	t.Helper()
	c, ok := errors.AsType[*client.ConflictError](err)
	if !ok || !errors.Is(err, client.ErrConflict) || c.Current != current {
		t.Errorf("%s: %v, want a conflict with revision %d", what, err, current)
	}
}

func TestKV(t *testing.T) {
	b := brokertest.Start(t)
	kv := createKV(t, b.Config(), nil)
	ctx := soon(t)
	if _, err := kv.Get(ctx, "a"); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("a key that was never written: %v", err)
	}
	first, err := kv.Create(ctx, "a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(ctx, "a"); err != nil || string(e.Value) != "1" || e.Revision != first || e.Key != "a" || e.Time.IsZero() {
		t.Fatalf("%+v %v", e, err)
	}
	_, err = kv.Create(ctx, "a", []byte("2"))
	if !errors.Is(err, client.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	conflictOf(t, "create again", err, first)
	second, err := kv.Update(ctx, "a", []byte("2"), first)
	if err != nil || second <= first {
		t.Fatalf("%d after %d, %v", second, first, err)
	}
	_, err = kv.Update(ctx, "a", []byte("3"), first)
	if errors.Is(err, client.ErrExists) {
		t.Errorf("an update's conflict: %v", err)
	}
	conflictOf(t, "an old revision", err, second)
	conflictOf(t, "delete an old revision", kv.DeleteRevision(ctx, "a", first), second)
	_, err = kv.Update(ctx, "b", nil, 0)
	conflictOf(t, "update what is not there", err, client.NoRevision)
	if err := kv.DeleteRevision(ctx, "a", second); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(ctx, "a"); !errors.Is(err, client.ErrNotFound) {
		t.Fatalf("deleted: %v", err)
	}
	_, err = kv.Update(ctx, "a", nil, second+1)
	conflictOf(t, "update by a tombstone's offset", err, client.NoRevision)
	if third, err := kv.Create(ctx, "a", nil); err != nil || third <= second {
		t.Fatalf("create what was deleted: %d %v", third, err)
	}
	if e, err := kv.Get(ctx, "a"); err != nil || len(e.Value) != 0 {
		t.Fatalf("an empty value: %+v %v", e, err)
	}
	if err := kv.Delete(ctx, "never"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	for _, key := range []string{"", strings.Repeat("k", client.MaxKVKey+1)} {
		if _, err := kv.Get(ctx, key); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("a key of %d bytes: %v", len(key), err)
		}
	}
	big := strings.Repeat("k", client.MaxKVKey)
	if _, err := kv.Put(ctx, big, []byte("v")); err != nil {
		t.Error(err)
	}
	if e, err := kv.Get(ctx, big); err != nil || string(e.Value) != "v" {
		t.Errorf("the longest key: %v", err)
	}
	if _, err := kv.Put(ctx, "huge", make([]byte, 2<<20)); !errors.Is(err, client.ErrInvalid) || errors.Is(err, client.ErrUncertain) {
		t.Errorf("a value that is too large: %v", err)
	}
	if _, err := kv.Put(ctx, "large", make([]byte, 900_000)); err != nil {
		t.Errorf("a large value: %v", err)
	}
}

func TestKVOpen(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("plain", 1, "cleanup.policy", "compact"))
	ctx := soon(t)
	if _, err := client.OpenKV(ctx, client.KVConfig{Config: b.Config(), Topic: "nope"}); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("no topic: %v", err)
	}
	if _, err := client.OpenKV(ctx, client.KVConfig{Config: b.Config(), Topic: "plain"}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a topic without the config: %v", err)
	}
	kv := createKV(t, b.Config(), nil)
	again := createKV(t, b.Config(), nil) // which opens it
	if _, err := kv.Put(ctx, "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if e, err := again.Get(ctx, "k"); err != nil || string(e.Value) != "v" {
		t.Errorf("%+v %v", e, err)
	}
	adm, err := client.NewAdmin(ctx, b.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	for _, spec := range []client.TopicSpec{
		{Name: "x", Configs: map[string]string{client.ConditionalAppend: "true"}},
		{Name: "x", Configs: map[string]string{client.ConditionalAppend: "yes", "cleanup.policy": "compact"}},
	} {
		if _, err := adm.CreateTopic(ctx, spec); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("create with %v: %v", spec.Configs, err)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := kv.Put(gone, "k", nil); !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrUncertain) {
		t.Errorf("a context that has ended before: %v", err)
	}
	again.Close()
	if _, err := again.Get(ctx, "k"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestKVListAndWatch(t *testing.T) {
	b := brokertest.Start(t)
	kv := createKV(t, b.Config(), nil)
	ctx := soon(t)
	put := func(key, value string) int64 {
		t.Helper()
		rev, err := kv.Put(ctx, key, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	for i := range 30 {
		put(fmt.Sprintf("x/%02d", i%10), fmt.Sprint(i))
	}
	put("y", "other")
	if err := kv.Delete(ctx, "x/03"); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for e, err := range kv.List(ctx, "x/") {
		if err != nil {
			t.Fatal(err)
		}
		if want := "2" + strings.TrimPrefix(e.Key, "x/0"); string(e.Value) != want {
			t.Errorf("%s has %s, want %s", e.Key, e.Value, want)
		}
		keys = append(keys, e.Key)
	}
	if got, err := kv.Keys(ctx, "x/"); err != nil || len(got) != 9 || !slices.Equal(got, keys) || slices.Contains(got, "x/03") {
		t.Errorf("%v %v, and by List %v", got, err, keys)
	}
	if got, err := kv.Keys(ctx, ""); err != nil || len(got) != 10 {
		t.Errorf("all keys: %v %v", got, err)
	}
	small := createKV(t, b.Config(), func(c *client.KVConfig) { c.MaxListBytes = 500 })
	if _, err := small.Keys(ctx, ""); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("more than may be held: %v", err)
	}

	now, err := kv.Watch(ctx, client.WatchOptions{Prefix: "x/"})
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	all, err := kv.Watch(ctx, client.WatchOptions{Initial: true})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	put("y", "unwatched")
	rev := put("x/00", "new")
	if err := kv.Delete(ctx, "x/00"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []client.KVEvent{{KVEntry: client.KVEntry{Key: "x/00", Value: []byte("new"), Revision: rev}}, {KVEntry: client.KVEntry{Key: "x/00"}, Deleted: true}} {
		e, err := now.Next(ctx)
		if err != nil || e.Key != want.Key || string(e.Value) != string(want.Value) || e.Deleted != want.Deleted || e.Initial || !e.Deleted && e.Revision != rev {
			t.Errorf("%+v %v, want %+v", e, err, want)
		}
	}
	var initial, later []string
	for len(later) < 3 {
		e, err := all.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Initial {
			initial = append(initial, e.Key)
		} else {
			later = append(later, e.Key)
		}
	}
	if len(initial) != 10 || !slices.IsSorted(initial) {
		t.Errorf("what was there: %v", initial)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := now.Next(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	now.Close()
	if _, err := now.Next(ctx); !errors.Is(err, client.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Any client can write on a condition: a header, and INVALID_RECORD where it fails. What was refused leaves no gap in the producer's sequence.
func TestExpectHeader(t *testing.T) {
	b := brokertest.Start(t)
	kv := createKV(t, b.Config(), func(c *client.KVConfig) { c.Partitions = 1 })
	ctx := soon(t)
	p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: "map"})
	write := func(key, value, expect string) (*kgo.Record, error) {
		r := &kgo.Record{Key: []byte(key), Value: []byte(value)}
		if expect != "" {
			r.Headers = []kgo.RecordHeader{{Key: client.ExpectHeader, Value: []byte(expect)}}
		}
		return r, p.Produce(ctx, r)
	}
	r, err := write("k", "1", "none")
	if err != nil {
		t.Fatal(err)
	}
	for _, expect := range []string{"none", "17", "-1", "", " 0", "00", "99999999999999999999"} {
		r := &kgo.Record{Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: client.ExpectHeader, Value: []byte(expect)}}}
		if err := p.Produce(ctx, r); !errors.Is(err, kerr.InvalidRecord) {
			t.Errorf("expect %q: %v", expect, err)
		}
	}
	for i := range 10 {
		if r, err = write("k", fmt.Sprint(i), fmt.Sprint(r.Offset)); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := kv.Get(ctx, "k"); err != nil || string(e.Value) != "9" || e.Revision != r.Offset {
		t.Errorf("%+v %v", e, err)
	}
}

// Opening takes DESCRIBE_CONFIGS on the topic, reading a key READ, writing WRITE; what is said of an end takes DESCRIBE, and is no key.
func TestKVPermissions(t *testing.T) {
	b := brokertest.Start(t, brokertest.Secure())
	ctx := soon(t)
	kv := createKV(t, b.Config(), nil)
	rev, err := kv.Put(ctx, "k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	adm, err := client.NewAdmin(ctx, b.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	for name, ops := range map[string][]string{"reader": {"read", "describe_configs"}, "writer": {"write", "describe_configs"}, "blind": {"read", "write"}} {
		if err := adm.CreateUser(ctx, name, "a good password"); err != nil {
			t.Fatal(err)
		}
		for _, op := range ops {
			acl := client.ACL{Resource: "topic", Name: "map", Pattern: "literal", Principal: "User:" + name, Host: "*", Operation: op, Permission: "allow"}
			if err := adm.CreateACLs(ctx, acl); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := client.OpenKV(ctx, client.KVConfig{Config: b.Cluster().ConfigFor("blind", "a good password"), Topic: "map"}); !errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), "DescribeConfigs") {
		t.Errorf("opened without the right to describe the topic's configs: %v", err)
	}
	as := func(name string) *client.KV {
		kv, err := client.OpenKV(ctx, client.KVConfig{Config: b.Cluster().ConfigFor(name, "a good password"), Topic: "map"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(kv.Close)
		return kv
	}
	reader, writer := as("reader"), as("writer")
	if e, err := reader.Get(ctx, "k"); err != nil || string(e.Value) != "v" {
		t.Errorf("read: %+v %v", e, err)
	}
	if _, err := writer.Get(ctx, "k"); !errors.Is(err, client.ErrDenied) {
		t.Errorf("read without the right: %v", err)
	}
	if _, err := writer.Update(ctx, "k", nil, rev); err != nil {
		t.Errorf("write: %v", err)
	}
	if err := reader.Delete(ctx, "k"); !errors.Is(err, client.ErrDenied) {
		t.Errorf("write without the right: %v", err)
	}
}

// A map is read and watched, and a topic read to its end, at once after the death of a leader: the metadata names it for some time still.
func TestReadWhileALeaderDies(t *testing.T) {
	c := brokertest.Cluster(t, 3)
	kv := createKV(t, c.Config(), nil)
	ctx := soon(t)
	var want []string
	for i := range 20 {
		key := fmt.Sprintf("k%02d", i)
		want = append(want, key)
		if _, err := kv.Put(ctx, key, []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	leader, err := c.Leader(ctx, "map", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // each time with connections that have been in use
		leader.Kill()
		if keys, err := kv.Keys(ctx, ""); err != nil || !slices.Equal(keys, want) {
			t.Fatalf("%q, %v", keys, err)
		}
		w, err := kv.Watch(ctx, client.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		if got := drainAll(t, client.ConsumerConfig{Config: c.Config(), Topics: []string{"map"}}); len(got) != len(want) {
			t.Fatalf("%d records, not %d", len(got), len(want))
		}
		if err := leader.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		if leader, err = c.Leader(ctx, "map", 0); err != nil {
			t.Fatal(err)
		}
	}
}
