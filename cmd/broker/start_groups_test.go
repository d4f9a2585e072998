// What the settings for groups and transactions make of a broker's configuration.

package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/broker"
)

func TestStartGroups(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want broker.Config
	}{
		{nil, broker.Config{}}, // so that DescribeConfigs shows defaults
		{[]string{"--group-initial-rebalance-delay", "0"}, broker.Config{GroupInitialRebalanceDelay: -1}},
		{[]string{"--group-initial-rebalance-delay", "100ms", "--group-min-session-timeout=1s", "--group-max-session-timeout=1h", "--group-max-size=7", "--offsets-retention=1h",
			"--offsets-partitions=50", "--txn-partitions=4", "--txn-max-timeout=1m", "--txn-id-expiration=2h", "--producer-id-expiration=3h"},
			broker.Config{GroupInitialRebalanceDelay: 100 * time.Millisecond, GroupMinSession: time.Second, GroupMaxSession: time.Hour, GroupMaxSize: 7, OffsetsRetention: time.Hour,
				OffsetsPartitions: 50, TxnPartitions: 4, TxnMaxTimeout: time.Minute, TxnIDExpiration: 2 * time.Hour, ProducerIDExpiration: 3 * time.Hour}},
	} {
		var got broker.Config
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		groupFlags(f, &got)
		if err := f.Parse(tc.args); err != nil {
			t.Fatal(err)
		}
		if err := unusualGroups(&got); err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: %v, %+v\nwant %+v", tc.args, err, got, tc.want)
		}
	}
}
