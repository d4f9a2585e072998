// Streams.java HOST:PORT,… LINES CONFIG SECONDS: a Kafka Streams application, word count with exactly_once_v2, unmodified, against a cluster. In the
// middle it is closed and started again. Prints what it waits for, and a line per check; the exit code says whether all held. CONFIG is a file of
// client properties, and the second half of the lines is written over so many seconds.
//
// One file without a build: test/compat/java/apps.sh fetches the jars and runs it.

import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.kstream.*;

public class Streams {
    static final String[] WORDS = {"raft", "log", "leader", "term", "quorum", "lease", "balsa", "epoch", "offset", "fence"};
    static final long BEGAN = System.nanoTime();

    // say prints where the check is, and since when.
    static void say(String what) {
        System.out.printf("      | %5.1f s: %s%n", (System.nanoTime() - BEGAN) / 1e9, what);
    }

    public static void main(String[] args) throws Exception {
        String brokers = args[0], run = "streams-" + ProcessHandle.current().pid();
        int lines = Integer.parseInt(args[1]), seconds = Integer.parseInt(args[3]);
        Properties connection = new Properties();
        try (var in = Files.newInputStream(Path.of(args[2]))) {
            connection.load(in);
        }
        Map<String, Object> common = new HashMap<>();
        connection.forEach((k, v) -> common.put((String) k, v));
        common.put("bootstrap.servers", brokers);
        try (Admin admin = Admin.create(common)) {
            for (String topic : List.of(run + "-in", run + "-out")) {
                try {
                    admin.createTopics(List.of(new NewTopic(topic, 4, (short) 3))).all().get(90, TimeUnit.SECONDS);
                } catch (ExecutionException e) {
                    // A request whose broker died before it answered is sent again by the client, and finds it done. Nobody else makes topics of this name.
                    if (!(e.getCause() instanceof TopicExistsException)) {
                        throw e;
                    }
                }
            }
        }
        say("the topics are made");
        Properties p = new Properties();
        p.putAll(connection);
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, run);
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 3);
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        p.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        p.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        Path state = Files.createTempDirectory("balsa-streams");
        p.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        p.put("auto.offset.reset", "earliest");
        // An application of Streams that is closed does not leave its group: the next one waits until the sessions of the one before have ended, and
        // each new coordinator gives these their time anew.
        p.put(StreamsConfig.consumerPrefix("session.timeout.ms"), 10_000);

        Map<String, Long> want = new TreeMap<>();
        Random random = new Random(1);
        AtomicInteger lost = new AtomicInteger();
        KafkaStreams app = null;
        for (int half = 0; half < 2; half++) {
            try (KafkaProducer<String, String> producer = new KafkaProducer<>(common, new StringSerializer(), new StringSerializer())) {
                for (int i = 0; i < lines / 2; i++) {
                    String a = WORDS[random.nextInt(WORDS.length)], b = WORDS[random.nextInt(WORDS.length)];
                    want.merge(a, 1L, Long::sum);
                    want.merge(b, 1L, Long::sum);
                    producer.send(new ProducerRecord<>(run + "-in", Integer.toString(i), a + " " + b), (m, e) -> {
                        if (e != null && lost.getAndIncrement() == 0) {
                            say("a line cannot be written: " + e);
                        }
                    });
                    if (app != null && seconds > 0 && i % 100 == 0) {
                        Thread.sleep(100_000L * seconds / (lines / 2));
                    }
                }
            }
            say((half + 1) + " of 2 halves of the lines are written");
            if (app != null) {
                say("the application is closed" + (app.close(Duration.ofSeconds(60)) ? "" : ", but not within a minute"));
            }
            app = new KafkaStreams(topology(run), p);
            app.setStateListener((now, before) -> say("the application is " + now));
            app.setUncaughtExceptionHandler(e -> {
                for (Throwable t = e; t != null; t = t.getCause()) {
                    say(t.toString());
                }
                return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            app.start();
        }
        Map<String, Long> got = counts(common, run + "-out", want);
        app.close(Duration.ofSeconds(60));
        boolean ok = want.equals(got) && lost.get() == 0;
        System.out.println((ok ? "ok    " : "FAIL  ") + "word count, exactly_once_v2, of " + lines + " lines, restarted half-way" + (ok ? "" : ": want " + want + ", got " + got + "; " + lost + " lines were not written"));
        System.exit(ok ? 0 : 1);
    }

    static Topology topology(String run) {
        StreamsBuilder b = new StreamsBuilder();
        b.<String, String>stream(run + "-in")
            .flatMapValues(v -> Arrays.asList(v.split(" ")))
            .groupBy((k, word) -> word)
            .count(Materialized.as("counts"))
            .toStream()
            .to(run + "-out", Produced.with(Serdes.String(), Serdes.Long()));
        return b.build();
    }

    // counts reads what is committed until the latest counts are those that are wanted, or no more comes. A count that goes back, or beyond
    // what is wanted, ends it at once.
    static Map<String, Long> counts(Map<String, Object> common, String topic, Map<String, Long> want) {
        Map<String, Object> c = new HashMap<>(common);
        c.put("isolation.level", "read_committed");
        Map<String, Long> got = new TreeMap<>();
        try (KafkaConsumer<String, Long> consumer = new KafkaConsumer<>(c, new StringDeserializer(), new LongDeserializer())) {
            List<TopicPartition> parts = new ArrayList<>();
            consumer.partitionsFor(topic).forEach(i -> parts.add(new TopicPartition(topic, i.partition())));
            consumer.assign(parts);
            consumer.seekToBeginning(parts);
            long deadline = System.nanoTime() + Duration.ofSeconds(180).toNanos(), tell = 0;
            while (!want.equals(got) && System.nanoTime() < deadline) {
                if (System.nanoTime() > tell) {
                    tell = System.nanoTime() + Duration.ofSeconds(15).toNanos();
                    say("counted so far: " + got.values().stream().mapToLong(n -> n).sum() + " of " + want.values().stream().mapToLong(n -> n).sum() + " words");
                }
                for (ConsumerRecord<String, Long> r : consumer.poll(Duration.ofMillis(500))) {
                    Long before = got.put(r.key(), r.value());
                    if (before != null && before > r.value() || r.value() > want.get(r.key())) {
                        System.out.println("count of " + r.key() + " went from " + before + " to " + r.value());
                        return got;
                    }
                }
            }
        }
        return got;
    }
}
