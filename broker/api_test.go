// The table of APIs.

package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// What is made out once, at start, is what each request's own version says.
func TestHeaderVersions(t *testing.T) {
	served := 0
	for key := range int16(lastAPIKey) {
		a := findAPI(key)
		if a == nil {
			continue
		}
		for v := a.min; v <= a.max; v++ {
			served++
			req := kmsg.RequestForKey(key)
			req.SetVersion(v)
			want := protocol.HeaderVersion(1)
			if req.IsFlexible() {
				want = 2
			}
			if got, ok := headerVersion(key, v); !ok || got != want {
				t.Errorf("%s version %d: header %d, %v; expected %d", apiName(key), v, got, ok, want)
			}
		}
		if _, ok := headerVersion(key, a.max+1); ok != (key == keyApiVersions) {
			t.Errorf("%s version %d is served: %v", apiName(key), a.max+1, ok)
		}
	}
	if served == 0 {
		t.Fatal("nothing is served")
	}
}
