// Templates: from a message to a record's key, and from a record to a message's subject.
//
// A template is text with fields in braces. For a key:
//
//	{subject}        the whole subject, as it is
//	{subject[N]}     its token N, from 0 on; negative: from the end. What escapeToken did is undone
//	{token[N]}       the same, as it is
//	{header:NAME}    the first value of a header
//
// For a subject, whose every field but {key.*} becomes (part of) one token:
//
//	{key}            the key, escaped
//	{key.*}          the key as several tokens: its dots part them
//	{topic} {partition}
//	{header:NAME}    the first value of a header, escaped
//
// A field that is not there, such as token 5 of a subject of three, makes the message one that cannot be converted.

package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxTemplate and maxFields bound a template.
	maxTemplate = 512
	maxFields   = 32
	// maxSubject bounds a subject that a template makes: servers take lines of 4 KiB in all.
	maxSubject = 2048
	// noKey is the key template for records without a key.
	noKey = "none"
)

// The tokens that stand for a key that is empty, and for none. Both are no escapes.
const (
	emptyToken = "%e"
	nilToken   = "%n"
)

// fieldKind is a field that a template may have.
type fieldKind int

const (
	literal fieldKind = iota
	wholeSubject
	subjectToken
	rawToken
	header
	wholeKey
	keyTokens
	topicField
	partitionField
)

// The fields that each of the two kinds of template takes.
var (
	keyFields     = []fieldKind{wholeSubject, subjectToken, rawToken, header}
	subjectFields = []fieldKind{wholeKey, keyTokens, topicField, partitionField, header}
)

// field is a part of a template.
type field struct {
	kind fieldKind
	text string // of a literal; the name of a header
	n    int    // of a token
}

type template []field

// parseTemplate reads a template that may have these fields.
func parseTemplate(s string, allowed []fieldKind) (template, error) {
	bad := func(format string, a ...any) (template, error) {
		return nil, specErrorf("template %.80q: "+format, append([]any{s}, a...)...)
	}
	if len(s) > maxTemplate {
		return bad("%d bytes, at most %d", len(s), maxTemplate)
	}
	ofSubject := slices.Contains(allowed, wholeKey)
	var t template
	rest := s
	for rest != "" {
		text, after, found := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return bad("a } without its {")
		}
		if text != "" {
			t = append(t, field{kind: literal, text: text})
		}
		if !found {
			break
		}
		name, behind, found := strings.Cut(after, "}")
		if !found {
			return bad("a { without its }")
		}
		f, err := parseField(name)
		if err != nil || !slices.Contains(allowed, f.kind) {
			known := "{subject}, {subject[N]}, {token[N]} and {header:NAME}"
			if ofSubject {
				known = "{key}, {key.*}, {topic}, {partition} and {header:NAME}"
			}
			return bad("there is no {%s}: there are %s", name, known)
		}
		t = append(t, f)
		rest = behind
	}
	if len(t) > maxFields {
		return bad("%d parts, at most %d", len(t), maxFields)
	}
	if ofSubject {
		// With a letter in place of each field it must be a subject.
		var b strings.Builder
		for _, f := range t {
			if f.kind == literal {
				b.WriteString(f.text)
			} else {
				b.WriteByte('x')
			}
		}
		if !validSubject(b.String()) {
			return bad("it makes no subject to publish to")
		}
	}
	return t, nil
}

func parseField(s string) (field, error) {
	switch s {
	case "subject":
		return field{kind: wholeSubject}, nil
	case "key":
		return field{kind: wholeKey}, nil
	case "key.*":
		return field{kind: keyTokens}, nil
	case "topic":
		return field{kind: topicField}, nil
	case "partition":
		return field{kind: partitionField}, nil
	}
	if name, ok := strings.CutPrefix(s, "header:"); ok && name != "" {
		return field{kind: header, text: name}, nil
	}
	for prefix, kind := range map[string]fieldKind{"subject[": subjectToken, "token[": rawToken} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			if digits, ok := strings.CutSuffix(rest, "]"); ok {
				n, err := strconv.ParseInt(digits, 10, 16)
				return field{kind: kind, n: int(n)}, err
			}
		}
	}
	return field{}, errors.New("unknown field")
}

// hasKey says whether a subject that t makes has the record's key in it.
func (t template) hasKey() bool {
	return slices.ContainsFunc(t, func(f field) bool { return f.kind == wholeKey || f.kind == keyTokens })
}

