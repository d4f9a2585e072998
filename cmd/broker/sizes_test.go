// Tests of flags that take bytes.

package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "67108864": 67108864, "-1": -1, "64MiB": 64 << 20, "64 MiB": 64 << 20, "64mib": 64 << 20, "1.5GB": 1_500_000_000, "1.5GiB": 3 << 29, "2kB": 2000, "3TB": 3e12, "1TiB": 1 << 40,
		"7B": 7, "0.3KiB": 307, "9223372036854775807": math.MaxInt64, "9.223372036854775807TB": 9223372036854,
	} {
		if n, err := parseSize(s); n != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", " ", "64M", "64Mbit", "MiB", "1.5", "1,5GB", "-1MiB", "1e9", "0x10", "1.GB", ".5GB", "1 000", "64MiB/s", "64  MiB", "NaN", "1.5B", strings.Repeat("1", 41) + "kB"} {
		if n, err := parseSize(s); !errors.Is(err, errNoSize) && !errors.Is(err, strconv.ErrRange) {
			t.Errorf("%q is taken for %d (%v)", s, n, err)
		}
	}
	for _, s := range []string{"9223372036854775808", "8388608TiB", "99999999999TB"} {
		if n, err := parseSize(s); !errors.Is(err, strconv.ErrRange) {
			t.Errorf("%q is %d, %v", s, n, err)
		}
	}
}

func TestSizeTextIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Int64(), rapid.Map(rapid.Int64Range(0, 1<<20), func(n int64) int64 { return n << 20 })).Draw(t, "n")
		if got, err := parseSize(sizeText(n)); got != n || err != nil {
			t.Fatalf("%d is shown as %s, which is %d (%v)", n, sizeText(n), got, err)
		}
	})
}

// From the command line, the environment and the file, and what is said of a value that is none.
func TestSizesAreTaken(t *testing.T) {
	c := newCLI(t)
	for _, tc := range []struct{ env, arg, file, want string }{
		{arg: "--cache-bytes=64M", want: `"64M" for "--cache-bytes" flag: it must be a number of bytes: 1048576, 64MiB or 1.5GB`},
		{arg: "--move-rate=fast", want: `it must be a number of bytes a second`},
		{arg: "--cache-bytes=99999999TiB", want: `one that fits into 64 bits`},
		{env: "1.5", want: "give it a number of bytes: "},
		{file: "segment-bytes: 64M\n", want: "give it a number of bytes: "},
		{file: "segment-bytes: 64MiB\nmove-rate: 10MB/s\n", arg: "--election-timeout=-1s", want: "--election-timeout"}, // it went on to what comes next
	} {
		c.env["BALSA_CACHE_BYTES"] = tc.env
		c.file("balsa.yaml", tc.file)
		args := []string{"start", "--data-dir", c.dir + "/data"}
		if tc.arg != "" {
			args = append(args, tc.arg)
		}
		code, _, errText := c.run(args...)
		if code != exitUsage || !strings.Contains(errText, tc.want) {
			t.Errorf("%+v: exit code %d\n%s", tc, code, errText)
		}
	}
}

func TestSizeList(t *testing.T) {
	var list []int
	f := &sizeListFlag{to: &list}
	if err := errors.Join(f.Set("100,1KiB"), f.Set("2kB")); err != nil || len(list) != 3 || list[1] != 1024 || f.String() != "100,1KiB,2000" {
		t.Errorf("%v, %v, %s", list, err, f)
	}
	if err := f.Set("1,x"); err == nil {
		t.Error("x is a size")
	}
}
