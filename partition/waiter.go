// Waiting for the high watermark without a goroutine: what a long poll hangs on.

package partition

// Waiter waits for one partition, once. The caller embeds or holds it, fills in the exported fields and gives it to
// [Replica.Subscribe]. After it has fired or was unsubscribed it may be used again.
//
// Fire is called at most once per Subscribe, by a worker or by whoever closes the replica, with no lock of this package
// held; it must be quick and must not block: set a flag, push to a queue, wake the connection. It may call any method
// of the Replica, also Subscribe with the same Waiter.
type Waiter struct {
	// After is the high watermark that the caller saw, or with Committed the last stable offset: anything above it fires, subject to
	// MinBytes.
	After int64
	// Committed waits for the last stable offset: for the end of transactions, and not for what they write.
	Committed bool
	// MinBytes are the record bytes that must have been committed above After before it fires; 0 or 1: any.
	MinBytes int64
	// Epoch is the leader epoch that the caller saw; -1: whatever it is at Subscribe. Another epoch, another leader, a
	// leader that becomes ready, a failure and a close all fire.
	Epoch int32
	// AnyReplica also waits on a follower, for what it learns to be committed.
	AnyReplica bool
	// Fire is the callback.
	Fire func()

	// Guarded by Replica.mu. prev and next link the list of the replica; owner is nil when not linked.
	owner      *Replica
	prev, next *Waiter
	until      int64 // fires when Replica.committedBytes, or stableBytes, has reached this
}

// Subscribe links w, or returns false, without ever calling Fire, when there is something new already: the caller reads
// again. The condition is checked under the same lock that links, so that no wake-up is lost between a Read and the
// Subscribe that follows it, provided that After and Epoch are the ones that the Read returned.
func (r *Replica) Subscribe(w *Waiter) bool {
	if w.Fire == nil {
		panic("partition: Waiter without Fire")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.owner != nil {
		panic("partition: Waiter subscribed twice")
	}
	if r.state != StateOpen || !r.lead.Serving() && (r.lead.Self || !w.AnyReplica) || (w.Epoch >= 0 && w.Epoch != r.lead.Epoch) {
		return false
	}
	end, bytes := r.reached(w)
	if end > w.After {
		return false // what came in between is not counted by MinBytes: the caller has to look at it
	}
	w.until = bytes + max(w.MinBytes, 1)
	w.owner, w.prev, w.next = r, nil, r.waiters
	if r.waiters != nil {
		r.waiters.prev = w
	}
	r.waiters = w
	r.waiting++
	return true
}

// reached is what w waits for: an offset, and the bytes below it. r.mu is held.
func (r *Replica) reached(w *Waiter) (end, bytes int64) {
	if w.Committed {
		return r.pub.stable, r.stableBytes
	}
	return r.pub.hw, r.committedBytes
}

// Unsubscribe unlinks w. True: Fire was not called and will not be. False: it was called, is being called, or w was
// never subscribed.
func (r *Replica) Unsubscribe(w *Waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.owner != r {
		return false
	}
	r.unlink(w)
	return true
}

// Waiting is the number of subscribed waiters.
func (r *Replica) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

// unlink takes w out of the list. r.mu is held.
func (r *Replica) unlink(w *Waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		r.waiters = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.owner, w.prev, w.next = nil, nil, nil
	r.waiting--
}

// due collects the callbacks of the waiters that are due, all of them if every is set. r.mu is held; the caller
// releases it and then calls [fire]. The callbacks and not the waiters are collected: a waiter may be reused as soon as
// it is unlinked.
func (r *Replica) due(every bool) []func() {
	var fns []func()
	for w := r.waiters; w != nil; {
		next := w.next
		if end, bytes := r.reached(w); every || bytes >= w.until && end > w.After {
			r.unlink(w)
			fns = append(fns, w.Fire)
		}
		w = next
	}
	return fns
}

func fire(fns []func()) {
	for _, f := range fns {
		f()
	}
}
