// What was set dynamically takes effect here, while the broker runs: the metadata says what holds for this broker, and each change is
// told to the part that obeys it. What is asked for on use (num.partitions, say) needs no telling.

package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/balsamq/balsa/coordinator"
)

// SetConfigs implements backend.
func (b *Broker) SetConfigs(ctx context.Context, changes []coordinator.ConfigChange, done func([]error)) {
	b.setItems(ctx, &coordinator.Command{SetConfigs: &coordinator.SetConfigs{Changes: changes}}, len(changes), "set configs", done)
}

// AlterQuotas implements backend.
func (b *Broker) AlterQuotas(ctx context.Context, entries []coordinator.QuotaChange, done func([]error)) {
	b.setItems(ctx, &coordinator.Command{AlterQuotas: &coordinator.AlterQuotas{Entries: entries}}, len(entries), "alter quotas", done)
}

// setItems has a command of n items carried out; done gets an error or nil for each, once every live broker has it.
func (b *Broker) setItems(ctx context.Context, c *coordinator.Command, n int, what string, done func([]error)) {
	fail := func(err error) {
		errs := make([]error, n)
		for i := range errs {
			errs[i] = err
		}
		done(errs)
	}
	b.admin(ctx, func(ctx context.Context) {
		r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Command: c})
		if err == nil {
			err = r.Err()
		}
		if err == nil && len(r.Items) != n {
			err = errRPC
		}
		if err != nil {
			fail(fmt.Errorf("%s: %w", what, err))
			return
		}
		late := b.awaitCluster(ctx, r.Index, nil)
		errs := make([]error, n)
		for i := range errs {
			errs[i] = r.Items[i].Err()
			if errs[i] == nil && late != nil {
				errs[i] = fmt.Errorf("%s: it is done, but some broker's metadata has not got it yet: %w", what, late)
			}
		}
		done(errs)
	}, fail)
}

// isStale: somebody else was faster; nothing was done.
func isStale(err error) bool { return errors.Is(err, coordinator.ErrStale) }

// configured are the values that take effect by being told, as they were told last.
type configured struct {
	values map[string]string // by config, what is in force
	topics map[string]string // broker configs that give topics their defaults, where they are set dynamically
}

// configureLoop tells what changes until the broker closes.
func (b *Broker) configureLoop() {
	share := time.NewTicker(shareInterval)
	defer share.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.reconfigure:
			b.configure()
		case <-share.C:
			b.throttleReplication(b.Image())
		}
	}
}

// configsChanged notes that the image has other configs of brokers. It does not block.
func (b *Broker) configsChanged() {
	select {
	case b.reconfigure <- struct{}{}:
	default:
	}
}

// appliers are the configs that take effect by being told, each with what takes it. A value was checked when it was set.
var appliers = map[string]func(b *Broker, value string){
	"auto.leader.rebalance.enable": func(b *Broker, v string) { b.balancer.off.Store(v != "true") },
	"connections.max.idle.ms": func(b *Broker, v string) {
		b.server.limits.idle.Store(int64(millis(v)))
	},
	"fetch.max.bytes": func(b *Broker, v string) { b.server.limits.fetchMaxBytes.Store(number(v)) },
	"log.cleaner.backoff.ms": func(b *Broker, v string) {
		if b.cleaner != nil {
			b.cleaner.setPause(millis(v))
		}
	},
	"log.retention.check.interval.ms": func(b *Broker, v string) { b.rec.setInterval(millis(v)) },
	"producer.id.expiration.ms":       func(b *Broker, v string) { b.rec.setExpiry(millis(v)) },
	"max.connection.creation.rate":    func(b *Broker, v string) { b.server.rates.setAll(float64(number(v))) },
	"max.connections":                 func(b *Broker, v string) { b.server.limits.connections.Store(number(v)) },
	"max.connections.per.ip":          func(b *Broker, v string) { b.server.limits.perIP.Store(number(v)) },
	"max.connections.per.ip.overrides": func(b *Broker, v string) {
		overrides, _ := connectionOverrides(v)
		b.server.limits.overrides.Store(&overrides)
	},
}

// number is a value that was checked to be one.
func number(v string) int64 {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return math.MaxInt64 // a newer broker let in what this one cannot read: no bound of ours
	}
	return n
}

// millis is such a value as a time, which is never 0: a broker that was started with less than a millisecond says 0, and who waits for it would never rest.
func millis(v string) time.Duration {
	const most = math.MaxInt64 / time.Millisecond
	return min(max(time.Duration(number(v)), 1), most) * time.Millisecond
}

// configure tells what has changed. It is called by one goroutine at a time.
func (b *Broker) configure() {
	im := b.Image()
	if b.configured.values == nil {
		b.configured.values = make(map[string]string)
		for name := range appliers {
			b.configured.values[name] = b.startedWith(name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(appliers)) {
		v, ok := setForBroker(im, b.NodeID(), name)
		if !ok {
			v = b.startedWith(name)
		}
		if v != b.configured.values[name] {
			b.log.Info("a config has another value", "config", name, "value", v, "before", b.configured.values[name])
			b.configured.values[name] = v
			appliers[name](b, v)
		}
	}
	topics := make(map[string]string)
	for i := range topicConfigDefs {
		if d := &topicConfigDefs[i]; d.broker != "" {
			if v, ok := setForBroker(im, b.NodeID(), d.broker); ok {
				topics[d.name] = v
			}
		}
	}
	if !maps.Equal(topics, b.configured.topics) {
		b.configured.topics = topics
		b.rec.setDefaults(topics)
	}
	b.throttleReplication(im)
}

// startedWith is a broker config as it is without anything dynamic.
func (b *Broker) startedWith(name string) string {
	if v, ok := b.Config(name); ok {
		return v
	}
	return brokerConfigs()[name].def
}
