// What a start says of itself.

package broker

import "testing"

// A broker that starts on logs says when they are open, and when each phase was over; one that starts on none has all phases, too.
func TestStartSaysHowLongItTook(t *testing.T) {
	c := newCluster(t, 3, true)
	for _, n := range c.nodes {
		n.cfg.AdminListen = "127.0.0.1:0"
	}
	c.start(c.nodes...)
	n := c.nodes[1]
	phases := func() bool {
		g := gathered(t, n.Broker)
		for _, p := range startPhaseNames {
			if g["balsa_start_seconds{phase="+p+"}"] <= 0 {
				return false
			}
		}
		return true
	}
	soon(t, "all phases of a first start are over", phases)
	id := c.nodes[0].mustCreate(t, "t", 4, 3) // not before: a start counts what it is shown until then
	soon(t, "the topic is served", func() bool { return c.served(id) })
	const said = `msg="logs are open"`
	if n.log.contains(said) {
		t.Error("there were no logs to open")
	}
	c.stop(n)
	c.start(n)
	soon(t, "all phases of a second start are over", phases)
	soon(t, "it says how many logs there were", func() bool { return n.log.contains(" logs=4 ") })
	if !n.log.contains(said) {
		t.Error("it does not say that its logs are open")
	}
}
