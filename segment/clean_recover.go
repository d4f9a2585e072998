// Open, as far as the cleaned part is concerned: the meta file names its files, each of which must be there as it was. If one is not, the log
// lacks records that no entry can bring back, and so it begins anew: a leader sends its own part, and the entries behind it.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

const maxInstallFile = installSize + maxCleanedFiles*cleanedRefSize

// cameWith completes the meta of a log that was replaced by a snapshot with the cleaned part that came with it. [ErrCorrupt]: that is lost.
func (r *recoverer) cameWith(m *meta) error {
	file, err := r.fs.Open(path.Join(r.dir, snapshotName))
	if err != nil {
		return err
	}
	head := make([]byte, snapshotHeaderSize)
	err = errors.Join(readFull(file, head, 0), file.Close())
	if err != nil || binary.LittleEndian.Uint16(head[snapshotFlagsPos:])&flagWithCleaned == 0 {
		return err
	}
	b, err := readFile(r.fs, path.Join(r.dir, installName), maxInstallFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrCorrupt, installName)
	}
	if err != nil {
		return err
	}
	if m.cleaned, m.dirty, err = decodeInstall(r.group, b, m.floor); err != nil {
		return err
	}
	if end := m.cleaned[len(m.cleaned)-1].end; end != m.start {
		return fmt.Errorf("%w: the cleaned part ends at %d, the snapshot at %d", ErrCorrupt, end, m.start)
	}
	return nil
}

// loadCleaned opens the files that the meta file names. [ErrCorrupt]: one of them is not what it was.
func (r *recoverer) loadCleaned() error {
	for i := range r.meta.cleaned {
		ref := &r.meta.cleaned[i]
		r.cleanGen = max(r.cleanGen, ref.generation+1)
		f, err := r.openCleaned(ref)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %s is missing", ErrCorrupt, ref.name())
		case err != nil:
			return fmt.Errorf("%s: %w", ref.name(), err)
		}
		if r.suspect[ref.name()] {
			if err := r.verifyCleaned(f); err != nil {
				return fmt.Errorf("%s: %w", ref.name(), err)
			}
		}
		r.cleaned = append(r.cleaned, f)
	}
	r.dirty = r.meta.dirty
	return nil
}

// cleanCleaned removes what no meta file names: of a cleaning that a crash interrupted, or that has been superseded. While damage is on
// record it is kept.
func (r *recoverer) cleanCleaned(names []string) error {
	live := make(map[string]bool, len(r.cleaned))
	for _, f := range r.cleaned {
		live[f.name()] = true
	}
	for _, name := range names {
		gen, ok := parseCleanedName(name)
		switch {
		case ok:
			r.cleanGen = max(r.cleanGen, gen+1)
			if live[name] {
				continue
			}
		case name == installName, strings.HasSuffix(name, badSuffix):
		default:
			continue
		}
		if r.damaged != 0 && ok {
			if err := r.setAside(name); err != nil {
				return err
			}
			continue
		}
		if err := r.fs.Remove(path.Join(r.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
