// How the load's clients connect, of all systems alike: their reads and writes cost less than the standard library's (internal/sock), and what the
// load costs is not the systems'.

package bench

import (
	"context"
	"net"
	"time"

	"github.com/balsamq/balsa/internal/sock"
)

// dialTimeout is franz-go's, whose dialler is replaced.
const dialTimeout = 10 * time.Second

func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return sock.Wrap(c), nil
}

// natsDialer is dial for NATS.
type natsDialer struct{}

// Dial implements nats.CustomDialer.
func (natsDialer) Dial(network, addr string) (net.Conn, error) {
	return dial(context.Background(), network, addr)
}
