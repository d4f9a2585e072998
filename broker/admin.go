// The admin listener: HTTP for operators and tools, beside the Kafka protocol and apart from it. It serves
//
//	/healthz       200 once clients are served; before that and while stopping 503, with the reason
//	/metrics       Prometheus' text format: metrics.go, docs/metrics.md
//	/debug/pprof/  profiles of the Go runtime
//	/debug/flight  an execution trace of the last seconds: flight.go
//	/v1/…          JSON: what no Kafka API covers. admin_routes.go has the list; GET /v1 shows it
//
// Without TLS and client certificates (Config.AdminTLS) it asks nobody who they are, and so listens on loopback unless it is told otherwise.
// There it refuses what a web page could make its reader's browser send: names that merely resolve to this machine (DNS
// rebinding), and requests from other sites. It serves from the moment the data directory is open: a broker that waits for
// its cluster is the one that people want to look into.

package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// adminOff is the word for no listener, where an empty one stands for it too.
	adminOff = "none"
	// Bounds of the listener. A profile takes as long as its asker says, so that only what is read has a deadline there.
	maxAdminConnections = 64
	maxAdminHeader      = 16 << 10
	adminHeaderTimeout  = 5 * time.Second
	adminReadTimeout    = 30 * time.Second
	adminIdleTimeout    = time.Minute
	// adminCloseTimeout is how long requests in progress may go on when the broker stops.
	adminCloseTimeout = time.Second
)

// adminPhase is how far the broker has come.
type adminPhase int32

const (
	adminStarting adminPhase = iota // the data directory is open
	adminRaft                       // groups run and other brokers are heard; not yet registered
	adminReady                      // clients are served
	adminStopping
)

// adminServer is the listener and what it serves.
type adminServer struct {
	b        *Broker
	ln       net.Listener
	addr     string // to give away, host:port
	secure   bool   // it speaks TLS
	loopback bool
	http     *http.Server
	cross    *http.CrossOriginProtection
	phase    atomic.Int32
	conns    atomic.Int32
	wg       sync.WaitGroup // the accept loop
}

// adminListens reports whether an address asks for a listener at all.
func adminListens(addr string) bool { return addr != "" && addr != adminOff }

// newAdminServer is to serve on ln. Where ln listens everywhere, host is what others are told.
func newAdminServer(b *Broker, ln net.Listener, host string) *adminServer {
	a := &adminServer{b: b, ln: ln, addr: ln.Addr().String(), cross: http.NewCrossOriginProtection()}
	if ap, err := netip.ParseAddrPort(a.addr); err == nil {
		a.loopback = ap.Addr().IsLoopback()
		if ap.Addr().IsUnspecified() {
			a.addr = net.JoinHostPort(host, strconv.Itoa(int(ap.Port())))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.Handle("GET /metrics", newMetricsHandler(b))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/flight", b.flight.serve)
	a.route(mux)
	a.http = &http.Server{
		Handler: a.guard(mux), ConnState: a.connState, MaxHeaderBytes: maxAdminHeader,
		ReadHeaderTimeout: adminHeaderTimeout, ReadTimeout: adminReadTimeout, IdleTimeout: adminIdleTimeout,
		ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelWarn), BaseContext: func(net.Listener) context.Context { return b.ctx },
	}
	return a
}

// useTLS comes before start.
func (a *adminServer) useTLS(c *tls.Config) { a.ln, a.secure = tls.NewListener(a.ln, c), true }

// start accepts until close.
func (a *adminServer) start() {
	a.wg.Go(func() {
		if err := a.http.Serve(a.ln); !errors.Is(err, http.ErrServerClosed) {
			a.b.log.Error("the admin listener has failed; it comes back when the broker is restarted", "addr", a.addr, "err", err)
		}
	})
}

func (a *adminServer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), adminCloseTimeout)
	defer cancel()
	if a.http.Shutdown(ctx) != nil {
		_ = a.http.Close() // nobody waits for a profile of a broker that stops
	}
	a.wg.Wait()
	return nil
}

// set tells how far the broker has come. There may be no listener.
func (a *adminServer) set(p adminPhase) {
	if a != nil {
		a.phase.Store(int32(p))
	}
}

// connState keeps the number of connections within its bound.
func (a *adminServer) connState(nc net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if a.conns.Add(1) > maxAdminConnections {
			_ = nc.Close()
		}
	case http.StateClosed, http.StateHijacked:
		a.conns.Add(-1)
	}
}

// guard refuses what only a web page would send.
func (a *adminServer) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.loopback && !loopbackHost(r.Host) {
			writeAdminError(w, adminErrorf(adminForbidden, "use 127.0.0.1 or localhost in the address",
				"the host %q is not this machine's own name for itself (a web page may have sent you here)", r.Host))
			return
		}
		// A page may show a link to follow, but not load from here or make requests by itself.
		if err := a.cross.Check(r); err != nil || r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
			writeAdminError(w, adminErrorf(adminForbidden, "ask from a program, or enter the address yourself", "the request comes from another web site"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopbackHost reports whether a Host header names this machine by loopback. HTTP/1.0 has none.
func loopbackHost(hostport string) bool {
	host, _, err := splitAddr(hostport)
	if err != nil {
		return false
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// healthz is for load balancers and process managers: one word, and the status.
func (a *adminServer) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := a.health(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (a *adminServer) health() error {
	if err := a.b.failed.Load(); err != nil {
		return fmt.Errorf("failed: the broker must be restarted: %w", *err)
	}
	switch adminPhase(a.phase.Load()) {
	case adminReady:
		return nil
	case adminRaft:
		return errors.New("starting: waiting for a majority of the metadata group")
	case adminStopping:
		return errors.New("stopping")
	}
	return errors.New("starting")
}
