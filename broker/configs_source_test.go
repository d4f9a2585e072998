package broker

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What nobody has set is a default, also where a program's flags hand it over as they stand; what was set at the start is static.
func TestDefaultsAreShownAsDefaults(t *testing.T) {
	flags := Config{SegmentBytes: 128 << 20, ReadConsistency: ReadLease, Partitions: 1, LeaderBalanceInterval: time.Minute, RetentionCheck: 5 * time.Minute,
		CleanerPause: 15 * time.Second, CleanerMemory: 128 << 20, CleanerRate: 64 << 20}
	for _, given := range []Config{{}, flags} {
		b := &Broker{given: given, cfg: given.withDefaults()}
		for _, d := range topicConfigDefs {
			if v, ok := b.Config(d.broker); ok {
				t.Errorf("%s=%s stands for %s as set", d.broker, v, d.name)
			}
		}
		for _, name := range []string{"num.partitions", "offsets.topic.num.partitions", "transaction.state.log.num.partitions", "max.connections", "log.retention.check.interval.ms",
			"log.cleaner.backoff.ms", "log.cleaner.dedupe.buffer.size", "log.cleaner.io.max.bytes.per.second", "leader.imbalance.check.interval.seconds"} {
			if v, ok := b.Config(name); ok {
				t.Errorf("%s=%s stands as set", name, v)
			}
			d := brokerConfigs()[name]
			// What is shown as the default is what is in force.
			if v, ok := b.setting(name); ok && d.canonical(v) != d.canonical(d.def) {
				t.Errorf("%s is %s, and its default is shown as %s", name, v, d.def)
			}
		}
	}
	set := Config{SegmentBytes: 1 << 30, ReadConsistency: ReadQuorum}
	b := &Broker{given: set, cfg: set.withDefaults()}
	for name, want := range map[string]string{"log.segment.bytes": "1073741824", readConsistency: ReadQuorum} {
		if v, ok := b.Config(name); !ok || v != want {
			t.Errorf("%s: %q %v", name, v, ok)
		}
	}
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, nil)
	for name, c := range describedConfigs(t, h.dial(), kmsg.ConfigResourceTypeTopic, "t") {
		if c.Source != kmsg.ConfigSourceDefaultConfig {
			t.Errorf("%s=%s has source %v", name, deref(c.Value), c.Source)
		}
	}
}
