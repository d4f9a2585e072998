package broker

// Every request type as bytes, with and before authentication: the fuzzers, what they begin with, and that this is every version of
// every API that is served.

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// requestSeeds are what the fuzzers begin with, for each version of each API that is served: a request that says nothing, one that has an
// element in each of its arrays, and one that makes sense where that took writing one.
func requestSeeds() (seeds []kmsg.Request) {
	everyRequest(func(a *api, v int16) {
		bare, full := emptyRequest(a, v), emptyRequest(a, v)
		plausible(reflect.ValueOf(full).Elem())
		full.SetVersion(v)
		seeds = append(seeds, bare, full)
		if sense := seedOf(emptyRequest(a, v), v); sense != nil {
			sense.SetVersion(v)
			seeds = append(seeds, sense)
		}
	})
	return seeds
}

// plausible fills a request: one element in each array, the topic "t" or whatever else is called so, and kmsg's defaults.
func plausible(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if d, ok := v.Addr().Interface().(interface{ Default() }); ok {
			d.Default()
		}
		for i := range v.NumField() {
			plausible(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		plausible(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte("t"))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		plausible(v.Index(0))
	case reflect.Array:
		v.Index(0).SetUint(1) // the first topic's id
	case reflect.String:
		v.SetString("t")
	case reflect.Bool:
		v.SetBool(true)
	}
}

// seedOf is a request of req's kind that says something, for the fuzzer to begin with; nil: nothing of ours.
func seedOf(req kmsg.Request, v int16) kmsg.Request {
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		return produceRequest(v, 1, "t", [16]byte{1}, 0, testBatch("a"))
	case *kmsg.FetchRequest:
		return fetchRequest(v, "t", [16]byte{1}, 0, 0, 0)
	case *kmsg.MetadataRequest:
		return metadataRequest(v, "t")
	case *kmsg.ListOffsetsRequest:
		return listOffsetsRequest(v, "t", -1)
	case *kmsg.CreateTopicsRequest:
		r.Topics = append(r.Topics, createTopic("new", 1, 1, "retention.ms", "1"), assigned("placed", []int32{1}))
	case *kmsg.SASLHandshakeRequest:
		return handshakeRequest(v, MechanismScramSHA512)
	case *kmsg.IncrementalAlterConfigsRequest:
		return incrementalAlter(0, kmsg.ConfigResourceTypeTopic, "t", setTo("retention.ms", "1"), appendOp("cleanup.policy", "delete"), unsetOp("segment.ms"))
	case *kmsg.AlterConfigsRequest:
		rr := kmsg.NewAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, "t"
		rr.Configs = append(rr.Configs, kmsg.NewAlterConfigsRequestResourceConfig())
		r.Resources = append(r.Resources, rr)
	case *kmsg.CreatePartitionsRequest:
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = "t", 2
		rt.Assignment = append(rt.Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: []int32{1}})
		r.Topics = append(r.Topics, rt)
	case *kmsg.AlterClientQuotasRequest:
		return alterQuotas(0, testQuota{map[string]string{"user": "u", "client-id": ""}, quotaProduce, 1e9})
	case *kmsg.DescribeClientQuotasRequest:
		r.Components = append(r.Components, component("user", matchExact, "u"), component("client-id", matchAny))
	case *kmsg.DescribeTopicPartitionsRequest:
		r.ResponsePartitionLimit, r.Cursor = 1, &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "t"}
		r.Topics = append(r.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: "t"})
	case *kmsg.UpdateFeaturesRequest:
		return updateFeaturesRequest(0, metadataVersion, 2, featureSafeDowngrade)
	case *kmsg.AlterReplicaLogDirsRequest:
		r.Dirs = append(r.Dirs, kmsg.AlterReplicaLogDirsRequestDir{Dir: "/", Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "t", Partitions: []int32{0}}}})
	default:
		return nil
	}
	return req
}

