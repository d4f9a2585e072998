package broker

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
)

// Logs are synced many at once where the system can, and nothing asks for something else.
func TestSyncBatches(t *testing.T) {
	try, err := vfs.NewBatch(1)
	can := err == nil
	if can {
		err = try.Close()
	}
	if err != nil && !errors.Is(err, vfs.ErrNoBatch) {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		cfg  Config
		want bool
	}{
		{"by default", Config{}, can},
		{"--async-io=false", Config{DisableAsyncIO: true}, false},
		{"--direct-io=false", Config{DisableDirectIO: true}, false},
		{"another file system", Config{FS: vfs.NewMem(1)}, false},
	} {
		b := &Broker{cfg: c.cfg, log: slog.New(slog.DiscardHandler)}
		batches := b.syncBatches()
		if (batches != nil) != c.want {
			t.Errorf("%s: %v, want %v", c.what, batches != nil, c.want)
		}
		if batches == nil {
			continue
		}
		batch, err := batches(8)
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.Close(); err != nil {
			t.Error(err)
		}
	}
}
