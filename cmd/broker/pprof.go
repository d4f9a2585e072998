// Profiles of a running broker over HTTP, for those who ask for them with --pprof-listen.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

const pprofHeaderTimeout = 5 * time.Second

// servePprof serves net/http/pprof's pages until ctx ends. Whoever reaches them can make the broker work: listen on
// loopback.
func servePprof(ctx context.Context, addr string, log *slog.Logger) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return &cliError{code: exitUsage, what: fmt.Sprintf("profiles cannot be served: %v", err), where: "--pprof-listen " + addr,
			mend: "choose a free HOST:PORT, or port 0", err: err}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: pprofHeaderTimeout}
	context.AfterFunc(ctx, func() { _ = srv.Close() }) // nobody waits for a profile of a broker that stops
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("profiles are no longer served", "err", err)
		}
	}()
	log.Info("serving profiles", "url", fmt.Sprintf("http://%s/debug/pprof/", l.Addr()))
	return nil
}
