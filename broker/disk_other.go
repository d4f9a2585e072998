//go:build !linux

// How much room the volume of a directory has: not known here.

package broker

func diskSpace(string) (total, usable int64) { return -1, -1 }
