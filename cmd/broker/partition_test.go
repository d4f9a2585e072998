// Tests of 'broker partition' against an admin listener that plays the cluster.

package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// adminFake answers POST /v1/reset-peers, and remembers what it was asked.
func adminFake(t *testing.T, refuse bool) (addr string, asked *[]map[string]any) {
	t.Helper()
	asked = new([]map[string]any)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q map[string]any
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/reset-peers" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		*asked = append(*asked, q)
		w.Header().Set("Content-Type", "application/json")
		if refuse {
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte(`{"error":{"kind":"conflict","message":"the group has a leader, broker 2: there is nothing to reset","mend":"look again"}}`))
			return
		}
		_, _ = w.Write([]byte(`{"group":7,"topic":"orders","partition":3,"voters":[1,2,3],"epoch":1,"term":9,"leader":2,"survivors":[2],"uncommitted":4,
			"replicas":[{"node":1,"lost":"connection refused"},{"node":2,"role":"follower","term":8,"commit":90,"last":94,"lastTerm":8,"nextOffset":1200,"damaged":true}],
			"done":` + map[bool]string{true: "true", false: "false"}[q["epoch"] != nil] + `}`))
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), asked
}

func TestResetPeersCommand(t *testing.T) {
	c := newCLI(t)
	addr, asked := adminFake(t, false)
	code, out, _ := c.run("partition", "reset-peers", "orders/3", "--admin", addr, "--dry-run")
	if code != exitOK || len(*asked) != 1 {
		t.Fatalf("exit %d after %d requests", code, len(*asked))
	}
	golden(t, "reset_plan.txt", out)
	// Nobody is there to say yes.
	if code, _, errs := c.run("partition", "reset-peers", "orders/3", "--admin", addr); code != exitUsage || !strings.Contains(errs, "--yes") || len(*asked) != 2 {
		t.Fatalf("exit %d after %d requests: %s", code, len(*asked), errs)
	}
	null, err := os.Open(os.DevNull) // a character device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	nobody := newCLI(t)
	nobody.in = null
	if code, _, errs := nobody.run("partition", "reset-peers", "orders/3", "--admin", addr); code != exitUsage || !strings.Contains(errs, "\nerror: nobody is there to be asked") || len(*asked) != 3 {
		t.Fatalf("exit %d after %d requests: %s", code, len(*asked), errs)
	}
	code, out, _ = c.run("partition", "reset-peers", "orders/3", "--admin", addr, "--yes")
	if code != exitOK || !strings.Contains(out, "broker 2 leads in epoch 1") || len(*asked) != 5 {
		t.Fatalf("exit %d after %d requests: %s", code, len(*asked), out)
	}
	// What is ordered is what was planned.
	if q := (*asked)[4]; q["topic"] != "orders" || q["partition"] != 3.0 || q["epoch"] != 1.0 || q["leader"] != 2.0 {
		t.Fatalf("ordered %v", q)
	}
	refusing, _ := adminFake(t, true)
	if code, _, errs := c.run("partition", "reset-peers", "metadata", "--admin", refusing, "--yes"); code != exitFailure || !strings.Contains(errs, "mend:  look again") {
		t.Fatalf("exit %d: %s", code, errs)
	}
	for _, bad := range []string{"orders", "orders/", "/1", "orders/x", "orders/-1"} {
		if code, _, errs := c.run("partition", "reset-peers", bad, "--admin", addr); code != exitUsage || !strings.Contains(errs, "TOPIC/PARTITION") {
			t.Errorf("%q: exit %d: %s", bad, code, errs)
		}
	}
}

// Errors of --admin name the listeners that it gave, and say nothing of -b; and -b at an admin listener says what it is.
func TestAdminFlagErrors(t *testing.T) {
	c := newCLI(t)
	other := httptest.NewUnstartedServer(http.NotFoundHandler())
	other.Config.ReadHeaderTimeout = 100 * time.Millisecond // then it answers what is no request, too
	other.Start()
	t.Cleanup(other.Close)
	notBalsa := strings.TrimPrefix(other.URL, "http://")
	hangsUp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	hangsUp.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(hangsUp.Close)
	for name, tc := range map[string]struct {
		addr string
		code int
		says string
	}{
		"nobody":      {"127.0.0.1:1", exitUnreachable, "no admin listener answered: dial tcp 127.0.0.1:1"},
		"hangs up":    {strings.TrimPrefix(hangsUp.URL, "http://"), exitUnreachable, "no admin listener answered: "},
		"not Balsa's": {notBalsa, exitFailure, "is it the admin listener of a broker?"},
	} {
		code, _, errs := c.run("partition", "reset-peers", "orders/3", "--admin", tc.addr, "--dry-run")
		if code != tc.code || !strings.Contains(errs, tc.says) || !strings.Contains(errs, "  where: "+tc.addr+"\n") || !strings.Contains(errs, "--admin-listen") || strings.Contains(errs, "-b ") {
			t.Errorf("%s: exit %d: %s", name, code, errs)
		}
	}
	if code, _, errs := c.run("topic", "list", "-b", notBalsa); code != exitUnreachable || !strings.Contains(errs, "speaks HTTP") || !strings.Contains(errs, "--admin") {
		t.Errorf("-b at an HTTP server: exit %d: %s", code, errs)
	}
}
