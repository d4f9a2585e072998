#!/usr/bin/env bash
# tools.sh HOST:PORT,…: Kafka's own command-line tools against a cluster, as an operator types them. It needs what jars.sh
# says, and JAVA_TOOLS_JARS says where the jars are.
#
#   COMMAND_CONFIG=FILE   client properties for all of them (SASL, TLS)
#   ONLY=REGEX            only the checks whose names match
#
# Some 60 starts of a JVM, so about 3 minutes. Not part of .ci/run: HACKING.md says when to run it.
set -uo pipefail
cd "$(dirname "$0")"
brokers=$1
checked="none of Kafka's tools" && . ./jars.sh
need_tools

work=$(mktemp -d "${TMPDIR:-/tmp}/balsa-tools.XXXXXX")
trap 'rm -rf "$work"' EXIT
config=${COMMAND_CONFIG:-$work/client.properties}
[[ -n ${COMMAND_CONFIG:-} ]] || : >"$config"
run=tools-$$-$RANDOM
failed=()

tool() { # CLASS ARGUMENT…
	local class=$1
	shift
	timeout 120 java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Xmx256m -cp "$jars/*" "$class" "$@" 2>&1 | grep -vE '^(SLF4J|Warning: |WARN)'
	((PIPESTATUS[0] != 124)) || echo "Error: $class did not end within 120 s" # else a check for silence would pass
}
topics() { tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$brokers" --command-config "$config" "$@"; }
configs() { tool kafka.admin.ConfigCommand --bootstrap-server "$brokers" --command-config "$config" "$@"; }
groups() { tool org.apache.kafka.tools.consumer.group.ConsumerGroupCommand --bootstrap-server "$brokers" --command-config "$config" "$@"; }
offsets() { tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$brokers" --command-config "$config" "$@"; }
reassign() { tool org.apache.kafka.tools.reassign.ReassignPartitionsCommand --bootstrap-server "$brokers" --command-config "$config" "$@"; }
transactions() { tool org.apache.kafka.tools.TransactionsCommand --bootstrap-server "$brokers" --command-config "$config" "$@"; }
acls() { tool org.apache.kafka.tools.AclCommand --bootstrap-server "$brokers" --command-config "$config" "$@"; }
consumer() { tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$brokers" --consumer.config "$config" "$@"; }
producer() { tool org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$brokers" --producer.config "$config" "$@"; }

# check NAME REGEX COMMAND…: what the command prints must match, and name no exception.
check() {
	local name=$1 want=$2 out
	shift 2
	[[ $name =~ ${ONLY:-.} ]] || return 0
	out=$("$@")
	if [[ $out =~ $want ]] && ! grep -qE 'Exception|Error( while|:)' <<<"$out"; then
		echo "ok    $name"
	else
		echo "FAIL  $name: want /$want/, got:"
		sed 's/^/      | /' <<<"$out" | cut -c 1-200 | grep -v '^ *| *at ' | head -n 12
		failed+=("$name")
	fi
}
# refused NAME REGEX COMMAND…: the command must say no, in these words.
refused() {
	local name=$1 want=$2 out
	shift 2
	[[ $name =~ ${ONLY:-.} ]] || return 0
	out=$("$@")
	if [[ $out =~ $want ]]; then
		echo "ok    $name"
	else
		echo "FAIL  $name: want it refused with /$want/, got:"
		sed 's/^/      | /' <<<"$out" | cut -c 1-200 | grep -v '^ *| *at ' | head -n 12
		failed+=("$name")
	fi
}

t=$run-t
check "topics: create" "Created topic $t" topics --create --topic "$t" --partitions 4 --replication-factor 3 --config retention.ms=3600000
check "topics: describe" "PartitionCount: 4.*ReplicationFactor: 3.*retention.ms=3600000" topics --describe --topic "$t"
check "topics: list" "$t" topics --list
check "topics: add partitions" "^$" topics --alter --topic "$t" --partitions 6
check "topics: describe after that" "PartitionCount: 6" topics --describe --topic "$t"
check "topics: under-replicated: none" "^$" topics --describe --topic "$t" --under-replicated-partitions
refused "topics: exists already" "already exists" topics --create --topic "$t"
refused "topics: fewer partitions" "would not be an increase|InvalidPartitions" topics --alter --topic "$t" --partitions 2
refused "topics: a wrong config" "[Ii]nvalid|nknown topic config" topics --create --topic "$t-x" --config retention.msx=1

produce() { seq 1 1000 | sed 's/.*/key&:value&/' | producer --topic "$t" --property parse.key=true --property key.separator=:; }
check "console producer" "^>*$" produce
consume() { consumer --topic "$t" --from-beginning --max-messages 1000 --timeout-ms 60000 --property print.key=true | grep -c '^key[0-9]*.value[0-9]*$'; }
check "console consumer" "^1000$" consume
check "get-offsets: latest" "$t:5:[0-9]+" offsets --topic "$t" --time latest
sum() { offsets --topic "$t" --time "$1" | awk -F: '{n += $3} END {print n}'; }
check "get-offsets: they add up" "^1000$" sum latest
check "get-offsets: earliest" "^0$" sum earliest
check "get-offsets: max timestamp" "$t:0:[0-9]+" offsets --topic "$t" --time max-timestamp
check "producer perf" "20000 records sent.*99.9th" tool org.apache.kafka.tools.ProducerPerformance --topic "$t" --num-records 20000 --record-size 200 --throughput -1 --producer-props bootstrap.servers="$brokers" --producer.config "$config"
check "consumer perf" "[0-9]+, [0-9.]+, [0-9.]+, 2[0-9]{4}" tool org.apache.kafka.tools.ConsumerPerformance --bootstrap-server "$brokers" --topic "$t" --messages 20000 --timeout 20000 --consumer.config "$config"
check "verifiable producer" '"acked":500' tool org.apache.kafka.tools.VerifiableProducer --bootstrap-server "$brokers" --topic "$t" --max-messages 500 --producer.config "$config"
check "verifiable consumer" '"name":"records_consumed"' tool org.apache.kafka.tools.VerifiableConsumer --bootstrap-server "$brokers" --topic "$t" --group-id "$run-v" --max-messages 500 --reset-policy earliest --consumer.config "$config"
check "end-to-end latency" "Percentiles" tool org.apache.kafka.tools.EndToEndLatency "$brokers" "$t" 200 all 100 "$config"

join() { consumer --topic "$t" --group "$run-g" --from-beginning --max-messages 21500 --timeout-ms 60000 | grep -c .; }
check "groups: a console consumer in a group" "^[0-9]{4,}$" join
check "groups: list" "$run-g" groups --list
# Which partition the consumer had not finished when it had its number of records is chance.
check "groups: describe" "$run-g +$t +0 +[0-9]+ +[0-9]+ +[0-9]+" groups --describe --group "$run-g"
check "groups: state" "$run-g.*Empty" groups --describe --group "$run-g" --state
check "groups: reset offsets, tried out" "$run-g +$t +0 +0" groups --reset-offsets --group "$run-g" --topic "$t" --to-earliest --dry-run
check "groups: reset offsets" "$run-g +$t +0 +0" groups --reset-offsets --group "$run-g" --topic "$t" --to-earliest --execute
check "groups: reset by duration" "$run-g +$t +0 +0" groups --reset-offsets --group "$run-g" --topic "$t" --by-duration PT1H --execute
check "groups: delete offsets" "Successful|TOPIC" groups --delete-offsets --group "$run-g" --topic "$t"
check "groups: delete" "Deletion of requested consumer groups .* was successful" groups --delete --group "$run-g"
check "groups: all kinds" "GROUP" tool org.apache.kafka.tools.GroupsCommand --bootstrap-server "$brokers" --command-config "$config" --list
join848() { consumer --topic "$t" --group "$run-n" --consumer-property group.protocol=consumer --from-beginning --max-messages 21500 --timeout-ms 60000 | grep -c .; }
check "groups: KIP-848" "^[0-9]{4,}$" join848
check "groups: KIP-848 describe" "$run-n +$t +0 +[0-9]+ +[0-9]+ +[0-9]+" groups --describe --group "$run-n"

check "configs: describe" "retention.ms=3600000.*DYNAMIC_TOPIC_CONFIG" configs --describe --entity-type topics --entity-name "$t"
check "configs: describe all" "min.insync.replicas" configs --describe --all --entity-type topics --entity-name "$t"
check "configs: set" "Completed updating config" configs --alter --entity-type topics --entity-name "$t" --add-config retention.ms=7200000,max.message.bytes=2000000
check "configs: is set" "max.message.bytes=2000000" configs --describe --entity-type topics --entity-name "$t"
check "configs: delete" "Completed updating config" configs --alter --entity-type topics --entity-name "$t" --delete-config max.message.bytes
refused "configs: a wrong value" "Invalid|InvalidConfig" configs --alter --entity-type topics --entity-name "$t" --add-config retention.ms=abc
check "configs: brokers" "log.retention|advertised|Dynamic configs|Configs for broker|All configs" configs --describe --all --entity-type brokers --entity-name 1
check "configs: quotas" "Completed updating config" configs --alter --entity-type clients --entity-name "$run-c" --add-config producer_byte_rate=1048576
check "configs: quotas are there" "producer_byte_rate=1048576" configs --describe --entity-type clients --entity-name "$run-c"
check "configs: quotas gone" "Completed updating config" configs --alter --entity-type clients --entity-name "$run-c" --delete-config producer_byte_rate
check "configs: SCRAM user" "Completed updating config" configs --alter --entity-type users --entity-name "$run-u" --add-config "SCRAM-SHA-256=[iterations=4096,password=secret]"
check "configs: SCRAM user is there" "SCRAM-SHA-256=iterations=4096" configs --describe --entity-type users --entity-name "$run-u"
check "configs: group" "Completed updating config" configs --alter --entity-type groups --entity-name "$run-n" --add-config consumer.session.timeout.ms=50000

echo '{"partitions":[{"topic":"'"$t"'","partition":0,"offset":5}],"version":1}' >"$work/delete.json"
check "delete-records" "partition: $t-0.*low_watermark: 5" tool org.apache.kafka.tools.DeleteRecordsCommand --bootstrap-server "$brokers" --command-config "$config" --offset-json-file "$work/delete.json"
check "log-dirs" "\"topicPartition\":\"$t-0\"|\"partition\":\"$t-0\"" tool org.apache.kafka.tools.LogDirsCommand --bootstrap-server "$brokers" --command-config "$config" --describe --topic-list "$t"
check "leader election" "[Ss]uccessfully completed|[Vv]alid replica already elected" tool org.apache.kafka.tools.LeaderElectionCommand --bootstrap-server "$brokers" --admin.config "$config" --election-type preferred --topic "$t" --partition 0
echo '{"version":1,"partitions":[{"topic":"'"$t"'","partition":0,"replicas":[3,1,2]}]}' >"$work/move.json"
check "reassign: execute" "Successfully started partition reassignment" reassign --reassignment-json-file "$work/move.json" --execute --throttle 50000000
verify() { for ((i = 0; i < 30; i++)); do reassign --reassignment-json-file "$work/move.json" --verify | tee "$work/verify" | grep -q 'is completed' && break; done; cat "$work/verify"; }
check "reassign: verify" "Reassignment of partition $t-0 is completed" verify
echo '{"topics":[{"topic":"'"$t"'"}],"version":1}' >"$work/topics.json"
check "reassign: generate" "Proposed partition reassignment configuration" reassign --topics-to-move-json-file "$work/topics.json" --broker-list 1,2,3 --generate
check "reassign: list" "No partition reassignments found|Current partition reassignments" reassign --list
check "reassign: it is as ordered" "Partition: 0.*Replicas: 3,1,2" topics --describe --topic "$t"

check "features" "metadata.version" tool org.apache.kafka.tools.FeatureCommand --bootstrap-server "$brokers" --command-config "$config" describe
check "cluster id" "Cluster ID: [A-Za-z0-9_-]{22}" tool org.apache.kafka.tools.ClusterTool cluster-id --bootstrap-server "$brokers" --config "$config"
check "broker api versions" "Produce\(0\): .*\[usable" tool org.apache.kafka.tools.BrokerApiVersionsCommand --bootstrap-server "$brokers" --command-config "$config"
check "quorum: status" "LeaderId: +[0-9]+" tool org.apache.kafka.tools.MetadataQuorumCommand --bootstrap-server "$brokers" --command-config "$config" describe --status
check "quorum: replication" "Leader|Follower|Observer" tool org.apache.kafka.tools.MetadataQuorumCommand --bootstrap-server "$brokers" --command-config "$config" describe --replication

check "transactions: list" "TransactionalId" transactions list
check "transactions: producers" "ProducerId" transactions describe-producers --topic "$t" --partition 0
check "transactions: none hang" "Topic" transactions find-hanging --broker-id 1
if [[ -n ${ACLS:-} ]]; then
	check "acls: add" "Adding ACLs" acls --add --allow-principal "User:$run-u" --operation Read --topic "$run-" --resource-pattern-type prefixed
	check "acls: list" "User:$run-u" acls --list --topic "$run-" --resource-pattern-type prefixed
	check "acls: remove" "^$|Are you sure|Current ACLs" acls --remove --force --allow-principal "User:$run-u" --operation Read --topic "$run-" --resource-pattern-type prefixed
fi
check "topics: delete" "^$" topics --delete --topic "$t"

if ((${#failed[@]} > 0)); then
	printf 'tools: failed: %s\n' "${failed[@]}"
	exit 1
fi
echo "tools: all passed"