// FuzzRequests throws bytes at every API that is served, as a connection would: none may take the broker down, leave memory or requests
// behind, or hold up another client.
func FuzzRequests(f *testing.F) {
	fm := kmsg.NewRequestFormatter(kmsg.FormatterClientID("fuzz"))
	for _, req := range requestSeeds() {
		f.Add(fm.AppendRequest(nil, req, 1))
	}
	h := newHarness(f, serverOptions{MaxRequestBytes: 1 << 16})
	h.back.addTopic("t", 1, nil)
	h.back.coordinate(1)
	h.back.coordinateTxns()
	h.back.frozen.Store(true) // or the fuzzer would fill the memory with topics
	beside := h.dial()
	f.Fuzz(func(t *testing.T, in []byte) {
		// What the fuzzer changes is a frame's content; its length is kept true, or little would get through.
		if len(in) < 12 || len(in) > 1<<16 {
			return
		}
		binary.BigEndian.PutUint32(in, uint32(len(in)-4))
		wait := patience
		key := int16(binary.BigEndian.Uint16(in[4:]))
		if waits := key == keyFetch || key == 11 || key == 14; waits {
			wait = 20 * time.Millisecond // it may wait for what never comes, and rightly
		}
		nc, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.Write(in)
		// A request behind it: answered after it, or the connection is closed.
		const last = 7777
		nc.Write(fm.AppendRequest(nil, apiVersionsRequest(0), last))
		nc.SetReadDeadline(time.Now().Add(wait))
		for {
			answer, err := protocol.ReadFrame(nc, 1<<20)
			if errors.Is(err, os.ErrDeadlineExceeded) && wait == patience {
				t.Fatal("neither an answer nor the end of the connection")
			}
			if err != nil || binary.BigEndian.Uint32(answer) == last {
				break
			}
		}
		nc.Close()
		beside.t = t
		if got := ask[*kmsg.MetadataResponse](beside, metadataRequest(9, "t")); got.Topics[0].ErrorCode != 0 {
			t.Fatalf("another client: %+v", got)
		}
		becomes(t, "all is given back", func() bool {
			return h.connections() == 1 && h.memory.used.Load()+h.control.used.Load()+h.polls.used.Load()+h.hellos.used.Load()+h.fetchUsed.Load() == 0
		})
	})
}

// FuzzDecode is FuzzRequests without the socket: the decoder alone, and what it allocates.
func FuzzDecode(f *testing.F) {
	for _, req := range requestSeeds() {
		f.Add(req.Key(), req.GetVersion(), req.AppendTo(nil))
	}
	h := newHarness(f, serverOptions{})
	c := newConn(h.server, nil, "", Listener{})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		a := findAPI(key)
		if a == nil || version < a.min || version > a.max {
			return
		}
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		_, refused := prescan(a, version, req.IsFlexible(), body)
		err := c.decode(a, req, body)
		if (err == nil) != (refused == nil) {
			t.Fatalf("the scan says %v, the decoder %v", refused, err) // what it refuses must not reach kmsg, the rest kmsg must read
		}
		if err == nil && key == keyProduce {
			n := 0
			for _, rt := range req.(*kmsg.ProduceRequest).Topics {
				n += len(rt.Partitions)
			}
			if n > maxProducePartitions || n > len(body) {
				t.Fatalf("%d partitions from %d bytes", n, len(body))
			}
		}
	})
}

// What the fuzzers begin with is all that is served, and gets as far as the handlers: a version that no seed has would not be found by
// flipping bits in another's.
func TestFuzzersBeginWithEveryRequest(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := newConn(h.server, nil, "", Listener{})
	fm := kmsg.NewRequestFormatter(kmsg.FormatterClientID("fuzz"))
	type version struct{ key, version int16 }
	seen := map[version]int{}
	for _, req := range requestSeeds() {
		hd, body, err := protocol.ParseRequestHeader(fm.AppendRequest(nil, req, 1)[4:], headerVersion)
		if err != nil {
			t.Fatalf("%s v%d: %v", apiName(req.Key()), req.GetVersion(), err)
		}
		got := kmsg.RequestForKey(hd.Key)
		got.SetVersion(hd.Version)
		if err := c.decode(findAPI(hd.Key), got, body); err != nil {
			t.Errorf("%s v%d does not reach its handler: %v", apiName(hd.Key), hd.Version, err)
		}
		seen[version{hd.Key, hd.Version}]++
	}
	everyRequest(func(a *api, v int16) {
		if seen[version{a.key, v}] < 2 {
			t.Errorf("%s v%d has no seeds", apiName(a.key), v)
		}
		delete(seen, version{a.key, v})
	})
	for v := range seen {
		t.Errorf("%s v%d has seeds, and is not served", apiName(v.key), v.version)
	}
}

