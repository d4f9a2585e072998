// What no Kafka API covers: the brokers' admin listeners, HTTP with JSON. Which routes there are says GET /v1 of any broker.

package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// adminListenerConfig is the broker config that says where a broker's admin listener is.
const adminListenerConfig = "balsa.admin.listener"

// clusterHeader says which cluster a request is for: an address on loopback, or one that was given to somebody else, may lead to
// a broker of another one.
const clusterHeader = "Balsa-Cluster"

// maxControlAnswer bounds an answer of an admin listener.
const maxControlAnswer = 64 << 20

// Control talks to the admin listeners of a cluster's brokers. Any broker answers for the whole cluster; where one cannot be
// reached the next is asked. It is safe for concurrent use, and needs no closing.
type Control struct {
	addrs   []string
	cluster string // empty: not known, as the addresses were given by hand
	skipped string // which brokers are not asked, and why; may be empty
	http    *http.Client
}

// controlIdle is how long a connection is kept for the next call.
const controlIdle = 30 * time.Second

// httpsPrefix begins the address of an admin listener that speaks TLS.
const httpsPrefix = "https://"

// ControlError is a broker's refusal, in its own words. It is the Err of an [*Error].
type ControlError struct {
	Kind    string // "not_found", "invalid", "unavailable", …
	Message string
	Mend    string // what can be done about it; may be empty
}

// Error says what the admin listener has answered.
func (e *ControlError) Error() string { return e.Message }

// NewControl talks to admin listeners at known addresses, without asking the cluster where they are: it works where no broker
// serves Kafka clients any more. An address is HOST:PORT, or https://HOST:PORT for a listener that speaks TLS.
func NewControl(addrs ...string) (*Control, error) { return NewSecureControl(Security{}, addrs...) }

// NewSecureControl is NewControl with the certificates of s for listeners that speak TLS.
func NewSecureControl(s Security, addrs ...string) (*Control, error) {
	for _, a := range addrs {
		host, port, err := net.SplitHostPort(strings.TrimPrefix(a, httpsPrefix))
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
			return nil, &Error{Op: "read the admin address", Subject: strconv.Quote(a), Kind: ErrInvalid, Err: errors.New("write host:port, as 'broker start --admin-listen' has it")}
		}
	}
	if len(addrs) == 0 {
		return nil, &Error{Op: "read the admin address", Kind: ErrInvalid, Err: errors.New("none was given")}
	}
	config, err := s.tlsConfig()
	if err != nil {
		return nil, &Error{Op: "set up the connection's security", Kind: ErrInvalid, Err: err}
	}
	t := &http.Transport{DialContext: (&net.Dialer{Timeout: DefaultConnectTimeout}).DialContext, TLSClientConfig: config, IdleConnTimeout: controlIdle} // no proxy: brokers are near
	return &Control{addrs: addrs, http: &http.Client{Transport: t}}, nil
}

// AdminListeners are the addresses of the brokers' admin listeners by broker id: of those brokers that answer and have one. One
// on loopback can be reached from its broker's machine only; anywhere else the address is somebody else's.
func (a *Admin) AdminListeners(ctx context.Context) (map[int32]string, error) {
	const op = "ask for the admin listeners"
	m, err := a.raw.BrokerMetadata(fresh(ctx))
	if err != nil {
		return nil, a.wrap(op, "", err)
	}
	return a.adminListeners(ctx, op, m)
}

func (a *Admin) adminListeners(ctx context.Context, op string, m kadm.Metadata) (map[int32]string, error) {
	ids := make([]int32, 0, len(m.Brokers))
	for _, b := range m.Brokers {
		ids = append(ids, b.NodeID)
	}
	// A broker that has just died must not take all the time.
	ctx, cancel := share(ctx, 2)
	defer cancel()
	out := make(map[int32]string)
	configs, err := a.raw.DescribeBrokerConfigs(ctx, ids...)
	for _, rc := range configs {
		id, perr := strconv.ParseInt(rc.Name, 10, 32)
		if rc.Err != nil || perr != nil {
			continue
		}
		for _, c := range rc.Configs {
			if c.Key == adminListenerConfig && c.MaybeValue() != "" {
				out[int32(id)] = c.MaybeValue()
			}
		}
	}
	if len(out) == 0 && err != nil {
		return nil, a.wrap(op, "", err)
	}
	return out, nil
}

