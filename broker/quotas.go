// Client quotas: how much a client may produce, fetch, make this broker work and change the cluster's topics, and how often it may connect.
// Each broker keeps account of what it serves itself, as Kafka's brokers do.
//
// An account is a bucket that fills at the rate of the quota, up to what comes in quotaWindow, and may go into debt: what is asked for is done at once, and
// the debt is what the client waits for. It is told how long (throttle_time_ms), and until then nothing is read from its connection (KIP-219), so one that
// does not listen waits all the same. A bucket that is full again says no more than one that does not exist, and is dropped when there are too many.
//
// Where no quota is set a request costs one look at the Image.

package broker

import (
	"crypto/sha256"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/coordinator"
)

// The limits, by Kafka's names.
const (
	quotaProduce    = "producer_byte_rate"
	quotaConsume    = "consumer_byte_rate"
	quotaRequest    = "request_percentage"
	quotaMutation   = "controller_mutation_rate"
	quotaConnection = "connection_creation_rate"
)

const (
	// quotaWindow is the time in which a client may use up at once what it may on average: Kafka's quota.window.num times
	// quota.window.size.seconds, less the window that is not over.
	quotaWindow = 10 * time.Second
	// maxThrottle bounds how long a connection is muted. The rest of a debt is waited for with the next request.
	maxThrottle = 10 * time.Minute
	// maxQuotaAccounts bounds the buckets; beyond it the clients of a user share one for each limit, and beyond twice as many all do.
	maxQuotaAccounts = 10_000
	// maxAccountName bounds the name of an account that a client makes up: of a longer client id there is a sum.
	maxAccountName = 256
	// sweepPause is between two looks for accounts that can be dropped: made-up client ids must not make each request a walk through all.
	sweepPause = time.Second
	// maxHeldSockets bounds the connections that are kept waiting before they are closed, so that their clients do not come again at once.
	maxHeldSockets = 1000
)

// user is the name of whom the connection speaks for.
func (c *conn) user() string {
	if s := c.session.Load(); s != nil {
		return s.user()
	}
	return strings.TrimPrefix(anonymous, userPrefix)
}

// account is whose bucket it is: empty parts are shared by all.
type account struct {
	limit              string
	user, clientID, ip string
}

// bucket is an account's state.
type bucket struct {
	left float64 // below 0: debt
	at   time.Time
}

// fill brings a bucket up to date.
func (b *bucket) fill(rate float64, now time.Time) {
	most := rate * quotaWindow.Seconds()
	if b.at.IsZero() {
		b.left = most
	} else if d := now.Sub(b.at).Seconds(); d > 0 {
		b.left += rate * d
	}
	b.left, b.at = min(b.left, most), now
}

// owed is how long it takes until the debt is paid.
func (b *bucket) owed(rate float64) time.Duration {
	if b.left >= 0 {
		return 0
	}
	seconds := -b.left / rate
	if math.IsNaN(seconds) || seconds > maxThrottle.Seconds() {
		return maxThrottle
	}
	return time.Duration(seconds * float64(time.Second))
}

// quotas are a server's accounts.
type quotas struct {
	now       func() time.Time
	throttled *prometheus.CounterVec // by limit
	seconds   *prometheus.CounterVec

	mu       sync.Mutex // guards the rest; a leaf
	accounts map[account]*bucket
	held     int       // sockets
	swept    time.Time // when sweep looked last
}

func newQuotas(m *metrics) *quotas {
	return &quotas{now: time.Now, throttled: m.throttled, seconds: m.throttledSeconds, accounts: make(map[account]*bucket)}
}

// charge takes amount from an account, and returns for how long its client has to wait. With strict nothing is taken while there is a debt.
func (q *quotas) charge(a account, rate, amount float64, strict bool) (wait time.Duration, taken bool) {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.bucket(a, now)
	b.fill(rate, now)
	if strict && b.left < 0 {
		return b.owed(rate), false
	}
	b.left -= amount
	return b.owed(rate), true
}

// bucket finds an account's. q.mu is held.
func (q *quotas) bucket(a account, now time.Time) *bucket {
	b := q.accounts[a]
	if b != nil {
		return b
	}
	if len(q.accounts) >= maxQuotaAccounts && now.Sub(q.swept) >= sweepPause {
		q.swept = now
		q.sweep(now)
	}
	if n := len(q.accounts); n >= maxQuotaAccounts {
		// A client can make up client ids, and be in debt under each, but not users: let the others not pay for it.
		if a = (account{limit: a.limit, user: a.user}); q.accounts[a] == nil && n >= 2*maxQuotaAccounts {
			a.user = ""
		}
		if b = q.accounts[a]; b != nil {
			return b
		}
	}
	b = new(bucket)
	q.accounts[a] = b
	return b
}

// sweep drops buckets that must be full by now, whatever their rate: a debt is waited for before anything else is asked of it.
func (q *quotas) sweep(now time.Time) {
	for a, b := range q.accounts {
		if b.left >= 0 && now.Sub(b.at) >= quotaWindow || now.Sub(b.at) >= maxThrottle+quotaWindow {
			delete(q.accounts, a)
		}
	}
}

