// A compacted topic as a map: Get, Put, compare-and-set, Delete, List and Watch, linearizable per key. What makes it so is the brokers'
// (docs/design/0027-kv.md); here is how to ask for it. kv_write.go has the writes, kv_read.go the reads, kv_watch.go what happens from now on.

package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ConditionalAppend is the topic config that a [KV] needs. It is given when the topic is created, together with cleanup.policy=compact.
const ConditionalAppend = "balsa.conditional.append"

// ExpectHeader is the record header by which any producer can write to such a topic on a condition: "none" (the key must not exist, or be deleted),
// or the offset of the key's last record in decimal. A record whose condition fails is refused with INVALID_RECORD, and all of its batch with it.
const ExpectHeader = "balsa.expect"

const (
	// MaxKVKey is the longest key in bytes.
	MaxKVKey = 32 << 10
	// DefaultKVInFlight is how many writes of a [KV] are under way at once, if its configuration says nothing else.
	DefaultKVInFlight = 64
	// DefaultKVListBytes is how much List, Keys and Watch with Initial hold, if the configuration says nothing else.
	DefaultKVListBytes = 256 << 20
)

// What a [KV] reports, beside the kinds of this package. [ErrNotFound]: the key does not exist. [ErrExists]: Create found that it does.
var (
	// ErrNoTopic: the map's topic does not exist, or is another one than when the map was opened. That is no [ErrNotFound], by which Get speaks of a key: a
	// program that takes a key for missing writes its default, and does not look for what has become of all the others. Only OpenKV's is both.
	ErrNoTopic = errors.New("the map's topic does not exist")
	// ErrConflict: the key is not at the revision that was expected. The error is a [*ConflictError], which says what it is.
	ErrConflict = errors.New("conflict")
	// ErrUncertain: nobody can say whether the write has happened, or will. Look before you do it again; a Put or Delete of the same can just be repeated.
	ErrUncertain = errors.New("outcome unknown")
)

// ConflictError is the error of a write whose condition failed: nothing was written.
type ConflictError struct {
	Key      string
	Expected int64 // the revision that was asked for; NoRevision: that there is none
	Current  int64 // the key's revision; NoRevision: it does not exist
}

// NoRevision stands for the revision of a key that does not exist.
const NoRevision int64 = -1

// Error says what is there and what was expected.
func (e *ConflictError) Error() string {
	switch {
	case e.Expected == NoRevision:
		return fmt.Sprintf("key %q exists, at revision %d", e.Key, e.Current)
	case e.Current == NoRevision:
		return fmt.Sprintf("key %q does not exist, expected it at revision %d", e.Key, e.Expected)
	}
	return fmt.Sprintf("key %q is at revision %d, expected %d", e.Key, e.Current, e.Expected)
}

// Is makes it an [ErrConflict], and an [ErrExists] where the key was not to exist.
func (e *ConflictError) Is(target error) bool {
	return target == ErrConflict || target == ErrExists && e.Expected == NoRevision
}

// KVConfig is how a [KV] works. Only Topic is needed.
type KVConfig struct {
	Config
	// Topic holds the keys.
	Topic string
	// Partitions and Replicas are for [CreateKV]; zero leaves them to the brokers' defaults. The number of partitions cannot be changed later. Configs
	// are further settings of the topic, such as "delete.retention.ms".
	Partitions int32
	Replicas   int16
	Configs    map[string]string
	// MaxInFlight bounds the writes that are under way at once; more wait. Zero: [DefaultKVInFlight].
	MaxInFlight int
	// MaxListBytes bounds the keys and values that List, Keys and Watch with Initial hold in memory. Zero: [DefaultKVListBytes].
	MaxListBytes int64
}

// KVEntry is a key with its value.
type KVEntry struct {
	Key      string
	Value    []byte
	Revision int64     // grows with each write of the key; of use for comparing with other revisions of the same key only
	Time     time.Time // when it was written, by the writer's clock
}

// KV is a compacted topic as a map. It is safe for concurrent use, and starts no goroutines but franz-go's.
//
// Per key it is linearizable: a Get sees every write that was acknowledged before, by whomever, and each write takes effect once, at one moment, if it
// does. There is no order between keys, and no transaction over several. Every call goes on trying until its context ends: bound the contexts.
type KV struct {
	cfg   KVConfig
	cl    *kgo.Client
	admin *Admin
	turns chan struct{} // each is the right to a lane
	route kvRoute
	once  sync.Once
	done  chan struct{} // closed by Close

	mu   sync.Mutex // guards what follows
	idle []*kvLane  // the last one that was used comes last, and first again: brokers know only so many producers
}

