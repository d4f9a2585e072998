// Metrics of the bridges that this broker has: each is shown by its owner only, so that a sum over all brokers counts it once.

package broker

import (
	"github.com/prometheus/client_golang/prometheus"
)

// bridgeMetric is one metric of a bridge; ok false: not known.
type bridgeMetric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*BridgeStatus) (v float64, ok bool)
}

func bridgeCount(of func(*BridgeStatus) uint64) func(*BridgeStatus) (float64, bool) {
	return func(s *BridgeStatus) (float64, bool) { return float64(of(s)), true }
}

var bridgeMetrics = []bridgeMetric{
	{"balsa_bridge_running", "1 while the bridge is well, 0 while it starts, waits to try again or is stuck. Its owner only, as with all metrics of bridges.", gauge,
		func(s *BridgeStatus) (float64, bool) { return bit(s.State == bridgeRunning), true }},
	{"balsa_bridge_lag", "Messages or records that the bridge's source has and its target has not. Of a core subject: what waits to be written.", gauge,
		func(s *BridgeStatus) (float64, bool) { return float64(s.Lag), s.Lag >= 0 }},
	{"balsa_bridge_records_total", "Messages or records taken over since this broker has the bridge.", counted, bridgeCount(func(s *BridgeStatus) uint64 { return s.Records })},
	{"balsa_bridge_bytes_total", "Bytes of their keys, values and headers.", counted, bridgeCount(func(s *BridgeStatus) uint64 { return s.Bytes })},
	{"balsa_bridge_dead_letters_total", "Messages or records that could not be converted, or were too large, and went to the topic for dead letters.", counted,
		bridgeCount(func(s *BridgeStatus) uint64 { return s.DeadLetters })},
	{"balsa_bridge_skipped_total", "Messages or records left out because they had passed this bridge, or one that it was told to leave out.", counted,
		bridgeCount(func(s *BridgeStatus) uint64 { return s.Skipped })},
	{"balsa_bridge_dropped_total", "Messages of a core subject that were lost because they came faster than they could be written, or could not be converted.", counted,
		bridgeCount(func(s *BridgeStatus) uint64 { return s.Dropped })},
	{"balsa_bridge_restarts_total", "Times that the bridge failed and began anew from what was committed.", counted, bridgeCount(func(s *BridgeStatus) uint64 { return s.Restarts })},
}

var bridgeDescs = func() []*prometheus.Desc {
	out := make([]*prometheus.Desc, len(bridgeMetrics))
	for i, m := range bridgeMetrics {
		out[i] = prometheus.NewDesc(m.name, m.help, []string{"bridge"}, nil)
	}
	return out
}()

func (b *Broker) collectBridges(out chan<- prometheus.Metric) {
	im := b.Image()
	statuses := b.bridges.statuses()
	if len(statuses) == 0 {
		return
	}
	for _, br := range im.Bridges() {
		s, ok := statuses[br.ID.String()]
		if !ok {
			continue
		}
		for i := range bridgeMetrics {
			if v, ok := bridgeMetrics[i].value(&s); ok {
				out <- prometheus.MustNewConstMetric(bridgeDescs[i], bridgeMetrics[i].kind, v, br.Name)
			}
		}
	}
}
