"""Reads Security Event Tokens (RFC 8417) from a Kafka topic, verifies each, and takes each exactly once.

    pip install -r requirements.txt
    python consumer.py --issuer https://idp.example.com --audience https://siem.example --topic sets.siem --group siem

What it shows, and what a consumer of your own should keep:

- A record is nothing before its signature is verified: whoever may write to the topic can write anything, headers included.
- The keys come from the issuer's own metadata over HTTPS, never from a header of the token or the record.
- `iss` and `aud` are demanded, `exp` and `sub` are refused: a SET is no access token, and a SET for others is not for us.
- A SET is known by its `jti`. The book of those taken is written in the same transaction as the work that they caused.
- The group's offset is committed after that. A crash in between brings records again, and the book knows them.
- A partition is worked on in its order, by one thread: SETs about one subject come in the order in which things happened.
- A token that is no good is put aside with the reason. When keys cannot be fetched, that is not the token's fault: wait.
"""

import argparse
import json
import signal
import sqlite3
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import jwt
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA")
LEEWAY = 120  # seconds by which the issuer's clock may be ahead of ours
KEYS_FRESH = 900  # seconds for which fetched keys are good
KEYS_STALE = 3600  # seconds for which they are used while the issuer cannot be asked; a key taken back is trusted so long
KEYS_AGAIN = 5  # seconds between two fetches: strangers can invent key ids


class Refused(Exception):
    """This token is no good, and will not become better."""


class NotNow(Exception):
    """The token could not be judged; it may be good."""


class Keys:
    """The issuer's public keys, found by way of its metadata (SSF 1.0 §7.2)."""

    def __init__(self, issuer):
        self.issuer = issuer
        self.keys = {}
        self.fetched = None

    def key(self, kid, read_at):
        """The key, for a token that was read at that time. Keys are published before they sign: those fetched later are all there are."""
        age = float("inf") if self.fetched is None else time.monotonic() - self.fetched
        if age > KEYS_FRESH or (kid not in self.keys and self.fetched < read_at):
            try:
                if age < KEYS_AGAIN:
                    raise OSError("they were asked for just now")
                self.fetch()
            except (OSError, ValueError) as error:
                if kid not in self.keys or age > KEYS_STALE:
                    raise NotNow(f"no keys of {self.issuer} yet: {error}") from error
        if kid not in self.keys:
            raise Refused(f"the issuer has no key {kid!a}")
        return self.keys[kid]

    def fetch(self):
        place = urllib.parse.urlsplit(self.issuer)
        path = "/.well-known/ssf-configuration" + place.path.rstrip("/")
        metadata = get(urllib.parse.urlunsplit((place.scheme, place.netloc, path, "", "")))
        if metadata.get("issuer") != self.issuer:
            raise ValueError("the metadata is of another issuer")
        uri = str(metadata.get("jwks_uri", ""))
        if urllib.parse.urlsplit(uri).scheme != place.scheme:
            raise ValueError("the metadata has no jwks_uri of the issuer's scheme")
        keys = {}
        for key in get(uri).get("keys", []):
            if "kid" in key and key.get("use", "sig") == "sig" and key.get("alg") in ALGORITHMS:
                keys[key["kid"]] = jwt.PyJWK(key)
        self.keys, self.fetched = keys, time.monotonic()


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def get(url):
    with urllib.request.build_opener(NoRedirects).open(url, timeout=10) as answer:
        body = answer.read(1 << 20)
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"{url} is no JSON object")
    return found


def verify(record, keys, options, read_at):
    """The claims of a good SET."""
    if content_type(record) != "application/secevent+jwt":
        raise Refused("the content type is not that of a signed SET")
    try:
        token = (record.value() or b"").decode("ascii")
        header = jwt.get_unverified_header(token)
    except (UnicodeDecodeError, jwt.InvalidTokenError) as error:
        raise Refused(f"no token: {error}") from error
    # A token of another kind that the same key has signed must not pass (RFC 8417 §2.3).
    if str(header.get("typ", "")).lower() not in ("secevent+jwt", "application/secevent+jwt"):
        raise Refused("`typ` is not secevent+jwt")
    if "crit" in header:
        raise Refused("`crit` names what is not understood here")
    if not isinstance(header.get("kid"), str):
        raise Refused("no `kid`")
    key = keys.key(header["kid"], read_at)
    try:
        # The algorithm is the key's own, whatever the header says.
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=keys.issuer,
            audience=options.audience,
            leeway=LEEWAY,
            options={"require": ["iss", "aud", "iat", "jti", "events"]},
        )
    except jwt.InvalidTokenError as error:
        raise Refused(str(error)) from error
    if "exp" in claims or "sub" in claims:
        raise Refused("a SET has neither `exp` nor `sub` (SSF 1.0 §4.1)")
    if not isinstance(claims["jti"], str) or not isinstance(claims["events"], dict) or not claims["events"]:
        raise Refused("`jti` or `events` is not what it should be")
    return claims


