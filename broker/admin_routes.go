// The admin listener's JSON: which routes there are, and what they all share. Requests and answers are JSON objects whose
// names stay; an error has a kind for programs, a sentence, and how to mend it:
//
//	{"error": {"kind": "not_found", "message": "…", "mend": "…"}}
//
// A request may say in the header Balsa-Cluster which cluster it is for: any other refuses it.
//
// A route that changes something is a POST with Content-Type application/json, which a web page cannot send unasked.

package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// adminRoute is one request: `METHOD /v1/…`, as http.ServeMux has it.
type adminRoute struct {
	pattern string
	doc     string // one sentence, for GET /v1
	// early: served as soon as Raft runs, and not only once the broker has its place in the cluster.
	early bool
	// timeout bounds the request; 0 is adminRouteTimeout. A client that hangs up ends its request, too.
	timeout time.Duration
	// serve returns what is sent as JSON. An error of another type than *adminError is shown as internal.
	serve func(*Broker, context.Context, *adminRequest) (any, error)
}

// adminRoutes is what we serve. A new route is a function in a file of its subject, and a line here.
var adminRoutes = []adminRoute{
	{pattern: "GET /v1/broker", doc: "this broker: ids, addresses, version, how far it has come", early: true, serve: (*Broker).adminBroker},
	{pattern: "GET /v1/raft/groups", doc: "all Raft groups of the cluster, one line each", early: true, serve: (*Broker).adminGroups},
	{pattern: "GET /v1/raft/groups/{group...}", doc: "one group (its number, TOPIC/PARTITION, or metadata) on all its replicas", early: true, serve: (*Broker).adminGroup},
	{pattern: "POST /v1/reset-peers", doc: "let a group whose majority is gone for good go on with the replicas that are left", early: true,
		timeout: resetTimeout, serve: (*Broker).adminResetPeers},
	{pattern: "POST /v1/topics/{topic}/partitions/{partition}/leader", doc: "hands a partition's leadership to the broker that \"to\" names, or to whoever is fit",
		timeout: transferRouteTimeout, serve: (*Broker).adminTransferLeader},
	{pattern: "GET /v1/bridges", doc: "the bridges to other systems, and how they are", serve: (*Broker).adminBridges},
	{pattern: "GET /v1/bridges/{bridge}", doc: "one bridge", serve: (*Broker).adminBridge},
	{pattern: "POST /v1/bridges", doc: "makes a bridge", serve: (*Broker).adminAddBridge},
	{pattern: "POST /v1/bridges/{bridge}/pause", doc: "stops a bridge where it is", serve: (*Broker).adminPauseBridge},
	{pattern: "POST /v1/bridges/{bridge}/resume", doc: "lets a bridge go on where it was", serve: (*Broker).adminResumeBridge},
	{pattern: "POST /v1/bridges/{bridge}/seek", doc: "lets a bridge go on at the position that \"to\" names", serve: (*Broker).adminSeekBridge},
	{pattern: "POST /v1/bridges/{bridge}/set", doc: "gives a bridge another definition, \"spec\", with the same source and target", serve: (*Broker).adminSetBridge},
	{pattern: "POST /v1/bridges/{bridge}/remove", doc: "removes a bridge; what it has taken over stays", serve: (*Broker).adminRemoveBridge},
}

const (
	// adminRouteTimeout bounds a request that says nothing else.
	adminRouteTimeout = 30 * time.Second
	// maxAdminBody bounds a request's body.
	maxAdminBody = 1 << 20
	// clusterHeader has the id of the cluster that a request is for. An address on loopback leads to another cluster on another
	// machine, and whoever found it by way of Kafka knows which one was meant.
	clusterHeader = "Balsa-Cluster"
)

// adminRequest is a request to a route.
type adminRequest struct {
	*http.Request
	w http.ResponseWriter
}

