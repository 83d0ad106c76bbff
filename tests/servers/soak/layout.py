"""What the soak is played on: issuers, subjects, a thousand streams of every method, the configuration, and the canaries in all of it."""

import dataclasses
import json
import random

SCHEMAS = "https://schemas.openid.net/secevent/caep/event-type/"
KINDS = [SCHEMAS + name for name in ("session-revoked", "credential-change", "session-presented", "device-compliance-change")]

# The path of each issuer, what it signs with, and its share of streams and subjects.
ISSUERS = [("", "ES256", 5), ("/tenants/two", "ES256", 3), ("/rsa", "RS256", 1), ("/eddsa", "EdDSA", 1)]
# Of a hundred streams.
WAYS = {"push": 45, "poll": 18, "websocket": 17, "pushpull": 10, "multipush": 10}
# So many subjects for each stream, and streams for each subject.
SUBJECTS, LEAST, MOST = 0.4, 5, 20

# One of so many streams that are pushed to is dead while there is load, and keeps so many SETs; as many are away for longer than their SETs
# are kept, in seconds.
FEW, SETS, AGE = 15, 40, 4
# Processes of receivers, and for each of them groups of streams whose receivers die together.
PROCESSES, HOUSES = 2, 12

# Seconds between two rounds of housekeeping, for which key sets are kept, and for which the ids of events are remembered.
EVERY, MAX_AGE, REMEMBERED = 2, 20, 60
BUDGET, RESERVE = 1 << 30, 96 << 20
PARKED = 5
# Seconds in which the gateway answers, on a machine that has much else to do.
PATIENCE = 90

CONFIG = """\
[gateway]
dev = true

[listen]
public = "127.0.0.1:{world}"
admin = "127.0.0.1:{operator}"

[log]
level = "{level}"
format = "json"

[store]
path = "{store}"
budget_bytes = {budget}
reserve_bytes = {reserve}
segment_records = 4096
segment_bytes = 4194304
idempotency_window = "{remembered}s"
parked_count = {parked}

[secrets]
folder = "{secrets}"

[keys]
max_age = "{max_age}s"

[router]
backoff_initial = "100ms"
backoff_max = "2s"
retention_interval = "{every}s"
# Receivers that are dead for the whole run are never given up.
pause_after = "1d"

# What is left unanswered comes again soon, so that the ends of the run stay short.
[methods.poll]
hold = "10s"
redelivery_timeout = "5s"

[methods.websocket]
redelivery_timeout = "5s"
post_wait = "5s"

[methods.multipush]
timeout = "5s"
redelivery_timeout = "5s"

{sections}
"""

STREAM = """\
[[streams]]
id = "{id}"
issuer = "{issuer}"
audience = "{audience}"
events = {events}
default_subjects = "{default}"
{subjects}
algorithm = "{algorithm}"
delivery = {{ method = {delivery} }}
{retention}
"""

DELIVERY = {
    "push": '"urn:ietf:rfc:8935", endpoint_url = "http://127.0.0.1:{port}{path}", authorization_header = "{authorization}"',
    "multipush": '"urn:setgate:delivery:multi-push", endpoint_url = "http://127.0.0.1:{port}{path}", authorization_header = "{authorization}"',
    "poll": '"urn:ietf:rfc:8936"',
    "websocket": '"urn:setgate:delivery:websocket"',
    "pushpull": '"urn:setgate:delivery:websocket"',
}


@dataclasses.dataclass
class Layout:
    """Everything that the processes of one run must agree on."""

    seed: int
    world: int
    # Ports of each process of receivers: one for each house.
    ports: list
    canary: str
    issuers: list
    subjects: list
    streams: dict

    def write(self, path):
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path):
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def of_process(self, number):
        return {name: stream for name, stream in self.streams.items() if stream["process"] == number}

    def key(self, subject):
        """The order key of a subject, by which events and books know it."""
        return f"{self.canary}-subject-{subject}"

    def identifier(self, subject):
        """Its subject identifier (RFC 9493); there are three formats."""
        key = self.key(subject)
        forms = [
            {"format": "opaque", "id": key},
            {"format": "email", "email": f"{key}@people.example"},
            {"format": "iss_sub", "iss": "https://idp.example", "sub": key},
        ]
        return forms[subject % len(forms)]

    def gentle(self):
        """Subjects of which no event is refused: where SETs are dropped by their age, a refusal may come too late to count."""
        return {subject for stream in self.streams.values() if "age" in stream["retention"] for subject in stream["subjects"]}

    def fan_out(self):
        return sum(len(stream["subjects"]) for stream in self.streams.values()) / len(self.subjects)


def key_of(identifier):
    """The order key that a subject identifier stands for."""
    text = identifier.get("id") or identifier.get("sub") or identifier.get("email", "")
    return text.partition("@")[0]