// OpenKV connects to the map in cfg.Topic. [ErrNoTopic] and [ErrNotFound]: there is no such topic; [ErrInvalid]: it was not made for this.
//
// In a cluster with ACLs it takes DescribeConfigs on the topic, to see whether it was made for this: in one that was not, conditions mean nothing, and a Create would
// overwrite. Reading takes Read, writing Write; each includes Describe.
func OpenKV(ctx context.Context, cfg KVConfig) (*KV, error) {
	if cfg.Topic == "" {
		return nil, &Error{Op: "open the map", Kind: ErrInvalid, Err: errors.New("Topic is empty")}
	}
	cl, err := cfg.connect(ctx)
	if err != nil {
		return nil, err
	}
	kv := &KV{cfg: cfg, cl: cl, admin: &Admin{cl: cl, raw: kadm.NewClient(cl), security: cfg.Security},
		turns: make(chan struct{}, orInt(cfg.MaxInFlight, DefaultKVInFlight)), route: kvRoute{cl: cl, topic: cfg.Topic, turn: make(chan struct{}, 1)}, done: make(chan struct{})}
	if err := kv.check(ctx); err != nil {
		kv.Close()
		return nil, err
	}
	return kv, nil
}

// CreateKV makes the topic of a map, if it is not there, and opens it.
func CreateKV(ctx context.Context, cfg KVConfig) (*KV, error) {
	admin, err := NewAdmin(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	spec := TopicSpec{Name: cfg.Topic, Partitions: cfg.Partitions, Replicas: cfg.Replicas, Configs: map[string]string{"cleanup.policy": "compact"}}
	for k, v := range cfg.Configs {
		spec.Configs[k] = v
	}
	spec.Configs[ConditionalAppend] = "true"
	if _, err := admin.CreateTopic(ctx, spec); err != nil && !errors.Is(err, ErrExists) {
		return nil, err
	} else if err != nil { // somebody else makes it, perhaps at this moment
		if _, err := admin.WaitForTopic(ctx, cfg.Topic, nil); err != nil {
			return nil, err
		}
	}
	return OpenKV(ctx, cfg)
}

// check refuses a topic that was not made for this: without the config the brokers would write whatever the condition.
func (kv *KV) check(ctx context.Context) error {
	const op = "open the map"
	if _, err := kv.admin.Topic(ctx, kv.cfg.Topic); err != nil {
		if errors.Is(err, ErrNotFound) {
			return &Error{Op: op, Subject: kv.cfg.Topic, Kind: ErrNotFound, Err: fmt.Errorf("%w: %w", ErrNoTopic, kerr.UnknownTopicOrPartition)}
		}
		return err
	}
	configs, err := kv.admin.raw.DescribeTopicConfigs(ctx, kv.cfg.Topic)
	var rc kadm.ResourceConfig
	if err == nil {
		rc, err = configs.On(kv.cfg.Topic, nil)
	}
	if err == nil {
		err = rc.Err
	}
	if kindOf(err) == ErrDenied {
		err = fmt.Errorf("to see whether its conditions are kept takes DescribeConfigs on the topic: %w", err)
	}
	if err != nil {
		return wrapKV(op, kv.cfg.Topic, err)
	}
	if !slices.ContainsFunc(rc.Configs, func(c kadm.Config) bool { return c.Key == ConditionalAppend && c.MaybeValue() == "true" }) {
		return &Error{Op: op, Subject: kv.cfg.Topic, Kind: ErrInvalid, Err: fmt.Errorf("the topic is without %s=true, which is given when it is created: CreateKV does", ConditionalAppend)}
	}
	return wrap(op, kv.cfg.Topic, kv.route.refresh(ctx, 0))
}

// Close disconnects. Calls under way fail with [ErrClosed], or [ErrUncertain]. Closing twice is harmless.
func (kv *KV) Close() {
	kv.once.Do(func() { close(kv.done) })
	kv.cl.Close()
}

// ended is why no more is tried; nil: go on.
func (kv *KV) ended(ctx context.Context) error {
	select {
	case <-kv.done:
		return fmt.Errorf("%w: the map", ErrClosed)
	default:
		return ctx.Err()
	}
}

// noTopic says whether an error is about a topic that does not exist, in whatever words.
func noTopic(err error) bool {
	for _, gone := range []error{ErrNoTopic, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// wrapKV is wrap for the calls of a map, where ErrNotFound is about keys.
func wrapKV(op, subject string, err error) error {
	if !noTopic(err) {
		return wrap(op, subject, err)
	}
	why := ErrNoTopic
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		why = fmt.Errorf("%w: %w", ErrNoTopic, ke)
	} else if _, own := errors.AsType[*Error](err); !own {
		why = err
	}
	return &Error{Op: op, Subject: subject, Kind: ErrNoTopic, Err: why}
}

// Client is the franz-go client underneath, for what this package does not offer. It is closed with the map.
func (kv *KV) Client() *kgo.Client { return kv.cl }

// partitionOf is where a key is, as every Kafka client has it.
func (kv *KV) partitionOf(key string) int32 {
	n := kv.route.partitions()
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic(kv.cfg.Topic).Partition(&kgo.Record{Key: []byte(key)}, n))
}

func (kv *KV) checkKey(op, key string) error {
	switch {
	case key == "":
		return &Error{Op: op, Subject: kv.cfg.Topic, Kind: ErrInvalid, Err: errors.New("the key is empty")}
	case len(key) > MaxKVKey:
		return &Error{Op: op, Subject: kv.cfg.Topic, Kind: ErrInvalid, Err: fmt.Errorf("the key has %d bytes, at most %d", len(key), MaxKVKey)}
	}
	return nil
}

// kvRoute knows who leads the partitions.
type kvRoute struct {
	cl    *kgo.Client
	topic string
	turn  chan struct{} // one asks at a time, and all others use what it learns

	mu      sync.Mutex // guards what follows
	round   int        // of asking
	id      [16]byte
	leaders []int32 // by partition; -1: nobody
	unknown int     // how often in a row nobody knew the topic
}

// maxUnknown is how often in a row a topic may be unknown: a broker that has just started may not have heard of it yet.
const maxUnknown = 8

func (r *kvRoute) partitions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.leaders)
}