// decode reads the body, one JSON object without unknown names, into v.
func (q *adminRequest) decode(v any) error {
	const mend = "send one JSON object with the names that the documentation has"
	if t, _, err := mime.ParseMediaType(q.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return adminErrorf(adminMediaType, "set Content-Type: application/json", "the request's content type is %q", q.Header.Get("Content-Type"))
	}
	d := json.NewDecoder(http.MaxBytesReader(q.w, q.Body, maxAdminBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		} else if err == nil {
			return adminErrorf(adminInvalid, mend, "something follows the request's JSON object")
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return adminErrorf(adminTooLarge, "send less at once", "the request's body is larger than %d bytes", maxAdminBody)
	}
	return adminErrorf(adminInvalid, mend, "the request's body is not what it should be: %v", err)
}

// adminKind is a kind of error, for programs.
type adminKind string

const (
	adminInvalid     adminKind = "invalid"
	adminForbidden   adminKind = "forbidden"
	adminNotFound    adminKind = "not_found"
	adminMethod      adminKind = "method_not_allowed"
	adminConflict    adminKind = "conflict" // the state of things does not allow it
	adminTooLarge    adminKind = "too_large"
	adminMediaType   adminKind = "unsupported_media_type"
	adminInternal    adminKind = "internal"
	adminUnavailable adminKind = "unavailable" // not now: nothing was done
	adminTimedOut    adminKind = "timeout"     // it may have happened all the same
)

var adminStatus = map[adminKind]int{
	adminInvalid: http.StatusBadRequest, adminForbidden: http.StatusForbidden, adminNotFound: http.StatusNotFound,
	adminMethod: http.StatusMethodNotAllowed, adminConflict: http.StatusConflict, adminTooLarge: http.StatusRequestEntityTooLarge,
	adminMediaType: http.StatusUnsupportedMediaType, adminInternal: http.StatusInternalServerError,
	adminUnavailable: http.StatusServiceUnavailable, adminTimedOut: http.StatusGatewayTimeout,
}

// adminError is an error as it is sent.
type adminError struct {
	Kind    adminKind `json:"kind"`
	Message string    `json:"message"` // a sentence without a full stop
	Mend    string    `json:"mend,omitempty"`
}

func (e *adminError) Error() string { return e.Message }

func adminErrorf(kind adminKind, mend, format string, args ...any) *adminError {
	return &adminError{Kind: kind, Message: fmt.Sprintf(format, args...), Mend: mend}
}

// asAdminError is err as it is sent.
func asAdminError(err error) *adminError {
	if e, ok := errors.AsType[*adminError](err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return adminErrorf(adminTimedOut, "look at the state of the cluster, then ask again", "no answer in time: %v", err)
	}
	return adminErrorf(adminInternal, "the broker's log may say more", "%v", err)
}

func writeAdminError(w http.ResponseWriter, err error) {
	e := asAdminError(err)
	writeAdminJSON(w, adminStatus[e.Kind], map[string]*adminError{"error": e})
}

func writeAdminJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // a client that hung up is told nothing
}

// route puts the routes into mux, and what is none of them.
func (a *adminServer) route(mux *http.ServeMux) {
	for i := range adminRoutes {
		rt := &adminRoutes[i]
		mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) { a.serveRoute(rt, w, r) })
	}
	mux.HandleFunc("GET /v1", func(w http.ResponseWriter, _ *http.Request) {
		type route struct {
			Route string `json:"route"`
			Doc   string `json:"doc"`
		}
		list := make([]route, len(adminRoutes))
		for i := range adminRoutes {
			list[i] = route{adminRoutes[i].pattern, adminRoutes[i].doc}
		}
		writeAdminJSON(w, http.StatusOK, map[string][]route{"routes": list})
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		if allowed := allowedMethods(mux, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			writeAdminError(w, adminErrorf(adminMethod, "use "+strings.Join(allowed, " or "), "%s is no method of %s", r.Method, r.URL.Path))
			return
		}
		writeAdminError(w, adminErrorf(adminNotFound, "GET /v1 lists the routes", "there is no %s", r.URL.Path))
	})
}

