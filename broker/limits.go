// What one client may take: connections, new ones per second, and memory for its requests, so that there is enough left for
// the others.

package broker

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/netip"

	"golang.org/x/time/rate"
)

const (
	// maxRateSources bounds the addresses whose new connections are counted.
	maxRateSources = 10_000
	// connectionControl is what all of a connection's requests that carry no records may hold together, before they are answered.
	connectionControl = maxGroupRequest
	// minConnectionMemory is the least that a connection's produce requests may hold.
	minConnectionMemory = 1 << 20
)

// connectionRates bound how fast connections come. Guarded by server.mu, but for all.
type connectionRates struct {
	perSource rate.Limit // of one address; 0: unbounded
	all       *rate.Limiter
	sources   map[netip.Prefix]*rate.Limiter
}

func newConnectionRates(all, perSource float64) *connectionRates {
	r := &connectionRates{perSource: rate.Limit(perSource), all: rate.NewLimiter(rate.Inf, 0), sources: make(map[netip.Prefix]*rate.Limiter)}
	if all > 0 {
		r.all = rate.NewLimiter(rate.Limit(all), burst(all)) // full: setAll would begin with none
	}
	return r
}

// setAll changes how many may come in a second; no more than math.MaxInt32 are counted (max.connection.creation.rate).
func (r *connectionRates) setAll(perSecond float64) {
	if perSecond >= math.MaxInt32 {
		r.all.SetLimit(rate.Inf)
		return
	}
	r.all.SetLimit(rate.Limit(perSecond))
	r.all.SetBurst(burst(perSecond))
}

// burst is how many connections may come at once: a client opens one to each broker when it starts.
func burst(perSecond float64) int { return max(int(perSecond), 10) }

// wait holds the next connection back, in the kernel's queue, until it may come.
func (r *connectionRates) wait(ctx context.Context) error {
	return r.all.Wait(ctx)
}

// allow counts a connection of an address.
func (r *connectionRates) allow(from netip.Prefix) bool {
	if r.perSource <= 0 {
		return true
	}
	l := r.sources[from]
	if l == nil {
		if len(r.sources) >= maxRateSources {
			r.sweep()
		}
		l = rate.NewLimiter(r.perSource, burst(float64(r.perSource)))
		r.sources[from] = l
	}
	return l.Allow()
}

// sweep forgets the addresses that have been quiet; if none has, all of them.
func (r *connectionRates) sweep() {
	for k, l := range r.sources {
		if l.Tokens() >= float64(l.Burst()) {
			delete(r.sources, k)
		}
	}
	if len(r.sources) >= maxRateSources {
		clear(r.sources)
	}
}

// sourceOf is who counts as one client: an address, or in version 6 the network that one customer gets.
func sourceOf(ip string) netip.Prefix {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Prefix{}
	}
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // a has as many
	return p
}

// ownBudget is the connection's own share for a kind of request, beside what all connections have together.
func (c *conn) ownBudget(a *api) *budget {
	if a.key == keyProduce {
		return c.records
	}
	return c.control
}

// source is what the open connections of one address have together: sourceOf says which those are.
type source struct {
	connections int     // guarded by server.mu
	hellos      *budget // helloShare
}

// acquireHello takes memory for n bytes that anybody may send: of the address's share first, so that one address holds up itself only.
func (c *conn) acquireHello(n int64) error {
	if c.source != nil {
		if err := c.source.hellos.Acquire(c.ctx, n); err != nil {
			return err
		}
	}
	err := c.s.hellos.Acquire(c.ctx, n)
	if err != nil && c.source != nil {
		c.source.hellos.Release(n)
	}
	return err
}

// releaseHello is acquireHello's inverse.
func (c *conn) releaseHello(n int64) {
	c.s.hellos.Release(n)
	if c.source != nil {
		c.source.hellos.Release(n)
	}
}

// acquire takes memory for a request of n bytes, whose first are in br: the connection's own, so that who has used up his does not hold up the
// others, and then of what all connections have together. For what arrives bit by bit that may be a part of it at first.
func (c *conn) acquire(br *bufio.Reader, a *api, n int) (*arrival, error) {
	own := c.ownBudget(a)
	share := min(int64(n), own.size)
	if err := own.Acquire(c.ctx, share); err != nil {
		return nil, err
	}
	r := c.s.arriving[c.s.memoryOf(a)]
	if r == nil {
		err := c.acquireHello(int64(n))
		if err != nil {
			own.Release(share)
		}
		return nil, err
	}
	err := c.awaitEntry(br, n)
	if err != nil {
		own.Release(share)
		return nil, err
	}
	in, err := r.begin(c, int64(n), int64(br.Buffered()))
	if err != nil {
		r.end(in)
		c.abandon(a, in, n)
		return nil, err
	}
	return in, nil
}

// abandon gives back what a request of n bytes holds that will not be served.
func (c *conn) abandon(a *api, in *arrival, n int) {
	if in == nil {
		c.giveBack(a, int64(n))
		return
	}
	c.s.memoryOf(a).Release(in.held)
	own := c.ownBudget(a)
	own.Release(min(int64(n), own.size))
}

// giveBack is acquire's inverse, for a request that was read.
func (c *conn) giveBack(a *api, n int64) {
	own := c.ownBudget(a)
	if m := c.s.memoryOf(a); m != c.s.hellos {
		m.Release(n)
	} else {
		c.releaseHello(n)
	}
	own.Release(min(n, own.size))
}

// checkLimits says what is wrong with the bounds of connections.
func (c *Config) checkLimits() (errs []error) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
		}
	}
	check(c.MaxConnectionsPerIP >= 0, "MaxConnectionsPerIP %d is negative", c.MaxConnectionsPerIP)
	check(c.ConnectionRate >= 0 && c.ConnectionRatePerIP >= 0, "ConnectionRate %v or ConnectionRatePerIP %v is negative", c.ConnectionRate, c.ConnectionRatePerIP)
	check(c.ConnectionMemory == 0 || c.ConnectionMemory >= minConnectionMemory, "ConnectionMemory %d is below %d", c.ConnectionMemory, minConnectionMemory)
	return errs
}
