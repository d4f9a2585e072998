# cluster.sh: a cluster of three brokers for the scripts beside it, which source it: plain or secured, and one whose brokers are killed.
# It stands in the root of the repository that a script works from.
#
#   cluster_start PROGRAM DIR plain|secure   starts it with `PROGRAM dev`; its data, logs and keys lie in DIR
#   cluster_connect plain|sasl|mtls          exports what the checks connect with: BALSA_… for the CLI and the Go programs, KCAT_CONFIG for
#                                            kcat and the Python clients, COMMAND_CONFIG for Java, brokers for all
#   cluster_kill_begin, _end                 kills a broker with -9 every 10 to 20 seconds and starts it again; says how often it did
#   cluster_alive                            whether every broker takes connections, and none has ended by itself
#   cluster_stop                             ends it, and shows the ends of the logs if told why
#
# Secured means TLS, SASL with SCRAM-SHA-512 and ACLs. The checks are the user soak there, who is no super user: what it does is what an ACL
# allows. Two further listeners are there for it: one that wants a client certificate, which is soak's as well, and one with SASL but no TLS.

# cluster_settings are what cluster_connect exports.
cluster_settings=(BALSA_BROKERS BALSA_CONFIG BALSA_TLS_CA BALSA_USER BALSA_PASSWORD_FILE BALSA_TLS_CLIENT_CERT BALSA_TLS_CLIENT_KEY KCAT_CONFIG COMMAND_CONFIG
	KGO_TEST_TLS KGO_TEST_SCRAM KGO_TEST_SCRAM_SEEDS)
cluster_program='' cluster_dir='' cluster_mode='' dev_pid='' killer_pid=''

cluster_start() {
	local extra=()
	cluster_program=$1 cluster_dir=$2 cluster_mode=$3
	unset "${cluster_settings[@]}" # of the one before
	mkdir -p "$cluster_dir"
	: >"$cluster_dir/dev.out" # it is looked at before the program has come to it
	if [[ $cluster_mode == secure ]]; then
		extra=(--secure -- --listeners "SSL://127.0.0.1:0,SASL_PLAINTEXT://127.0.0.1:0" --kafka-tls-ca "$cluster_dir/data/secure/ca.pem"
			--kafka-tls-client-auth requested --principal-rules 'RULE:^CN=admin$/soak/,DEFAULT')
	fi
	"$cluster_program" dev --config none --nodes 3 --racks a,b,c --data-dir "$cluster_dir/data" --kafka-port 0 "${extra[@]}" \
		>"$cluster_dir/dev.out" 2>"$cluster_dir/dev.err" &
	dev_pid=$!
	brokers=
	for ((i = 0; i < 600; i++)); do
		brokers=$(sed -n 's/^ready: //p' "$cluster_dir/dev.out")
		[[ -n $brokers ]] && break
		kill -0 "$dev_pid" 2>/dev/null || { echo "broker dev has ended"; cat "$cluster_dir/dev.err"; return 1; }
		sleep 0.1
	done
	[[ -n $brokers ]] || { echo "the cluster was not ready within a minute"; return 1; }
	cat "$cluster_dir/dev.out"
	IFS=, read -ra addresses <<<"$brokers"
	[[ $cluster_mode == plain ]] || cluster_user
}

