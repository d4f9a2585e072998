// What the text of a config means. It is kept as it was set, and read as Kafka reads it (ConfigDef.parseType): what surrounds it does not count, and
// 00, +5 and TRUE are as good as 0, 5 and true. Whoever obeys a config, compares it or shows it takes its canonical form.

package broker

import (
	"errors"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// javaTrim is String.trim().
func javaTrim(s string) string { return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' }) }

// canonical is the one form of all texts that mean the same. A text that means nothing stays as it is, but for what surrounds it.
func (d *configDef) canonical(value string) string {
	if value == unset {
		return value
	}
	value = javaTrim(value)
	switch d.typ {
	case kmsg.ConfigTypeBoolean:
		if low := strings.ToLower(value); low == "true" || low == "false" {
			return low
		}
	case kmsg.ConfigTypeInt, kmsg.ConfigTypeShort, kmsg.ConfigTypeLong:
		if n, err := strconv.ParseInt(value, 10, 64); err == nil { // it takes the texts that Long.parseLong does
			return strconv.FormatInt(n, 10)
		}
	case kmsg.ConfigTypeDouble:
		if f, err := parseDouble(value); err == nil {
			return strconv.FormatFloat(f, 'g', -1, 64)
		}
	case kmsg.ConfigTypeList:
		if value == "" {
			return ""
		}
		list := strings.Split(value, ",")
		for i := range list {
			list[i] = javaTrim(list[i])
		}
		return strings.Join(list, ",")
	}
	return value
}

// parseDouble is Double.parseDouble: a float may end in one of fFdD, and has no underscores.
func parseDouble(s string) (float64, error) {
	if strings.Contains(s, "_") {
		return 0, strconv.ErrSyntax
	}
	if n := len(s); n > 0 && strings.Contains("fFdD", s[n-1:]) {
		s = s[:n-1]
	}
	return strconv.ParseFloat(s, 64)
}

// checkGzipLevel: compression.gzip.level is 1 to 9, or -1; there is no 0, which would not compress.
func checkGzipLevel(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n != -1 && (n < 1 || n > 9) {
		return errors.New("it is 1 to 9, or -1")
	}
	return nil
}

// topicText is what was set of a topic's configs, in canonical form; empty: nothing.
func topicText(configs map[string]string, name string) string {
	v, ok := configs[name]
	if d := topicConfigByName(name); ok && d != nil {
		v = d.canonical(v)
	}
	return v
}

// setForBroker is what was set dynamically for a broker, or else for all, in canonical form.
func setForBroker(im *coordinator.Image, id raft.NodeID, name string) (string, bool) {
	v, ok := im.BrokerConfig(id, name)
	if d := brokerConfigs()[name]; ok && d != nil {
		v = d.canonical(v)
	}
	return v, ok
}
