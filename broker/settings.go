// What a replica obeys of its topic's configs, and what of it is done from time to time.

package broker

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
)

// setDefaults takes the topic configs that were set dynamically for this broker, or for all. The map is the reconciler's from then on.
func (r *reconciler) setDefaults(configs map[string]string) {
	r.defaults.Store(&configs)
	r.poke()
}

// settingsOf is the part of a topic's configs that its replicas obey; what the topic does not say, defaults may, which were set for this broker or for
// all. Both were checked when they were set; what a newer broker may have let in and this one cannot read stays at its default.
func (r *reconciler) settingsOf(t *coordinator.Topic, i int32, defaults *map[string]string) (s partition.Settings) {
	configs := t.Configs
	if defaults != nil && len(*defaults) > 0 {
		configs = maps.Clone(*defaults)
		maps.Copy(configs, t.Configs)
	}
	text := func(name string) string { return topicText(configs, name) }
	number := func(name string, max int64) int64 {
		v, err := strconv.ParseInt(text(name), 10, 64)
		if err != nil || v < 0 || v > max {
			return 0
		}
		return v
	}
	ms := func(name string) time.Duration {
		v := number(name, 1<<63-1)
		switch {
		case v > int64((1<<63-1)/time.Millisecond):
			return -1 // unbounded
		case v == 0 && text(name) == "0":
			return 1 // no time at all; a zero would stand for the default
		}
		return time.Duration(v) * time.Millisecond
	}
	s.ProducerExpiry = time.Duration(r.expiry.Load())
	if s.MaxMessageBytes = int(number("max.message.bytes", partition.MaxBatchBytes)); text("max.message.bytes") == "0" {
		s.MaxMessageBytes = 1 // less than any batch has; a zero would stand for the default
	}
	if text("message.timestamp.type") == "LogAppendTime" {
		s.TimestampType = partition.LogAppendTime
	}
	s.TimestampBefore = ms("message.timestamp.before.max.ms")
	s.TimestampAfter = ms("message.timestamp.after.max.ms")
	if t.Internal() {
		// Whatever is the default for all: what a coordinator writes it writes now, and could not go on if that were refused.
		s.TimestampBefore, s.TimestampAfter = -1, -1
		s.MaxMessageBytes = max(s.MaxMessageBytes, partition.DefaultMaxMessageBytes)
	}
	s.Compression = compressionOf(configs)
	s.Compact, s.Conditional = compacts(text("cleanup.policy")), coordinator.Conditional(t.Configs)
	s.Compaction = partition.Compaction{MinLag: ms("min.compaction.lag.ms"), MaxLag: ms("max.compaction.lag.ms"), DeleteRetention: ms("delete.retention.ms")}
	if text("min.compaction.lag.ms") == "0" {
		s.Compaction.MinLag = 0 // no lag, which here is the default; 1 ns would keep what bears a time yet to come
	}
	if f, err := parseDouble(text("min.cleanable.dirty.ratio")); err == nil {
		if s.Compaction.MinDirtyRatio = f; f == 0 {
			s.Compaction.MinDirtyRatio = -1 // a zero would stand for the default
		}
	}
	s.Relaxed = coordinator.Relaxed(t.Configs) && !t.Internal()
	s.SegmentBytes = number("segment.bytes", 1<<31-1)
	s.SegmentAge, s.SegmentJitter = ms("segment.ms"), ms("segment.jitter.ms")
	s.RetentionAge, s.RetentionBytes = ms("retention.ms"), number("retention.bytes", 1<<63-1)
	switch {
	case !deletes(configs):
		s.RetentionAge, s.RetentionBytes = -1, -1
	case text("retention.bytes") == "0":
		s.RetentionBytes = 1 // a zero would stand for the default
	}
	if text("retention.ms") == "-1" {
		s.RetentionAge = -1
	}
	s.MinInsync = int(number("min.insync.replicas", coordinator.MaxReplicationFactor))
	s.Throttled = throttled(configs, r.self.ID, i, &t.Partitions[i])
	s.QuorumReads = r.quorum
	if v := text(readConsistency); v != "" {
		s.QuorumReads = v == ReadQuorum
	}
	return s
}

// compressionOf is compression.type and what goes with it.
func compressionOf(configs map[string]string) (c partition.Recompression) {
	codecs := map[string]protocol.Codec{"uncompressed": protocol.CodecNone, "gzip": protocol.CodecGzip, "snappy": protocol.CodecSnappy,
		"lz4": protocol.CodecLZ4, "zstd": protocol.CodecZstd}
	name := topicText(configs, "compression.type")
	if c.Codec, c.Enabled = codecs[name]; c.Enabled {
		if level, err := strconv.Atoi(topicText(configs, "compression."+name+".level")); err == nil {
			c.Level = level
		}
	}
	return c
}

// deletes reports that cleanup.policy lets old records be dropped: it is not set, or says so. An empty list keeps all that there is.
func deletes(configs map[string]string) bool {
	policy, set := configs["cleanup.policy"]
	return !set || hasPolicy(policy, "delete")
}

// compacts reports that it keeps the newest record of each key.
func compacts(policy string) bool { return hasPolicy(policy, "compact") }

func hasPolicy(policies, one string) bool {
	for v := range strings.SplitSeq(policies, ",") {
		if strings.TrimSpace(v) == one {
			return true
		}
	}
	return false
}

// setInterval changes how often housekeeping looks. It is asked for by one goroutine.
func (r *reconciler) setInterval(d time.Duration) {
	r.interval.Store(int64(d))
	select {
	case r.retimed <- struct{}{}:
	default:
	}
}

// setExpiry changes how long idle producers are remembered. It is asked for by one goroutine, that of setDefaults.
func (r *reconciler) setExpiry(d time.Duration) {
	r.expiry.Store(int64(d))
	defaults := make(map[string]string) // another map is what replicas notice
	if p := r.defaults.Load(); p != nil {
		maps.Copy(defaults, *p)
	}
	r.setDefaults(defaults)
}

// housekeeping lets each replica do what time has made due, one after the other, at every interval.
func (r *reconciler) housekeeping(ctx context.Context) {
	ticker := time.NewTicker(time.Duration(r.interval.Load()))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.retimed:
			ticker.Reset(time.Duration(r.interval.Load()))
			continue
		case <-ticker.C:
		}
		for _, rep := range r.replicas() {
			if ctx.Err() != nil {
				return
			}
			rep.Housekeep()
		}
	}
}
