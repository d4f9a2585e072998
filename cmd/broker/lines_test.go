// Tests of how produce cuts its input into lines.

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func linesOf(t *testing.T, in io.Reader) (lines []string, err error) {
	t.Helper()
	err = eachLine(t.Context(), in, maxLineBytes, func(n int64, line []byte) error {
		if int(n) != len(lines)+1 {
			t.Errorf("line %d is called %d", len(lines)+1, n)
		}
		lines = append(lines, string(line))
		return nil
	})
	return lines, err
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 300<<10) // more than the reader's buffer
	for _, tc := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"\n", []string{""}},
		{"a\nb", []string{"a", "b"}},
		{"a\nb\n", []string{"a", "b"}},
		{"a\r\n\r\nb\rc\n", []string{"a", "", "b\rc"}},
		{long + "\n" + long, []string{long, long}},
	} {
		got, err := linesOf(t, strings.NewReader(tc.in))
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%.20q: %d lines, %v", tc.in, len(got), err)
		}
		got, err = linesOf(t, iotest.OneByteReader(strings.NewReader(tc.in)))
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%.20q byte by byte: %d lines, %v", tc.in, len(got), err)
		}
	}
}

// What is no text must not fill the memory, and a broken input is an error that names the line; what came before counts.
func TestLinesFail(t *testing.T) {
	got, err := linesOf(t, io.MultiReader(strings.NewReader("first\n"), bytes.NewReader(make([]byte, maxLineBytes+1))))
	var ce *cliError
	if !errors.As(err, &ce) || ce.where != "line 2" || !slices.Equal(got, []string{"first"}) {
		t.Errorf("a line too long: %v after %d lines", err, len(got))
	}
	broken := errors.New("broken")
	got, err = linesOf(t, io.MultiReader(strings.NewReader("first\nsecond"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("a broken input: %v after %v", err, got)
	}
}

// A terminal that nobody types at must not keep an interrupted produce.
func TestLinesInterrupted(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := eachLine(ctx, r, maxLineBytes, func(int64, []byte) error { return nil }); err != nil {
		t.Error(err)
	}
}
