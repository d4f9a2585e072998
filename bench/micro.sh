#!/usr/bin/env bash
# bench/micro.sh: the micro-benchmarks of the packages, and what has changed in them.
#
#   bench/micro.sh             beside the recorded baseline (bench/baselines/micro.txt): allocations and bytes of an operation, which are the
#                              same anywhere; fails if there are more of them. Takes seconds
#   bench/micro.sh REVISION    times, too, beside the benchmarks of another commit, both run here and now, in turns, by benchstat
#   bench/micro.sh --record    write the baseline anew
#   COUNT=10                   runs of each (default 6 beside a revision: what benchstat needs to tell a change from noise; else 2)
#   MICRO='^BenchmarkCommit$'  only these
set -euo pipefail
cd "$(dirname "$0")/.."

count=${COUNT:-2}
packages=(./raft ./raft/multi ./raft/transport ./protocol ./segment ./partition ./coordinator ./broker)
# Not the large ones, which measure a scenario: LargeSnapshot, Clean.
micro=${MICRO:-'^Benchmark(Commit|Propose|LeaseRead|Call|MsgApp|BatchView|BatchRecords|AppendSync|ReadOffsets|Append|AssignUniform|ACLDecide|MayTopic|Counting|ProduceRequest|FetchRequest)$'}
baseline=bench/baselines/micro.txt

tmp=$(mktemp -d "${TMPDIR:-/tmp}/balsa-micro.XXXXXX")
other=
cleanup() {
	[[ -z $other ]] || git worktree remove --force "$other"
	rm -rf "$tmp"
}
trap cleanup EXIT

# build DIR TO: the test binaries of a tree.
build() {
	local p
	for p in "${packages[@]}"; do
		(cd "$1" && go test -c -o "$2/$(tr / _ <<<"${p#./}").test" "$p")
	done
}

# once DIR BINARIES TIME: every benchmark once, for so long or so many times, in the directory that its test expects.
once() {
	local p
	for p in "${packages[@]}"; do
		echo "pkg: github.com/balsamq/balsa/${p#./}"
		(cd "$1/$p" && "$2/$(tr / _ <<<"${p#./}").test" -test.run '^$' -test.bench "$micro" -test.skip "${skip:-^$}" -test.benchtime "$3" -test.benchmem ${cpu:+-test.cpu "$cpu"}) | grep -E '^(goos|goarch|cpu|Benchmark)' || true # a package without any
	done
}

mkdir "$tmp/new"
build . "$tmp/new"
# Beside the baseline as many times as when that was recorded: what an operation allocates once only is spread over them.
times=200x cpu=2 # of which pools depend
# 4 MiB each time, while the others allocate as it does; and messages that take their memory from a pool, or do not, as the collector has it.
skip='^BenchmarkAppendSync$/./^entries=64$/^bytes=65536$|^BenchmarkMsgApp$/^entry=(65536|1048576)$'
case ${1:-} in
--record | '')
	for ((i = 1; i <= count; i++)); do
		once "$PWD" "$tmp/new" "$times"
	done >"$tmp/new.txt"
	if [[ ${1:-} == --record ]]; then
		mkdir -p "$(dirname "$baseline")"
		{
			echo "# by bench/micro.sh --record; $(go version), $(nproc) processors, commit $(git rev-parse --short HEAD)"
			cat "$tmp/new.txt"
		} >"$baseline"
	fi
	go run ./bench/micro ${MICRO:+-some} "$baseline" "$tmp/new.txt"
	;;
*)
	count=${COUNT:-6} skip= cpu=
	other=$tmp/other
	git worktree add --quiet --detach "$other" "$1"
	mkdir "$tmp/old"
	build "$other" "$tmp/old"
	for ((i = 1; i <= count; i++)); do
		echo "round $i of $count" >&2
		once "$other" "$tmp/old" 0.3s >>"$tmp/old.txt"
		once "$PWD" "$tmp/new" 0.3s >>"$tmp/new.txt"
	done
	go tool benchstat "$1=$tmp/old.txt" "now=$tmp/new.txt"
	;;
esac
