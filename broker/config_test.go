package broker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
)

func TestConfigDefaultsAreValid(t *testing.T) {
	if err := (Config{DataDir: "d"}).Validate(); err != nil {
		t.Fatal(err)
	}
	if err := (Config{DataDir: "d", ElectionTimeout: 200 * time.Millisecond}).Validate(); err != nil {
		t.Fatalf("times that follow the election timeout: %v", err)
	}
}

// Each mistake is named together with its field.
func TestConfigMistakes(t *testing.T) {
	for field, c := range map[string]Config{
		"DataDir":           {},
		"Listen ":           {Listen: "host:port"},
		"everywhere":        {Listen: ":9092"},
		"ListenRPC":         {ListenRPC: "0.0.0.0:1"},
		"advertised":        {Advertise: "0.0.0.0:1"},
		"Join":              {Join: []string{"host"}},
		"NodeID":            {NodeID: -1},
		"ReplaceDisk":       {NodeID: 3, ReplaceDisk: "not hexadecimal"},
		"ElectionTimeout":   {ElectionTimeout: time.Second, HeartbeatInterval: time.Second},
		"ClockDrift":        {ClockDrift: time.Hour},
		"half of":           {ElectionTimeout: time.Second, ClockDrift: 501 * time.Millisecond},
		"ReadConsistency":   {ReadConsistency: "fast"},
		"SessionTimeout":    {SessionTimeout: time.Millisecond},
		"Partitions":        {Partitions: -1},
		"ReplicationFactor": {ReplicationFactor: 99},
		"MaxRequestBytes":   {MaxRequestBytes: 1},
		"SegmentBytes":      {SegmentBytes: 1},
		"OpenParallel":      {OpenParallel: -1},
		"HardStates":        {FS: vfs.NewMem(1)},
	} {
		if field != "DataDir" {
			c.DataDir = "d"
		}
		err := c.Validate()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := (Config{DataDir: "d", Listen: ":9092", Advertise: "h", ListenRPC: "0.0.0.0:1", AdvertiseRPC: "h:5"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestAdvertised(t *testing.T) {
	for _, c := range []struct {
		want, bound, host string
		port              int
	}{
		{"", "127.0.0.1:5", "127.0.0.1", 5}, {"", "[::1]:5", "::1", 5}, {"h", "0.0.0.0:5", "h", 5}, {"h:7", "0.0.0.0:5", "h", 7}, {"h:0", "0.0.0.0:5", "h", 5},
	} {
		if h, p := advertised(c.want, c.bound); h != c.host || p != c.port {
			t.Errorf("%q on %q: %s:%d", c.want, c.bound, h, p)
		}
	}
}
