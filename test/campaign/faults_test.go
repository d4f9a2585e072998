//go:build linux

// The faults.

package campaign_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/segment"
)

// victims are whom a fault is for: two brokers, a being a leader's half of the time, and a partition's leader.
type victims struct {
	a, b   *node
	leader *node
	others []*node // all but a
}

var faultGroups = map[string][]string{
	"net":   {"isolate", "isolate-from-all", "pair", "deaf", "mute", "bridge", "split", "flap", "slow", "loss", "reorder"},
	"proc":  {"kill", "kill-leader", "kill-two", "kill-all", "kill-while-cut", "term", "stop", "stop-leader", "stop-all", "stutter"},
	"admin": {"reassign", "elect", "transfer", "topics", "rolling"},
	"disk":  {"corrupt", "replace", "old-copy"},
}

var faults map[string]func(m *campaign, v *victims)

func init() { // some refer to what refers to the map
	faults = map[string]func(m *campaign, v *victims){
		"isolate": func(m *campaign, v *victims) { m.fromOthers(v, cut, true, true) }, // clients reach it
		"isolate-from-all": func(m *campaign, v *victims) {
			m.fromOthers(v, cut, true, true)
			m.c.net.both(v.a.id, clients, cut)
		},
		"pair": func(m *campaign, v *victims) { m.c.net.both(v.a.id, v.b.id, cut) },
		"mute": func(m *campaign, v *victims) { m.fromOthers(v, cut, true, false) },
		"deaf": func(m *campaign, v *victims) { m.fromOthers(v, cut, false, true) },
		"bridge": func(m *campaign, v *victims) { // all see a, and nobody else
			for i, x := range v.others {
				for _, y := range v.others[i+1:] {
					m.c.net.both(x.id, y.id, cut)
				}
			}
		},
		"split": func(m *campaign, v *victims) { m.everywhere(cut) },
		"flap":  (*campaign).flap,
		"slow": func(m *campaign, v *victims) {
			m.fromOthers(v, rule{delay: m.duration(50*time.Millisecond, 700*time.Millisecond)}, true, m.rng.IntN(2) == 0)
		},
		"loss": func(m *campaign, v *victims) { m.everywhere(rule{loss: 0.05 + 0.25*m.rng.Float64()}) },
		"reorder": func(m *campaign, v *victims) {
			m.everywhere(rule{jitter: m.duration(20*time.Millisecond, 600*time.Millisecond)})
		},

		"kill":        func(m *campaign, v *victims) { m.c.kill(v.a) },
		"kill-leader": func(m *campaign, v *victims) { m.c.kill(v.leader) },
		"kill-two": func(m *campaign, v *victims) {
			m.c.kill(v.a)
			m.c.kill(v.b)
		},
		"kill-all": (*campaign).killAll,
		"kill-while-cut": func(m *campaign, v *victims) {
			m.fromOthers(v, cut, true, true)
			m.c.kill(v.a)
			m.c.start(v.a)
		},
		"term": func(m *campaign, v *victims) { m.term(v.a) },
		"stop": func(m *campaign, v *victims) { v.a.signalStop() },
		"stop-leader": func(m *campaign, v *victims) {
			v.leader.signalStop()
			m.after(m.duration(time.Second, 20*time.Second), v.leader.signalContinue)
		},
		"stop-all": func(m *campaign, v *victims) {
			for _, n := range m.c.nodes {
				n.signalStop()
			}
			m.pause(m.duration(time.Second, 12*time.Second))
			for _, n := range m.c.nodes {
				n.signalContinue()
				m.pause(m.duration(0, 300*time.Millisecond))
			}
		},
		"stutter": (*campaign).stutter,

		"reassign": (*campaign).reassign,
		"elect": func(m *campaign, v *victims) {
			ctx, cancel := context.WithTimeout(m.t.Context(), 15*time.Second)
			defer cancel()
			_, _ = m.adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil) // whatever can be had amid other faults
		},
		"transfer": func(m *campaign, v *victims) {
			for range 6 {
				p, to := m.rng.IntN(parts), m.any().id
				m.wg.Go(func() {
					m.cli("partition", "transfer-leader", fmt.Sprintf("%s/%d", plainTopic, p), "--to", fmt.Sprint(to))
				})
			}
		},
		"topics": (*campaign).churn,
		"rolling": func(m *campaign, v *victims) {
			for _, n := range m.c.nodes {
				m.term(n)
				m.pause(m.duration(0, 2*time.Second))
				select {
				case <-m.c.start(n):
				case <-time.After(20 * time.Second): // it may wait for others that are cut off
				}
			}
		},

		"corrupt":  (*campaign).corrupt,
		"replace":  (*campaign).replace,
		"old-copy": (*campaign).oldCopy,
	}
}