class Book:
    """What was taken, and what was put aside. Use your own database instead: one transaction for the book and the work."""

    def __init__(self, path):
        self.base = sqlite3.connect(path, isolation_level=None)
        self.base.execute("PRAGMA journal_mode = WAL")
        self.base.execute("PRAGMA synchronous = FULL")
        self.base.execute(
            "CREATE TABLE IF NOT EXISTS taken (jti TEXT PRIMARY KEY, claims TEXT NOT NULL, at INTEGER NOT NULL)")
        self.base.execute(
            "CREATE TABLE IF NOT EXISTS refused (place TEXT PRIMARY KEY, reason TEXT NOT NULL, value BLOB)")

    def __enter__(self):
        self.base.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, kind, *_):
        self.base.execute("COMMIT" if kind is None else "ROLLBACK")

    def is_new(self, claims):
        added = self.base.execute(
            "INSERT OR IGNORE INTO taken VALUES (?, ?, ?)", (claims["jti"], json.dumps(claims), int(time.time())))
        return added.rowcount == 1

    def put_aside(self, record, reason):
        place = f"{record.topic()}/{record.partition()}/{record.offset()}"
        self.base.execute("INSERT OR IGNORE INTO refused VALUES (?, ?, ?)", (place, reason, record.value()))


def handle(claims, record):
    """Your work: it is done once for each SET, within the book's transaction."""
    kinds = " ".join(uri.rsplit("/", 1)[-1] for uri in claims["events"])
    subject = json.dumps(claims.get("sub_id", {}), separators=(",", ":"))
    print(f"verified  {kinds}  {subject}  jti {claims['jti']}  partition {record.partition()} offset {record.offset()}",
          flush=True)


def content_type(record):
    value = next((value for name, value in record.headers() or [] if name == "content-type"), None)
    return (value or b"").decode("ascii", "replace").lower()


def judge(records, keys, options):
    """Each record with its claims, or with what is wrong. Waits while keys cannot be fetched: that is not the record's fault."""
    read_at, judged = time.monotonic(), []
    for record in records:
        while True:
            try:
                judged.append((record, verify(record, keys, options, read_at), None))
            except Refused as reason:
                judged.append((record, None, str(reason)))
            except NotNow as reason:
                # After `max.poll.interval.ms` (300 s) the group gives the partition to another consumer; it will wait, too.
                print(f"waiting: {reason}", file=sys.stderr)
                time.sleep(KEYS_AGAIN)
                continue
            break
    return judged


def take(judged, book, counts):
    """Does the work of all of them or, when something fails, of none."""
    with book:
        for record, claims, reason in judged:
            if claims is None:
                book.put_aside(record, reason)
                counts["refused"] += 1
                print(f"refused   {reason}  partition {record.partition()} offset {record.offset()}", flush=True)
            elif book.is_new(claims):
                handle(claims, record)
                counts["verified"] += 1
            else:
                counts["duplicates"] += 1


def run(options):
    settings = {
        "bootstrap.servers": options.brokers,
        "group.id": options.group,
        # Offsets are committed here, when the work is done; never by a timer.
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        # What a producer took back is not read. The default of this client, said aloud.
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "reconnect.backoff.ms": 500,
    }
    settings.update(word.split("=", 1) for word in options.property)
    consumer = Consumer(settings)
    consumer.subscribe([options.topic])
    keys, book = Keys(options.issuer), Book(options.book)
    counts = {"verified": 0, "duplicates": 0, "refused": 0}
    quiet = time.monotonic()
    try:
        while options.count is None or counts["verified"] < options.count:
            left = None if options.count is None else options.count - counts["verified"]
            records = consumer.consume(min(100, left or 100), 1.0)
            if not records and options.seconds is not None and time.monotonic() - quiet > options.seconds:
                print(f"nothing came for {options.seconds} s", file=sys.stderr)
                return 1
            good = []
            for record in records:
                if record.error() is None:
                    good.append(record)
                elif record.error().fatal() or record.error().code() in (
                    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
                    raise KafkaException(record.error())
                else:
                    print(f"broker: {record.error().str()}", file=sys.stderr)
            if not good:
                continue
            quiet = time.monotonic()
            take(judge(good, keys, options), book, counts)
            commit(consumer, good)
    finally:
        consumer.close()
    print(", ".join(f"{number} {what}" for what, number in counts.items()), flush=True)
    return 1 if counts["refused"] else 0


def commit(consumer, records):
    """Moves the group behind these records. When it fails they come again, and the book knows them."""
    last = {}
    for record in records:
        last[record.partition()] = TopicPartition(record.topic(), record.partition(), record.offset() + 1)
    try:
        consumer.commit(offsets=list(last.values()), asynchronous=False)
    except KafkaException as error:
        print(f"could not commit: {error}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description="Reads SETs from a Kafka topic, verifies each, and takes each once.")
    parser.add_argument("--brokers", default="127.0.0.1:9092", help="HOST:PORT, several with commas")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--issuer", required=True, help="`iss` of the SETs, where the metadata is found")
    parser.add_argument("--audience", required=True, help="`aud` of the SETs")
    parser.add_argument("--book", default="consumer.db", help="the file that remembers what was taken")
    parser.add_argument("--count", type=int, help="end after so many SETs")
    parser.add_argument("--seconds", type=float, help="give up when nothing has come for so long")
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE",
                        help="a property of librdkafka, such as security.protocol=SASL_SSL; may be given several times")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(parser.parse_args())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
