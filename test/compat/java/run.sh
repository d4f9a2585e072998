#!/usr/bin/env bash
# run.sh HOST:PORT,… [PART…]: the Java client (Smoke.java) against a cluster. It needs java 17 or later, and mvn to fetch the jars once,
# into JAVA_COMPAT_JARS; what is missing is said, and ends it with code 3: nothing was checked.
# KAFKA_CLIENTS_VERSION chooses another client, COMMAND_CONFIG a file of properties that say how to connect.
set -euo pipefail
cd "$(dirname "$0")"

version=${KAFKA_CLIENTS_VERSION:-4.1.0}
jars=${JAVA_COMPAT_JARS:-${XDG_CACHE_HOME:-$HOME/.cache}/balsa-compat-java/$version}
artifacts=(org.apache.kafka:kafka-clients:"$version" org.slf4j:slf4j-api:1.7.36 org.slf4j:slf4j-nop:1.7.36
	org.lz4:lz4-java:1.8.0 org.xerial.snappy:snappy-java:1.1.10.7 com.github.luben:zstd-jni:1.5.6-10)

checked="nothing of the Java client" && . ./jars.sh
need_java
for a in "${artifacts[@]}"; do
	IFS=: read -r _ name v <<<"$a"
	[[ -s $jars/$name-$v.jar ]] && continue
	command -v mvn >/dev/null || skip "mvn is not installed (Debian: apt-get install maven)"
	timeout 300 mvn -q -B -Dstyle.color=never dependency:copy -Dartifact="$a" -DoutputDirectory="$jars" >/dev/null || skip "mvn cannot fetch $a"
done
exec timeout 300 java -cp "$jars/*" Smoke.java "$@"
