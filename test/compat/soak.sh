#!/usr/bin/env bash
# soak.sh [MODE…]: every client that Balsa is checked with, in every mode, against clusters of three of its own. One table at the end.
#
#   plain   no security
#   sasl    TLS, SCRAM-SHA-512, and ACLs that allow what the client does
#   mtls    TLS with client certificates, and the same ACLs
#   kill    no security; every 10 to 20 seconds a broker is killed with -9 and started again. Each client goes on, or begins anew, until it has
#           lived through SOAK_KILLS of them
#
#   SOAK_ONLY=REGEX   only the clients whose names match
#   SOAK_KILLS=N      kills that each client must see (default 3)
#   SOAK_LOGS=DIR     where what they print goes; default: a temporary directory, which is kept if something failed
#   SOAK_TABLE=FILE   the table as Markdown, too
#   SOAK_ETL=N        how often TestTxnEtl of franz-go runs while brokers are killed (default 5)
#
# It needs what test/compat.sh uses, and fetches into ~/.cache, once: Kafka's jars (mvn), newer Python clients (pip), Go modules. What is not there
# is skipped, and says so. Some 40 minutes on two cores; the code is 0 if nothing failed.
set -uo pipefail
cd "$(dirname "$0")/../.."
. test/compat/cluster.sh