// Control finds the admin listeners of the cluster: those that can be reached from here as far as their addresses say. Whoever
// answers there has to be of this cluster, or nothing is done.
func (a *Admin) Control(ctx context.Context) (*Control, error) {
	m, err := a.raw.BrokerMetadata(fresh(ctx))
	if err != nil {
		return nil, a.wrap("find the admin listeners", "", err)
	}
	byID, err := a.adminListeners(ctx, "find the admin listeners", m)
	if err != nil {
		return nil, err
	}
	kafka := make(map[int32]string, len(m.Brokers))
	for _, b := range m.Brokers {
		kafka[b.NodeID] = b.Host
	}
	addrs, skipped := reachable(kafka, byID)
	if len(addrs) == 0 {
		cause := ErrNoAdminListener
		if skipped != "" {
			cause = fmt.Errorf("%w that can be reached from here: %s", ErrNoAdminListener, skipped)
		}
		return nil, &Error{Op: "find an admin listener", Kind: ErrUnreachable, Err: cause}
	}
	c, err := NewSecureControl(a.security, addrs...)
	if err != nil {
		return nil, err
	}
	c.cluster, c.skipped = m.Cluster, skipped
	return c, nil
}

// ErrNoAdminListener is the Err of [Admin.Control] where no admin listener was found, while brokers answer.
var ErrNoAdminListener = errors.New("no broker of the cluster has an admin listener")

// reachable are the admin listeners worth asking. A broker whose clients come from elsewhere may have its admin listener on
// loopback all the same, which is the default: then that address leads to whatever runs on this machine.
func reachable(kafka, admin map[int32]string) (addrs []string, skipped string) {
	var local []string
	for _, id := range slices.Sorted(maps.Keys(admin)) {
		host, _, err := net.SplitHostPort(strings.TrimPrefix(admin[id], httpsPrefix))
		if err != nil || loopback(host) && !loopback(kafka[id]) {
			local = append(local, fmt.Sprintf("broker %d has its own at %s", id, admin[id]))
			continue
		}
		addrs = append(addrs, admin[id])
	}
	slices.SortFunc(addrs, cmp.Compare)
	return addrs, strings.Join(local, ", ")
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// Close ends connections that are not in use; those that are end with their calls. A Control needs no Close, but a program that makes many of them does: a
// listener takes a limited number of connections, and they stay open for half a minute.
func (c *Control) Close() { c.http.CloseIdleConnections() }

// Get asks for path, "/v1/…", and decodes the answer into out.
func (c *Control) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, nil, out)
}

// Post sends in as JSON to path and decodes the answer into out, unless that is nil. It is sent to another broker only if the
// first could not be connected to: then nothing can have happened.
func (c *Control) Post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return &Error{Op: "encode the request", Subject: path, Kind: ErrInvalid, Err: err}
	}
	return c.do(ctx, http.MethodPost, path, body, out)
}

func (c *Control) do(ctx context.Context, method, path string, body []byte, out any) error {
	var errs []error
	for _, addr := range c.addrs {
		err := c.ask(ctx, addr, method, path, body, out)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		ce, refused := errors.AsType[*ControlError](err)
		oe, network := errors.AsType[*net.OpError](err)
		again := network && oe.Op == "dial" || method == http.MethodGet && network || refused && ce.Kind == "unavailable"
		if !again || ctx.Err() != nil {
			break
		}
	}
	err := errs[len(errs)-1]
	if ctx.Err() != nil { // what somebody knew says more than that the time is over
		for _, e := range errs {
			if _, ok := errors.AsType[*ControlError](e); ok {
				err = e
			}
		}
	}
	kind, subject := kindOf(err), path
	if kind == ErrUnreachable {
		subject = strings.Join(c.addrs, ", ")
	}
	if c.skipped != "" && kind == ErrUnreachable {
		err = fmt.Errorf("%w; not asked: %s", err, c.skipped)
	}
	if ce, ok := errors.AsType[*ControlError](err); ok {
		kind = map[string]error{"not_found": ErrNotFound, "invalid": ErrInvalid, "timeout": ErrTimeout, "unavailable": ErrUnreachable}[ce.Kind]
	}
	return &Error{Op: method, Subject: subject, Kind: kind, Err: err}
}

// ask asks one broker.
func (c *Control) ask(ctx context.Context, addr, method, path string, body []byte, out any) error {
	base := url.URL{Scheme: "http", Host: addr}
	if host, ok := strings.CutPrefix(addr, httpsPrefix); ok {
		base = url.URL{Scheme: "https", Host: host}
	}
	req, err := http.NewRequestWithContext(ctx, method, base.String()+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.cluster != "" {
		req.Header.Set(clusterHeader, c.cluster)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxControlAnswer+1))
	if err != nil {
		return err
	}
	if len(raw) > maxControlAnswer {
		return fmt.Errorf("the answer of %s is larger than %d bytes", addr, maxControlAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct{ Error *ControlError }
		if json.Unmarshal(raw, &refusal) == nil && refusal.Error != nil {
			return refusal.Error
		}
		return fmt.Errorf("%s answered %s: is it the admin listener of a broker?", addr, resp.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s answered what is no answer to this: %w", addr, err)
	}
	return nil
}
