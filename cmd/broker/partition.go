// broker partition: what is done to single partitions, and to the group that keeps the metadata.

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// partitionCommands are the children of 'broker partition', in the order of the help text.
var partitionCommands = []func(*app) *cobra.Command{
	newPartitionMove,
	newPartitionStatus,
	newPartitionCancel,
	newPartitionTransfer,
	newPartitionElect,
	newPartitionReset,
}

func newPartitionCommand(a *app) *cobra.Command {
	var children []*cobra.Command
	for _, c := range partitionCommands {
		children = append(children, c(a))
	}
	return group("partition", "Look after the replicas of single partitions", children...)
}

// metadataWord names the metadata group where a partition could stand.
const metadataWord = "metadata"

// partitionArg reads TOPIC/PARTITION.
func partitionArg(s string) (topic string, partition int32, err error) {
	topic, p, ok := strings.Cut(s, "/")
	n, perr := strconv.ParseInt(p, 10, 32)
	if !ok || topic == "" || perr != nil || n < 0 {
		return "", 0, usageError("write TOPIC/PARTITION, as in orders/0", "%q names no partition", s)
	}
	return topic, int32(n), nil
}

// partitionName is the inverse of partitionArg.
func partitionName(topic string, partition int32) string {
	return fmt.Sprintf("%s/%d", topic, partition)
}
