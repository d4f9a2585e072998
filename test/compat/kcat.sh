#!/usr/bin/env bash
# kcat.sh HOST:PORT,…: what kcat, and so librdkafka, does against a cluster. Prints a line per check; fails if one did.
# KCAT_LINES sets the size of the exact read-back (default 20000); KCAT_CONFIG is kcat's own: a file that says how to connect.
# With COMPAT_KILLS brokers are killed meanwhile: producers are idempotent then, and what loses or repeats records by its nature is left out.
set -uo pipefail

brokers=$1
lines=${KCAT_LINES:-20000}
run=compat-kcat-$$-$RANDOM
tmp=$(mktemp -d "${TMPDIR:-/tmp}/balsa-kcat.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
failures=0
kills=${COMPAT_KILLS:-}

check() { # NAME WANT GOT
	if [[ $2 == "$3" ]]; then
		echo "ok    $1"
	else
		echo "FAIL  $1: want '${2:0:200}', got '${3:0:200}'"
		failures=$((failures + 1))
	fi
}

kc() { timeout 40 kcat -b "$brokers" "$@" 2>"$tmp/err" || { echo "kcat failed: $(tail -n 3 "$tmp/err")" >&2; return 1; }; }
produce() { kc -P ${kills:+-X enable.idempotence=true} "$@"; }
# read TOPIC PARTITION ARGS…: to the end, nothing else printed
read_all() { kc -C -q -e -t "$1" -p "$2" "${@:3}"; }
# offset TOPIC PARTITION WHERE: -1 the end, -2 the beginning, else a time
offset() { kc -Q -t "$1:$2:$3" | sed 's/.*offset //'; }
# A topic of one partition is made by the first produce to it; one of more is made by the CLI's way, CreateTopics.
exists() { kc -L -t "$1" | grep -c '  partition '; }

[[ -n $kills ]] || check "metadata lists the brokers" "$(tr ',' '\n' <<<"$brokers" | grep -c .)" "$(kc -L | grep -c '^  broker ')"

t=$run-auto
seq 1 "$lines" | produce -t "$t" -p 0 -X acks=all -X enable.idempotence=true
check "idempotent produce to a topic that it makes" 0 $?
check "auto-created topic has a partition" 1 "$(exists "$t" | head -n 1 | awk '{print ($1 >= 1)}')"
check "everything comes back, in order" "$(seq 1 "$lines" | md5sum)" "$(read_all "$t" 0 -o beginning | md5sum)"
check "the first offset is 0" 0 "$(offset "$t" 0 -2)"
check "the end minus the beginning is the count" "$lines" "$(offset "$t" 0 -1)"
check "from an offset" "$(seq 11 20 | paste -sd,)" "$(read_all "$t" 0 -o 10 -c 10 -f '%s\n' | paste -sd,)"
check "the tail" "$(seq $((lines - 4)) "$lines" | paste -sd,)" "$(read_all "$t" 0 -o -5 | paste -sd,)"
check "nothing at the end" "" "$(read_all "$t" 0 -o end)"
check "by a time before all" 0 "$(offset "$t" 0 1)"

levels=(0 1 all)
[[ -z $kills ]] || levels=() # without idempotence there is nothing to expect
for acks in "${levels[@]}"; do
	t=$run-acks-$acks
	echo first | produce -t "$t" -p 0 -X acks=all # makes the topic, so that acks=0 is not lost to its making
	seq 1 50 | produce -t "$t" -p 0 -X acks="$acks" -X enable.idempotence=false
	check "acks=$acks: produce" 0 $?
	got=
	for _ in {1..50}; do # with acks=0 nothing says when the records are there
		got=$(offset "$t" 0 -1)
		[[ $got == 51 ]] && break
		sleep 0.1
	done
	check "acks=$acks: the records are there" 51 "$got"
done

for codec in none gzip snappy lz4 zstd; do
	t=$run-$codec
	seq 1 3000 | produce -t "$t" -p 0 -z "$codec"
	check "codec $codec" "$(seq 1 3000 | md5sum)" "$(read_all "$t" 0 -o beginning | md5sum)"
done

t=$run-headers
printf 'a|1\nb|\n|3\n' | produce -t "$t" -p 0 -K '|' -Z -H one=1 -H empty=
check "keys, nulls and headers" "a(1)=1(1) one=1,empty=;b(1)=(-1) one=1,empty=;(-1)=3(1) one=1,empty=;" \
	"$(read_all "$t" 0 -o beginning -f '%k(%K)=%s(%S) %h;')"

t=$run-auto
group() { kc -q -e -X auto.offset.reset=earliest -X session.timeout.ms=10000 -G "$run-group" "$t" | wc -l; }
check "a group reads all" "$lines" "$(group)"
check "the group goes on where it was" 0 "$(group)"
seq 1 7 | produce -t "$t" -p 0
check "the group sees what is new" 7 "$(group)"

t=$run-gzip
for rack in a b c elsewhere; do # those of test/compat.sh; nobody minds one that is not there
	check "to the end from rack $rack" "$(seq 1 3000 | md5sum)" "$(read_all "$t" 0 -o beginning -X client.rack=$rack | md5sum)"
done

t=$run-big
head -c 900000 /dev/urandom | base64 -w 0 | head -c 900000 >"$tmp/big"
produce -t "$t" -p 0 "$tmp/big"
check "a record larger than the fetch size" "$(md5sum <"$tmp/big")" "$(read_all "$t" 0 -o beginning -D '' -X fetch.message.max.bytes=4096 | md5sum)"
head -c 3000000 /dev/zero >"$tmp/huge"
produce -t "$t" -p 0 -X message.max.bytes=10000000 "$tmp/huge" 2>/dev/null
check "a record above the broker's limit is refused" 1 $?
check "and leaves nothing behind" 1 "$(offset "$t" 0 -1)"

# A second at a time: the timestamps of what comes after must be later.
t=$run-time
echo early | produce -t "$t" -p 0
sleep 1.1
between=$(date +%s%3N)
echo late | produce -t "$t" -p 0
check "by a time in between" 1 "$(offset "$t" 0 "$between")"

if ((failures > 0)); then
	echo "kcat: $failures checks failed"
	exit 1
fi
