package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// exampleKV is a map on a broker of its own. A program has just client.CreateKV(ctx, client.KVConfig{Topic: "settings"}).
func exampleKV(ctx context.Context) (*client.KV, func()) {
	c, err := brokertest.New(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	kv, err := client.CreateKV(ctx, client.KVConfig{Config: c.Config(), Topic: "settings", Partitions: 1})
	if err != nil {
		log.Fatal(err)
	}
	return kv, func() { kv.Close(); c.Close() }
}

// A compacted topic as a map. Each key has a revision, which grows with each write.
func ExampleKV() {
	ctx := context.Background()
	kv, done := exampleKV(ctx)
	defer done()

	if _, err := kv.Put(ctx, "mode", []byte("green")); err != nil {
		log.Fatal(err)
	}
	e, err := kv.Get(ctx, "mode") // sees every write that was acknowledged before, by whomever
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is %s\n", e.Key, e.Value)

	if err := kv.Delete(ctx, "mode"); err != nil {
		log.Fatal(err)
	}
	if _, err := kv.Get(ctx, "mode"); errors.Is(err, client.ErrNotFound) {
		fmt.Println("mode is not set")
	}
	// Output:
	// mode is green
	// mode is not set
}

// Whoever creates the key first has it.
func ExampleKV_Create() {
	ctx := context.Background()
	kv, done := exampleKV(ctx)
	defer done()

	for _, worker := range []string{"worker-1", "worker-2"} {
		switch _, err := kv.Create(ctx, "jobs/nightly", []byte(worker)); {
		case err == nil:
			fmt.Println(worker, "has the job")
		case errors.Is(err, client.ErrExists):
			fmt.Println(worker, "comes too late")
		case errors.Is(err, client.ErrUncertain):
			// It may have it: look with Get whose name is there.
		default:
			log.Fatal(err)
		}
	}
	// Output:
	// worker-1 has the job
	// worker-2 comes too late
}

// Compare-and-set: read, change, write if nobody else has written meanwhile, else once more.
func ExampleKV_Update() {
	ctx := context.Background()
	kv, done := exampleKV(ctx)
	defer done()

	increment := func() error {
		for {
			e, err := kv.Get(ctx, "count")
			switch {
			case errors.Is(err, client.ErrNotFound):
				_, err = kv.Create(ctx, "count", []byte("1"))
			case err == nil:
				var n int
				fmt.Sscan(string(e.Value), &n)
				_, err = kv.Update(ctx, "count", fmt.Append(nil, n+1), e.Revision)
			}
			if !errors.Is(err, client.ErrConflict) {
				return err
			}
		}
	}
	for range 3 {
		if err := increment(); err != nil {
			log.Fatal(err)
		}
	}
	e, _ := kv.Get(ctx, "count")
	fmt.Printf("%s\n", e.Value)
	// Output: 3
}

// What is there, and then what happens.
func ExampleKV_Watch() {
	ctx := context.Background()
	kv, done := exampleKV(ctx)
	defer done()

	kv.Put(ctx, "feature/search", []byte("off"))
	w, err := kv.Watch(ctx, client.WatchOptions{Prefix: "feature/", Initial: true})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	kv.Put(ctx, "feature/search", []byte("on"))
	kv.Delete(ctx, "feature/search")

	for range 3 {
		e, err := w.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %q deleted=%v initial=%v\n", e.Key, e.Value, e.Deleted, e.Initial)
	}
	// Output:
	// feature/search "off" deleted=false initial=true
	// feature/search "on" deleted=false initial=false
	// feature/search "" deleted=true initial=false
}

// The keys that begin with a prefix, in order.
func ExampleKV_List() {
	ctx := context.Background()
	kv, done := exampleKV(ctx)
	defer done()

	for _, key := range []string{"eu/paris", "us/boston", "eu/berlin"} {
		kv.Put(ctx, key, []byte("up"))
	}
	for e, err := range kv.List(ctx, "eu/") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s is %s\n", e.Key, e.Value)
	}
	// Output:
	// eu/berlin is up
	// eu/paris is up
}
