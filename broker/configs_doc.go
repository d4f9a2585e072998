// What configs there are, for those who have no broker to ask: the command line's help, and its guess at what a mistyped name meant.

package broker

import (
	"slices"
	"strings"
)

// ConfigDoc is one config.
type ConfigDoc struct {
	Name string
	// Default is Kafka's; of a topic config, brokers may have another.
	Default string
	Doc     string
	// Fixed: it is known, and can only have its default; of brokers, it cannot be set while one runs.
	Fixed bool
}

// Configs are the configs of topics, groups or brokers, as kind says: "topic", "group", "broker". By name.
func Configs(kind string) []ConfigDoc {
	var out []ConfigDoc
	add := func(d *configDef, fixed bool) {
		def := d.def
		if def == unset {
			def = ""
		}
		out = append(out, ConfigDoc{Name: d.name, Default: def, Doc: d.doc, Fixed: fixed})
	}
	switch kind {
	case "topic":
		for i := range topicConfigDefs {
			add(&topicConfigDefs[i], topicConfigDefs[i].does == fixed)
		}
	case "group":
		for i := range groupConfigDefs {
			add(&groupConfigDefs[i], groupConfigDefs[i].does == fixed)
		}
	case "broker":
		for _, d := range brokerConfigs() {
			add(d, !d.dynamic)
		}
	}
	slices.SortFunc(out, func(a, b ConfigDoc) int { return strings.Compare(a.Name, b.Name) })
	return out
}
