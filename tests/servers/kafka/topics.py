"""Topics as others see them: made, written to, read back completely. SETs are verified with PyJWT."""

import dataclasses

import jwt
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from broker import admin, done, quiet


@dataclasses.dataclass
class Record:
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: list
    stamp: int
    stamp_kind: int

    def header(self, name):
        """The one value of this header, or nothing."""
        found = [value for key, value in self.headers if key == name]
        if len(found) > 1:
            raise AssertionError(f"{len(found)} headers {name}")
        return found[0].decode() if found else None


def make(address, *topics, partitions=3, **config):
    operator = admin(address)
    done(operator.create_topics([NewTopic(topic, partitions, config={key: str(value) for key, value in config.items()}) for topic in topics]))


def read(address, topic, seconds=30):
    """Everything that the topic holds now, in the order of each partition."""
    settings = {
        "bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False, "auto.offset.reset": "earliest",
        "enable.partition.eof": True, "error_cb": quiet, "log_level": 0,
    }  # fmt: skip
    consumer, records = Consumer(settings), []
    try:
        partitions = consumer.list_topics(topic, timeout=seconds).topics[topic].partitions
        ends = {one: consumer.get_watermark_offsets(TopicPartition(topic, one), timeout=seconds) for one in partitions}
        left = {one for one, (low, high) in ends.items() if high > low}
        consumer.assign([TopicPartition(topic, one, low) for one, (low, _) in ends.items()])
        while left:
            message = consumer.poll(seconds)
            if message is None:
                raise AssertionError(f"{topic}: nothing came for {seconds} s, partitions {left} are not read to their end")
            if message.error() is not None:
                if message.error().code() != KafkaError._PARTITION_EOF:
                    raise AssertionError(f"{topic}: {message.error()}")
                left.discard(message.partition())
                continue
            kind, stamp = message.timestamp()
            records.append(
                Record(topic, message.partition(), message.offset(), message.key(), message.value(), message.headers() or [], stamp, kind)
            )
            if message.offset() >= ends[message.partition()][1] - 1:
                left.discard(message.partition())
    finally:
        consumer.close()
    return sorted(records, key=lambda one: (one.partition, one.offset))


def write(address, topic, records):
    """Produces (key, value, headers), and demands that each was taken."""
    refused = []
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True, "error_cb": quiet, "log_level": 0})
    for key, value, headers in records:
        producer.produce(topic, value, key, headers=headers, on_delivery=lambda error, _: error and refused.append(error))
        producer.poll(0)
    left = producer.flush(30)
    if left or refused:
        raise AssertionError(f"{topic}: {left} records were not taken, {refused[:3]} refused")


class Verifier:
    """Verifies SETs by the published keys, and knows nothing of who made them."""

    def __init__(self, keys, issuer):
        self.keys, self.issuer = {key["kid"]: jwt.PyJWK(key).key for key in keys["keys"]}, issuer

    def claims(self, token, stream):
        token = token.decode() if isinstance(token, bytes) else token
        header = jwt.get_unverified_header(token)
        if header["typ"] != "secevent+jwt" or header["alg"] != "ES256":
            raise AssertionError(f"the header is {header}")
        claims = jwt.decode(
            token, self.keys[header["kid"]], algorithms=["ES256"], audience=f"https://{stream}.example", issuer=self.issuer,
            options={"require": ["jti", "iat", "iss", "aud", "events"]},
        )  # fmt: skip
        if "sub" in claims or "exp" in claims:
            raise AssertionError(f"`sub` or `exp` in {claims}")
        return claims
