"""What the crash test is played on: streams, their receivers, and the configuration of the gateway."""

import json

SCHEMAS = "https://schemas.openid.net/secevent/caep/event-type/"
# What events are of, by the name under which the books know it.
KINDS = {
    "wanted": SCHEMAS + "session-revoked",
    "other": SCHEMAS + "credential-change",
    "plain": SCHEMAS + "session-presented",
    "rare": SCHEMAS + "device-compliance-change",
    "scarce": SCHEMAS + "assurance-level-change",
    "bulk": SCHEMAS + "token-claims-change",
}
# How many of a thousand events are of which kind. Most go to one stream alone, which is quick: the ledger grows faster than every receiver
# could verify. Less than a tenth is owed to receivers that are away: else no segment is condensed.
SHARES = {"wanted": 180, "other": 80, "plain": 680, "rare": 40, "scarce": 20}
ALL = [kind for kind in SHARES if kind != "plain"]

# A stream's `presence`: its receiver is always there, dead until the end of the run, or a poller who seldom comes.
STREAMS = {
    "all-rs256": {"audience": "https://one.example", "algorithm": "RS256", "authorization": "Bearer one", "kinds": ALL},
    "all-es256": {"audience": "https://two.example", "algorithm": "ES256", "authorization": "Bearer two", "kinds": ALL},
    "some-eddsa": {"audience": "https://three.example", "algorithm": "EdDSA", "authorization": "Basic dGhyZWU6", "kinds": ["wanted"]},
    "polled": {"audience": "https://four.example", "algorithm": "EdDSA", "way": "poll", "kinds": ["wanted"]},
    "socket": {"audience": "https://five.example", "algorithm": "ES256", "way": "websocket", "kinds": ["wanted"]},
    "by-batch": {
        "audience": "https://six.example",
        "algorithm": "EdDSA",
        "authorization": "Bearer six",
        "way": "multipush",
        "kinds": ["wanted", "plain", "bulk"],
    },
    "dead": {
        "audience": "https://seven.example",
        "algorithm": "EdDSA",
        "authorization": "Bearer seven",
        "kinds": ["rare"],
        "presence": "dead",
    },
    "counted": {
        "audience": "https://eight.example",
        "algorithm": "ES256",
        "authorization": "Bearer eight",
        "kinds": ["scarce"],
        "presence": "dead",
        "retention": {"sets": 30},
    },
    "aged": {
        "audience": "https://nine.example",
        "algorithm": "EdDSA",
        "way": "poll",
        "kinds": ["scarce"],
        "presence": "seldom",
        "retention": {"age": 5},
    },
}


def whole(stream):
    """A stream with what it does not say."""
    return {"way": "push", "authorization": "", "presence": "always", "retention": {}} | stream


STREAMS = {name: whole(stream) for name, stream in STREAMS.items()}
BATCHED = {name for name, stream in STREAMS.items() if stream["way"] != "push"}

# Segments are full by their records, by their bytes, or by whichever comes first: each start of the gateway has one of these. Where bytes
# decide, cursors are folded by housekeeping alone, many segments after each other.
SEGMENTS = [(150, 64 << 20), (65_536, 96 << 10), (120, 48 << 10), (65_536, 32 << 10), (65_536, 32 << 10)]


def full_by(records, size):
    """The steps by which segments of so many records or bytes become full; a record takes some 400 bytes."""
    by_records, by_bytes = records * 200 < size, size < records * 800
    return ({"segment full by records"} if by_records else set()) | ({"segment full by bytes"} if by_bytes else set())


# Seconds between two rounds of housekeeping, and for which settled records are kept.
EVERY = [1, 2, 4]
KEEP = [0, 0, 0, 1]

# Those of the rounds at the end.
CALM = ((65_536, 4 << 20), 1, 0)

MAX_AGE = 3
RESERVE = 96 << 20
DISK = 640 << 20
# Bytes that the store may take: in the storm so many that it cuts nobody, in the rounds at the end so few that it has to release its
# journals meanwhile, of which it keeps 192 MB where nothing presses.
BUDGET, PRESSED = 320 << 20, 176 << 20

CONFIG = """\
[gateway]
dev = true

[listen]
public = "127.0.0.1:{world}"
admin = "127.0.0.1:{operator}"

[log]
level = "info,setgate_store=debug"
format = "json"

[store]
path = "{store}"
reserve_bytes = {reserve}
budget_bytes = {budget}
segment_records = {records}
segment_bytes = {bytes}
keep_settled = "{keep}s"

[secrets]
folder = "{secrets}"

[keys]
max_age = "{max_age}s"

[router]
backoff_initial = "100ms"
backoff_max = "2s"
retention_interval = "{every}s"

[[issuers]]
url = "{issuer}"
algorithms = ["RS256", "ES256", "EdDSA"]

# What is left unanswered comes again soon, so that the end of the run stays short.
[methods.poll]
hold = "3s"
redelivery_timeout = "5s"

[methods.multipush]
timeout = "3s"
redelivery_timeout = "3s"

{sections}
"""

STREAM = """\
[[streams]]
id = "{id}"
issuer = "{issuer}"
audience = "{audience}"
events = {events}
default_subjects = "ALL"
algorithm = "{algorithm}"
delivery = {{ method = {delivery} }}
{retention}
"""

DELIVERY = {
    "push": '"urn:ietf:rfc:8935", endpoint_url = "http://127.0.0.1:{port}/push/{id}", authorization_header = "{authorization}"',
    "multipush": '"urn:setgate:delivery:multi-push", endpoint_url = "http://127.0.0.1:{port}/multipush/{id}", '
    'authorization_header = "{authorization}"',
    "poll": '"urn:ietf:rfc:8936"',
    "websocket": '"urn:setgate:delivery:websocket"',
}


def streams(issuer, port, declared):
    """The sections of these streams."""
    return "\n".join(
        STREAM.format(
            id=name,
            issuer=issuer,
            events=json.dumps([KINDS[kind] for kind in stream["kinds"]]),
            delivery=DELIVERY[stream["way"]].format(port=port, id=name, authorization=stream["authorization"]),
            retention=retention(stream["retention"]),
            **{key: stream[key] for key in ("audience", "algorithm")},
        )
        for name, stream in declared.items()
    )


def retention(rule):
    members = [f'age = "{rule["age"]}s"'] if "age" in rule else []
    members += [f"sets = {rule['sets']}"] if "sets" in rule else []
    return f"retention = {{ {', '.join(members)} }}" if members else ""
