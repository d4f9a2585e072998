#!/usr/bin/env bash
# kgo.sh HOST:PORT,…: franz-go's own client tests, of the version in go.mod, against a cluster of three. Prints what they
# left out and what failed.
#
# They are built from this module, which requires all that they import, so that nothing has to be fetched but what the
# broker needs as well. Only those that talk to a cluster are run: the others test the client, some of them by the clock, and
# say nothing about us. The tests leave out by themselves what the brokers do not list (share groups) or
# what they were given no server for (SCRAM); what else is left out stands below with its reason.
#
# KGO_TEST_RECORDS  records through TestGroupETL, groups that come and go in a chain (default 200000; the tests' own: 500000)
# KGO_TEST_CHAOS=1  TestGroupETL's clients lose every connection within a second and a half
# KGO_RUN           a regular expression: these tests, and no others
# KGO_COUNT         how many times (default 1)
# KGO_TIMEOUT       seconds for all of it (default 240)
# KGO_LOG_LEVEL     what the clients log (none, info, debug; default none); shown if a test fails
# COMPAT_KILLS      brokers are killed meanwhile. The tests are not made for that: one that ends because its client says that it could not reach the broker
#                   that is down has not passed, and says nothing; what any other has found is a failure
set -uo pipefail

left_out=(
	Test848RegexBrokerResolves # where it cannot make an internal topic it reads __consumer_offsets, and takes that one's records for those of a topic that it waits for
)

[[ -z ${KGO_TEST_TLS:-} ]] || left_out+=(
	TestIssue769 # it has a dialer of its own, which the client does not take beside TLS; the test does not look at the error
)

export KGO_SEEDS=$1 KGO_TEST_RF=3 KGO_TEST_RECORDS=${KGO_TEST_RECORDS:-200000} KGO_LOG_LEVEL=${KGO_LOG_LEVEL:-none}
limit=${KGO_TIMEOUT:-240}
cd "$(dirname "$0")" || exit
tmp=$(mktemp -d "${TMPDIR:-/tmp}/balsa-kgo.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

package=github.com/twmb/franz-go/pkg/kgo
go test -c -o "$tmp/kgo.test" "$package" || exit
cd "$(go list -f '{{.Dir}}' "$package")" || exit # where go test would run it: one test reads a file there

# Those that talk to a cluster are those that make a client or a topic by the functions of helpers_test.go.
mapfile -t tests < <(awk '
	/^func / { name = "" }
	/^func Test/ { match($0, /Test[A-Za-z0-9_]+/); name = substr($0, RSTART, RLENGTH) }
	name != "" && /newTestClient\(|testClientOpts\(|getSeedBrokers\(|tmp[A-Za-z]*Topic[A-Za-z]*\(|adm\(\)/ { print name; name = "" }' ./*_test.go)

# 16 at a time: most of them wait most of the time, and the brokers should have many clients at once.
(IFS='|' && exec timeout --foreground -k 10 $((limit + 30)) "$tmp/kgo.test" -test.v -test.parallel 16 -test.timeout "${limit}s" -test.count "${KGO_COUNT:-1}" \
	-test.run "${KGO_RUN:-^(${tests[*]})\$}" -test.skip "^(${left_out[*]})\$") >"$tmp/out" 2>"$tmp/err"
code=$?
printf 'left out: %s\n' "${left_out[@]}"
sed -n 's/^ *--- SKIP: \([^ ]*\).*/left out by itself: \1/p' "$tmp/out" | sort -u
passed=$(grep -c '^--- PASS' "$tmp/out")
unreachable='poll got unexpected errs: .*(EOF|connection refused|connection reset|broken pipe)'
if ((code == 1 && passed > 0)) && [[ -n ${COMPAT_KILLS:-} ]] && grep -qE "$unreachable" "$tmp/out" &&
	! grep -E '^ +[a-z0-9_]+_test\.go:[0-9]+: ' "$tmp/out" | grep -qvE "deleting (group|topic)|NOT DELETING|completed in|unable to delete|$unreachable"; then
	grep -E '^--- FAIL' "$tmp/out" | sed 's/^--- FAIL: \([^ ]*\).*/said nothing, as a broker was down: \1/'
	code=0
fi
if ((code != 0)); then
	grep -v '^=== ' "$tmp/out" | grep -vE '^ *--- (PASS|SKIP)' | head -n 200
	echo "--- what the clients said last"
	tail -n 50 "$tmp/err"
	echo "kgo: failed ($code): $(sed -n 's/^ *--- FAIL: \([^ ]*\).*/\1/p' "$tmp/out" | paste -sd' '); $passed tests passed"
	exit 1
fi
# A run that selected nothing is no success.
if [[ -z ${KGO_RUN:-} ]] && ! grep -q '^--- PASS: TestGroupETL ' "$tmp/out"; then
	echo "kgo: TestGroupETL did not run: has franz-go renamed its tests?"
	exit 1
fi
((passed > 0)) || { echo "kgo: no test was run"; exit 1; }
echo "ok    $passed of franz-go's tests pass"
