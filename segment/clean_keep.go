// What a cleaning leaves alone: files of the cleaned part in which nothing has changed. The new part names them as they are, beside those that
// were written, so that a cleaning costs writes only where something goes.
//
// Whether anything goes from a file is known once all of it has been read. Until then nothing of it is written; from the first batch on that goes, or
// is another one afterwards, what stood before it is read once more and copied, and the rest follows as it comes. The part that comes of it is the same, batch
// by batch, as one that was written anew.
//
// A file that is small is never left alone, or each cleaning would leave one more behind. Of two files beside each other, one of which was left
// alone, or which are full, the bytes are at least three quarters of the target: their number stays within two thirds of maxCleanedFiles.

package segment

// leavable says whether the new part can go on with f as it is: it must begin where what has been written can end.
func (c *cleaning) leavable(f *cleanedFile) bool {
	if 4*f.size < 3*c.target || f.base < c.o.Start {
		return false
	}
	if c.out != nil {
		return true // it ends at f.base
	}
	if n := len(c.done); n > 0 {
		return c.done[n-1].end == f.base
	}
	return c.o.Start == f.base
}

// washFile writes what is left of a file of the part that there is, unless that is all of it.
func (c *cleaning) washFile(f *cleanedFile) error {
	if f.end <= c.o.Start {
		return nil
	}
	if c.same = nil; c.leavable(f) {
		c.same = f
	}
	if err := c.eachIn(f, c.o.Start, c.wash); err != nil || c.same == nil {
		return err
	}
	if c.out != nil {
		if err := c.rotate(f.base); err != nil {
			return err
		}
	}
	c.done, c.same = append(c.done, f), nil
	c.written = c.last.next()
	c.stats.Untouched++
	return nil
}

// stays: the batch is the same afterwards.
func (c *cleaning) stays(r *record) error {
	if c.same != nil {
		return nil
	}
	return c.put(r)
}

// differs: from r on the file at hand is not what it was. What stands before it is.
func (c *cleaning) differs(r *record) error {
	f := c.same
	if f == nil {
		return nil
	}
	c.same = nil
	return c.eachIn(f, f.base, func(before *record) error {
		if before.base >= r.base {
			return errEnough
		}
		return c.put(before)
	})
}
