#!/usr/bin/env bash
# apps.sh HOST:PORT,…: unmodified applications of Kafka's ecosystem against a cluster: a Kafka Streams word count with exactly_once_v2, and
# Kafka Connect with a file source and a file sink. Needs what tools.sh needs; what is missing ends it with code 3.
#
#   COMMAND_CONFIG=FILE    client properties that say how to connect
#   COMPAT_KILLS=SECONDS   brokers are killed meanwhile: the input takes so long to come. Streams must be exact all the same; Connect's connectors
#                          promise every line at least once, so that a line may come twice
#   ONLY=streams|connect   only that
#
# About 2 minutes. Not part of .ci/run: HACKING.md says when to run it.
set -uo pipefail
cd "$(dirname "$0")"
brokers=$1
checked="neither Streams nor Connect" && . ./jars.sh
need_tools
need_log
work=$(mktemp -d "${TMPDIR:-/tmp}/balsa-apps.XXXXXX")
connect='' writer=''
cleanup() {
	[[ -z $connect ]] || { kill "$connect" 2>/dev/null; wait "$connect" 2>/dev/null; }
	[[ -z $writer ]] || kill "$writer" 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
failed=0

kills=${COMPAT_KILLS:-}
config=${COMMAND_CONFIG:-$work/client.properties}
[[ -n ${COMMAND_CONFIG:-} ]] || : >"$config"

if [[ streams =~ ${ONLY:-.} ]]; then
	timeout $((500 + ${kills:-0})) java -XX:+UseSerialGC -Xmx512m -Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
		-cp "$logged" Streams.java "$brokers" "${STREAMS_LINES:-20000}" "$config" "${kills:-0}" 2>"$work/streams.log"
	code=$?
	if ((code != 0)); then
		((code != 124)) || echo "FAIL  Streams: not done within $((500 + ${kills:-0})) s"
		echo "--- what it logged: $(wc -l <"$work/streams.log") lines; warnings and errors, and the end"
		grep -E ' (WARN|ERROR) |^(Exception|Caused by)' "$work/streams.log" | cut -c 1-400 | tail -n 40
		echo ...
		tail -n 25 "$work/streams.log" | cut -c 1-400
		failed=1
	fi
fi
[[ connect =~ ${ONLY:-.} ]] || exit "$failed"

topic=connect-$$-$RANDOM
mkdir "$work/plugins" && cp "$jars"/connect-file-*.jar "$work/plugins/"
lines=5000
if [[ -z $kills ]]; then
	seq -f "line %.0f" 1 $lines >"$work/source.txt"
else
	for ((i = 0; i < kills; i++)); do # a line here and there: the connector reads on where it was
		seq -f "line %.0f" $((lines * i / kills + 1)) $((lines * (i + 1) / kills)) >>"$work/source.txt"
		sleep 1
	done &
	writer=$!
fi
cat >"$work/worker.properties" <<-EOF
	bootstrap.servers=$brokers
	key.converter=org.apache.kafka.connect.storage.StringConverter
	value.converter=org.apache.kafka.connect.storage.StringConverter
	offset.storage.file.filename=$work/offsets
	offset.flush.interval.ms=1000
	plugin.path=$work/plugins
	listeners=http://127.0.0.1:0
EOF
for of in '' producer. consumer.; do sed "s/^/$of/" "$config"; done >>"$work/worker.properties"
cat >"$work/source.properties" <<-EOF
	name=$topic-source
	connector.class=org.apache.kafka.connect.file.FileStreamSourceConnector
	tasks.max=1
	file=$work/source.txt
	topic=$topic
EOF
cat >"$work/sink.properties" <<-EOF
	name=$topic-sink
	connector.class=org.apache.kafka.connect.file.FileStreamSinkConnector
	tasks.max=1
	file=$work/sink.txt
	topics=$topic
EOF
java -XX:+UseSerialGC -Xmx384m -cp "$logged" org.apache.kafka.connect.cli.ConnectStandalone \
	"$work/worker.properties" "$work/source.properties" "$work/sink.properties" >"$work/connect.log" 2>&1 &
connect=$!
same() {
	if [[ -z $kills ]]; then
		cmp -s "$work/source.txt" "$work/sink.txt"
	else
		! kill -0 "$writer" 2>/dev/null && cmp -s <(sort "$work/source.txt") <(sort -u "$work/sink.txt")
	fi
}
for ((i = 0; i < 240 + 2 * ${kills:-0}; i++)); do
	same && break
	kill -0 "$connect" 2>/dev/null || break
	sleep 0.5
done
if same; then
	echo "ok    Connect: file source to topic to file sink, $lines lines, $(($(wc -l <"$work/sink.txt") - lines)) of them twice"
else
	echo "FAIL  Connect: $(wc -l <"$work/sink.txt" 2>/dev/null || echo no) lines of $lines in the sink's file"
	grep -E ' (WARN|ERROR) ' "$work/connect.log" | cut -c 1-400 | tail -n 20
	echo ...
	tail -n 20 "$work/connect.log" | cut -c 1-400
	failed=1
fi
exit "$failed"