func (m *campaign) any() *node { return m.c.nodes[m.rng.IntN(len(m.c.nodes))] }

func (m *campaign) victims() *victims {
	v := &victims{a: m.any(), leader: m.any()}
	if id := m.w.leader(int32(m.rng.IntN(parts))); id > 0 && id <= len(m.c.nodes) {
		v.leader = m.c.nodes[id-1]
	}
	if m.rng.IntN(2) == 0 {
		v.a = v.leader
	}
	for _, n := range m.c.nodes {
		if n != v.a {
			v.others = append(v.others, n)
		}
	}
	v.b = v.others[m.rng.IntN(len(v.others))]
	return v
}

// fromOthers gives a rule to what a sends to other brokers, or they to it.
func (m *campaign) fromOthers(v *victims, r rule, sends, gets bool) {
	for _, x := range v.others {
		if sends {
			m.c.net.set(v.a.id, x.id, r)
		}
		if gets {
			m.c.net.set(x.id, v.a.id, r)
		}
	}
}

// everywhere gives a rule to what brokers send to each other.
func (m *campaign) everywhere(r rule) {
	for i, x := range m.c.nodes {
		for _, y := range m.c.nodes[i+1:] {
			m.c.net.both(x.id, y.id, r)
		}
	}
}

// after does something later, before the faults are healed.
func (m *campaign) after(d time.Duration, do func()) {
	m.wg.Go(func() {
		m.pause(d)
		do()
	})
}

func (m *campaign) flap(v *victims) {
	times, each, gets := 5+m.rng.IntN(20), m.duration(50*time.Millisecond, 1500*time.Millisecond), m.rng.IntN(2) == 0
	m.wg.Go(func() {
		for i := range times {
			r := rule{}
			if i%2 == 0 {
				r = cut
			}
			m.fromOthers(v, r, true, gets)
			m.pause(each)
		}
		m.fromOthers(v, rule{}, true, gets)
	})
}

func (m *campaign) killAll(*victims) {
	var all []<-chan struct{}
	for _, n := range m.c.nodes {
		if cmd, ended := n.take(); cmd != nil {
			_ = cmd.Process.Kill() // all at once, or those that are left would elect
			all = append(all, ended)
		}
	}
	for _, ended := range all {
		<-ended
	}
	for _, i := range m.rng.Perm(len(m.c.nodes)) {
		n := m.c.nodes[i]
		m.after(m.duration(0, 3*time.Second), func() { m.c.start(n) })
	}
}

func (m *campaign) term(n *node) {
	n.signalContinue()
	if _, err := m.c.terminate(n); err != nil {
		m.w.rep.violation("%v", err)
	}
}

func (m *campaign) stutter(v *victims) {
	times, on, off := 5+m.rng.IntN(30), m.duration(10*time.Millisecond, time.Second), m.duration(100*time.Millisecond, 2500*time.Millisecond)
	m.wg.Go(func() {
		for range times {
			v.leader.signalStop()
			m.pause(off)
			v.leader.signalContinue()
			m.pause(on)
		}
	})
}

// reassign moves some partitions to other brokers, or orders of the same ones.
func (m *campaign) reassign(*victims) {
	var req kadm.AlterPartitionAssignmentsReq
	for range 3 {
		topics := m.w.all()
		var to []int32
		for _, i := range m.rng.Perm(len(m.c.nodes))[:min(*replicas, len(m.c.nodes))] {
			to = append(to, int32(m.c.nodes[i].id))
		}
		req.Assign(topics[m.rng.IntN(len(topics))], int32(m.rng.IntN(parts)), to)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 15*time.Second)
	defer cancel()
	_, _ = m.adm.AlterPartitionAssignments(ctx, req) // whatever can be had amid other faults
}

