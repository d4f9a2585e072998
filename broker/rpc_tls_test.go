package broker

import (
	"crypto/x509/pkix"
	"testing"
	"time"
)

// A cluster goes over to TLS between its brokers and back, each time in two rounds of restarts, one broker after the other, and loses nothing
// that it has acknowledged meanwhile.
func TestTLSBetweenBrokersWithoutAStop(t *testing.T) {
	if testing.Short() {
		t.Skip("twelve restarts")
	}
	t.Parallel()
	ca := newTestCA(t)
	c := newCluster(t, 3, true)
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "a", 1, 3)
	soon(t, "the topic is served", func() bool { return c.served(id) })
	l := c.startLoad("a")
	l.more("at first", 20)
	files := make(map[*node]TLSFiles)
	for _, n := range c.nodes {
		name := "broker-x"
		files[n] = ca.files(name, pkix.Name{CommonName: name})
		n.cfg.Listen = n.KafkaAddr() // the clients know it
	}
	for _, round := range []struct {
		what     string
		tls      bool
		optional bool
	}{{"either", true, true}, {"required", true, false}, {"either again", true, true}, {"none", false, false}} {
		for _, n := range c.nodes {
			c.stop(n)
			n.cfg.RPCTLS, n.cfg.RPCTLSOptional = TLSFiles{}, round.optional
			if round.tls {
				n.cfg.RPCTLS = files[n]
			}
			c.start(n)
			l.more("with TLS "+round.what, 20)
			soon(t, "all brokers hear each other", func() bool {
				leader, _ := c.replicas("a")
				return leader != nil && len(leader.InSyncFollowers()) == 2 && c.served(id)
			})
		}
		switch round.what {
		case "either":
			if !c.nodes[0].log.contains("called without TLS") {
				t.Error("the first broker with TLS does not say that the others have none")
			}
		case "required":
			cfg := newCluster(t, 1, true).nodes[0].cfg
			cfg.Join, cfg.JoinTimeout = []string{c.nodes[0].RPCAddr()}, 500*time.Millisecond
			if b, err := Start(t.Context(), cfg); err == nil {
				b.Close()
				t.Error("a broker without TLS joins")
			}
		}
	}
	l.stop(c)
}

// Who has ACLs and no TLS between brokers is told that the one does not hold without the other.
func TestACLsWithoutTLSBetweenBrokers(t *testing.T) {
	ca := newTestCA(t)
	const warning = "brokers should speak TLS to each other"
	for _, tc := range []struct {
		acls, tls, optional, warned bool
	}{{false, false, false, false}, {true, false, false, true}, {true, true, true, true}, {true, true, false, false}} {
		c := newCluster(t, 1, true)
		n := c.nodes[0]
		n.cfg.ACLs, n.cfg.RPCTLSOptional = tc.acls, tc.optional
		if tc.tls {
			n.cfg.RPCTLS = ca.files("broker-1", pkix.Name{CommonName: "broker-1"})
		}
		c.start(n)
		if n.log.contains(warning) != tc.warned {
			t.Errorf("%+v: warned %v", tc, !tc.warned)
		}
	}
	cfg := Config{RPCTLSOptional: true}
	if errs := cfg.checkSecurity(); len(errs) != 1 {
		t.Errorf("optional TLS without TLS: %v", errs)
	}
}