// leader is who leads a partition, as of which round.
func (r *kvRoute) leader(p int32) (node int32, id [16]byte, round int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaders[p], r.id, r.round
}

// refresh asks who leads, unless that was done since the round.
func (r *kvRoute) refresh(ctx context.Context, round int) error {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.turn }()
	r.mu.Lock()
	done := r.round > round
	r.mu.Unlock()
	if done {
		return nil
	}
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(r.topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, r.cl)
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 {
		return fmt.Errorf("an answer about %d topics, one was asked for", len(resp.Topics))
	}
	rt := &resp.Topics[0]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round++
	err = kerr.ErrorForCode(rt.ErrorCode)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		if r.unknown++; r.unknown < maxUnknown && r.leaders != nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	r.unknown = 0
	leaders := make([]int32, len(rt.Partitions))
	for i := range rt.Partitions {
		p := &rt.Partitions[i]
		if p.Partition < 0 || int(p.Partition) >= len(leaders) {
			return fmt.Errorf("partition %d of %d", p.Partition, len(leaders))
		}
		leaders[p.Partition] = -1
		if p.ErrorCode == 0 || p.Leader >= 0 {
			leaders[p.Partition] = p.Leader
		}
	}
	if len(leaders) == 0 || r.leaders != nil && (len(leaders) != len(r.leaders) || r.id != rt.TopicID) {
		return fmt.Errorf("%w: it was deleted and made anew since the map was opened", ErrNoTopic)
	}
	r.id, r.leaders = rt.TopicID, leaders
	return nil
}

// verify asks until it is told that the topic is still the one that it was.
func (r *kvRoute) verify(ctx context.Context) error {
	for pause := kvFirstPause; ; pause = min(pause*2, kvMaxPause) {
		r.mu.Lock()
		round := r.round
		r.mu.Unlock()
		err := r.refresh(ctx, round)
		r.mu.Lock()
		sure := r.unknown == 0
		r.mu.Unlock()
		if err != nil || sure {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

const (
	kvFirstAttempt = 2 * time.Second
	kvMaxAttempt   = 15 * time.Second
	kvFirstPause   = 10 * time.Millisecond
	kvMaxPause     = 250 * time.Millisecond
)

// attempts runs one after the other until one is done, or ctx ends: then with ctx's error. Each knows for how long it may wait for an answer: a broker that has
// been stopped gives none, and another one leads by then.
func (kv *KV) attempts(ctx context.Context, p int32, try func(ctx context.Context, node int32, id [16]byte, wait time.Duration) (done bool, err error)) error {
	wait, pause := kvFirstAttempt, kvFirstPause
	for {
		if err := kv.ended(ctx); err != nil {
			return err
		}
		node, id, round := kv.route.leader(p)
		if node >= 0 {
			one, cancel := context.WithTimeout(ctx, wait)
			done, err := try(one, node, id, wait)
			cancel()
			if done {
				return err
			}
			wait = min(wait*2, kvMaxAttempt)
		}
		if err := kv.rest(ctx, pause); err != nil {
			return err
		}
		pause = min(pause*2, kvMaxPause)
		one, cancel := context.WithTimeout(ctx, kvFirstAttempt)
		err := kv.route.refresh(one, round)
		cancel()
		switch {
		case err == nil, ctx.Err() != nil:
		case noTopic(err), kindOf(err) == ErrDenied:
			return err
		}
	}
}

// rest waits before another attempt, or says why there is none.
func (kv *KV) rest(ctx context.Context, pause time.Duration) error {
	select {
	case <-kv.done:
	case <-ctx.Done():
	case <-time.After(pause):
	}
	return kv.ended(ctx)
}

// milliseconds is a duration for a request.
func milliseconds(d time.Duration) int32 {
	return int32(min(d.Milliseconds(), math.MaxInt32))
}