// allowedMethods are those with which r's path would have found a route.
func allowedMethods(mux *http.ServeMux, r *http.Request) (allowed []string) {
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = m
		if _, pattern := mux.Handler(probe); slices.ContainsFunc(adminRoutes, func(rt adminRoute) bool { return rt.pattern == pattern }) {
			allowed = append(allowed, m)
		}
	}
	return allowed
}

func (a *adminServer) serveRoute(rt *adminRoute, w http.ResponseWriter, r *http.Request) {
	need := adminReady
	if rt.early {
		need = adminRaft
	}
	if p := adminPhase(a.phase.Load()); p < need || p == adminStopping {
		writeAdminError(w, adminErrorf(adminUnavailable, "wait until GET /healthz says ok, or ask another broker", "the broker is not ready: %v", a.health()))
		return
	}
	if meant := r.Header.Get(clusterHeader); meant != "" && meant != a.b.ClusterID() {
		writeAdminError(w, adminErrorf(adminConflict, "name an admin listener of the cluster that you mean, with --admin HOST:PORT, or ask on one of its brokers' machines",
			"the request is for cluster %s, and this is broker %d of cluster %s: nothing was done", meant, a.b.NodeID(), a.b.ClusterID()))
		return
	}
	if !a.b.enter() {
		writeAdminError(w, adminErrorf(adminUnavailable, "ask another broker", "the broker is stopping"))
		return
	}
	defer a.b.wg.Done()
	timeout := rt.timeout
	def(&timeout, adminRouteTimeout)
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	// What is left of the time after the work is for a slow reader.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout + adminReadTimeout)) // every net.Conn has one
	v, err := rt.serve(a.b, ctx, &adminRequest{Request: r, w: w})
	if err != nil {
		writeAdminError(w, err)
		return
	}
	writeAdminJSON(w, http.StatusOK, v)
}

// enter keeps the broker's parts open until wg.Done; false: they are closing. Requests under way see their context end then.
func (b *Broker) enter() bool {
	b.life.Lock()
	defer b.life.Unlock()
	if !b.closing {
		b.wg.Add(1)
	}
	return !b.closing
}

// brokerState is what GET /v1/broker answers.
type brokerState struct {
	Cluster     string    `json:"cluster"`
	Node        int32     `json:"node"`
	Incarnation string    `json:"incarnation"`
	Boot        uint64    `json:"boot"`
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
	Kafka       string    `json:"kafka"`
	RPC         string    `json:"rpc"`
	Admin       string    `json:"admin"`
	Data        string    `json:"data"`
	Image       uint64    `json:"image"` // version of the metadata that it has
	Ready       bool      `json:"ready"`
	Why         string    `json:"why,omitempty"` // it is not ready
}

const module = "github.com/balsamq/balsa"

// Version is that of Balsa in this program; "(devel)" if it was not built from a released one.
func Version() string {
	version := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) { // it may be a part of somebody else's program
			if m.Path == module {
				version = m.Version
			}
		}
	}
	return cmp.Or(version, "(devel)")
}

func (b *Broker) adminBroker(context.Context, *adminRequest) (any, error) {
	s := brokerState{Cluster: b.ClusterID(), Node: int32(b.NodeID()), Incarnation: fmt.Sprintf("%016x", uint64(b.store.id.Incarnation)),
		Boot: b.store.id.Boots, Version: Version(), Started: b.starting.began.UTC(), Kafka: b.KafkaAddr(), RPC: b.rpcAddr, Admin: b.AdminAddr(), Data: b.store.dir,
		Image: uint64(b.Image().Version()), Ready: true}
	if err := b.adm.health(); err != nil {
		s.Ready, s.Why = false, err.Error()
	}
	return &s, nil
}
