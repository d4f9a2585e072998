// Config: the settings of a service in a compacted topic, which is a map that can be watched.
//
//	operators ──Put, compare-and-set──▶ settings ──watch──▶ instances
//
// Three instances of a service know their settings, and are told of each change within moments. Two operators change the same setting at the same time,
// and neither overwrites what the other has done. One of the instances is the leader, because it created a key first. On its own cluster the example
// kills a broker in the middle of that.
//
//	go run ./examples/config
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/examples/internal/demo"
)

const (
	instances = 3
	changes   = 40 // of the same setting, by each operator
	killAfter = 20 // of all those
	prefix    = "mail/"
)

var operators = []string{"ann", "bob"}

func main() {
	demo.Main(demo.Example{Name: "config", What: "Settings in a map that is watched: compare-and-set, a lock, a broker that dies.", Brokers: 3, Run: run})
}

func run(ctx context.Context, d *demo.Demo) (err error) {
	kv, err := client.CreateKV(ctx, client.KVConfig{Config: d.Config, Topic: d.Name("settings"), Partitions: 3})
	if err != nil {
		return err
	}
	defer kv.Close()
	for key, value := range map[string]string{"mail/server": "smtp.example:25", "mail/from": "us@example", "web/title": "Hello"} {
		if _, err := kv.Put(ctx, key, []byte(value)); err != nil {
			return err
		}
	}
	d.Say("Three settings are written, two of them for the mail service.")

	// The instances, each with a watch of its own.
	serving, stop := context.WithCancel(ctx)
	g, serving := errgroup.WithContext(serving)
	defer func() {
		stop()
		if werr := g.Wait(); err == nil && !errors.Is(werr, context.Canceled) {
			err = werr
		}
	}()
	services := make([]*instance, instances)
	for i := range services {
		s := &instance{settings: make(map[string]string)}
		services[i] = s
		w, err := kv.Watch(serving, client.WatchOptions{Prefix: prefix, Initial: true})
		if err != nil {
			return err
		}
		g.Go(func() error {
			defer w.Close()
			return s.follow(serving, w)
		})
	}
	steps := []func(context.Context, *demo.Demo, *client.KV, []*instance) error{change, elect, both}
	for _, step := range steps {
		if err := step(ctx, d, kv, services); err != nil {
			return err
		}
		if _, err := agree(serving, kv, services); err != nil {
			return err
		}
	}
	d.Say("Right: no change was lost, and all instances have the settings that the map has.")
	return nil
}

// instance is one of the service: it has its settings in memory, and is told when they change.
type instance struct {
	mu       sync.Mutex // guards settings
	settings map[string]string
}

func (s *instance) follow(ctx context.Context, w *client.KVWatch) error {
	for {
		e, err := w.Next(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		if e.Deleted {
			delete(s.settings, e.Key)
		} else {
			s.settings[e.Key] = string(e.Value)
		}
		s.mu.Unlock()
	}
}

func (s *instance) snapshot() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.settings)
}

// agree waits until all instances have what the map has, and returns it.
func agree(ctx context.Context, kv *client.KV, services []*instance) (map[string]string, error) {
	want := make(map[string]string)
	for e, err := range kv.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		want[e.Key] = string(e.Value)
	}
	for i, s := range services {
		for !maps.Equal(s.snapshot(), want) {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return nil, fmt.Errorf("instance %d has %v, the map %v: %w", i+1, s.snapshot(), want, context.Cause(ctx))
			}
		}
	}
	return want, nil
}

// change changes a setting and deletes another one.
func change(ctx context.Context, d *demo.Demo, kv *client.KV, services []*instance) error {
	if _, err := agree(ctx, kv, services); err != nil {
		return err
	}
	began := time.Now()
	if _, err := kv.Put(ctx, "mail/server", []byte("backup.example:25")); err != nil {
		return err
	}
	if err := kv.Delete(ctx, "mail/from"); err != nil {
		return err
	}
	has, err := agree(ctx, kv, services)
	if err != nil {
		return err
	}
	d.Say("mail/server is changed and mail/from deleted: %.1f ms later all %d instances knew.", float64(time.Since(began).Microseconds())/1000, len(services))
	if len(has) != 1 || has["mail/server"] != "backup.example:25" {
		return fmt.Errorf("the mail service's settings are %v", has)
	}
	return nil
}