// FuzzBeforeAuthentication: whatever a stranger sends to a listener that wants SASL, he becomes nobody, no handler sees it but those of
// three requests, all that he took is given back, and who is authenticated goes on beside him.
func FuzzBeforeAuthentication(f *testing.F) {
	fm := kmsg.NewRequestFormatter(kmsg.FormatterClientID("fuzz"))
	join := func(reqs ...kmsg.Request) (out []byte) {
		for i, r := range reqs {
			out = fm.AppendRequest(out, r, int32(i))
		}
		return out
	}
	f.Add(join(apiVersionsRequest(3), handshakeRequest(1, MechanismScramSHA512), authenticateRequest(2, "n,,n=alice,r=abc"), authenticateRequest(2, "c=biws,r=abc,p=AAAA")))
	f.Add(join(handshakeRequest(1, MechanismPlain), authenticateRequest(0, "\x00alice\x00wonder"), kmsg.NewPtrMetadataRequest()))
	f.Add(append(join(handshakeRequest(0, MechanismPlain)), "\x00\x00\x00\x0d\x00alice\x00wonder"...))
	for _, req := range requestSeeds() {
		f.Add(join(req))
		f.Add(join(handshakeRequest(1, MechanismScramSHA512), authenticateRequest(2, "n,,n=alice,r=abc"), req)) // in the middle of it
	}
	mechanisms := []string{MechanismScramSHA512, MechanismScramSHA256, MechanismPlain}
	h := newHarnessOn(f, serverOptions{}, Listener{Name: ProtocolSASLPlaintext, Protocol: ProtocolSASLPlaintext}, func(b *fakeBackend, o *serverOptions) {
		o.Security.SASL = newSASLServer(mechanisms, b.Image, nil, 0)
		o.Security.SASL.delay = 0
	})
	h.back.addTopic("t", 1, nil)
	h.back.coordinate(1)
	// Another client, whose password nobody guesses.
	password := rand.Text()
	(&saslHarness{kafkaHarness: h}).addUser("beside", password)
	beside := h.dial()
	ask[*kmsg.SASLHandshakeResponse](beside, handshakeRequest(1, MechanismPlain))
	if resp := ask[*kmsg.SASLAuthenticateResponse](beside, authenticateRequest(2, "\x00beside\x00"+password)); resp.ErrorCode != 0 {
		f.Fatalf("%+v", resp)
	}
	image, asked := h.back.Image(), uint64(0)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > maxHelloRequest {
			return
		}
		nc, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		if _, err := nc.Write(in); err == nil {
			_ = nc.(*net.TCPConn).CloseWrite()
		}
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection stays open")
		}
		ok := 0.0
		for _, m := range mechanisms {
			var got dto.Metric
			if err := h.met.authentications.WithLabelValues(m, "ok").Write(&got); err != nil {
				t.Fatal(err)
			}
			ok += got.Counter.GetValue()
		}
		if ok != 1 {
			t.Fatalf("%v are authenticated, one of them the other client", ok)
		}
		beside.t = t
		if got := ask[*kmsg.MetadataResponse](beside, metadataRequest(9, "t")); got.Topics[0].ErrorCode != 0 {
			t.Fatalf("another client: %+v", got)
		}
		asked++
		becomes(t, "all is given back", func() bool {
			return h.connections() == 1 && h.memory.used.Load()+h.control.used.Load()+h.polls.used.Load()+h.hellos.used.Load() == 0
		})
		for key := range int16(lastAPIKey) {
			if key == keyApiVersions || key == keySaslHandshake || key == keySaslAuthenticate {
				continue
			}
			want := uint64(0)
			if key == int16(kmsg.Metadata) {
				want = asked
			}
			if n := h.met.requests.count(key); n != want {
				t.Fatalf("%d %s requests were answered, want %d", n, apiName(key), want)
			}
		}
		if h.back.Image() != image {
			t.Fatal("the metadata has changed")
		}
	})
}

// count is how many requests of an API were answered.
func (q *requestSeconds) count(key int16) (n uint64) {
	if h := q.byAPI[key].Load(); h != nil {
		for i := range h.counts {
			n += h.counts[i].Load()
		}
	}
	return n
}