modes=("$@")
(($# > 0)) || modes=(plain sasl mtls kill)
for mode in "${modes[@]}"; do
	[[ $mode =~ ^(plain|sasl|mtls|kill)$ ]] || { echo "no such mode: $mode" >&2; exit 2; }
done
kills=${SOAK_KILLS:-3}
work=$(mktemp -d "${TMPDIR:-/tmp}/balsa-soak.XXXXXX")
logs=${SOAK_LOGS:-$work/logs}
mkdir -p "$logs"
failed=()
cleanup() {
	status=$?
	trap - EXIT INT TERM
	cluster_stop
	if ((${#failed[@]} > 0)) && [[ -z ${SOAK_LOGS:-} ]]; then
		rm -rf "$work"/broker "$work"/roundtrip "$work"/clients "$work"/*/data/node-?
		echo "what they printed is in $work"
	else
		rm -rf "$work"
	fi
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

echo "--- build"
go build -o "$work/broker" ./cmd/broker && go build -o "$work/roundtrip" ./test/compat/roundtrip || exit 1
(cd test/compat/clients && go build -o "$work/clients" .) || echo "SKIPPED: the modules of test/compat/clients cannot be fetched, so that sarama and kafka-go are not checked"

# newer_python makes a virtual environment with the Python clients of today; the distribution's are years old.
newer_python=${XDG_CACHE_HOME:-$HOME/.cache}/balsa-compat-python/1
python_packages=(confluent-kafka==2.16.1 kafka-python==3.0.12)
if [[ ! -e $newer_python/done ]]; then
	python3 -m venv "$newer_python" && timeout 300 "$newer_python/bin/pip" install -q "${python_packages[@]}" && : >"$newer_python/done"
fi

# The clients. 3 is the code of what could not be checked, as it says itself.
python() { # INTERPRETER PACKAGE
	[[ -x $1 ]] && "$1" -c "import $2" 2>/dev/null || { echo "SKIPPED: $1 has no package $2"; return 3; }
	timeout 240 "$1" test/compat/python.py "$2" "$brokers"
}
kcat_client() {
	command -v kcat >/dev/null || { echo "SKIPPED: kcat is not installed"; return 3; }
	test/compat/kcat.sh "$brokers"
}
go_client() { # NAME
	[[ -x $work/clients ]] || { echo "SKIPPED: it was not built"; return 3; }
	"$work/clients" -brokers "$brokers" "$1"
}
own_tests() {
	KGO_TIMEOUT=1200 test/compat/kgo.sh "$brokers"
}
txn_etl() {
	KGO_RUN='^TestTxnEtl$' KGO_COUNT=${SOAK_ETL:-5} KGO_TIMEOUT=2400 test/compat/kgo.sh "$brokers"
}

declare -A run_of without result
clients=()
client() { # NAME COMMAND…
	clients+=("$1")
	run_of[$1]=${*:2}
}
# without NAME MODE REASON
without() { without["$1|$2"]=$3; }

client "kcat" kcat_client
client "confluent-kafka, Debian's" python /usr/bin/python3 confluent_kafka
client "confluent-kafka" python "$newer_python/bin/python" confluent_kafka
client "kafka-python, Debian's" python /usr/bin/python3 kafka
client "kafka-python" python "$newer_python/bin/python" kafka
client "franz-go, read-back" "$work/roundtrip" -brokers '$brokers' -records "${ROUNDTRIP_RECORDS:-200000}"
client "franz-go, its own tests" own_tests
client "franz-go, TestTxnEtl again and again" txn_etl
client "sarama" go_client sarama
client "kafka-go" go_client kafka-go
client "Java client" test/compat/java/run.sh '$brokers'
client "Kafka's tools" test/compat/java/tools.sh '$brokers'
client "Streams" env ONLY=streams test/compat/java/apps.sh '$brokers'
client "Connect" env ONLY=connect test/compat/java/apps.sh '$brokers'
without "franz-go, its own tests" sasl "of its tests only two authenticate by SASL; they run with mtls"
for mode in plain sasl mtls; do without "franz-go, TestTxnEtl again and again" $mode "among its own tests"; done
for name in "confluent-kafka, Debian's" "kafka-python, Debian's" "kafka-python" "Kafka's tools" "Streams" "Connect"; do without "$name" mtls "once per library is enough"; done

# check runs a client in the mode; when brokers are killed, again until it has seen enough of it.
check() { # NAME MODE
	local name=$1 mode=$2 log code=0 before=$SECONDS seen=0 rounds=0 what
	[[ $name =~ ${SOAK_ONLY:-.} ]] || return 0
	if [[ -n ${without["$name|$mode"]:-} ]]; then
		result["$name|$mode"]="-"
		return 0
	fi
	log=$logs/$mode-$(tr -c 'a-zA-Z0-9\n' _ <<<"$name").log
	[[ $mode != kill ]] || seen=$(cluster_kills)
	while :; do
		rounds=$((rounds + 1))
		eval "${run_of[$name]}" >>"$log" 2>&1 </dev/null || { code=$?; break; }
		[[ $mode == kill ]] || break
		what=$(($(cluster_kills) - seen))
		((what < kills)) || break
	done
	case $code in
	0) result["$name|$mode"]="ok" ;;
	3) result["$name|$mode"]="skipped" ;;
	*) result["$name|$mode"]="FAILED" failed+=("$name, $mode: $log") ;;
	esac
	printf '%-8s %-6s %-40s %4d s' "${result["$name|$mode"]}" "$mode" "$name" $((SECONDS - before))
	[[ $mode != kill ]] || printf ', %d kills, %d rounds' $(($(cluster_kills) - seen)) "$rounds"
	((code == 0)) && [[ $mode == kill ]] && result["$name|$mode"]="ok, $(($(cluster_kills) - seen)) kills"
	echo
	((code == 0)) || tail -n 15 "$log" | sed 's/^/      | /' | cut -c 1-300
	if ! cluster_alive; then
		failed+=("brokers after: $name, $mode")
		return 1
	fi
}

for mode in "${modes[@]}"; do
	kind=secure
	[[ $mode == sasl || $mode == mtls ]] || kind=plain
	echo "--- $mode"
	cluster_start "$work/broker" "$work/$mode" $kind >"$logs/$mode-cluster.log" || { cat "$logs/$mode-cluster.log"; exit 1; }
	cluster_connect "${mode/kill/plain}"
	ACLS='' COMPAT_KILLS=''
	[[ $kind == plain ]] || export ACLS=1
	if [[ $mode == kill ]]; then
		export COMPAT_KILLS=60
		cluster_kill_begin
	fi
	for name in "${clients[@]}"; do
		check "$name" "$mode" || break
	done
	why=
	if [[ $mode == kill ]] && ! cluster_kill_end; then failed+=("brokers that ended, or were not whole again: $(cat "$work/kill/alone" "$work/kill/late" 2>/dev/null)"); fi
	((${#failed[@]} == 0)) || why=failed
	cluster_stop $why >"$logs/$mode-brokers.log"
	grep -lE '^(panic|fatal error): ' "$work/$mode"/data/node-?.log && failed+=("a panic, $mode")
	[[ -z $why ]] || for n in 1 2 3; do cp "$work/$mode/data/node-$n.log" "$logs/$mode-node-$n.log"; done
	rm -rf "$work/$mode"/data/node-?
	unset COMPAT_KILLS ACLS
done

table() {
	printf '| client |%s\n|---|%s\n' "$(printf ' %s |' "${modes[@]}")" "$(printf -- '---|%.0s' "${modes[@]}")"
	for name in "${clients[@]}"; do
		[[ $name =~ ${SOAK_ONLY:-.} ]] || continue
		printf '| %s |' "$name"
		for mode in "${modes[@]}"; do printf ' %s |' "${result["$name|$mode"]:-}"; done
		echo
	done
	for key in "${!without[@]}"; do
		[[ " ${modes[*]} " == *" ${key#*|} "* && ${key%|*} =~ ${SOAK_ONLY:-.} ]] && echo "- ${key%|*}, ${key#*|}: ${without[$key]}"
	done | sort
}
table | tee ${SOAK_TABLE:+"$SOAK_TABLE"}
if ((${#failed[@]} > 0)); then
	printf 'soak: failed: %s\n' "${failed[@]}"
	exit 1
fi
echo "soak: all passed"
