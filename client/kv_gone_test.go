// A map whose topic is deleted, or made anew: no call may take that for a key that is not there.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

func TestKVTopicGone(t *testing.T) {
	b := brokertest.Start(t)
	ctx := soon(t)
	adm, err := client.NewAdmin(ctx, b.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	for _, anew := range []bool{false, true} {
		t.Run(fmt.Sprintf("made anew %v", anew), func(t *testing.T) {
			kv := createKV(t, b.Config(), nil)
			rev, err := kv.Put(ctx, "k", []byte("v"))
			if err != nil {
				t.Fatal(err)
			}
			w, err := kv.Watch(ctx, client.WatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := adm.DeleteTopic(ctx, "map"); err != nil {
				t.Fatal(err)
			}
			if anew {
				spec := client.TopicSpec{Name: "map", Partitions: 2, Configs: map[string]string{"cleanup.policy": "compact", client.ConditionalAppend: "true"}}
				for _, err := adm.CreateTopic(ctx, spec); err != nil; _, err = adm.CreateTopic(ctx, spec) {
					if ctx.Err() != nil {
						t.Fatal(err)
					}
				}
			}
			for _, x := range []struct {
				name string
				call func(context.Context) error
			}{
				{"Get", func(ctx context.Context) error { _, err := kv.Get(ctx, "k"); return err }},
				{"Get of a key that was not there", func(ctx context.Context) error { _, err := kv.Get(ctx, "none"); return err }},
				{"Put", func(ctx context.Context) error { _, err := kv.Put(ctx, "k", nil); return err }},
				{"Create", func(ctx context.Context) error { _, err := kv.Create(ctx, "new", nil); return err }},
				{"Update", func(ctx context.Context) error { _, err := kv.Update(ctx, "k", nil, rev); return err }},
				{"Delete", func(ctx context.Context) error { return kv.Delete(ctx, "k") }},
				{"DeleteRevision", func(ctx context.Context) error { return kv.DeleteRevision(ctx, "k", rev) }},
				{"Keys", func(ctx context.Context) error { _, err := kv.Keys(ctx, ""); return err }},
				{"List", func(ctx context.Context) error {
					for _, err := range kv.List(ctx, "") {
						return err
					}
					return nil
				}},
				{"Watch", func(ctx context.Context) error { _, err := kv.Watch(ctx, client.WatchOptions{}); return err }},
				{"Watch with Initial", func(ctx context.Context) error {
					_, err := kv.Watch(ctx, client.WatchOptions{Initial: true})
					return err
				}},
				{"Next", func(ctx context.Context) error { _, err := w.Next(ctx); return err }},
			} {
				err := x.call(ctx)
				if !errors.Is(err, client.ErrNoTopic) || errors.Is(err, client.ErrNotFound) || errors.Is(err, client.ErrUncertain) {
					t.Errorf("%s: %v", x.name, err)
				}
			}
			if anew {
				if _, err := client.OpenKV(ctx, client.KVConfig{Config: b.Config(), Topic: "map"}); err != nil {
					t.Errorf("opened anew: %v", err)
				}
			} else if _, err := client.OpenKV(ctx, client.KVConfig{Config: b.Config(), Topic: "map"}); !errors.Is(err, client.ErrNoTopic) || !errors.Is(err, client.ErrNotFound) {
				t.Errorf("opened: %v", err)
			}
		})
	}
}
