// Flags that take bytes, or bytes a second: 67108864, 64MiB, 1.5GB.

package main

import (
	"errors"
	"math/big"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// sizeUnits are what stands behind a number of bytes, in small letters. There is no bare M or G: to some programs it is a million, to others 1 << 20.
var sizeUnits = map[string]int64{"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}

var sizeSyntax = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)$`)

var errNoSize = errors.New("it is no number of bytes")

// parseSize reads a number of bytes: a whole number, which may be below zero, or one with a unit, of which a part of a byte is dropped.
func parseSize(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return n, err
	}
	m := sizeSyntax.FindStringSubmatch(s)
	if m == nil {
		return 0, errNoSize
	}
	unit, ok := sizeUnits[strings.ToLower(m[2])]
	if !ok || unit == 1 && strings.Contains(m[1], ".") || len(m[1]) > 40 {
		return 0, errNoSize
	}
	exact, _ := new(big.Rat).SetString(m[1]) // which the expression allows nothing else than
	exact.Mul(exact, new(big.Rat).SetInt64(unit))
	n := new(big.Int).Quo(exact.Num(), exact.Denom())
	if !n.IsInt64() {
		return 0, strconv.ErrRange
	}
	return n.Int64(), nil
}

// sizeText is a number of bytes as parseSize reads it: exact, and with a unit where that is shorter.
func sizeText(n int64) string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if unit := sizeUnits[strings.ToLower(u)]; n > 0 && n%unit == 0 {
			return strconv.FormatInt(n/unit, 10) + u
		}
	}
	return strconv.FormatInt(n, 10)
}

// What the types of such flags are called, in the help as well.
const (
	sizeType     = "bytes"
	rateType     = "bytes/s"
	sizeListType = "bytes,..."
)

// sizeFlag is a flag of bytes. It lies where the number does: see fieldFlags.
type sizeFlag int64

// rateFlag is one of bytes a second, which may have /s at its end.
type rateFlag int64

// sizeListFlag is a list of bytes.
type sizeListFlag struct {
	to    *[]int
	given bool
}

var _, _, _ pflag.Value = (*sizeFlag)(nil), (*rateFlag)(nil), (*sizeListFlag)(nil)

func (f *sizeFlag) String() string { return sizeText(int64(*f)) }
func (f *sizeFlag) Type() string   { return sizeType }

func (f *sizeFlag) Set(s string) error {
	n, err := parseSize(s)
	if err == nil {
		*f = sizeFlag(n)
	}
	return err
}

func (f *rateFlag) String() string { return sizeText(int64(*f)) }
func (f *rateFlag) Type() string   { return rateType }

func (f *rateFlag) Set(s string) error {
	n, err := parseSize(strings.TrimSuffix(s, "/s"))
	if err == nil {
		*f = rateFlag(n)
	}
	return err
}

func (f *sizeListFlag) String() string {
	if f.to == nil || len(*f.to) == 0 {
		return ""
	}
	var all []string
	for _, n := range *f.to {
		all = append(all, sizeText(int64(n)))
	}
	return strings.Join(all, ",")
}

func (f *sizeListFlag) Type() string { return sizeListType }

func (f *sizeListFlag) Set(s string) error {
	var all []int
	for part := range strings.SplitSeq(s, ",") {
		n, err := parseSize(strings.TrimSpace(part))
		if err == nil && int64(int(n)) != n {
			err = strconv.ErrRange
		}
		if err != nil {
			return err
		}
		all = append(all, int(n))
	}
	if f.given { // a flag that is repeated goes on
		all = append(*f.to, all...)
	}
	*f.to, f.given = all, true
	return nil
}

func sizeVar(fs *pflag.FlagSet, p *int64, name string, def int64, usage string) {
	*p = def
	fs.Var((*sizeFlag)(p), name, usage)
}

func rateVar(fs *pflag.FlagSet, p *int64, name string, def int64, usage string) {
	*p = def
	fs.Var((*rateFlag)(p), name, usage)
}

// checkSize says whether a flag of one of these types takes a value.
func checkSize(kind, s string) error {
	switch kind {
	case sizeType:
		return new(sizeFlag).Set(s)
	case rateType:
		return new(rateFlag).Set(s)
	}
	return (&sizeListFlag{to: new([]int)}).Set(s)
}

// sizeKind is what such a flag takes; "" for other flags.
func sizeKind(kind string) string {
	switch kind {
	case sizeType:
		return "a number of bytes: 1048576, 64MiB or 1.5GB"
	case rateType:
		return "a number of bytes a second: 1048576, 64MiB or 1.5GB"
	case sizeListType:
		return "numbers of bytes: 100,1KiB,64KiB"
	}
	return ""
}
