// Tests of the admin listener: who is let in, how errors look, what its bounds are, and what it says while a broker starts.

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/internal/vfs"
)

// adminHarness is the listener's handler without a broker behind it that runs.
func adminHarness(t *testing.T, loopback bool) (*adminServer, http.Handler) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	logger, _ := testLogger(t)
	b := &Broker{log: logger, met: newMetrics()}
	b.flight = newFlight(vfs.NewMem(1), "/data", logger, 0, 0)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	t.Cleanup(b.cancel)
	a := newAdminServer(b, ln, "unused")
	b.adm = a
	a.loopback = loopback
	a.set(adminReady)
	return a, a.http.Handler
}

// withRoute adds a route for one test.
func withRoute(t *testing.T, rt adminRoute) {
	t.Helper()
	old := adminRoutes
	adminRoutes = append(old[:len(old):len(old)], rt)
	t.Cleanup(func() { adminRoutes = old })
}

func adminAsk(h http.Handler, method, target, host string, header map[string]string, body string) (int, *adminError, string) {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = host
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var e struct{ Error *adminError }
	_ = json.Unmarshal(w.Body.Bytes(), &e)
	return w.Code, e.Error, w.Body.String()
}

func TestAdminGuard(t *testing.T) {
	withRoute(t, adminRoute{pattern: "POST /v1/change", serve: func(*Broker, context.Context, *adminRequest) (any, error) { return struct{}{}, nil }})
	_, local := adminHarness(t, true)
	_, open := adminHarness(t, false)
	for _, tc := range []struct {
		name         string
		h            http.Handler
		method, host string
		header       map[string]string
		refused      bool
	}{
		{name: "loopback address", h: local, method: "POST", host: "127.0.0.1:9292"},
		{name: "another loopback address", h: local, method: "POST", host: "127.0.3.4"},
		{name: "IPv6", h: local, method: "POST", host: "[::1]:9292"},
		{name: "localhost", h: local, method: "POST", host: "LocalHost:1"},
		{name: "no host, HTTP/1.0", h: local, method: "POST", host: ""},
		{name: "rebound name", h: local, method: "POST", host: "evil.example:9292", refused: true},
		{name: "rebound name reads", h: local, method: "GET", host: "evil.example:9292", refused: true},
		{name: "name that begins like ours", h: local, method: "POST", host: "localhost.evil.example", refused: true},
		{name: "address of the network", h: local, method: "POST", host: "192.0.2.1:9292", refused: true},
		{name: "any name on an open listener", h: open, method: "POST", host: "broker-1.example:9292"},
		{name: "cross-site", h: local, method: "POST", host: "127.0.0.1:9292", header: map[string]string{"Sec-Fetch-Site": "cross-site"}, refused: true},
		{name: "cross-site on an open listener", h: open, method: "POST", host: "b:1", header: map[string]string{"Sec-Fetch-Site": "cross-site"}, refused: true},
		{name: "old browser, another origin", h: local, method: "POST", host: "127.0.0.1:9292", header: map[string]string{"Origin": "http://evil.example"}, refused: true},
		{name: "same origin", h: local, method: "POST", host: "127.0.0.1:9292", header: map[string]string{"Origin": "http://127.0.0.1:9292", "Sec-Fetch-Site": "same-origin"}},
		{name: "image on another site", h: local, method: "GET", host: "127.0.0.1:9292", header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, refused: true},
		{name: "followed link", h: local, method: "GET", host: "127.0.0.1:9292", header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}},
	} {
		target := "/v1/change"
		if tc.method == "GET" {
			target = "/metrics"
		}
		code, e, body := adminAsk(tc.h, tc.method, target, tc.host, tc.header, "")
		if refused := code == http.StatusForbidden; refused != tc.refused || !refused && code != http.StatusOK {
			t.Errorf("%s: %d %s", tc.name, code, body)
		} else if refused && (e == nil || e.Kind != adminForbidden || e.Message == "" || e.Mend == "") {
			t.Errorf("%s: the refusal is %s", tc.name, body)
		}
	}
}