# cluster_user makes the user soak, and the files to connect with.
cluster_user() {
	local secure=$cluster_dir/data/secure
	local admin=("$cluster_program" --config "$secure/client.yaml") password listeners=() shown n
	password=soak-$RANDOM$RANDOM$RANDOM
	echo "$password" >"$secure/soak.password"
	"${admin[@]}" user create soak --new-password-file "$secure/soak.password" >/dev/null || return 1
	"${admin[@]}" acl create --allow soak --operation all --topic '*' --group '*' --transactional-id '*' --cluster >/dev/null || return 1
	cat >"$secure/sasl.conf" <<-EOF
		security.protocol=SASL_SSL
		ssl.ca.location=$secure/ca.pem
		sasl.mechanisms=SCRAM-SHA-512
		sasl.username=soak
		sasl.password=$password
	EOF
	cat >"$secure/mtls.conf" <<-EOF
		security.protocol=SSL
		ssl.ca.location=$secure/ca.pem
		ssl.certificate.location=$secure/admin.pem
		ssl.key.location=$secure/admin.key
	EOF
	cat "$secure/admin.key" "$secure/admin.pem" >"$secure/keystore.pem"
	sed -e "s/username=\"[^\"]*\" password=\"[^\"]*\"/username=\"soak\" password=\"$password\"/" -e '/^bootstrap.servers/d' "$secure/client.properties" >"$secure/sasl.properties"
	grep '^ssl\.' "$secure/client.properties" >"$secure/mtls.properties"
	cat >>"$secure/mtls.properties" <<-EOF
		security.protocol=SSL
		ssl.keystore.type=PEM
		ssl.keystore.location=$secure/keystore.pem
	EOF
	for n in 1 2 3; do
		shown=$("${admin[@]}" config get "broker/$n" --all -o json) || return 1
		listeners+=("$(sed -n '/"name": "advertised.listeners"/{n;s/.*"value": "\(.*\)".*/\1/p;q}' <<<"$shown")")
	done
	# A list of three addresses for each of the two other listeners.
	mtls_brokers=$(printf '%s\n' "${listeners[@]}" | tr , '\n' | sed -n 's,^SSL://,,p' | paste -sd,)
	sasl_plaintext_brokers=$(printf '%s\n' "${listeners[@]}" | tr , '\n' | sed -n 's,^SASL_PLAINTEXT://,,p' | paste -sd,)
	[[ $mtls_brokers == *,*,* && $sasl_plaintext_brokers == *,*,* ]] || { echo "the brokers do not show their listeners: ${listeners[*]}"; return 1; }
}

cluster_connect() {
	local secure=$cluster_dir/data/secure
	unset "${cluster_settings[@]}"
	brokers=$(IFS=,; echo "${addresses[*]}")
	case $1 in
	sasl)
		export BALSA_TLS_CA=$secure/ca.pem BALSA_USER=soak BALSA_PASSWORD_FILE=$secure/soak.password KCAT_CONFIG=$secure/sasl.conf COMMAND_CONFIG=$secure/sasl.properties
		;;
	mtls)
		brokers=$mtls_brokers
		export BALSA_TLS_CA=$secure/ca.pem BALSA_TLS_CLIENT_CERT=$secure/admin.pem BALSA_TLS_CLIENT_KEY=$secure/admin.key KCAT_CONFIG=$secure/mtls.conf COMMAND_CONFIG=$secure/mtls.properties
		export KGO_TEST_TLS=ca:$secure/ca.pem,cert:$secure/admin.pem,key:$secure/admin.key KGO_TEST_SCRAM_SEEDS=$sasl_plaintext_brokers
		KGO_TEST_SCRAM=soak:$(<"$secure/soak.password"):512
		export KGO_TEST_SCRAM
		;;
	esac
	export BALSA_BROKERS=$brokers BALSA_CONFIG=none
}

# cluster_kill_begin kills in the background. What it knows is in files: kills, a line for each; alone, for what ended without it; and late, for
# a cluster that was not whole again within a minute and a half.
cluster_kill_begin() {
	: >"$cluster_dir/kills"
	cluster_killer &
	killer_pid=$!
}

