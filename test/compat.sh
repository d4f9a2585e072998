#!/usr/bin/env bash
# Client compatibility: a three-node cluster of its own, and unmodified Kafka clients against it.
#
#   test/compat.sh            build, start a cluster in a temporary directory on free ports, run all checks, stop it
#   test/compat.sh HOST:PORT  run the checks against a cluster that is there
#
# kcat and the Python clients are used where they are installed (.ci/run installs them), the Java client where java and mvn
# are; what is skipped says so. After each check every broker must be alive still.
# Some 3 minutes on two cores. test/compat/kgo.sh says how to run franz-go's own tests in full.
# ROUNDTRIP_RECORDS sets the size of the exact read-back (default 60000).
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d "${TMPDIR:-/tmp}/balsa-compat.XXXXXX")
dev_pid=
cleanup() {
	status=$?
	trap - EXIT INT TERM
	if [[ -n $dev_pid ]] && kill -0 "$dev_pid" 2>/dev/null; then
		kill -TERM "$dev_pid" 2>/dev/null || true
		wait "$dev_pid" 2>/dev/null || true
	fi
	if ((status != 0)); then
		for log in "$work"/data/node-*.log "$work"/dev.err; do
			[[ -s $log ]] || continue
			echo "--- the end of $log"
			grep -m 1 -E -A 20 '^(panic|fatal error): ' "$log" || tail -n 25 "$log"
		done
	fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

echo "--- build"
go build -o "$work/broker" ./cmd/broker
go build -o "$work/roundtrip" ./test/compat/roundtrip

if (($# > 0)); then
	brokers=$1
else
	echo "--- a cluster of three"
	"$work/broker" dev --config none --nodes 3 --racks a,b,c --data-dir "$work/data" --kafka-port 0 >"$work/dev.out" 2>"$work/dev.err" &
	dev_pid=$!
	brokers=
	for ((i = 0; i < 600; i++)); do
		brokers=$(sed -n 's/^ready: //p' "$work/dev.out")
		[[ -n $brokers ]] && break
		kill -0 "$dev_pid" 2>/dev/null || { echo "broker dev has ended"; cat "$work/dev.err"; exit 1; }
		sleep 0.1
	done
	[[ -n $brokers ]] || { echo "the cluster was not ready within a minute"; exit 1; }
	cat "$work/dev.out"
fi
export BALSA_BROKERS=$brokers
mapfile -t addresses < <("$work/broker" cluster status -o json | grep -oE '"address": *"[^"]+"' | cut -d'"' -f4)
((${#addresses[@]} > 0)) || { echo "cluster status names no brokers"; exit 1; }

failed=()
step() { # NAME COMMAND…
	local name=$1 before=$SECONDS
	shift
	echo "--- $name"
	if ! "$@"; then # each check inside has a time-out of its own
		echo "FAILED: $name"
		failed+=("$name")
	fi
	if ! alive; then # whatever the client made of it; and no later check would say anything
		echo "compat: failed: every broker is alive after: $name"
		exit 1
	fi
	echo "($((SECONDS - before)) s)"
}

# alive says whether every broker that was there at the beginning takes connections, and that none of our own has ended.
alive() {
	local a host
	for a in "${addresses[@]}"; do
		host=${a%:*} host=${host#[} host=${host%]}
		timeout 10 bash -c 'exec 3<>"/dev/tcp/$1/$2"' _ "$host" "${a##*:}" 2>/dev/null || { echo "no broker at $a"; return 1; }
	done
	[[ -z $dev_pid ]] || ! grep 'has ended' "$work/dev.err"
}

cli() { # the way of the README
	local t=compat-cli-$$ out
	"$work/broker" topic create "$t" --partitions 6 --replicas 3 || return 1
	seq 1 1000 | "$work/broker" produce "$t" || return 1
	out=$("$work/broker" consume "$t" -e | sort -n | md5sum)
	[[ $out == "$(seq 1 1000 | md5sum)" ]] || { echo "FAIL consume gave back something else"; return 1; }
	"$work/broker" topic describe "$t" && "$work/broker" cluster status && "$work/broker" topic delete "$t"
}

step "the CLI" cli
step "franz-go: exact read-back of 6 partitions" "$work/roundtrip" -brokers "$brokers" -records "${ROUNDTRIP_RECORDS:-60000}"
step "franz-go: its own client tests" test/compat/kgo.sh "$brokers"
if command -v kcat >/dev/null; then
	step "kcat (librdkafka, C)" test/compat/kcat.sh "$brokers"
else
	echo "SKIPPED: kcat is not installed, so that no librdkafka client was checked (Debian: apt-get install kcat)"
fi
# The distribution's Python, not one that shadows it: that is where the distribution's packages are.
python=/usr/bin/python3
for lib in kafka confluent_kafka; do
	if [[ -x $python ]] && $python -c "import $lib" 2>/dev/null; then
		step "Python: $lib" timeout 180 "$python" test/compat/python.py "$lib" "$brokers"
	else
		echo "SKIPPED: the Python package $lib is not installed (Debian: apt-get install python3-${lib/_/-})"
	fi
done
java_client() { # 3: skipped, as it said itself
	local code=0
	test/compat/java/run.sh "$brokers" || code=$?
	((code == 0 || code == 3))
}
step "Java: kafka-clients" java_client

if ((${#failed[@]} > 0)); then
	printf 'compat: failed: %s\n' "${failed[@]}"
	exit 1
fi
echo "compat: all passed"
