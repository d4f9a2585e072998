// How the load's clients connect, of all systems alike: their reads and writes cost less than the standard library's (internal/sock), and what the
// load costs is not the systems'.

package bench

import (
	"context"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/balsamq/balsa/internal/sock"
)

// kafkaDialTimeout is franz-go's, whose dialler is replaced.
const kafkaDialTimeout = 10 * time.Second

// dial is franz-go's dialler.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return dialWithin(ctx, kafkaDialTimeout, network, addr)
}

func dialWithin(ctx context.Context, limit time.Duration, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: limit}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return sock.Wrap(c), nil
}

// natsDialer is NATS's dialler: its own gives up as soon.
type natsDialer struct{}

// Dial implements nats.CustomDialer.
func (natsDialer) Dial(network, addr string) (net.Conn, error) {
	return dialWithin(context.Background(), nats.DefaultTimeout, network, addr)
}