func TestAdminRoutes(t *testing.T) {
	withRoute(t, adminRoute{pattern: "POST /v1/echo/{what}", timeout: time.Millisecond, serve: func(_ *Broker, ctx context.Context, q *adminRequest) (any, error) {
		var in struct{ A int }
		if err := q.decode(&in); err != nil {
			return nil, err
		}
		switch q.PathValue("what") {
		case "late":
			<-ctx.Done()
			return nil, ctx.Err()
		case "broken":
			return nil, errors.New("no disk")
		case "gone":
			return nil, fmt.Errorf("wrapped: %w", adminErrorf(adminNotFound, "look elsewhere", "there is no %d", in.A))
		}
		return in, nil
	}})
	a, h := adminHarness(t, true)
	asJSON := map[string]string{"Content-Type": "application/json; charset=utf-8"}
	for _, tc := range []struct {
		method, target string
		header         map[string]string
		body           string
		code           int
		kind           adminKind
	}{
		{"POST", "/v1/echo/x", asJSON, `{"A": 3}`, 200, ""},
		{"POST", "/v1/echo/x", nil, `{"A": 3}`, 415, adminMediaType},
		{"POST", "/v1/echo/x", map[string]string{"Content-Type": "text/plain"}, `{"A": 3}`, 415, adminMediaType},
		{"POST", "/v1/echo/x", asJSON, `{"B": 3}`, 400, adminInvalid},
		{"POST", "/v1/echo/x", asJSON, `{"A": 3} {}`, 400, adminInvalid},
		{"POST", "/v1/echo/x", asJSON, ``, 400, adminInvalid},
		{"POST", "/v1/echo/x", asJSON, `{"A": ` + strings.Repeat(" ", maxAdminBody) + `3}`, 413, adminTooLarge},
		{"POST", "/v1/echo/gone", asJSON, `{"A": 3}`, 404, adminNotFound},
		{"POST", "/v1/echo/broken", asJSON, `{"A": 3}`, 500, adminInternal},
		{"POST", "/v1/echo/late", asJSON, `{"A": 3}`, 504, adminTimedOut},
		{"GET", "/v1/echo/x", nil, "", 405, adminMethod},
		{"PUT", "/v1/echo/x", asJSON, "{}", 405, adminMethod},
		{"GET", "/v1/nothing", nil, "", 404, adminNotFound},
	} {
		code, e, body := adminAsk(h, tc.method, tc.target, "localhost", tc.header, tc.body)
		kind := adminKind("")
		if e != nil {
			kind = e.Kind
		}
		if code != tc.code || kind != tc.kind || e != nil && (e.Message == "" || e.Mend == "") {
			t.Errorf("%s %s %.40q: %d %s", tc.method, tc.target, tc.body, code, body)
		}
	}
	if _, _, body := adminAsk(h, "GET", "/v1", "localhost", nil, ""); !strings.Contains(body, `{"route":"POST /v1/echo/{what}"`) {
		t.Errorf("the list of routes is %s", body)
	}
	a.set(adminRaft)
	if code, e, body := adminAsk(h, "POST", "/v1/echo/x", "localhost", asJSON, `{"A": 3}`); code != 503 || e.Kind != adminUnavailable {
		t.Errorf("before the broker is ready: %d %s", code, body)
	}
}

func TestAdminHealth(t *testing.T) {
	a, h := adminHarness(t, true)
	for _, tc := range []struct {
		phase adminPhase
		code  int
		says  string
	}{{adminStarting, 503, "starting"}, {adminRaft, 503, "majority"}, {adminReady, 200, "ok"}, {adminStopping, 503, "stopping"}} {
		a.set(tc.phase)
		if code, _, body := adminAsk(h, "GET", "/healthz", "localhost", nil, ""); code != tc.code || !strings.Contains(body, tc.says) {
			t.Errorf("phase %d: %d %s", tc.phase, code, body)
		}
	}
	a.set(adminReady)
	err := errors.New("journal: no disk")
	a.b.failed.Store(&err)
	if code, _, body := adminAsk(h, "GET", "/healthz", "localhost", nil, ""); code != 503 || !strings.Contains(body, "no disk") {
		t.Errorf("after a failure: %d %s", code, body)
	}
}

// The listener of a broker that runs: Kafka clients are told where it is, connections are bounded, it ends with the broker.
func TestAdminListener(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, true)
	c.nodes[0].cfg.AdminListen = "127.0.0.1:0"
	c.start(c.nodes[0])
	n := c.nodes[0]
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + n.AdminAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for path, says := range map[string]string{"/healthz": "ok\n", "/metrics": "go_goroutines", "/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/v1/broker": `"version":"` + Version() + `"`} {
		if code, body := get(path); code != 200 || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	v, ok := n.Config("balsa.admin.listener")
	if !ok || v != n.AdminAddr() || !strings.HasPrefix(v, "127.0.0.1:") {
		t.Errorf("balsa.admin.listener is %q, the listener at %q", v, n.AdminAddr())
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeBroker, "1", []string{"balsa.admin.listener"}
	req.Resources = append(req.Resources, r)
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil || len(resp.Resources[0].Configs) != 1 || *resp.Resources[0].Configs[0].Value != v || !resp.Resources[0].Configs[0].ReadOnly {
		t.Errorf("DescribeConfigs: %v %+v", err, resp)
	}

	// A request says which cluster it is for, and no other does what it asks.
	for cluster, want := range map[string]int{n.ClusterID(): http.StatusOK, "another": http.StatusConflict} {
		for _, path := range []string{"/v1/broker", "/v1/raft/groups"} {
			q, err := http.NewRequest(http.MethodGet, "http://"+n.AdminAddr()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			q.Header.Set("Balsa-Cluster", cluster)
			resp, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			var e struct{ Error adminError }
			err = json.NewDecoder(resp.Body).Decode(&e)
			resp.Body.Close()
			if resp.StatusCode != want || err != nil || want != http.StatusOK && (e.Error.Kind != adminConflict || !strings.Contains(e.Error.Message, n.ClusterID()) || e.Error.Mend == "") {
				t.Errorf("%s for cluster %q: %s %+v", path, cluster, resp.Status, e.Error)
			}
		}
	}

	http.DefaultClient.CloseIdleConnections()
	var held []net.Conn
	defer func() {
		for _, nc := range held {
			nc.Close()
		}
	}()
	for range maxAdminConnections + 2 {
		nc, err := net.Dial("tcp", v)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, nc)
	}
	// Which of them is over the bound depends on when idle ones of before have gone.
	soon(t, fmt.Sprintf("not all of %d connections are accepted, the bound is %d", len(held), maxAdminConnections), func() bool {
		return slices.ContainsFunc(held, func(nc net.Conn) bool {
			if err := nc.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, err := nc.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		})
	})
	c.stop(n)
	if nc, err := net.Dial("tcp", v); err == nil {
		nc.Close()
		t.Error("the listener has outlived its broker")
	}
}