// size is how many buckets there are.
func (q *quotas) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.accounts)
}

// noted counts a throttling.
func (q *quotas) noted(limit string, wait time.Duration) {
	q.throttled.WithLabelValues(limit).Inc()
	q.seconds.WithLabelValues(limit).Add(wait.Seconds())
}

// charge takes amount from the request's client's account for a limit. What the client has to wait for the answer will say. With strict it reports
// false, and takes nothing, while the client has not waited for what it has taken before.
func (r *request) charge(limit string, amount float64, strict bool) bool {
	s := r.c.s
	im := s.b.Image()
	if !im.HasQuotas() {
		return true
	}
	user, client := r.c.user(), r.quotaClient
	m, ok := im.ClientQuota(limit, user, client)
	if !ok {
		return true
	}
	a := account{limit: limit}
	if m.ByUser {
		a.user = user
	}
	if m.ByClientID {
		a.clientID = accountName(client)
	}
	wait, taken := s.quotas.charge(a, m.Limit, amount, strict)
	if wait > 0 {
		s.quotas.noted(limit, wait)
		r.throttle(wait)
	}
	return taken
}

// accountName is a client id as accounts have it.
func accountName(client string) string {
	if len(client) <= maxAccountName {
		return client
	}
	sum := sha256.Sum256([]byte(client))
	return string(sum[:])
}

// throttle lets the connection be muted for so long from now on, and the answer say so: the longest counts.
func (r *request) throttle(wait time.Duration) {
	for {
		old := r.throttled.Load()
		if int64(wait) <= old || r.throttled.CompareAndSwap(old, int64(wait)) {
			break
		}
	}
	r.c.mute(wait)
}

// throttleMillis is what the answer says, rounded up.
func (r *request) throttleMillis() int32 {
	return int32((time.Duration(r.throttled.Load()) + time.Millisecond - 1) / time.Millisecond)
}

// mute stops the reading of requests for a while from now on.
func (c *conn) mute(wait time.Duration) {
	until := c.s.quotas.now().Add(wait).UnixNano()
	for {
		old := c.muted.Load()
		if until <= old || c.muted.CompareAndSwap(old, until) {
			return
		}
	}
}

// awaitUnmuted waits until the connection is muted no more.
func (c *conn) awaitUnmuted() error {
	for {
		until := c.muted.Load()
		if until == 0 {
			return nil
		}
		left := time.Unix(0, until).Sub(c.s.quotas.now())
		if left <= 0 {
			c.muted.CompareAndSwap(until, 0)
			return nil
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-c.ctx.Done():
			t.Stop()
			return c.ctx.Err()
		}
	}
}

// worked charges the time that this broker has spent on a request: its percentage is of one core. The next answer says what is to be waited for.
func (r *request) worked(d time.Duration) { r.charge(quotaRequest, 100*d.Seconds(), false) }

// mutates charges changes of n partitions. Strict requests, of the versions that know the error, are refused while their client is in debt.
func (r *request) mutates(n int, strict bool) error {
	if !r.charge(quotaMutation, float64(n), strict) {
		return refuse(kerr.ThrottlingQuotaExceeded, "the client has changed as many partitions as its quota controller_mutation_rate lets it; throttle_time_ms says when to come again")
	}
	return nil
}

// admitIP charges a connection to its address. One that is too many is closed, after the time that its client should have waited.
func (s *server) admitIP(nc net.Conn, im *coordinator.Image) bool {
	if !im.HasQuotas() {
		return true
	}
	ip := remoteIP(nc)
	rate, own, ok := im.IPQuota(quotaConnection, ip)
	if !ok {
		return true
	}
	if !own {
		// In version 6 one customer has more addresses than there are accounts, and could have them all shared.
		ip = sourceOf(ip).String()
	}
	wait, taken := s.quotas.charge(account{limit: quotaConnection, ip: ip}, rate, 1, true)
	if taken {
		return true
	}
	s.quotas.noted(quotaConnection, wait)
	s.quotas.hold(nc, wait)
	return false
}

// hold closes a socket after a while.
func (q *quotas) hold(nc net.Conn, wait time.Duration) {
	q.mu.Lock()
	full := q.held >= maxHeldSockets
	if !full {
		q.held++
	}
	q.mu.Unlock()
	if full {
		nc.Close()
		return
	}
	time.AfterFunc(min(wait, time.Second), func() {
		nc.Close()
		q.mu.Lock()
		q.held--
		q.mu.Unlock()
	})
}

// mostFetched bounds one answer to what a client's quota lets it have in a window.
func (r *request) mostFetched(budget int) int {
	im := r.c.s.b.Image()
	if !im.HasQuotas() {
		return budget
	}
	if m, ok := im.ClientQuota(quotaConsume, r.c.user(), r.quotaClient); ok {
		return max(1, int(min(float64(budget), m.Limit*quotaWindow.Seconds())))
	}
	return budget
}
