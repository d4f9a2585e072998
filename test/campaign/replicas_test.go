//go:build linux

// The replicas' files, when all brokers have ended: up to what was committed they hold the same, and nothing is damaged but what the campaign has
// damaged.

package campaign_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

var (
	// entryLine begins a frame as Dump prints it, behind its place in the file.
	entryLine = regexp.MustCompile(`^\S+ +term \d+, index (\d+), `)
	// logLine begins a segment file; other lines at the margin begin other files.
	logLine = regexp.MustCompile(`^\S.*\.log: \d+ bytes$`)
)

// group is what `raft describe` says of one.
type group struct {
	Group    raft.GroupID `json:"group"`
	Leader   int          `json:"leader"`
	Commit   raft.Index   `json:"commit"`
	Replicas []int        `json:"replicas"`
}

// describe lists all groups, each with a leader.
func (m *campaign) describe() []group {
	for deadline := time.Now().Add(recovery); ; m.pause(100 * time.Millisecond) {
		text := m.cli("raft", "describe", "-o", "json")
		var all struct {
			Groups []group `json:"groups"`
		}
		err := json.Unmarshal([]byte(text), &all)
		if err == nil && len(all.Groups) > len(m.w.all())*parts && !slices.ContainsFunc(all.Groups, func(g group) bool { return g.Leader == 0 }) {
			return all.Groups
		}
		if time.Now().After(deadline) {
			m.w.rep.violation("it cannot be learnt how far groups have committed: %v: %.500s", err, text)
			return nil
		}
	}
}

// entries are hashes of those that one replica's segment files hold, by index. What was cut off and written again comes later, and counts.
func entries(dir string) (map[raft.Index]uint64, error) {
	var text bytes.Buffer
	err := segment.Dump(vfs.OS(), dir, &text, segment.DumpOptions{Frames: true, Payload: segmentBytes})
	if err != nil && !errors.Is(err, segment.ErrNoGroup) {
		var where []byte
		for line := range bytes.Lines(text.Bytes()) {
			if bytes.Contains(line, []byte("DAMAGED")) {
				where = append(where, line...)
			}
		}
		return nil, fmt.Errorf("%w\n%.2000s", err, where)
	}
	out, isLog := make(map[raft.Index]uint64), false
	for line := range bytes.Lines(text.Bytes()) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) > 0 && line[0] != ' ' {
			isLog = logLine.Match(line)
			continue
		}
		if !isLog {
			continue // compaction leaves something else on each
		}
		_, entry, _ := bytes.Cut(bytes.TrimLeft(line, " "), []byte("    "))
		if m := entryLine.FindSubmatch(entry[:min(len(entry), 100)]); m != nil {
			index, err := strconv.ParseUint(string(m[1]), 10, 64)
			if err != nil {
				return nil, err
			}
			h := fnv.New64a()
			_, _ = h.Write(entry)
			out[raft.Index(index)] = h.Sum64()
		}
	}
	return out, nil
}

// compareReplicas: what is committed is the same on all.
func (m *campaign) compareReplicas(groups []group) {
	compared := 0
	for _, g := range groups {
		type held struct {
			by   int
			hash uint64
		}
		first := make(map[raft.Index]held)
		for _, id := range g.Replicas {
			n := m.c.nodes[id-1]
			dir := filepath.Join(n.dir, "groups", fmt.Sprintf("%016d", g.Group))
			if n.flipped[dir] {
				continue // a bit, which it may not have met yet
			}
			of, err := entries(dir)
			if err != nil {
				m.w.rep.violation("broker %d, group %d: %v", id, g.Group, err)
				continue
			}
			for index, hash := range of {
				if index > g.Commit {
					continue
				}
				was, ok := first[index]
				switch {
				case !ok:
					first[index] = held{id, hash}
				case was.hash != hash:
					m.w.rep.violation("group %d: entry %d of broker %d is not that of broker %d (committed up to %d)", g.Group, index, id, was.by, g.Commit)
				default:
					compared++
				}
			}
		}
	}
	m.w.rep.say("%d entries are the same on two replicas", compared)
	if compared == 0 {
		m.w.rep.violation("no two replicas could be compared")
	}
}
