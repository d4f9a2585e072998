// Package client is Balsa's Go SDK: a [Producer], a [Consumer], [Transform] and an [Admin], on franz-go.
//
// Any Kafka client works with Balsa. This package is for those who want the safe settings without having to look them
// up: a producer waits for a majority's disks and is idempotent, a consumer never marks a record as processed before
// the program has asked for the next one, and closing either loses nothing. It does not hide franz-go: records are
// [kgo.Record], and every type has a way to the client underneath.
//
// Each constructor contacts the cluster once, so that a wrong address is an error there ([ErrUnreachable]) and not a
// program that waits for ever. Errors are wrapped in [*Error], which says what was being done to what; ask what kind
// of failure it is with errors.Is and one of the sentinels, or for Kafka's own code with errors.Is and an error of
// franz-go's kerr package.
package client
