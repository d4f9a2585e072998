package bench

import (
	"testing"
	"time"
)

// The load generator finds in the null broker all that it asks of a broker, and what it costs beside it is more than nothing.
func TestGeneratorCost(t *testing.T) {
	c := Cell{Scenario: "C1", Class: ClassB, Replicas: 3, Partitions: 4, Producers: 2, Consumers: 2, RecordBytes: 1024, InflightBytes: 1 << 20}
	client := Client{BatchBytes: 1 << 20}
	for what, cost := range map[string]func() (GeneratorCost, error){
		"producers": func() (GeneratorCost, error) {
			return ProducerCost(t.Context(), c, client, 100*time.Millisecond)
		},
		"consumers": func() (GeneratorCost, error) { return ConsumerCost(t.Context(), c, client, 100*time.Millisecond) },
	} {
		t.Run(what, func(t *testing.T) {
			got, err := cost()
			if err != nil || got.MBSec <= 0 {
				t.Fatalf("%+v, %v", got, err)
			}
			t.Logf("%.0f MB/s, %.2f ns a byte", got.MBSec, got.NsPerByte)
		})
	}
}