// key makes a record's key of a message's subject and headers.
func (t template) key(subject string, headers func(string) (string, bool)) ([]byte, error) {
	var tokens []string
	var b []byte
	single := len(t) == 1 // then it may be no key at all
	for _, f := range t {
		switch f.kind {
		case literal:
			b = append(b, f.text...)
		case wholeSubject:
			b = append(b, subject...)
		case subjectToken, rawToken:
			if tokens == nil {
				tokens = strings.Split(subject, ".")
			}
			n := f.n
			if n < 0 {
				n += len(tokens)
			}
			if n < 0 || n >= len(tokens) {
				return nil, fmt.Errorf("subject %.200q has no token %d", subject, f.n)
			}
			if f.kind == rawToken {
				b = append(b, tokens[n]...)
				break
			}
			key, isNil := unescapeToken(tokens[n])
			if isNil && single {
				return nil, nil
			}
			b = append(b, key...)
		case header:
			v, ok := headers(f.text)
			if !ok {
				return nil, fmt.Errorf("the message has no header %s", f.text)
			}
			b = append(b, v...)
		}
	}
	if b == nil {
		b = []byte{}
	}
	return b, nil
}

// subject makes a message's subject of a record.
func (t template) subject(key []byte, topic string, partition int32, headers func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for _, f := range t {
		switch f.kind {
		case literal:
			b.WriteString(f.text)
		case wholeKey:
			b.WriteString(escapeToken(key))
		case keyTokens:
			if key == nil {
				b.WriteString(nilToken)
				break
			}
			for i, token := range strings.Split(string(key), ".") {
				if i > 0 {
					b.WriteByte('.')
				}
				b.WriteString(escapeToken([]byte(token)))
			}
		case topicField:
			b.WriteString(escapeToken([]byte(topic)))
		case partitionField:
			b.WriteString(strconv.Itoa(int(partition)))
		case header:
			v, ok := headers(f.text)
			if !ok {
				return "", fmt.Errorf("the record has no header %s", f.text)
			}
			b.WriteString(escapeToken([]byte(v)))
		}
		if b.Len() > maxSubject {
			return "", fmt.Errorf("its subject would be longer than %d bytes", maxSubject)
		}
	}
	return b.String(), nil
}

// escapeToken makes one token of a subject of any bytes; nil is not the same as empty.
func escapeToken(b []byte) string {
	switch {
	case b == nil:
		return nilToken
	case len(b) == 0:
		return emptyToken
	}
	return percentEncode(b, func(c byte) bool { return c == '.' || c == '*' || c == '>' })
}

// unescapeToken undoes escapeToken. A token that is none of its results is taken as it is.
func unescapeToken(s string) (b []byte, isNil bool) {
	switch s {
	case nilToken:
		return nil, true
	case emptyToken:
		return []byte{}, false
	}
	if b, ok := percentDecode(s); ok {
		return b, false
	}
	return []byte(s), false
}

const hexDigits = "0123456789ABCDEF"

// percentEncode writes b as text without blanks and control characters: those, '%', bytes that are not UTF-8, and what also says so become %XX.
func percentEncode(b []byte, also func(byte) bool) string {
	var out strings.Builder
	for i := 0; i < len(b); {
		c := b[i]
		if c < utf8.RuneSelf {
			if c <= ' ' || c == 0x7f || c == '%' || also(c) {
				out.WriteByte('%')
				out.WriteByte(hexDigits[c>>4])
				out.WriteByte(hexDigits[c&15])
			} else {
				out.WriteByte(c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			out.WriteByte('%')
			out.WriteByte(hexDigits[c>>4])
			out.WriteByte(hexDigits[c&15])
		} else {
			out.Write(b[i : i+n])
		}
		i += n
	}
	return out.String()
}

// percentDecode undoes percentEncode; ok is false where s has a '%' that begins no %XX.
func percentDecode(s string) (b []byte, ok bool) {
	if !strings.Contains(s, "%") {
		return []byte(s), true
	}
	b = make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return nil, false
		}
		hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
		if hi < 0 || lo < 0 {
			return nil, false
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return b, true
}

// validSubject says whether s can be published to.
func validSubject(s string) bool {
	if s == "" {
		return false
	}
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || token == "*" || token == ">" || strings.ContainsAny(token, " \t\r\n\x00") {
			return false
		}
	}
	return true
}
