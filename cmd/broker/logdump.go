// broker log dump: what is in a log's files.

package main

import (
	"bufio"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/segment"
)

func newLogCommand(a *app) *cobra.Command {
	var (
		o       segment.DumpOptions
		groupID uint64
	)
	dump := &cobra.Command{
		Use:   "dump PATH",
		Short: "Show what is in a segment, index, meta or snapshot file, or in all of a partition's",
		Long: `Show what is in a file of a log, or in the directory of one: a partition's lies in groups/ID of a broker's data
directory. Nothing is changed, and no broker need run; of a broker that does run the newest records may be missing.
Exit code 7 means that something is damaged; the lines say where. A torn tail, as a power loss leaves it, is no damage.`,
		Example: `  broker log dump balsa-data/groups/0000000000000002
  broker log dump balsa-data/groups/0000000000000002 --frames --payload 40`,
		Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			setUint(&o.Group, groupID)
			out := bufio.NewWriterSize(a.out, 64<<10)
			err = segment.Dump(vfs.OS(), filepath.ToSlash(path), out, o)
			if flushErr := out.Flush(); err == nil {
				err = flushErr
			}
			switch {
			case errors.Is(err, segment.ErrDamaged):
				return &cliError{code: exitDamaged, what: err.Error(), where: path, err: err,
					mend: "keep the files; the broker repairs such a replica from the other ones when it meets the damage"}
			case errors.Is(err, segment.ErrNoGroup):
				return &cliError{code: exitUsage, what: err.Error(), where: path, err: err,
					mend: "name a segment file or the directory of a log (groups/ID in a data directory); if its headers are damaged, --group gives the id"}
			case errors.Is(err, fs.ErrNotExist):
				return &cliError{code: exitNotFound, what: "there is no such file or directory", where: path, mend: "name a segment file or the directory of a log", err: err}
			}
			return err
		},
	}
	f := dump.Flags()
	f.BoolVar(&o.Frames, "frames", false, "a line for every entry, not only for every block of them")
	f.IntVar(&o.Payload, "payload", 0, "with --frames, so many bytes of each entry's payload")
	f.Uint64Var(&groupID, "group", 0, "the id of the group whose log it is, if no file header tells it")
	return group("log", "Look into a log's files", dump)
}

// setUint sets a number of a named type whose package this one does not import.
func setUint[T ~uint64](p *T, v uint64) { *p = T(v) }
