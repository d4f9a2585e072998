// The listeners for Kafka clients: named, each with its address, the address that clients are told, and a security protocol.

package broker

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/balsamq/balsa/coordinator"
)

// Security protocols of a listener, by Kafka's names.
const (
	ProtocolPlaintext     = "PLAINTEXT"
	ProtocolSSL           = "SSL"
	ProtocolSASLPlaintext = "SASL_PLAINTEXT"
	ProtocolSASLSSL       = "SASL_SSL"
)

// maxListeners bounds them: a registration has room for as many.
const maxListeners = 16

// Listener is one address for Kafka clients.
type Listener struct {
	// Name is the listener's own: clients that come by it are told the addresses that all brokers have under this name.
	Name string
	// Protocol is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL. Default: the name, if that is one of these.
	Protocol string
	// Listen and Advertise are as in Config.
	Listen, Advertise string
}

func (l *Listener) tls() bool { return l.Protocol == ProtocolSSL || l.Protocol == ProtocolSASLSSL }
func (l *Listener) sasl() bool {
	return l.Protocol == ProtocolSASLPlaintext || l.Protocol == ProtocolSASLSSL
}

func knownProtocol(p string) bool {
	return slices.Contains([]string{ProtocolPlaintext, ProtocolSSL, ProtocolSASLPlaintext, ProtocolSASLSSL}, p)
}

// ParseListeners reads listeners as Kafka writes them: "NAME://HOST:PORT" each; advertised likewise, for those that are told
// another address; protocols "NAME:PROTOCOL", for those whose name is none.
func ParseListeners(listeners, advertised, protocols []string) ([]Listener, error) {
	var out []Listener
	find := func(name string) *Listener {
		i := slices.IndexFunc(out, func(l Listener) bool { return l.Name == name })
		if i < 0 {
			return nil
		}
		return &out[i]
	}
	for _, s := range listeners {
		name, addr, ok := strings.Cut(s, "://")
		if !ok {
			return nil, fmt.Errorf("%w: listener %q is not NAME://HOST:PORT", ErrConfig, s)
		}
		out = append(out, Listener{Name: strings.ToUpper(name), Listen: addr})
	}
	for _, s := range advertised {
		name, addr, ok := strings.Cut(s, "://")
		l := find(strings.ToUpper(name))
		if !ok || l == nil {
			return nil, fmt.Errorf("%w: advertised listener %q is not NAME://HOST:PORT of a listener that there is", ErrConfig, s)
		}
		l.Advertise = addr
	}
	for _, s := range protocols {
		name, protocol, ok := strings.Cut(s, ":")
		l := find(strings.ToUpper(name))
		if !ok || l == nil {
			return nil, fmt.Errorf("%w: %q is not NAME:PROTOCOL of a listener that there is", ErrConfig, s)
		}
		l.Protocol = strings.ToUpper(protocol)
	}
	return out, nil
}

// listeners are those in force: where none are named, the one of Listen and Advertise.
func (c *Config) listeners() []Listener {
	if len(c.Listeners) == 0 {
		return []Listener{{Name: ProtocolPlaintext, Protocol: ProtocolPlaintext, Listen: c.Listen, Advertise: c.Advertise}}
	}
	out := slices.Clone(c.Listeners)
	for i := range out {
		def(&out[i].Protocol, out[i].Name)
	}
	return out
}

// checkListeners says what is wrong with the listeners, beside their addresses.
func (c *Config) checkListeners() (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
	}
	list := c.listeners()
	if len(list) > maxListeners {
		bad("%d listeners, at most %d", len(list), maxListeners)
	}
	for i := range list {
		l := &list[i]
		if l.Name == "" || len(l.Name) > 249 || strings.ContainsAny(l.Name, ":/, ") {
			bad("a listener cannot be called %q", l.Name)
		}
		if slices.ContainsFunc(list[:i], func(o Listener) bool { return o.Name == l.Name }) {
			bad("there are two listeners %s", l.Name)
		}
		if !knownProtocol(l.Protocol) {
			bad("listener %s: %q is none of PLAINTEXT, SSL, SASL_PLAINTEXT and SASL_SSL: say which it is with the listener protocols (NAME:PROTOCOL)", l.Name, l.Protocol)
		}
		if l.tls() && !c.KafkaTLS.enabled() {
			bad("listener %s speaks TLS, for which KafkaTLS has no certificate", l.Name)
		}
	}
	return errs
}

// kafkaListener is a listener that is bound.
type kafkaListener struct {
	Listener
	ln net.Listener
}

// endpoint is what clients are told of it.
func (l *kafkaListener) endpoint() coordinator.Endpoint {
	host, port := advertised(l.Advertise, l.ln.Addr().String())
	return coordinator.Endpoint{Listener: l.Name, Host: host, Port: int32(port)}
}

// describe is listeners or advertised.listeners as Kafka writes it.
func (b *Broker) describeListeners(advertised bool) string {
	var out []string
	for i, l := range b.kafka {
		addr := l.ln.Addr().String()
		if advertised {
			addr = net.JoinHostPort(b.endpoints[i].Host, strconv.Itoa(int(b.endpoints[i].Port)))
		}
		out = append(out, l.Name+"://"+addr)
	}
	return strings.Join(out, ",")
}
