package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestGroupCommands(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(2, "orders", "other"))
	c.in = strings.NewReader("a\nb\nc\n")
	c.must("produce", "orders")
	if out := c.must("group", "reset-offsets", "g", "--topic", "orders", "--to-latest"); !strings.Contains(out, "2 offsets would be set: --execute does it") {
		t.Fatal(out)
	}
	if code, _, errs := c.run("group", "describe", "g"); code != exitNotFound || !strings.Contains(errs, "broker group list") {
		t.Fatalf("exit %d: %s", code, errs)
	}
	var reset struct {
		Executed bool
		Offsets  []struct{ Partition, Before, After int64 }
	}
	if err := json.Unmarshal([]byte(c.must("group", "reset-offsets", "g", "--topic", "orders", "--to-latest", "--execute", "-o", "json")), &reset); err != nil ||
		!reset.Executed || len(reset.Offsets) != 2 || reset.Offsets[0].After+reset.Offsets[1].After != 3 || reset.Offsets[0].Before != -1 {
		t.Fatalf("%+v, %v", reset, err)
	}
	if out := c.must("group", "list"); !strings.Contains(out, "g ") || !strings.Contains(out, "classic") {
		t.Fatal(out)
	}
	if out := c.must("group", "list", "--type", "consumer", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Fatal(out)
	}
	if out := c.must("group", "describe", "g"); !strings.Contains(out, "group g: classic, Empty") || !strings.Contains(out, "LAG") {
		t.Fatal(out)
	}
	c.must("group", "delete-offsets", "g", "--topic", "orders/0")
	if out := c.must("group", "describe", "g", "-o", "json"); strings.Count(out, `"partition"`) != 1 {
		t.Fatal(out)
	}
	c.must("group", "delete", "g")
	if code, _, _ := c.run("group", "delete", "g"); code != exitNotFound {
		t.Fatalf("exit %d", code)
	}
	if out := c.must("group", "delete", "g", "--if-exists"); !strings.Contains(out, "was not there") {
		t.Fatal(out)
	}
}

func TestGroupUsage(t *testing.T) {
	c := newCLI(t)
	for _, args := range [][]string{
		{"group"}, {"group", "list", "x"}, {"group", "list", "--type", "share"}, {"group", "describe"}, {"group", "delete"},
		{"group", "reset-offsets", "g"}, {"group", "reset-offsets", "g", "--to-earliest", "--to-latest"}, {"group", "reset-offsets", "g", "--to-earliest=false"},
		{"group", "reset-offsets", "g", "--to-offset", "-1"}, {"group", "reset-offsets", "g", "--to-timestamp", "yesterday"}, {"group", "reset-offsets", "g", "--by-duration", "-1h"},
		{"group", "reset-offsets", "g", "--to-latest", "--topic", "orders/x"}, {"group", "reset-offsets", "g", "--to-latest", "--topic", "/1"},
		{"group", "reset-offsets", "g", "--to-latest", "--execute", "--dry-run"}, {"group", "delete-offsets", "g"},
	} {
		if code, _, errs := c.run(args...); code != exitUsage || !strings.Contains(errs, "mend:") {
			t.Errorf("%v: exit %d: %s", args, code, errs)
		}
	}
	topics, err := topicsArg([]string{"a/0,2", "a/1", "b", "c/3", "c"})
	if err != nil || len(topics["a"]) != 3 || topics["b"] != nil || topics["c"] != nil || len(topics) != 3 {
		t.Fatalf("%v, %v", topics, err)
	}
}