// elect makes one instance the leader: who creates the key first.
func elect(ctx context.Context, d *demo.Demo, kv *client.KV, services []*instance) error {
	var leaders []string
	var mu sync.Mutex // guards leaders
	var g errgroup.Group
	for i := range services {
		me := fmt.Sprint("instance-", i+1)
		g.Go(func() error {
			_, err := kv.Create(ctx, "mail/leader", []byte(me))
			if errors.Is(err, client.ErrExists) {
				return nil // somebody else is
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				leaders = append(leaders, me)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	e, err := kv.Get(ctx, "mail/leader")
	if err != nil {
		return err
	}
	if !slices.Equal(leaders, []string{string(e.Value)}) {
		return fmt.Errorf("%v say that they lead, the map says %s", leaders, e.Value)
	}
	d.Say("All of them would like to lead: %s does, since it created mail/leader first.", e.Value)
	return nil
}

// quota is a setting that operators count up: with it goes which change of each of them it has, so that who does not know whether a change has
// come through can look.
type quota struct {
	Mails   int            `json:"mails"`
	Changes map[string]int `json:"changes"`
}

// both lets two operators change the same setting at the same time.
func both(ctx context.Context, d *demo.Demo, kv *client.KV, _ []*instance) error {
	const key = prefix + "quota"
	var conflicts, made atomic.Int64
	kill := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	for _, me := range operators {
		g.Go(func() error {
			for nth := 1; nth <= changes; nth++ {
				tries, err := increase(ctx, kv, key, me, nth)
				if err != nil {
					return err
				}
				conflicts.Add(int64(tries - 1))
				if made.Add(1) == killAfter {
					close(kill)
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		if d.Own == nil {
			return nil // not on somebody else's cluster
		}
		select {
		case <-kill:
		case <-ctx.Done():
			return nil
		}
		leader, err := d.Own.Leader(ctx, d.Name("settings"), 0)
		if err != nil {
			return err
		}
		leader.Kill()
		d.Say("Broker %d is killed in the middle of their changes.", leader.ID())
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	e, err := kv.Get(context.WithoutCancel(ctx), key)
	if err != nil {
		return err
	}
	var q quota
	if err := json.Unmarshal(e.Value, &q); err != nil {
		return err
	}
	d.Say("%s have increased %s %d times each, at the same time: it is %d. They got in each other's way %d times, and tried again.",
		strings.Join(operators, " and "), key, changes, q.Mails, conflicts.Load())
	if q.Mails != changes*len(operators) {
		return fmt.Errorf("%s is %d after %d changes", key, q.Mails, changes*len(operators))
	}
	return nil
}

// increase adds one to the quota, as the nth change of an operator: it reads, changes, and writes if nobody else has written meanwhile.
func increase(ctx context.Context, kv *client.KV, key, me string, nth int) (tries int, err error) {
	for tries = 1; ; tries++ {
		q := quota{Changes: make(map[string]int)}
		e, err := kv.Get(ctx, key)
		exists := err == nil
		if exists {
			err = json.Unmarshal(e.Value, &q)
		}
		if err != nil && !errors.Is(err, client.ErrNotFound) {
			return tries, err
		}
		if q.Changes[me] == nth {
			return tries, nil // the last try has come through, though it could not tell
		}
		q.Mails++
		q.Changes[me] = nth
		value, err := json.Marshal(q)
		if err != nil {
			return tries, err
		}
		if exists {
			_, err = kv.Update(ctx, key, value, e.Revision)
		} else {
			_, err = kv.Create(ctx, key, value)
		}
		switch {
		case err == nil:
			return tries, nil
		case errors.Is(err, client.ErrConflict): // somebody was faster
		case errors.Is(err, client.ErrUncertain) && ctx.Err() == nil: // look
		default:
			return tries, err
		}
	}
}
