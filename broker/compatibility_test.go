// docs/compatibility.md lists the APIs that there are, with their versions, and those of Kafka's that there are not, with the reason.

package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	apiTableBegin = "<!-- begin: the table of APIs, kept by TestCompatibilityTable -->\n"
	apiTableEnd   = "<!-- end -->\n"
)

// notServed says why, of the keys of Kafka's that no client of ours may use.
var notServed = map[string][]int16{
	"between Kafka's own brokers and controllers, which speak a protocol of their own here": {4, 5, 6, 7, 27, 52, 53, 54, 56, 58, 59, 62, 63, 67, 70, 73, 82, 83, 84, 85, 86, 87, 94},
	"delegation tokens (KIP-48)":                                       {38, 39, 40, 41},
	"client telemetry (KIP-714); clients use it once it is listed":     {71, 72},
	"share groups (KIP-932)":                                           {76, 77, 78, 79, 90, 91, 92},
	"voters of KRaft: `broker cluster` looks after the metadata group": {80, 81},
	"streams groups (KIP-1071)":                                        {88, 89, 93},
}

func apiTableText() string {
	var b strings.Builder
	b.WriteString("| key | API | versions |\n|---|---|---|\n")
	for key, a := range apis {
		if a == nil {
			continue
		}
		versions := fmt.Sprintf("%d to %d", a.min, a.max)
		if a.min == a.max {
			versions = fmt.Sprint(a.min)
		}
		if a.listed != a.min {
			versions += fmt.Sprintf(", listed from %d", a.listed)
		}
		fmt.Fprintf(&b, "| %d | %s | %s |\n", key, kmsg.NameForKey(int16(key)), versions)
	}
	return b.String()
}

func TestCompatibilityTable(t *testing.T) {
	file := filepath.FromSlash("../docs/compatibility.md")
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), apiTableBegin)
	_, after, ok2 := strings.Cut(rest, apiTableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table of APIs", file)
	}
	want := before + apiTableBegin + apiTableText() + apiTableEnd + after
	if *updateDocs {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(doc) != want {
		t.Errorf("%s is not what there is: go test ./broker -run TestCompatibilityTable -update", file)
	}
	// Every key that clients' libraries know is either served, or said not to be.
	said := map[int16]bool{}
	for why, keys := range notServed {
		if !strings.Contains(after, why) {
			t.Errorf("%s does not say that there is nothing of: %s", file, why)
		}
		for _, k := range keys {
			if findAPI(k) != nil {
				t.Errorf("%s is served, and said not to be", kmsg.NameForKey(k))
			}
			said[k] = true
		}
	}
	for k := range int16(kmsg.MaxKey + 1) {
		if kmsg.RequestForKey(k) != nil && findAPI(k) == nil && !said[k] {
			t.Errorf("%d %s is neither served nor said not to be", k, kmsg.NameForKey(k))
		}
	}
}