def number_of(key):
    """The number of the subject with this order key."""
    return int(key.rpartition("-")[2])


def draw(seed, number, world, ports):
    """Draws a layout with so many streams: each event goes to 5 to 20 of them."""
    dice = random.Random(f"{seed}/layout")
    canary = f"canary{dice.getrandbits(48):012x}"
    issuers = [{"url": f"http://127.0.0.1:{world}{path}", "path": path, "algorithm": algorithm} for path, algorithm, _ in ISSUERS]
    shares = [share for _, _, share in ISSUERS]
    subjects = [
        {"issuer": issuer, "kind": dice.randrange(len(KINDS))}
        for issuer in dice.choices(range(len(issuers)), shares, k=max(len(issuers), int(number * SUBJECTS)))
    ]
    layout = Layout(seed, world, ports, canary, issuers, subjects, {})
    ways = [way for way, share in WAYS.items() for _ in range(share)]
    dice.shuffle(ways)
    of_issuer = [[] for _ in issuers]
    pushed = 0
    for place in range(number):
        way, issuer = ways[place % len(ways)], dice.choices(range(len(issuers)), shares)[0]
        name = f"{way}-{place}"
        pushed += way == "push"
        rule = {1: {"sets": SETS}, 2: {"age": AGE}}.get(pushed % FEW, {}) if way == "push" else {}
        layout.streams[name] = {
            "number": place,
            "issuer": issuers[issuer]["url"],
            "audience": f"https://{name}.example",
            "algorithm": issuers[issuer]["algorithm"],
            "way": way,
            "authorization": f"Bearer {canary}-bearer-{place}",
            "path": f"/{way}/{name}/{canary}-path-{place}?key={canary}-query-{place}",
            "retention": rule,
            "subjects": [],
            "events": "all",
            "wide": False,
        }
        of_issuer[issuer].append(name)
    for issuer, names in enumerate(of_issuer):
        fill(dice, layout, issuer, names)
    place_all(dice, layout)
    return layout


def fill(dice, layout, issuer, names):
    """Gives each subject of an issuer to some of its streams, and each of these a subject."""
    own = [subject for subject, one in enumerate(layout.subjects) if one["issuer"] == issuer]
    streams = [layout.streams[name] for name in names]
    if not own or not streams:
        return
    # A few want every subject but one, of one kind of event; they have neither rule nor death of their own.
    wide = [stream for stream in streams if not stream["retention"]][:2]
    for stream in wide:
        kind = dice.randrange(len(KINDS))
        mine = [subject for subject in own if layout.subjects[subject]["kind"] == kind]
        if len(mine) > 1:
            stream |= {"wide": True, "events": [KINDS[kind]], "removed": mine[:1], "subjects": mine[1:]}
    some = [stream for stream in streams if not stream["wide"]] or streams
    left = []
    for subject in own:
        for _ in range(min(dice.randint(LEAST, MOST - len(wide)), len(some))):
            if not left:
                left = dice.sample(some, len(some))
            stream = left.pop()
            if subject not in stream["subjects"]:
                stream["subjects"].append(subject)


def place_all(dice, layout):
    """Spreads the streams over processes and houses. Whoever is dead or away for long has a house, and a port, of its own."""
    processes = len(layout.ports)
    for place, stream in enumerate(layout.streams.values()):
        process = place % processes
        rule = stream["retention"]
        house = 0 if "sets" in rule else 1 if "age" in rule else dice.randrange(2, HOUSES)
        stream |= {"process": process, "house": house, "port": layout.ports[process][house]}


def sections(layout):
    """The sections of issuers and streams."""
    issuers = [f'[[issuers]]\nurl = "{one["url"]}"\nalgorithms = ["{one["algorithm"]}"]\n' for one in layout.issuers]
    return "\n".join(issuers + [section(layout, name, stream) for name, stream in layout.streams.items()])


def section(layout, name, stream):
    wide = stream["wide"]
    named = [layout.identifier(subject) for subject in (stream["removed"] if wide else stream["subjects"])]
    tables = ", ".join("{ " + ", ".join(f'{member} = "{text}"' for member, text in one.items()) + " }" for one in named)
    return STREAM.format(
        id=name,
        events=json.dumps(stream["events"]),
        default="ALL" if wide else "NONE",
        subjects=f"{'remove' if wide else 'add'}_subjects = [{tables}]",
        delivery=DELIVERY[stream["way"]].format(**{key: stream[key] for key in ("port", "path", "authorization")}),
        retention=retention(stream["retention"]),
        **{key: stream[key] for key in ("issuer", "audience", "algorithm")},
    )


def retention(rule):
    if "age" in rule:
        return f'retention = {{ age = "{rule["age"]}s" }}'
    return f"retention = {{ sets = {rule['sets']} }}" if rule else ""
