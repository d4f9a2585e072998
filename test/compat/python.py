#!/usr/bin/python3
"""python.py kafka|confluent_kafka HOST:PORT,...: two Python clients against a cluster.

kafka-python is a client of its own that speaks old versions; confluent_kafka is librdkafka with its admin client. Each
makes a topic of six partitions, writes keyed records, and reads back exactly those, in order within each partition.

KCAT_CONFIG names a file in librdkafka's words that says how to connect. With COMPAT_KILLS brokers are killed meanwhile: a producer without
idempotence may repeat records then.
"""
import collections
import os
import sys
import time

RECORDS = 6000
PARTITIONS = 6
KILLS = bool(os.environ.get("COMPAT_KILLS"))


def connection():
    """How to connect, in librdkafka's words."""
    conf = {}
    if os.environ.get("KCAT_CONFIG"):
        with open(os.environ["KCAT_CONFIG"], encoding="utf-8") as f:
            conf = dict(line.strip().split("=", 1) for line in f if "=" in line)
    return conf


def again(call, done=()):
    """Calls until it succeeds, or says what a call before has done already, if brokers are killed: these clients do not repeat what an admin asks."""
    deadline = time.time() + 60
    while True:
        try:
            return call()
        except Exception as e:  # pylint: disable=broad-except
            if KILLS and any(name in f"{type(e).__name__} {e}" for name in done):
                return None
            if not KILLS or time.time() > deadline:
                raise
            time.sleep(0.2)


def verify(read, begins, ends, repeats=False):
    """read: partition -> [(offset, value)]; values are 'partition:n' with n from 0 on."""
    total = 0
    for p in range(PARTITIONS):
        got = read[p]
        assert begins[p] == 0, f"partition {p} begins at {begins[p]}"
        assert [o for o, _ in got] == list(range(len(got))), f"partition {p}: offsets are not 0, 1, 2, ..."
        if repeats:
            assert ends[p] == len(got), f"partition {p}: {ends[p]} is not {len(got)}"
            got = list(enumerate(sorted({v for _, v in got}, key=lambda v: int(v.split(":")[1]))))
        assert [v for _, v in got] == [f"{p}:{n}" for n in range(len(got))], f"partition {p}: values are not those written, in order"
        assert repeats or ends[p] - begins[p] == len(got), f"partition {p}: {ends[p]} - {begins[p]} is not {len(got)}"
        total += len(got)
    assert total == RECORDS, f"{total} records instead of {RECORDS}"


def kafka_python(brokers, topic):
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import NewTopic

    names = {"security.protocol": "security_protocol", "ssl.ca.location": "ssl_cafile", "ssl.certificate.location": "ssl_certfile",
             "ssl.key.location": "ssl_keyfile", "sasl.mechanisms": "sasl_mechanism", "sasl.username": "sasl_plain_username",
             "sasl.password": "sasl_plain_password"}
    conf = {"bootstrap_servers": brokers, **{names[k]: v for k, v in connection().items()}}
    admin = again(lambda: KafkaAdminClient(**conf))
    again(lambda: admin.create_topics([NewTopic(topic, PARTITIONS, min(3, len(brokers)))]), ("TopicAlreadyExists",))
    producer = KafkaProducer(**conf, acks="all", compression_type="gzip", linger_ms=5, retries=50 if KILLS else 5,
                             max_in_flight_requests_per_connection=1)
    counts = collections.Counter()
    futures = []
    for i in range(RECORDS):
        p = i * 7 % PARTITIONS
        futures.append(producer.send(topic, f"{p}:{counts[p]}".encode(), key=b"k", partition=p))
        counts[p] += 1
    producer.flush(60)
    for f in futures:
        f.get(10)
    producer.close()

    parts = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    consumer = KafkaConsumer(**conf, auto_offset_reset="earliest", consumer_timeout_ms=20000)
    consumer.assign(parts)
    begins = {tp.partition: o for tp, o in again(lambda: consumer.beginning_offsets(parts)).items()}
    ends = {tp.partition: o for tp, o in again(lambda: consumer.end_offsets(parts)).items()}
    read = collections.defaultdict(list)
    left = total = sum(ends.values())
    for m in consumer:
        read[m.partition].append((m.offset, m.value.decode()))
        left -= 1
        if left == 0:
            break
    consumer.close()
    verify(read, begins, ends, repeats=KILLS)

    group = topic + "-group"
    for want, what in ((total, "reads all"), (0, "goes on where it was")):
        consumer = KafkaConsumer(topic, **conf, group_id=group, auto_offset_reset="earliest",
                                 consumer_timeout_ms=8000)
        n = 0
        for _ in consumer:
            n += 1
            if n == total:
                break
        consumer.close()
        assert n == want or KILLS and n > want, f"the group {what}: {n} records instead of {want}"
    again(lambda: admin.delete_topics([topic]), ("UnknownTopicOrPartition",))
    admin.close()


