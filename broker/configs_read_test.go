package broker

// Values are read as Kafka reads them: each text that it takes for a number or a truth value is one, and has its effect.

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
)

// sameValues are texts that mean what value does; notValues are texts that Java takes for no value of the type.
func sameValues(typ kmsg.ConfigType, value string) []string {
	same := []string{" " + value, value + "\t\n"}
	switch typ {
	case kmsg.ConfigTypeBoolean:
		same = append(same, map[string]string{"true": "TRUE", "false": "False"}[value])
	case kmsg.ConfigTypeInt, kmsg.ConfigTypeShort, kmsg.ConfigTypeLong:
		if value[0] == '-' {
			same = append(same, "-00"+value[1:])
		} else {
			same = append(same, "00"+value, "+"+value)
		}
		if value == "0" {
			same = append(same, "-0", "00")
		}
	case kmsg.ConfigTypeDouble:
		same = append(same, "+"+value, value+"d", value+"F", "0"+value, value+"e0")
	}
	return same
}

func notValues(typ kmsg.ConfigType) []string {
	switch typ {
	case kmsg.ConfigTypeBoolean:
		return []string{"", "yes", "1", "t", "true false"}
	case kmsg.ConfigTypeDouble:
		return []string{"", "d", "0_5", "0x_1p-1", "half", "NaN", "0.5 0.5"}
	}
	return []string{"", "1_000", "0x10", "1.0", "1e3", "5 5", "+", "--1", "5L", "9223372036854775808"}
}

// valuesOf are texts at the ends of what a config takes, beside its default.
func valuesOf(d *configDef) (values []string) {
	switch d.typ {
	case kmsg.ConfigTypeBoolean:
		values = []string{"true", "false"}
	case kmsg.ConfigTypeInt, kmsg.ConfigTypeShort, kmsg.ConfigTypeLong:
		values = []string{strconv.FormatInt(d.least, 10), strconv.FormatInt(d.least+1, 10), strconv.FormatInt(d.most, 10)}
		if strings.HasSuffix(d.name, "gzip.level") {
			values[1] = "1"
		}
	case kmsg.ConfigTypeDouble:
		values = []string{"0", "0.25", "1"}
	}
	if len(values) > 0 && d.def != "" && d.def != unset && !slices.Contains(values, d.def) {
		values = append(values, d.def)
	}
	return values
}

func TestNumbersAreKafkas(t *testing.T) {
	look := func(d *configDef, check func(name, value string) error) {
		t.Helper()
		for _, v := range valuesOf(d) {
			if d.does == fixed && v != d.def {
				continue
			}
			for _, same := range append(sameValues(d.typ, v), v) {
				if err := check(d.name, same); err != nil {
					t.Errorf("%s=%q is refused, and Kafka takes it for %s: %v", d.name, same, v, err)
				}
				if got, want := d.canonical(same), d.canonical(v); got != want {
					t.Errorf("%s=%q is %q, not %q", d.name, same, got, want)
				}
			}
		}
		for _, v := range notValues(d.typ) {
			if len(valuesOf(d)) > 0 && check(d.name, v) == nil {
				t.Errorf("%s=%q is no value, and is taken", d.name, v)
			}
		}
	}
	for i := range topicConfigDefs {
		look(&topicConfigDefs[i], checkTopicConfig)
	}
	for _, name := range slices.Sorted(maps.Keys(brokerConfigs())) {
		if d := brokerConfigs()[name]; d.dynamic {
			look(d, checkBrokerConfig)
		}
	}
	for i := range groupConfigDefs {
		if d := &groupConfigDefs[i]; d.does != fixed {
			look(d, func(_, value string) error { return d.check(value) })
		}
	}
}

// Each number that a topic may have has an effect of its own, however it is written: none is taken for one that was not set.
func TestNumbersHaveTheirEffect(t *testing.T) {
	base := map[string]string{"cleanup.policy": "compact,delete"}
	settings := func(set map[string]string) partition.Settings {
		configs := maps.Clone(base)
		maps.Copy(configs, set)
		return new(reconciler).settingsOf(&coordinator.Topic{Name: "t", Configs: configs, Partitions: make([]coordinator.Partition, 1)}, 0, nil)
	}
	// Zeros of Settings that mean what the text says, though they are the defaults, too; and what no replica obeys.
	same := map[string][]string{"min.compaction.lag.ms": {"0"}, "segment.jitter.ms": {"0"}, "retention.bytes": {"-1"}, "compression.zstd.level": {"0"}}
	noEffect := []string{"file.delete.delay.ms", "flush.messages", "flush.ms", "index.interval.bytes", "preallocate", "segment.index.bytes"}
	for i := range topicConfigDefs {
		d := &topicConfigDefs[i]
		if d.does == fixed || slices.Contains(noEffect, d.name) {
			continue
		}
		delete(base, "compression.type")
		for _, codec := range []string{"gzip", "lz4", "zstd"} {
			if d.name == "compression."+codec+".level" {
				base["compression.type"] = codec
			}
		}
		unset := settings(nil)
		for _, v := range valuesOf(d) {
			want := settings(map[string]string{d.name: v})
			if v != d.def && !slices.Contains(same[d.name], v) && reflect.DeepEqual(want, unset) {
				t.Errorf("%s=%s has no effect", d.name, v)
			}
			for _, text := range sameValues(d.typ, v) {
				if got := settings(map[string]string{d.name: text}); !reflect.DeepEqual(got, want) {
					t.Errorf("%s=%q is obeyed as\n%+v, and %s as\n%+v", d.name, text, got, v, want)
				}
			}
		}
	}
}

// What is shown is what is obeyed.
func TestDescribeShowsTheCanonicalValue(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, map[string]string{"retention.ms": " 00", "min.cleanable.dirty.ratio": "0.50f", "cleanup.policy": "compact ,delete"})
	c := describedConfigs(t, h.dial(), kmsg.ConfigResourceTypeTopic, "t")
	for name, want := range map[string]string{"retention.ms": "0", "min.cleanable.dirty.ratio": "0.5", "cleanup.policy": "compact,delete"} {
		if got := *c[name].Value; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
