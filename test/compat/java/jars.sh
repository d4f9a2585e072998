# jars.sh: sourced by the scripts in this directory. What a script needs and does not find is said, and what was therefore not $checked; it ends with
# code 3 then.

skip() {
	echo "SKIPPED: $1, so that $checked was checked"
	exit 3
}

need_java() { # 17 or later, with its compiler
	local major
	command -v java >/dev/null || skip "java is not installed (Debian: apt-get install openjdk-17-jdk-headless)"
	major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
	((${major:-0} >= 17)) || skip "java is ${major:-of an unknown version}, not 17 or later"
	java --list-modules | grep -q '^jdk.compiler' || skip "java has no compiler (Debian: apt-get install openjdk-17-jdk-headless)"
}

# need_tools has mvn fetch the jars of tools/pom.xml (124 MiB) into $jars once: Kafka's tools, Streams and Connect.
need_tools() {
	local jar
	jars=${JAVA_TOOLS_JARS:-${XDG_CACHE_HOME:-$HOME/.cache}/balsa-compat-java/tools-4.1.0}
	need_java
	for jar in kafka-tools kafka-streams connect-file; do
		compgen -G "$jars/$jar-*.jar" >/dev/null && continue
		command -v mvn >/dev/null || skip "mvn is not installed (Debian: apt-get install maven)"
		timeout 600 mvn -q -B -Dstyle.color=never -f tools/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars" >/dev/null ||
			skip "mvn cannot fetch the jars of tools/pom.xml"
		return
	done
}

# need_log sets $logged, the class path of what need_tools has fetched, with a log on standard error: the jars have none, and an application
# that waits for something says only there what for. If that cannot be fetched, it is the path without.
need_log() {
	local simple=slf4j-simple-1.7.36.jar
	logged=$jars/*
	[[ -s $jars/log/$simple ]] || timeout 300 mvn -q -B -Dstyle.color=never dependency:copy -Dartifact=org.slf4j:slf4j-simple:1.7.36 -DoutputDirectory="$jars/log" >/dev/null || return 0
	logged=$jars/log/$simple:$(printf '%s\n' "$jars"/*.jar | grep -v '/slf4j-nop-' | paste -sd:)
}