cluster_killer() {
	set +e
	local -A pid again
	local n i sleeper='' status
	trap 'end=1; [[ -z $sleeper ]] || kill "$sleeper" 2>/dev/null' TERM
	end=
	nap() { # as sleep, but a signal ends it
		sleep "$1" &
		sleeper=$!
		wait "$sleeper"
		sleeper=
	}
	while IFS=' ' read -r n i; do pid[$n]=$i; done < <(sed -n 's/^node \([0-9]*\): pid \([0-9]*\),.*/\1 \2/p' "$cluster_dir/dev.out")
	while nap $((5 + RANDOM % 10)) && [[ -z $end ]]; do
		n=$((1 + RANDOM % 3))
		kill -KILL "${pid[$n]}" 2>/dev/null || { echo "node $n, pid ${pid[$n]}, had ended" >>"$cluster_dir/alone"; break; }
		if [[ -z ${again[$n]:-} ]]; then # the first time broker dev says how it is started again
			for ((i = 0; i < 100; i++)); do
				again[$n]=$(grep -A 1 "^node $n: pid ${pid[$n]} has ended" "$cluster_dir/dev.err" | sed -n 's/^  start it again: //p')
				[[ -n ${again[$n]} ]] && break
				sleep 0.1
			done
		else
			wait "${pid[$n]}" 2>/dev/null
		fi
		echo "node $n, pid ${pid[$n]}" >>"$cluster_dir/kills"
		((RANDOM % 2)) && nap $((1 + RANDOM % 5)) # down for a while, or back at once
		eval "exec_again=(${again[$n]})"
		(unset "${cluster_settings[@]}" && exec "${exec_again[@]}") >"$cluster_dir/again-$n.out" 2>>"$cluster_dir/data/node-$n.log" &
		pid[$n]=$!
		status=
		for ((i = 0; i < 90; i++)); do
			status=$(timeout 20 "$cluster_program" cluster status -o json 2>/dev/null | tr -d ' \n')
			[[ $(grep -o '"state":"live"' <<<"$status" | wc -l) == 3 && $status == *'"leaderless":0,"underReplicated":0'* ]] && break
			sleep 1
		done
		((i < 90)) || echo "after kill $(wc -l <"$cluster_dir/kills"), of node $n: $status" >>"$cluster_dir/late"
	done
	# dev stops those that it started; the others are this function's.
	for n in "${!again[@]}"; do
		kill -0 "${pid[$n]}" 2>/dev/null || echo "node $n, pid ${pid[$n]}, had ended" >>"$cluster_dir/alone"
		kill -TERM "${pid[$n]}" 2>/dev/null
	done
	for n in "${!again[@]}"; do wait "${pid[$n]}"; done
}

# cluster_kill_end ends the killing, and the brokers that it started. Only cluster_stop may come after it.
cluster_kill_end() {
	[[ -n $killer_pid ]] || return 0
	kill -TERM "$killer_pid" 2>/dev/null || true
	wait "$killer_pid" 2>/dev/null || true
	killer_pid=
	echo "$(wc -l <"$cluster_dir/kills") kills"
	[[ ! -s $cluster_dir/alone && ! -s $cluster_dir/late ]]
}

cluster_kills() { wc -l <"$cluster_dir/kills"; }

# cluster_alive says whether every broker that was there at the beginning takes connections, and that none of our own has ended by itself. One that was
# killed is given a minute.
cluster_alive() {
	local a host i tries=1
	[[ -z $killer_pid ]] || tries=60
	for a in "${addresses[@]}"; do
		host=${a%:*} host=${host#[} host=${host%]}
		for ((i = 0; i < tries; i++)); do
			timeout 10 bash -c 'exec 3<>"/dev/tcp/$1/$2"' _ "$host" "${a##*:}" 2>/dev/null && break
			((i + 1 == tries)) || sleep 1
		done
		((i < tries)) || { echo "no broker at $a"; return 1; }
	done
	if [[ -n $killer_pid ]]; then
		! cat "$cluster_dir/alone" "$cluster_dir/late" 2>/dev/null | grep .
	else
		[[ -z $dev_pid ]] || ! grep 'has ended' "$cluster_dir/dev.err"
	fi
}

cluster_stop() { # [WHY]
	local log
	[[ -z $killer_pid ]] || cluster_kill_end || true
	if [[ -n $dev_pid ]]; then
		kill -TERM "$dev_pid" 2>/dev/null || true
		wait "$dev_pid" 2>/dev/null || true
		dev_pid=
	fi
	[[ -n ${1:-} ]] || return 0
	for log in "$cluster_dir"/data/node-*.log "$cluster_dir"/dev.err; do
		[[ -s $log ]] || continue
		echo "--- the end of $log"
		grep -m 1 -E -A 20 '^(panic|fatal error): ' "$log" || tail -n 25 "$log"
	done
}
