// Smoke.java HOST:PORT,…: what the Java client does against a cluster: an idempotent producer with each codec, a consumer,
// consumer groups of two and by hand, and an admin client. Prints a line per check; the exit code says whether all held.
//
// One file without a build: `java -cp 'jars/*' Smoke.java HOST:PORT`. test/compat/java/run.sh fetches the jars. COMMAND_CONFIG names a file of
// properties that say how to connect; what follows HOST:PORT, if anything does, names the parts to run.

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

@SuppressWarnings({"deprecation", "removal"}) // listConsumerGroups: old programs call it
public class Smoke {
    static final int PARTITIONS = 3, RECORDS = 3000;
    static final Duration LIMIT = Duration.ofSeconds(60);
    static int failures;
    static String brokers;
    static final Properties connection = new Properties();
    static final String run = "compat-java-" + ProcessHandle.current().pid() + "-" + Long.toString(System.nanoTime() & 0xffffff, 36);

    interface Body { Object run() throws Exception; }

    static void check(String name, Object want, Body body) {
        Object got;
        long start = System.nanoTime();
        try {
            got = body.run();
        } catch (ExecutionException e) {
            got = e.getCause().getClass().getSimpleName() + ": " + e.getCause().getMessage();
        } catch (Exception e) {
            got = e.getClass().getSimpleName() + ": " + e.getMessage();
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        if (want.equals(got)) {
            System.out.println("ok    " + name + (seconds < 10 ? "" : String.format(" (%.0f s)", seconds)));
        } else {
            System.out.println("FAIL  " + name + ": want '" + want + "', got '" + got + "'");
            failures++;
        }
    }

    static <T> T get(KafkaFuture<T> f) throws Exception { return f.get(LIMIT.toSeconds(), TimeUnit.SECONDS); }

    // refused is the class of the error that a call must end with.
    static String refused(Body body) throws Exception {
        try {
            return "no error, but " + body.run();
        } catch (ExecutionException e) {
            return e.getCause().getClass().getSimpleName();
        } catch (KafkaException e) {
            return e.getClass().getSimpleName();
        }
    }

    static Properties props(String... more) {
        Properties p = new Properties();
        p.putAll(connection);
        p.put("bootstrap.servers", brokers);
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        return p;
    }

    static KafkaProducer<String, String> producer(String... more) {
        Properties p = props(more);
        p.putIfAbsent("acks", "all");
        p.putIfAbsent("enable.idempotence", "true");
        return new KafkaProducer<>(p, new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String... more) {
        Properties p = props(more);
        p.putIfAbsent("auto.offset.reset", "earliest");
        return new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer());
    }

    // produce writes RECORDS records, the numbers from 0 on, and returns how many were acknowledged.
    static int produce(KafkaProducer<String, String> p, String topic) throws Exception {
        List<java.util.concurrent.Future<RecordMetadata>> acks = new ArrayList<>();
        for (int i = 0; i < RECORDS; i++) {
            acks.add(p.send(new ProducerRecord<>(topic, i % PARTITIONS, "k" + i, "" + i, List.of(new RecordHeader("n", ("" + i).getBytes())))));
        }
        p.flush();
        Set<String> offsets = new HashSet<>();
        for (var a : acks) {
            RecordMetadata m = a.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
            offsets.add(m.partition() + "/" + m.offset());
        }
        return offsets.size();
    }

    // drain polls until n records have come, and says in which way they are not 0 to n-1, in order per partition.
    static String drain(KafkaConsumer<String, String> c, int n) {
        Set<Integer> seen = new HashSet<>();
        Map<Integer, Integer> last = new HashMap<>();
        long end = System.nanoTime() + LIMIT.toNanos();
        while (seen.size() < n && System.nanoTime() < end) {
            for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(200))) {
                int v = Integer.parseInt(r.value());
                if (!seen.add(v)) return "twice: " + v;
                if (last.getOrDefault(r.partition(), -1) >= v) return "out of order: " + v;
                last.put(r.partition(), v);
                if (!r.key().equals("k" + v) || !new String(r.headers().lastHeader("n").value()).equals(r.value())) return "key or header differs: " + v;
            }
        }
        return seen.size() + " records";
    }

    static void admin(Admin a) throws Exception {
        String t = run + "-admin";
        check("describeCluster", "all there", () -> {
            var d = a.describeCluster();
            boolean ok = get(d.clusterId()) != null && get(d.controller()) != null && get(d.nodes()).size() >= 1 && get(d.nodes()).contains(get(d.controller()));
            return ok ? "all there" : "nodes " + get(d.nodes()) + ", controller " + get(d.controller()) + ", id " + get(d.clusterId());
        });
        int replicas = Math.min(3, get(a.describeCluster().nodes()).size());
        var config = Map.of(TopicConfig.RETENTION_MS_CONFIG, "3600000");
        check("createTopics, validate only", "not created", () -> {
            get(a.createTopics(List.of(new NewTopic(t, PARTITIONS, (short) replicas)), new CreateTopicsOptions().validateOnly(true)).all());
            return get(a.listTopics().names()).contains(t) ? "created" : "not created";
        });
        check("createTopics", PARTITIONS + "/" + replicas, () -> {
            var r = a.createTopics(List.of(new NewTopic(t, PARTITIONS, (short) replicas).configs(config)));
            get(r.all());
            return get(r.numPartitions(t)) + "/" + get(r.replicationFactor(t));
        });
        check("createTopics with the broker's defaults", "created", () -> {
            get(a.createTopics(List.of(new NewTopic(t + "-d", Optional.empty(), Optional.empty()))).all());
            return "created";
        });
        check("createTopics twice", "TopicExistsException", () -> refused(() -> get(a.createTopics(List.of(new NewTopic(t, 1, (short) 1))).all())));
        check("createTopics, bad name", "InvalidTopicException", () -> refused(() -> get(a.createTopics(List.of(new NewTopic("a/b", 1, (short) 1))).all())));
        check("createTopics, too many replicas", "InvalidReplicationFactorException",
            () -> refused(() -> get(a.createTopics(List.of(new NewTopic(t + "-x", 1, (short) 100))).all())));
        check("createTopics, no partitions", "InvalidPartitionsException",
            () -> refused(() -> get(a.createTopics(List.of(new NewTopic(t + "-x", 0, (short) 1))).all())));
        check("createTopics, unknown config", "InvalidConfigurationException",
            () -> refused(() -> get(a.createTopics(List.of(new NewTopic(t + "-x", 1, (short) 1).configs(Map.of("no.such.config", "1")))).all())));
        check("describeTopics", PARTITIONS + " partitions, all led, " + replicas + " replicas", () -> {
            TopicDescription d = get(a.describeTopics(List.of(t)).allTopicNames()).get(t);
            boolean led = d.partitions().stream().allMatch(p -> p.leader() != null && p.isr().contains(p.leader()));
            return d.partitions().size() + " partitions, " + (led ? "all led" : "some without a leader") + ", " + d.partitions().get(0).replicas().size() + " replicas";
        });
        check("describeTopics by id", t, () -> {
            Uuid id = get(a.describeTopics(List.of(t)).allTopicNames()).get(t).topicId();
            return get(a.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds()).get(id).name();
        });
        check("describeTopics of an unknown one", "UnknownTopicOrPartitionException", () -> refused(() -> get(a.describeTopics(List.of(t + "-no")).allTopicNames())));
        check("describeConfigs of a topic", "3600000 DYNAMIC_TOPIC_CONFIG", () -> {
            var r = new ConfigResource(ConfigResource.Type.TOPIC, t);
            ConfigEntry e = get(a.describeConfigs(List.of(r)).all()).get(r).get(TopicConfig.RETENTION_MS_CONFIG);
            return e.value() + " " + e.source();
        });
        check("describeConfigs of a broker", true, () -> {
            var r = new ConfigResource(ConfigResource.Type.BROKER, "" + get(a.describeCluster().controller()).id());
            return get(a.describeConfigs(List.of(r)).all()).get(r).get("num.partitions") != null;
        });
        check("listOffsets of an empty partition", "0 to 0", () -> {
            TopicPartition p = new TopicPartition(t, 0);
            return get(a.listOffsets(Map.of(p, OffsetSpec.earliest())).all()).get(p).offset() + " to " + get(a.listOffsets(Map.of(p, OffsetSpec.latest())).all()).get(p).offset();
        });
        check("deleteTopics", "gone", () -> {
            get(a.deleteTopics(List.of(t, t + "-d")).all());
            return get(a.listTopics().names()).contains(t) ? "still listed" : "gone";
        });
        check("deleteTopics of an unknown one", "UnknownTopicOrPartitionException", () -> refused(() -> get(a.deleteTopics(List.of(t)).all())));
        check("createTopics under a deleted name, deleteTopics by id", "gone", () -> {
            get(a.createTopics(List.of(new NewTopic(t, 1, (short) replicas))).all());
            Uuid id = get(a.describeTopics(List.of(t)).allTopicNames()).get(t).topicId();
            get(a.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all());
            return get(a.listTopics().names()).contains(t) ? "still listed" : "gone";
        });
    }

    static void data(Admin a) throws Exception {
        int replicas = Math.min(3, get(a.describeCluster().nodes()).size());
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            String t = run + "-" + codec;
            get(a.createTopics(List.of(new NewTopic(t, PARTITIONS, (short) replicas))).all());
            check("idempotent producer, acks=all, " + codec, RECORDS, () -> {
                try (var p = producer("compression.type", codec, "linger.ms", "5")) { return produce(p, t); }
            });
            check("consumer by hand, " + codec, RECORDS + " records", () -> {
                try (var c = consumer()) {
                    c.assign(IntStream.range(0, PARTITIONS).mapToObj(i -> new TopicPartition(t, i)).collect(Collectors.toList()));
                    return drain(c, RECORDS);
                }
            });
        }
        String t = run + "-none";
        TopicPartition p0 = new TopicPartition(t, 0);
        Node leader = get(a.describeTopics(List.of(t)).allTopicNames()).get(t).partitions().get(0).leader();
        Node near = get(a.describeCluster().nodes()).stream().filter(n -> n.id() != leader.id() && n.rack() != null).findFirst().orElse(null);
        if (near != null) {
            check("client.rack reads from the replica there", "read from " + near.id(), () -> {
                try (var c = consumer("client.rack", near.rack())) {
                    c.assign(List.of(p0));
                    int n = 0;
                    Object from = null;
                    long end = System.nanoTime() + LIMIT.toNanos();
                    while ((n < RECORDS / PARTITIONS || from == null) && System.nanoTime() < end) {
                        n += c.poll(Duration.ofMillis(200)).count();
                        for (var m : c.metrics().entrySet()) {
                            if (m.getKey().name().equals("preferred-read-replica") && ((Number) m.getValue().metricValue()).intValue() == near.id()) from = near.id();
                        }
                    }
                    return n == RECORDS / PARTITIONS ? "read from " + from : n + " records";
                }
            });
        }
        long each = RECORDS / PARTITIONS;
        check("listOffsets", "0 to " + each, () -> get(a.listOffsets(Map.of(p0, OffsetSpec.earliest())).all()).get(p0).offset() + " to "
            + get(a.listOffsets(Map.of(p0, OffsetSpec.latest())).all()).get(p0).offset());
        check("listOffsets, largest timestamp", true, () -> get(a.listOffsets(Map.of(p0, OffsetSpec.maxTimestamp())).all()).get(p0).offset() >= 0);
        check("offsetsForTimes before and after all", "0, null", () -> {
            try (var c = consumer()) {
                var before = c.offsetsForTimes(Map.of(p0, 1L)).get(p0);
                var after = c.offsetsForTimes(Map.of(p0, 4102444800000L)).get(p0);
                return before.offset() + ", " + after;
            }
        });
        check("read_committed reads it, too", RECORDS + " records", () -> {
            try (var c = consumer("isolation.level", "read_committed")) {
                c.assign(IntStream.range(0, PARTITIONS).mapToObj(i -> new TopicPartition(t, i)).collect(Collectors.toList()));
                return drain(c, RECORDS);
            }
        });
        check("acks=1 and acks=0", "ok", () -> {
            for (String acks : List.of("1", "0")) {
                try (var p = producer("acks", acks, "enable.idempotence", "false")) {
                    p.send(new ProducerRecord<>(run + "-zstd", 0, "k", "v")).get(LIMIT.toSeconds(), TimeUnit.SECONDS);
                }
            }
            return "ok";
        });
        check("a record that is too large for the topic", "RecordTooLargeException", () -> {
            try (var p = producer("max.request.size", "5000000", "buffer.memory", "50000000")) {
                return refused(() -> p.send(new ProducerRecord<>(t, 0, "k", "x".repeat(3_000_000))).get(LIMIT.toSeconds(), TimeUnit.SECONDS));
            }
        });
    }

    // transactions copies a topic in transactions, each with the offsets that it has read, and aborts every third.
    static void transactions(Admin a) throws Exception {
        String from = run + "-zstd", to = run + "-tx", g = run + "-txg";
        get(a.createTopics(List.of(new NewTopic(to, Optional.of(PARTITIONS), Optional.empty()))).all());
        check("copied in transactions, every third aborted", RECORDS + " records", () -> {
            try (var p = producer("transactional.id", run); var c = consumer("group.id", g, "enable.auto.commit", "false", "isolation.level", "read_committed", "max.poll.records", "200")) {
                p.initTransactions();
                c.assign(IntStream.range(0, PARTITIONS).mapToObj(i -> new TopicPartition(from, i)).collect(Collectors.toList()));
                int copied = 0;
                long end = System.nanoTime() + LIMIT.toNanos();
                for (int n = 0; copied < RECORDS && System.nanoTime() < end; ) {
                    var rs = c.poll(Duration.ofMillis(200));
                    if (rs.isEmpty()) continue; // and does not count: see below
                    p.beginTransaction();
                    Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                    for (var r : rs) {
                        if (r.headers().lastHeader("n") == null) continue; // of another check
                        p.send(new ProducerRecord<>(to, r.partition(), r.key(), r.value(), r.headers()));
                        offsets.put(new TopicPartition(from, r.partition()), new OffsetAndMetadata(r.offset() + 1));
                    }
                    p.sendOffsetsToTransaction(offsets, c.groupMetadata());
                    // Only polls that brought something count: the fetch at the end of the log that a seek leaves behind makes two empty ones,
                    // and the last records would meet the third turn, and be aborted, each time.
                    if (n++ % 3 == 1) {
                        p.abortTransaction();
                        for (var tp : rs.partitions()) c.seek(tp, rs.records(tp).get(0).offset());
                    } else {
                        p.commitTransaction();
                        for (var r : rs) if (r.headers().lastHeader("n") != null) copied++;
                    }
                }
                return copied + " records" + (copied == RECORDS ? "" : ", at " + c.assignment().stream().map(tp -> tp + ": " + c.position(tp)).toList());
            }
        });
        check("read_committed sees what was committed", RECORDS + " records", () -> {
            try (var c = consumer("isolation.level", "read_committed")) {
                c.assign(IntStream.range(0, PARTITIONS).mapToObj(i -> new TopicPartition(to, i)).collect(Collectors.toList()));
                return drain(c, RECORDS);
            }
        });
        check("read_uncommitted sees more", "more", () -> {
            try (var c = consumer()) {
                var parts = IntStream.range(0, PARTITIONS).mapToObj(i -> new TopicPartition(to, i)).collect(Collectors.toList());
                c.assign(parts);
                int n = 0;
                long all = c.endOffsets(parts).values().stream().mapToLong(o -> o).sum();
                for (long end = System.nanoTime() + LIMIT.toNanos(); System.nanoTime() < end; ) {
                    n += c.poll(Duration.ofMillis(200)).count();
                    if (parts.stream().mapToLong(tp -> c.position(tp)).sum() >= all) break;
                }
                return n > RECORDS ? "more" : n + " records";
            }
        });
        check("the group's offsets came with them", "" + RECORDS, () -> {
            long sum = 0;
            for (var o : get(a.listConsumerGroupOffsets(g, new ListConsumerGroupOffsetsOptions().requireStable(true)).partitionsToOffsetAndMetadata()).values()) sum += o.offset();
            return "" + sum;
        });
        check("a second instance fences the first", "ProducerFencedException", () -> {
            try (var first = producer("transactional.id", run); var second = producer("transactional.id", run)) {
                first.initTransactions();
                first.beginTransaction();
                first.send(new ProducerRecord<>(to, 0, "k", "v")).get(LIMIT.toSeconds(), TimeUnit.SECONDS);
                second.initTransactions();
                return refused(() -> { first.commitTransaction(); return "committed"; });
            }
        });
        check("describeTransactions", "CompleteAbort or Empty", () -> {
            var state = get(a.describeTransactions(List.of(run)).description(run)).state();
            return state == TransactionState.COMPLETE_ABORT || state == TransactionState.EMPTY ? "CompleteAbort or Empty" : "" + state;
        });
        check("listTransactions", "there", () -> get(a.listTransactions().all()).stream().anyMatch(l -> l.transactionalId().equals(run)) ? "there" : "missing");
    }

    // share polls consumers until they have all partitions among them, each some, and returns how many that are.
    static String share(int want, List<KafkaConsumer<String, String>> cs) {
        long end = System.nanoTime() + LIMIT.toNanos();
        Set<TopicPartition> all = new HashSet<>();
        while (System.nanoTime() < end) {
            int sum = 0, least = want;
            all.clear();
            for (var c : cs) {
                c.poll(Duration.ofMillis(100));
                all.addAll(c.assignment());
                sum += c.assignment().size();
                least = Math.min(least, c.assignment().size());
            }
            if (all.size() == want && sum == want && least > 0) break;
        }
        return all.size() + " of " + want;
    }

    // newGroups is group.protocol=consumer (KIP-848).
    static void newGroups(Admin a) throws Exception {
        String t = run + "-gzip", g = run + "-new";
        String[] opts = {"group.id", g, "group.protocol", "consumer", "enable.auto.commit", "false"};
        check("consumer protocol: all records", RECORDS + " records", () -> {
            try (var c = consumer(opts)) {
                c.subscribe(List.of(t));
                String got = drain(c, RECORDS);
                c.commitSync();
                return got;
            }
        });
        check("consumer protocol: committed offsets", RECORDS,
            () -> get(a.listConsumerGroupOffsets(g).partitionsToOffsetAndMetadata()).values().stream().mapToLong(OffsetAndMetadata::offset).mapToInt(n -> (int) n).sum());
        for (String assignor : List.of("uniform", "range")) {
            check("consumer protocol, " + assignor + ": three members share the partitions, and describeConsumerGroups", PARTITIONS + " of " + PARTITIONS + ", STABLE, CONSUMER, " + assignor + ", 3", () -> {
                String[] more = Arrays.copyOf(opts, opts.length + 2);
                more[opts.length] = "group.remote.assignor";
                more[opts.length + 1] = assignor;
                try (var c = consumer(more); var d = consumer(more); var e = consumer(more)) {
                    for (var x : List.of(c, d, e)) x.subscribe(List.of(t));
                    String got = share(PARTITIONS, List.of(c, d, e));
                    String state = "";
                    long end = System.nanoTime() + LIMIT.toNanos();
                    while (System.nanoTime() < end) {
                        for (var x : List.of(c, d, e)) x.poll(Duration.ofMillis(50));
                        var desc = get(a.describeConsumerGroups(List.of(g)).all()).get(g);
                        state = desc.groupState().name() + ", " + desc.type().name() + ", " + desc.partitionAssignor() + ", " + desc.members().size();
                        if (desc.groupState() == GroupState.STABLE && desc.members().size() == 3) break;
                    }
                    return got + ", " + state;
                }
            });
        }
        check("consumer protocol: a pattern that the broker resolves", PARTITIONS + " of " + PARTITIONS, () -> {
            try (var c = consumer("group.id", g + "-re", "group.protocol", "consumer", "enable.auto.commit", "false")) {
                c.subscribe(new SubscriptionPattern(run + "-g.ip"));
                return share(PARTITIONS, List.of(c));
            }
        });
        check("consumer protocol: an invalid pattern", "InvalidRegularExpression", () -> refused(() -> {
            try (var c = consumer("group.id", g + "-re2", "group.protocol", "consumer", "enable.auto.commit", "false")) {
                c.subscribe(new SubscriptionPattern("(" + run));
                return share(PARTITIONS, List.of(c));
            }
        }));
        check("consumer protocol: a static member comes back to what it had", "the same", () -> {
            String[] s = {"group.id", g + "-static", "group.protocol", "consumer", "group.instance.id", "one", "enable.auto.commit", "false"};
            try (var other = consumer("group.id", g + "-static", "group.protocol", "consumer", "enable.auto.commit", "false")) {
                other.subscribe(List.of(t));
                Set<TopicPartition> before;
                try (var c = consumer(s)) {
                    c.subscribe(List.of(t));
                    share(PARTITIONS, List.of(c, other));
                    before = new HashSet<>(c.assignment());
                }
                try (var c = consumer(s)) {
                    c.subscribe(List.of(t));
                    share(PARTITIONS, List.of(c, other));
                    return before.equals(c.assignment()) ? "the same" : before + " and " + c.assignment();
                }
            }
        });
        check("both protocols in one group, there and back", PARTITIONS + " of " + PARTITIONS + ", CONSUMER, then " + PARTITIONS + " of " + PARTITIONS + ", CLASSIC", () -> {
            String id = g + "-mixed";
            try (var old = consumer("group.id", id, "enable.auto.commit", "false", "partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor")) {
                old.subscribe(List.of(t));
                share(PARTITIONS, List.of(old));
                String got;
                try (var c = consumer("group.id", id, "group.protocol", "consumer", "enable.auto.commit", "false")) {
                    c.subscribe(List.of(t));
                    got = share(PARTITIONS, List.of(old, c)) + ", " + get(a.describeConsumerGroups(List.of(id)).all()).get(id).type().name();
                }
                got += ", then " + share(PARTITIONS, List.of(old));
                return got + ", " + get(a.describeConsumerGroups(List.of(id)).all()).get(id).type().name();
            }
        });
        check("listGroups by type", true, () -> get(a.listGroups(ListGroupsOptions.forConsumerGroups()).all()).stream()
            .anyMatch(l -> l.groupId().equals(g) && l.type().equals(Optional.of(GroupType.CONSUMER))));
        check("deleteConsumerGroups of the new kind", false, () -> {
            // A consumer that closes says once that it leaves. If the coordinator moves meanwhile, the group has it until it has been silent for too long.
            for (long end = System.nanoTime() + LIMIT.toNanos(); ; Thread.sleep(500)) {
                try {
                    get(a.deleteConsumerGroups(List.of(g)).all());
                    break;
                } catch (ExecutionException e) {
                    if (!(e.getCause() instanceof GroupNotEmptyException) || System.nanoTime() > end) throw e;
                }
            }
            return get(a.listGroups().all()).stream().anyMatch(l -> l.groupId().equals(g));
        });
    }

    static void groups(Admin a) throws Exception {
        String t = run + "-gzip", g = run + "-group";
        for (String assignor : List.of("org.apache.kafka.clients.consumer.RangeAssignor", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor")) {
            String name = assignor.substring(assignor.lastIndexOf('.') + 1), group = g + "-" + name;
            String[] opts = {"group.id", group, "enable.auto.commit", "false", "partition.assignment.strategy", assignor};
            check("group, " + name + ": all records", RECORDS + " records", () -> {
                try (var c = consumer(opts)) {
                    c.subscribe(List.of(t));
                    String got = drain(c, RECORDS);
                    c.commitSync();
                    return got;
                }
            });
            check("group, " + name + ": two members share the partitions", PARTITIONS + " of " + PARTITIONS, () -> {
                try (var c = consumer(opts); var d = consumer(opts)) {
                    c.subscribe(List.of(t));
                    d.subscribe(List.of(t));
                    long end = System.nanoTime() + LIMIT.toNanos();
                    int n = 0;
                    while (System.nanoTime() < end) {
                        if (!c.poll(Duration.ofMillis(100)).isEmpty() || !d.poll(Duration.ofMillis(100)).isEmpty()) return "records, though all are committed";
                        Set<TopicPartition> both = new HashSet<>(c.assignment());
                        both.addAll(d.assignment());
                        n = both.size();
                        if (n == PARTITIONS && !c.assignment().isEmpty() && !d.assignment().isEmpty() && c.assignment().size() + d.assignment().size() == n) break;
                    }
                    return n + " of " + PARTITIONS;
                }
            });
        }
        String group = g + "-RangeAssignor";
        check("committed offsets", RECORDS, () -> get(a.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).values().stream().mapToLong(OffsetAndMetadata::offset).mapToInt(n -> (int) n).sum());
        check("listConsumerGroups", true, () -> get(a.listConsumerGroups().all()).stream().map(ConsumerGroupListing::groupId).collect(Collectors.toSet()).contains(group));
        check("describeConsumerGroups", "Empty", () -> get(a.describeConsumerGroups(List.of(group)).all()).get(group).groupState().toString());
        check("static member, and metadata of an offset", "note", () -> {
            String[] opts = {"group.id", g + "-static", "group.instance.id", "one", "enable.auto.commit", "false"};
            try (var c = consumer(opts)) {
                c.subscribe(List.of(t));
                drain(c, 1);
                c.commitSync(Map.of(new TopicPartition(t, 1), new OffsetAndMetadata(7, "note")));
            }
            return get(a.listConsumerGroupOffsets(g + "-static").partitionsToOffsetAndMetadata()).get(new TopicPartition(t, 1)).metadata();
        });
        check("alterConsumerGroupOffsets", 5L, () -> {
            get(a.alterConsumerGroupOffsets(group, Map.of(new TopicPartition(t, 0), new OffsetAndMetadata(5))).all());
            return get(a.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).get(new TopicPartition(t, 0)).offset();
        });
        check("deleteConsumerGroupOffsets", false, () -> {
            get(a.deleteConsumerGroupOffsets(group, Set.of(new TopicPartition(t, 0))).all());
            return get(a.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).containsKey(new TopicPartition(t, 0));
        });
        check("deleteConsumerGroups", false, () -> {
            get(a.deleteConsumerGroups(List.of(group)).all());
            return get(a.listConsumerGroups().all()).stream().map(ConsumerGroupListing::groupId).collect(Collectors.toSet()).contains(group);
        });
        check("describeConsumerGroups of a deleted one", "GroupIdNotFoundException", () -> refused(() -> get(a.describeConsumerGroups(List.of(group)).all())));
    }

    public static void main(String[] args) throws Exception {
        brokers = args[0];
        if (System.getenv("COMMAND_CONFIG") != null) {
            try (var in = Files.newInputStream(Path.of(System.getenv("COMMAND_CONFIG")))) {
                connection.load(in);
            }
        }
        List<String> parts = args.length > 1 ? Arrays.asList(args).subList(1, args.length) : List.of("admin", "data", "groups", "newGroups", "transactions");
        try (Admin a = Admin.create(props("default.api.timeout.ms", "60000"))) {
            if (parts.contains("admin")) admin(a);
            if (parts.contains("data")) data(a);
            if (parts.contains("groups")) groups(a);
            if (parts.contains("newGroups")) newGroups(a);
            if (parts.contains("transactions")) transactions(a);
            check("deleteTopics of all", "done", () -> {
                get(a.deleteTopics(get(a.listTopics().names()).stream().filter(n -> n.startsWith(run)).collect(Collectors.toList())).all());
                return "done";
            });
        }
        System.out.println(failures == 0 ? "all passed" : failures + " failed");
        System.exit(failures == 0 ? 0 : 1);
    }
}
