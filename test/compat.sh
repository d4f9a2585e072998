#!/usr/bin/env bash
# Client compatibility: a three-node cluster of its own, and unmodified Kafka clients against it.
#
#   test/compat.sh            build, start a cluster in a temporary directory on free ports, run all checks, stop it
#   test/compat.sh HOST:PORT  run the checks against a cluster that is there
#
# kcat and the Python clients are used where they are installed (.ci/run installs them), the Java client where java and mvn
# are; what is skipped says so. Those that wait most of the time run side by side. After each check, or all of those, every broker must be alive
# still. A cluster of its own is followed by a second one, with TLS, SASL and ACLs, for a part of the checks.
# Some 2 minutes on two cores. test/compat/soak.sh has all clients in all modes; test/compat/kgo.sh says how to run franz-go's own tests in full.
# ROUNDTRIP_RECORDS sets the size of the exact read-back (default 60000).
set -euo pipefail
cd "$(dirname "$0")/.."

. test/compat/cluster.sh

pids=() names=() # of the steps that have begun beside others
work=$(mktemp -d "${TMPDIR:-/tmp}/balsa-compat.XXXXXX")
cleanup() {
	status=$?
	trap - EXIT INT TERM
	for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
	if ((status == 0)); then cluster_stop; else cluster_stop why; fi
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
	export BALSA_BROKERS=$brokers
	mapfile -t addresses < <("$work/broker" cluster status -o json | grep -oE '"address": *"[^"]+"' | cut -d'"' -f4)
	((${#addresses[@]} > 0)) || { echo "cluster status names no brokers"; exit 1; }
else
	echo "--- a cluster of three"
	cluster_start "$work/broker" "$work/plain" plain
	cluster_connect plain
fi

failed=()
step() { # NAME COMMAND…
	local name=$1 before=$SECONDS
	shift
	echo "--- $name"
	if ! "$@"; then # each check inside has a time-out of its own
		echo "FAILED: $name"
		failed+=("$name")
	fi
	alive "$name"
	echo "($((SECONDS - before)) s)"
}

alive() { # AFTER
	if ! cluster_alive; then # whatever the client made of it; and no later check would say anything
		echo "compat: failed: every broker is alive after: $1"
		exit 1
	fi
}

# beside begins a step and does not wait for it: finish does, for all of them, and shows what each said.
beside() { # NAME COMMAND…
	local out=$work/beside-${#pids[@]}
	names+=("$1")
	shift
	set -m # a process group of its own, so that an interrupt can end all of it
	(
		SECONDS=0 code=0
		"$@" || code=$?
		echo "($SECONDS s)"
		exit "$code"
	) >"$out" 2>&1 </dev/null &
	pids+=($!)
	set +m
}

finish() {
	local i code after
	((${#pids[@]} > 0)) || return 0
	for i in "${!pids[@]}"; do
		code=0
		wait "${pids[i]}" || code=$?
		echo "--- ${names[i]}"
		cat "$work/beside-$i"
		((code == 0)) || { echo "FAILED: ${names[i]}"; failed+=("${names[i]}"); }
	done
	after=$(printf '%s; ' "${names[@]}")
	pids=() names=()
	alive "$after"
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
beside "franz-go: its own client tests" test/compat/kgo.sh "$brokers"
if command -v kcat >/dev/null; then
	beside "kcat (librdkafka, C)" test/compat/kcat.sh "$brokers"
else
	echo "SKIPPED: kcat is not installed, so that no librdkafka client was checked (Debian: apt-get install kcat)"
fi
# The distribution's Python, not one that shadows it: that is where the distribution's packages are.
python=/usr/bin/python3
for lib in kafka confluent_kafka; do
	if [[ -x $python ]] && $python -c "import $lib" 2>/dev/null; then
		beside "Python: $lib" timeout 180 "$python" test/compat/python.py "$lib" "$brokers"
	else
		echo "SKIPPED: the Python package $lib is not installed (Debian: apt-get install python3-${lib/_/-})"
	fi
done
java_client() { # [PART…]; 3: skipped, as it said itself
	local code=0
	test/compat/java/run.sh "$brokers" "$@" || code=$?
	((code == 0 || code == 3))
}
beside "Java: kafka-clients" java_client
finish

if (($# == 0)); then
	echo "--- a cluster of three with TLS, SASL and ACLs"
	cluster_stop ${failed[@]+why}
	cluster_start "$work/broker" "$work/secure" secure
	cluster_connect sasl
	step "SASL_SSL: the CLI" cli
	step "SASL_SSL: franz-go: exact read-back of 6 partitions" "$work/roundtrip" -brokers "$brokers" -records "${ROUNDTRIP_RECORDS:-60000}"
	if command -v kcat >/dev/null; then
		KCAT_LINES=5000 beside "SASL_SSL: kcat (librdkafka, C)" test/compat/kcat.sh "$brokers"
	fi
	beside "SASL_SSL: Java: kafka-clients" java_client admin data
	finish
	cluster_connect mtls
	step "client certificates: franz-go: exact read-back of 6 partitions" "$work/roundtrip" -brokers "$brokers" -records 6000
fi

if ((${#failed[@]} > 0)); then
	printf 'compat: failed: %s\n' "${failed[@]}"
	exit 1
fi
echo "compat: all passed"
