#!/usr/bin/env bash
# apps.sh HOST:PORT,…: unmodified applications of Kafka's ecosystem against a cluster: a Kafka Streams word count with exactly_once_v2, and
# Kafka Connect with a file source and a file sink. Needs what tools.sh needs; what is missing ends it with code 3.
#
# About 2 minutes. Not part of .ci/run: HACKING.md says when to run it.
set -uo pipefail
cd "$(dirname "$0")"
brokers=$1
jars=${JAVA_TOOLS_JARS:-${XDG_CACHE_HOME:-$HOME/.cache}/balsa-compat-java/tools-4.1.0}

skip() {
	echo "SKIPPED: $1, so that Kafka Streams and Connect were not checked"
	exit 3
}
command -v java >/dev/null || skip "java is not installed (Debian: apt-get install openjdk-17-jdk-headless)"
if ! compgen -G "$jars/kafka-streams-*.jar" >/dev/null; then
	command -v mvn >/dev/null || skip "mvn is not installed (Debian: apt-get install maven)"
	timeout 600 mvn -q -B -Dstyle.color=never -f tools/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars" >/dev/null ||
		skip "mvn cannot fetch the jars of tools/pom.xml"
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/balsa-apps.XXXXXX")
connect=
cleanup() {
	[[ -z $connect ]] || { kill "$connect" 2>/dev/null; wait "$connect" 2>/dev/null; }
	rm -rf "$work"
}
trap cleanup EXIT
failed=0

timeout 400 java -XX:+UseSerialGC -Xmx512m -cp "$jars/*" Streams.java "$brokers" "${STREAMS_LINES:-20000}" || failed=1

topic=connect-$$-$RANDOM
mkdir "$work/plugins" && cp "$jars"/connect-file-*.jar "$work/plugins/"
seq -f "line %.0f" 1 5000 >"$work/source.txt"
cat >"$work/worker.properties" <<-EOF
	bootstrap.servers=$brokers
	key.converter=org.apache.kafka.connect.storage.StringConverter
	value.converter=org.apache.kafka.connect.storage.StringConverter
	offset.storage.file.filename=$work/offsets
	offset.flush.interval.ms=1000
	plugin.path=$work/plugins
	listeners=http://127.0.0.1:0
EOF
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
java -XX:+UseSerialGC -Xmx384m -cp "$jars/*" org.apache.kafka.connect.cli.ConnectStandalone \
	"$work/worker.properties" "$work/source.properties" "$work/sink.properties" >"$work/connect.log" 2>&1 &
connect=$!
for ((i = 0; i < 240; i++)); do
	cmp -s "$work/source.txt" "$work/sink.txt" && break
	kill -0 "$connect" 2>/dev/null || break
	sleep 0.5
done
if cmp -s "$work/source.txt" "$work/sink.txt"; then
	echo "ok    Connect: file source to topic to file sink, 5000 lines, the same"
else
	echo "FAIL  Connect: $(wc -l <"$work/sink.txt" 2>/dev/null || echo no) lines of 5000 in the sink's file"
	tail -n 20 "$work/connect.log"
	failed=1
fi
exit "$failed"
