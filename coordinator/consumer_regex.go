// Subscriptions by regular expression: RE2 as Go has it, matched against whole topic names. What an expression stands for is in the
// log, so that a new coordinator does not find other topics than the one before.
//
// As in Kafka it is found out with the rights of the member whose heartbeat does it, and holds for all members with the same expression; at
// once for an expression that is new, and else not more often than each regexPause.

package coordinator

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"time"
)

const (
	// maxRegex bounds an expression's length, and maxRegexProgram the instructions it compiles to: repetitions multiply. RE2 takes
	// time in proportion to both and to the text, whatever the expression; the text is a topic's name.
	maxRegex        = 1024
	maxRegexProgram = 4096
	// maxRegexes bounds the different expressions of one group.
	maxRegexes = 100
	// regexPause is between two looks at all topics because they have changed (Kafka's REGEX_BATCH_REFRESH_MIN_INTERVAL_MS), regexRefresh between
	// two whether or not they have: what a member may see changes too (consumer.group.regex.refresh.interval.ms).
	regexPause   = 10 * time.Second
	regexRefresh = 10 * time.Minute
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

// regexDue says whether the group's expressions are to be held against the topics anew.
func (c *consumerGroup) regexDue(im *Image, now time.Time) bool {
	since := now.Sub(c.resolvedAt)
	return len(c.regexes) > 0 && (since >= regexRefresh || since >= regexPause && im.Version() != c.resolved)
}

// resolveRegex finds the topics of an expression, of those that may be seen.
func resolveRegex(re *regexp.Regexp, im *Image, may func(topic string) bool) []string {
	var topics []string
	for _, t := range im.Topics() {
		if re.MatchString(t.Name) && may(t.Name) {
			topics = append(topics, t.Name)
		}
	}
	return topics
}
