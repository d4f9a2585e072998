// Subscriptions by regular expression: RE2 as Go has it, matched against whole topic names. What an expression stands for is in the
// log, so that a new coordinator does not find other topics than the one before.

package coordinator

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

const (
	// maxRegex bounds an expression's length, and maxRegexProgram the instructions it compiles to: repetitions multiply. RE2 takes
	// time in proportion to both and to the text, whatever the expression; the text is a topic's name.
	maxRegex        = 1024
	maxRegexProgram = 4096
	// maxRegexes bounds the different expressions of one group.
	maxRegexes = 100
)

// compileRegex compiles an expression for whole names.
func compileRegex(expr string) (*regexp.Regexp, error) {
	if len(expr) > maxRegex {
		return nil, fmt.Errorf("%w: it is %d bytes long, at most %d", ErrInvalidRegex, len(expr), maxRegex)
	}
	parsed, err := syntax.Parse(expr, syntax.Perl) // by itself first: what surrounds it must not complete it
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidRegex, err)
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidRegex, err)
	}
	if len(prog.Inst) > maxRegexProgram {
		return nil, fmt.Errorf("%w: it is too complex", ErrInvalidRegex)
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidRegex, err)
	}
	return re, nil
}

// resolve finds the topics of an expression.
func resolveRegex(re *regexp.Regexp, im *Image) []string {
	var topics []string
	for _, t := range im.Topics() {
		if re.MatchString(t.Name) {
			topics = append(topics, t.Name)
		}
	}
	return topics
}