def confluent(brokers, topic):
    from confluent_kafka import Consumer, Producer, TopicPartition, libversion
    from confluent_kafka.admin import AdminClient, NewTopic

    conf = {"bootstrap.servers": ",".join(brokers), **connection()}
    admin = AdminClient(conf)
    again(lambda: [f.result(60) for f in admin.create_topics([NewTopic(topic, PARTITIONS, min(3, len(brokers)))], operation_timeout=30).values()],
          ("TOPIC_ALREADY_EXISTS",))
    errors = []
    producer = Producer({**conf, "enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4"})
    counts = collections.Counter()
    for i in range(RECORDS):
        p = i * 7 % PARTITIONS
        producer.produce(topic, f"{p}:{counts[p]}".encode(), key=b"k", partition=p,
                         on_delivery=lambda err, _: errors.append(err) if err else None)
        counts[p] += 1
        producer.poll(0)
    assert producer.flush(60) == 0, "records without an answer"
    assert not errors, f"{len(errors)} records were refused: {errors[0]}"

    consumer = Consumer({**conf, "group.id": topic + "-group", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    begins, ends = {}, {}
    for p in range(PARTITIONS):
        begins[p], ends[p] = again(lambda p=p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20))
    consumer.subscribe([topic])
    read = collections.defaultdict(list)
    n, deadline = 0, time.time() + 60
    while n < RECORDS and time.time() < deadline:
        m = consumer.poll(1)
        if m is None:
            continue
        assert not m.error(), m.error()
        read[m.partition()].append((m.offset(), m.value().decode()))
        n += 1
    again(lambda: consumer.commit(asynchronous=False))
    committed = again(lambda: consumer.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=20))
    assert {c.partition: c.offset for c in committed} == ends, f"committed {committed}, the ends are {ends}"
    consumer.close()
    verify(read, begins, ends)
    if libversion()[1] >= 0x020c0000:
        consumer_protocol(conf, topic)
    else:
        print(f"SKIPPED: librdkafka {libversion()[0]} is older than 2.12, so that its group.protocol=consumer was not checked")
    again(lambda: [f.result(60) for f in admin.delete_topics([topic], operation_timeout=30).values()], ("UNKNOWN_TOPIC_OR_PART",))


def consumer_protocol(conf, topic):
    """Members of the new group protocol (KIP-848) read all, share the partitions, and hand them on; one subscribes by a pattern."""
    from confluent_kafka import Consumer

    opts = {**conf, "group.id": topic + "-new", "group.protocol": "consumer", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    members = [Consumer(opts) for _ in range(3)]
    seen = set()

    def share(among, want):
        """polls until the members own all partitions, each one its part."""
        deadline = time.time() + 90
        while time.time() < deadline:
            for m in among:
                for r in m.consume(500, 0.1):
                    assert not r.error(), r.error()
                    seen.add((r.partition(), r.offset()))
            owned = [{p.partition for p in m.assignment()} for m in among]
            if all(owned) and sum(map(len, owned)) == PARTITIONS == len(set().union(*owned)) and len(seen) >= want:
                return
        raise AssertionError(f"{len(seen)} records, the members own {owned}")

    members[0].subscribe([topic])
    share(members[:1], RECORDS)
    for m in members[1:]:
        m.subscribe(["^" + topic + "$"])
    share(members, RECORDS)
    again(lambda: members[0].commit(asynchronous=False))
    members.pop().close()
    share(members, RECORDS)
    for m in members:
        m.close()


if __name__ == "__main__":
    which, servers = sys.argv[1], sys.argv[2].split(",")
    name = f"compat-{which}-{int(time.time() * 1000)}".replace("_", "-")
    {"kafka": kafka_python, "confluent_kafka": confluent}[which](servers, name)
    print(f"ok    {which}: {RECORDS} records in {PARTITIONS} partitions came back exactly")
