// Produce: what is checked before a batch is proposed, and how the answer finds its way back.

package partition

// AppendRequest is one batch to append. It belongs to the replica until Done has been called, Batch for ever.
type AppendRequest struct {
	// Batch is one record batch of magic 2, as the client sent it. The replica owns it from here on.
	Batch []byte
	// Acks is Kafka's: 1 and 0 answer after the leader's own sync (and may be lost with the leader), -1 (all) after the
	// quorum's commit.
	Acks int16
	// Done is called exactly once, from a worker or from within Append; it must not block. A request's time-out is the
	// broker's affair: the batch stays proposed.
	Done func(AppendResult)

	result AppendResult
}

// AppendResult is how an append ended.
type AppendResult struct {
	BaseOffset    int64 // of the first record; -1 with an error
	LogAppendTime int64 // milliseconds; -1 under CreateTime
	LogStart      int64
	LeaderEpoch   int32
	// Repeated says that the batch was a repeat, and BaseOffset is the original's.
	Repeated bool
	Err      error
}

// Append checks req and proposes it. It never blocks; every outcome, also an immediate refusal, goes through Done.
func (r *Replica) Append(req *AppendRequest) {
	req.Done(AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStart: -1, LeaderEpoch: -1, Err: ErrClosed})
}