// churn makes topics, and removes some.
func (m *campaign) churn(*victims) {
	first := m.churned
	m.churned += 5
	m.wg.Go(func() {
		for i := range 5 {
			name := fmt.Sprint("churn-", first+i)
			ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
			_, _ = m.adm.CreateTopic(ctx, 4, int16(*replicas), nil, name)
			if i%2 == 0 {
				_, _ = m.adm.DeleteTopic(ctx, name)
			}
			cancel()
		}
	})
}

// alone says whether nothing else is wrong: what is lost on one disk the others must have.
func (m *campaign) alone() bool {
	m.heal()
	return m.whole()
}

// damagedElsewhere says whether another broker may not have met yet what was flipped in its log of that group: two logs that lack something may need
// each other's votes.
func (m *campaign) damagedElsewhere(n *node, group string) bool {
	for _, o := range m.c.nodes {
		dir := filepath.Join(o.dir, "groups", group)
		if o == n || !o.flipped[dir] {
			continue
		}
		if err := segment.Dump(vfs.OS(), dir, io.Discard, segment.DumpOptions{}); err != nil {
			return true
		}
		delete(o.flipped, dir)
	}
	return false
}

// corrupt flips bits in files of one broker while it is down.
func (m *campaign) corrupt(v *victims) {
	if !m.alone() {
		return
	}
	m.c.kill(v.a)
	var files []string
	err := filepath.WalkDir(filepath.Join(v.a.dir, "groups"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "damaged-") {
			return fs.SkipDir // set aside before
		}
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	for range 1 + m.rng.IntN(5) {
		file := files[m.rng.IntN(len(files))]
		text, err := os.ReadFile(file)
		if err != nil {
			m.t.Fatal(err)
		}
		written := len(bytes.TrimRight(text, "\x00")) // not what is only laid out
		if written < 64 || m.damagedElsewhere(v.a, filepath.Base(filepath.Dir(file))) {
			continue
		}
		at := m.rng.IntN(written)
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte{text[at] ^ 1<<m.rng.IntN(8)}, int64(at))
			_ = f.Close()
		}
		if err != nil {
			m.t.Fatal(err)
		}
		v.a.flipped[filepath.Dir(file)] = true
		m.w.rep.say("a bit of %s is flipped at %d of %d", file, at, written)
	}
	m.revive()
	m.recovered()
	m.whole()
}

// replace loses the disk of one broker. Without --replace-disk its start is refused.
func (m *campaign) replace(v *victims) {
	if !m.alone() {
		return
	}
	m.c.kill(v.a)
	if err := v.a.loseDisk(); err != nil {
		m.t.Fatal(err)
	}
	if m.rng.IntN(2) == 0 {
		lost := v.a.lost
		v.a.lost = ""
		select {
		case err := <-m.c.start(v.a):
			if err == nil {
				m.w.rep.violation("broker %d started on an empty directory, under an id that had another", v.a.id)
			}
		case <-time.After(recovery):
			m.w.rep.violation("broker %d neither starts nor ends on an empty directory", v.a.id)
		}
		m.c.kill(v.a)
		if err := os.RemoveAll(v.a.dir); err != nil {
			m.t.Fatal(err)
		}
		v.a.lost = lost
	}
	m.pause(m.duration(0, 5*time.Second))
	m.revive()
	m.recovered()
	m.whole()
}

// oldCopy puts a directory back as it was a start ago, which is refused, and then as it should be.
func (m *campaign) oldCopy(v *victims) {
	if !m.alone() {
		return
	}
	copied := func(from, to string) {
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			m.t.Fatalf("%v: %s", err, out)
		}
	}
	old, right := v.a.dir+".old", v.a.dir+".right"
	m.c.kill(v.a)
	copied(v.a.dir, old)
	m.revive()
	m.pause(m.duration(3*time.Second, 10*time.Second)) // a start that the others hear of
	if !m.alone() {
		return
	}
	m.c.kill(v.a)
	if err := os.Rename(v.a.dir, right); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(old, v.a.dir); err != nil {
		m.t.Fatal(err)
	}
	m.c.refuseCopy(v.a)
	if err := os.RemoveAll(v.a.dir); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(right, v.a.dir); err != nil {
		m.t.Fatal(err)
	}
	m.revive()
	m.recovered()
}
