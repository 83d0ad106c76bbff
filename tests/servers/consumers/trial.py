"""Shows the consumers of examples/kafka good tokens among bad ones: the good ones are taken, once each, and no other.

The issuer here is a web server of this program's own, and the tokens are signed with PyJWT: no code of the gateway has a part in it.
"""

import argparse
import http.server
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import jwt
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

KEY, STRANGER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
AUDIENCE = "https://consumer.example"


class Issuer(http.server.BaseHTTPRequestHandler):
    """Metadata and key set of an issuer with a path."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = f"http://127.0.0.1:{self.server.server_address[1]}/tenant"
        if self.path == "/.well-known/ssf-configuration/tenant":
            answer = {"issuer": url, "jwks_uri": url + "/jwks.json"}
        elif self.path == "/tenant/jwks.json":
            key = json.loads(ECAlgorithm.to_jwk(KEY.public_key()))
            answer = {"keys": [{**key, "kid": "k1", "alg": "ES256", "use": "sig"}]}
        else:
            return self.send_error(404)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def token(issuer, key=KEY, algorithm="ES256", header=None, **changes):
    now = int(time.time())
    claims = {"iss": issuer, "aud": AUDIENCE, "iat": now, "jti": uuid.uuid4().hex, "txn": "t",
              "sub_id": {"format": "email", "email": "jane@example.com"}, "events": {"https://e.example/session-revoked": {}}}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"typ": "secevent+jwt", "kid": "k1", **(header or {})})


def records(issuer):
    """What is good, and what is not, by what is wrong with it."""
    ahead = int(time.time()) + 10_000
    good = [token(issuer), token(issuer), token(issuer), token(issuer, aud=[AUDIENCE, "https://other.example"])]
    signed = "application/secevent+jwt"
    bad = {
        "another's key": token(issuer, STRANGER), "another typ": token(issuer, header={"typ": "JWT"}),
        "no such key": token(issuer, header={"kid": "k2"}), "again no such key": token(issuer, header={"kid": "k3"}),
        "another aud": token(issuer, aud="https://other.example"), "other auds": token(issuer, aud=["https://other.example"]),
        "another iss": token("http://127.0.0.1:1"), "an exp": token(issuer, exp=ahead), "a sub": token(issuer, sub="jane"),
        "no jti": token(issuer, jti=None), "no events": token(issuer, events={}), "iat ahead": token(issuer, iat=ahead),
        "no iat": token(issuer, iat=None), "crit": token(issuer, header={"crit": ["x"], "x": 1}), "garbage": "garbage",
        "no signature": token(issuer, None, "none"), "not ASCII": "\u00e4.b.c", "a changed signature": good[0][:-8] + "AAAAAAAA",
    }
    plain = [(good[1], signed)] + [(value, signed) for value in bad.values()]
    plain += [(None, signed), (token(issuer), "application/json"), (token(issuer), None)]
    return good, plain, len(bad) + 3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--consumers", required=True)
    options = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    issuer = f"http://127.0.0.1:{server.server_address[1]}/tenant"
    good, plain, refused = records(issuer)
    topic = "sets.trial"
    admin = AdminClient({"bootstrap.servers": options.brokers})
    admin.create_topics([NewTopic(topic, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": options.brokers})
    written = [(value, "application/secevent+jwt") for value in good[:3]] + plain + [(good[3], "application/secevent+jwt")]
    for value, kind in written:
        producer.produce(topic, value if value is None else value.encode(), headers={"content-type": kind} if kind else None)
    producer.flush()
    folder = options.consumers
    consumers = {
        "python": [sys.executable, f"{folder}/consumer.py", "--book", f"{tempfile.mkdtemp()}/book"],
        "java": ["java", "-cp", f"{folder}/target/classes:{folder}/target/lib/*", "Consumer"],
    }
    more = ["--brokers", options.brokers, "--topic", topic, "--issuer", issuer, "--audience", AUDIENCE, "--count", str(len(good)),
            "--seconds", "60"]
    wanted = f"{len(good)} verified, 1 duplicates, {refused} refused"
    for name, command in consumers.items():
        ended = subprocess.run([*command, "--group", f"trial-{name}", *more], capture_output=True, text=True, timeout=180)
        taken = [line.split("  jti ")[1].split()[0] for line in ended.stdout.splitlines() if line.startswith("verified")]
        expected = [jwt.decode(value, options={"verify_signature": False})["jti"] for value in good]
        if wanted not in ended.stdout or taken != expected or ended.returncode != 1:
            print(ended.stdout, ended.stderr, sep="\n")
            sys.exit(f"the consumer in {name} did not end with `{wanted}`")
        print(f"  the consumer in {name}: {wanted}")


if __name__ == "__main__":
    main()
