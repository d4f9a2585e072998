// The part of a topic's configuration that its replicas obey, changeable while they run.

package partition

import (
	"fmt"
	"time"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// TimestampType is message.timestamp.type.
type TimestampType int8

const (
	// CreateTime keeps the producer's timestamps.
	CreateTime TimestampType = 0
	// LogAppendTime replaces the batch's maximum timestamp by the leader's clock at the append.
	LogAppendTime TimestampType = 1
)

// Settings are a topic's settings as far as a replica obeys them. Zero values of fields stand for the defaults.
type Settings struct {
	// MaxMessageBytes is max.message.bytes: of a batch as it arrives, header included. Default 1 MiB + 12 bytes,
	// at most [MaxBatchBytes].
	MaxMessageBytes int
	// TimestampType is message.timestamp.type.
	TimestampType TimestampType
	// TimestampBefore and TimestampAfter are message.timestamp.before.max.ms and .after.max.ms; only CreateTime is
	// checked. Defaults: unbounded, one hour (Kafka 4). Negative: unbounded.
	TimestampBefore, TimestampAfter time.Duration
	// Compression is compression.type.
	Compression Recompression
	// Compact is cleanup.policy=compact, alone or with delete: every record needs a key.
	Compact    bool
	Compaction Compaction
	// Conditional is balsa.conditional.append: records may carry a condition on their key (ExpectHeader), and keys can be looked up. It is
	// set from the first record on, or never.
	Conditional bool
	// MinInsync is min.insync.replicas, obeyed by acks=all. A quorum is the floor anyway; default 1.
	MinInsync int
	// ProducerExpiry is producer.id.expiration.ms: a producer's sequence state is forgotten when it has been idle for
	// at least that long (at most an eighth longer while the partition is written to). Default 24 h.
	ProducerExpiry time.Duration
	// QuorumReads is balsa.read.consistency=quorum: every answer that speaks of the log's end asks a quorum; no lease is
	// believed.
	QuorumReads bool
	// Relaxed is balsa.durability=relaxed: what is written counts as held before it is synced. See [segment.Log.SetRelaxed].
	Relaxed bool
	// RetentionAge is retention.ms, RetentionBytes retention.bytes. Defaults 7 days and unbounded. Negative: unbounded. An age
	// of less than a millisecond drops all that is in closed or expired segments.
	RetentionAge   time.Duration
	RetentionBytes int64
	// SegmentBytes is segment.bytes; 0: Config.Segment's. SegmentAge is segment.ms; default 7 days.
	SegmentBytes int64
	SegmentAge   time.Duration
	// SegmentJitter is segment.jitter.ms: by how much SegmentAge is shortened at most, by another part of it for each partition.
	SegmentJitter time.Duration
	// Throttled are the replicas that are within [multi.Host.SetReplicationRates].
	Throttled multi.Throttled
}

const (
	// DefaultMaxMessageBytes is Kafka's default for max.message.bytes.
	DefaultMaxMessageBytes = 1<<20 + 12
	// MaxBatchBytes bounds MaxMessageBytes, and so every entry of a partition's log.
	MaxBatchBytes = 64 << 20

	defaultTimestampAfter = time.Hour
	defaultProducerExpiry = 24 * time.Hour
	minProducerExpiry     = time.Second
	defaultRetention      = 7 * 24 * time.Hour
)

// withDefaults fills in what is zero.
func (s Settings) withDefaults() Settings {
	if s.MaxMessageBytes == 0 {
		s.MaxMessageBytes = DefaultMaxMessageBytes
	}
	if s.TimestampBefore == 0 {
		s.TimestampBefore = -1
	}
	if s.TimestampAfter == 0 {
		s.TimestampAfter = defaultTimestampAfter
	}
	if s.MinInsync == 0 {
		s.MinInsync = 1
	}
	if s.ProducerExpiry == 0 {
		s.ProducerExpiry = defaultProducerExpiry
	}
	if s.RetentionAge == 0 {
		s.RetentionAge = defaultRetention
	}
	if s.RetentionBytes == 0 {
		s.RetentionBytes = -1
	}
	if s.SegmentAge == 0 {
		s.SegmentAge = defaultRetention
	}
	s.Compaction = s.Compaction.withDefaults()
	return s
}

// segmentAge is SegmentAge less the group's part of SegmentJitter.
func (s *Settings) segmentAge(g raft.GroupID) time.Duration {
	jitter := min(s.SegmentJitter, s.SegmentAge)
	if jitter <= 0 {
		return s.SegmentAge
	}
	// Fibonacci hashing: neighbouring groups, which were made together, are far apart.
	part := float64(uint64(g)*0x9E3779B97F4A7C15>>11) / (1 << 53)
	return s.SegmentAge - time.Duration(part*float64(jitter))
}

func (s Settings) validate() error {
	switch {
	case s.MaxMessageBytes < 0 || s.MaxMessageBytes > MaxBatchBytes:
		return fmt.Errorf("partition: max.message.bytes %d is not in [0, %d]", s.MaxMessageBytes, MaxBatchBytes)
	case s.TimestampType != CreateTime && s.TimestampType != LogAppendTime:
		return fmt.Errorf("partition: unknown message.timestamp.type %d", s.TimestampType)
	case s.Compression.Codec < protocol.CodecNone || s.Compression.Codec > protocol.CodecZstd:
		return fmt.Errorf("partition: unknown compression.type %d", s.Compression.Codec)
	case s.MinInsync < 1:
		return fmt.Errorf("partition: min.insync.replicas %d is not positive", s.MinInsync)
	case s.ProducerExpiry < minProducerExpiry:
		return fmt.Errorf("partition: producer.id.expiration.ms %v is below %v", s.ProducerExpiry, minProducerExpiry)
	}
	return nil
}
