// Tests of Control against HTTP servers that answer as a broker's admin listener does, and as none does.

package client_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/client"
)

// listener serves as an admin listener and returns its address.
func listener(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// nobody is an address at which nobody listens, on any machine. One that was free a moment ago may be somebody's by now.
const nobody = "127.0.0.1:1"

func refusal(status int, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"kind": kind, "message": "it is " + kind, "mend": "do otherwise"}})
	}
}

func TestControl(t *testing.T) {
	var calls atomic.Int32
	good := listener(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodPost && r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("a POST came as %q", r.Header.Get("Content-Type"))
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"method": r.Method, "path": r.URL.String(), "body": string(body)})
	})
	hangsUp := listener(t, func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
	for _, tc := range []struct {
		name  string
		addrs []string
		post  bool
		kind  error
		text  string // of the broker's refusal
		calls int32  // that good gets
	}{
		{name: "get", addrs: []string{good}, calls: 1},
		{name: "post", addrs: []string{good}, post: true, calls: 1},
		{name: "the first is down", addrs: []string{nobody, good}, post: true, calls: 1},
		{name: "the first is not ready", addrs: []string{listener(t, refusal(503, "unavailable")), good}, post: true, calls: 1},
		{name: "all are down", addrs: []string{nobody, nobody}, kind: client.ErrUnreachable},
		{name: "a refusal counts", addrs: []string{listener(t, refusal(404, "not_found")), good}, kind: client.ErrNotFound, text: "it is not_found"},
		{name: "what may have happened is not repeated", addrs: []string{hangsUp, good}, post: true, kind: errors.New("any")},
		{name: "no admin listener", addrs: []string{listener(t, http.NotFound), good}, kind: errors.New("any")},
	} {
		calls.Store(0)
		ctl, err := client.NewControl(tc.addrs...)
		if err != nil {
			t.Fatal(err)
		}
		var out struct{ Method, Path, Body string }
		if tc.post {
			err = ctl.Post(ctx(t), "/v1/x?y=z", map[string]int{"a": 1}, &out)
		} else {
			err = ctl.Get(ctx(t), "/v1/x?y=z", &out)
		}
		if (err == nil) != (tc.kind == nil) || calls.Load() != tc.calls {
			t.Errorf("%s: %v after %d calls", tc.name, err, calls.Load())
			continue
		}
		if tc.kind == nil {
			if out.Path != "/v1/x?y=z" || tc.post && (out.Method != "POST" || out.Body != `{"a":1}`) {
				t.Errorf("%s: it was asked %+v", tc.name, out)
			}
			continue
		}
		if tc.kind.Error() != "any" && !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v is not %v", tc.name, err, tc.kind)
		}
		if ce, ok := errors.AsType[*client.ControlError](err); tc.text != "" && (!ok || ce.Message != tc.text || ce.Mend != "do otherwise") {
			t.Errorf("%s: %#v", tc.name, err)
		}
	}
	for _, bad := range [][]string{{}, {"localhost"}, {"localhost:0"}, {":9292"}} {
		if _, err := client.NewControl(bad...); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// The brokers say where their listeners are; one that does not answer, or has none, is left out.
func TestAdminListeners(t *testing.T) {
	var cluster atomic.Value
	there := listener(t, func(w http.ResponseWriter, r *http.Request) {
		cluster.Store(r.Header.Get("Balsa-Cluster"))
		_, _ = io.WriteString(w, "{}")
	})
	k, cfg := fake(t, kfake.ClusterID("ours"))
	k.ControlKey(int16(kmsg.DescribeConfigs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		req := kreq.(*kmsg.DescribeConfigsRequest)
		resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, q := range req.Resources {
			r := kmsg.NewDescribeConfigsResponseResource()
			r.ResourceType, r.ResourceName = q.ResourceType, q.ResourceName
			c := kmsg.NewDescribeConfigsResponseResourceConfig()
			c.Name = "balsa.admin.listener"
			switch q.ResourceName {
			case "0":
				c.Value = &there
			case "1":
				r.ErrorCode = kerr.UnknownServerError.Code
			}
			r.Configs = append(r.Configs, c)
			resp.Resources = append(resp.Resources, r)
		}
		return resp, nil, true
	})
	adm, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	got, err := adm.AdminListeners(ctx(t))
	if err != nil || len(got) != 1 || got[0] != there {
		t.Fatalf("%v %v", got, err)
	}
	// Whoever was found through the cluster is told which one is meant; of an address given by hand nobody knows.
	found, err := adm.Control(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	given, err := client.NewControl(there)
	if err != nil {
		t.Fatal(err)
	}
	for want, ctl := range map[string]*client.Control{"ours": found, "": given} {
		if err := ctl.Post(ctx(t), "/v1/x", struct{}{}, nil); err != nil || cluster.Load() != want {
			t.Errorf("asked for cluster %q, not %q: %v", cluster.Load(), want, err)
		}
	}
}

// A listener takes a limited number of connections: a program that makes one Control after another lets go of theirs.
func TestControlClose(t *testing.T) {
	var open atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	srv.Start()
	defer srv.Close()
	for range 20 {
		ctl, err := client.NewControl(srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := ctl.Get(t.Context(), "/v1", nil); err != nil {
			t.Fatal(err)
		}
		ctl.Close()
	}
	for deadline := time.Now().Add(2 * time.Minute); open.Load() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open still", open.Load())
		}
		time.Sleep(time.Millisecond)
	}
}
