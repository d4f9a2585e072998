#!/usr/bin/env bash
# bench/micro.sh: the micro-benchmarks of the packages, and what has changed in them, by benchstat.
#
#   bench/micro.sh             beside the recorded baseline (bench/baselines/micro.txt): allocations and bytes compare anywhere, times
#                              only on the machine that its head names
#   bench/micro.sh REVISION    beside the benchmarks of another commit, both run here and now, in turns
#   bench/micro.sh --record    write the baseline anew
#   COUNT=10                   runs of each (default 6: what benchstat needs to tell a change from noise)
#   MICRO='^BenchmarkCommit$'  only these
set -euo pipefail
cd "$(dirname "$0")/.."

count=${COUNT:-6}
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

# once DIR BINARIES: every benchmark once, in the directory that its test expects.
once() {
	local p
	for p in "${packages[@]}"; do
		echo "pkg: github.com/balsamq/balsa/${p#./}"
		(cd "$1/$p" && "$2/$(tr / _ <<<"${p#./}").test" -test.run '^$' -test.bench "$micro" -test.benchtime 0.3s -test.benchmem) | grep -E '^(goos|goarch|cpu|Benchmark)' || true # a package without any
	done
}

mkdir "$tmp/new"
build . "$tmp/new"
case ${1:-} in
--record)
	mkdir -p "$(dirname "$baseline")"
	for ((i = 1; i <= count; i++)); do
		echo "round $i of $count" >&2
		once "$PWD" "$tmp/new"
	done >"$tmp/new.txt"
	{
		echo "# by bench/micro.sh --record; $(go version), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo unknown) at the end, commit $(git rev-parse --short HEAD)"
		cat "$tmp/new.txt"
	} >"$baseline"
	go tool benchstat "$baseline"
	;;
'')
	for ((i = 1; i <= count; i++)); do
		echo "round $i of $count" >&2
		once "$PWD" "$tmp/new"
	done >"$tmp/new.txt"
	[[ -e $baseline ]] || { echo "no baseline is recorded: bench/micro.sh --record makes one, on a machine that has nothing else to do" >&2; cat "$tmp/new.txt"; exit 1; }
	head -n 1 "$baseline"
	go tool benchstat "recorded=$baseline" "now=$tmp/new.txt"
	;;
*)
	other=$tmp/other
	git worktree add --quiet --detach "$other" "$1"
	mkdir "$tmp/old"
	build "$other" "$tmp/old"
	for ((i = 1; i <= count; i++)); do
		echo "round $i of $count" >&2
		once "$other" "$tmp/old" >>"$tmp/old.txt"
		once "$PWD" "$tmp/new" >>"$tmp/new.txt"
	done
	go tool benchstat "$1=$tmp/old.txt" "now=$tmp/new.txt"
	;;
esac
