// The hot tail's budget, shared by all logs of a broker. What was appended last is what followers and tailing consumers
// want next; it stays in memory as the very frames that were appended.

package segment

import (
	"sync"
	"sync/atomic"

	"github.com/balsamq/balsa/raft"
)

// entryOverhead is what a cached entry costs beside its frame.
const entryOverhead = 128

// unappliedFactor times the budget is what the cache may hold while entries wait to be applied: a broker that is so far behind that they
// leave memory before that reads them from its disk, in the middle of its turns, and falls further behind.
const unappliedFactor = 2

// maxEvictRounds bounds the work that one append does to bring the cache back under its budget.
const maxEvictRounds = 64

// evictUnit is how much of one log's consecutive appends leaves the cache together.
const evictUnit = 64 << 10

// maxForgetScan bounds what closing a log spends on taking its tokens out of the queue; beyond it they stay, harmless,
// until their turn comes.
const maxForgetScan = 1 << 14

// Cache is a byte budget for frames in memory. What is not durable yet is never evicted, so the budget can be
// exceeded by what is in flight (which the core bounds), and what is not applied yet (see Log.Applied) only beyond unappliedFactor times
// the budget. Safe for any goroutine.
type Cache struct {
	hits, misses atomic.Uint64
	onward       atomic.Int64  // bytes that its logs have read ahead for consumers, beside the budget; see onwardBytes
	reading      chan struct{} // one for each piece that is being read so

	mu     sync.Mutex // guards what follows
	budget int64
	used   int64
	queue  []cacheToken // oldest append first
	head   int
}

// cacheToken says that log's entries up to upTo were appended at this place in the order of all appends.
type cacheToken struct {
	log   *Log
	upTo  raft.Index
	bytes int64
	old   bool // it came back: what is appended now is younger, and no part of it
}

// NewCache makes a cache of budget bytes. A budget of 0 keeps only what is not durable.
func NewCache(budget int64) *Cache {
	return &Cache{budget: budget, reading: make(chan struct{}, onwardReads)}
}

// Used is the number of bytes held.
func (c *Cache) Used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// Budget is how many bytes it may hold.
func (c *Cache) Budget() int64 { return c.budget }

// Reads are how many reads of entries and batches found all they began with in memory, and how many had to go to the disk.
func (c *Cache) Reads() (hits, misses uint64) { return c.hits.Load(), c.misses.Load() }

// note accounts for an append. Lock order: a log's mu before the cache's.
func (c *Cache) note(l *Log, upTo raft.Index, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += bytes
	if n := len(c.queue); n > c.head && c.queue[n-1].log == l && !c.queue[n-1].old && c.queue[n-1].bytes+bytes <= evictUnit {
		c.queue[n-1].upTo = upTo
		c.queue[n-1].bytes += bytes
		return
	}
	c.queue = append(c.queue, cacheToken{log: l, upTo: upTo, bytes: bytes})
}

func (c *Cache) release(bytes int64) {
	if bytes == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= bytes
}

// pop takes the oldest token while the cache is over budget; far says that it is so far over it that nothing waits to be applied.
func (c *Cache) pop() (t cacheToken, far, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used <= c.budget || c.head == len(c.queue) {
		return cacheToken{}, false, false
	}
	far = c.used > unappliedFactor*c.budget
	t = c.queue[c.head]
	c.queue[c.head] = cacheToken{}
	c.head++
	if c.head >= 1024 && c.head*2 >= len(c.queue) {
		n := copy(c.queue, c.queue[c.head:])
		clear(c.queue[n:])
		c.queue, c.head = c.queue[:n], 0
	}
	return t, far, true
}

func (c *Cache) push(t cacheToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.old = true
	c.queue = append(c.queue, t)
}

// evict brings the cache back under its budget, as far as durable entries allow. Called without any log's lock.
func (c *Cache) evict() {
	for range maxEvictRounds {
		t, far, ok := c.pop()
		if !ok {
			return
		}
		if !t.log.evict(t.upTo, far) {
			c.push(t) // not durable or not applied yet: its turn comes again
			return
		}
	}
}

// forget drops a closed log's tokens.
func (c *Cache) forget(l *Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue)-c.head > maxForgetScan {
		return
	}
	kept := c.queue[:0]
	for _, t := range c.queue[c.head:] {
		if t.log != l {
			kept = append(kept, t)
		}
	}
	clear(c.queue[len(kept):])
	c.queue, c.head = kept, 0
}
