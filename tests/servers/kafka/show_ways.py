"""Every way into a cluster, with the right credential and with a wrong one, which is named and mended."""

import re

from access import TOPIC, WRITE, grant
from broker import admin, done
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from gateway import Gateway, demand, rounds, until
from tokens import Tokens
from topics import Verifier, make, read

# What an operator must be able to read of each: the true cause, never only that time ran out.
CAUSES = {
    "wrong-scram-256": r"(?i)authenticat|credential|password",
    "wrong-scram-512": r"(?i)authenticat|credential|password",
    "wrong-plain": r"(?i)authenticat|credential|password",
    "wrong-token": r"(?i)token",
    "no-token": r"(?i)token",
    "wrong-certificate": r"(?i)client certificate|alert bad certificate|alert certificate unknown",
    "wrong-authority": r"(?i)certificate verify|authorit|\bCA\b|ca_pem",
}
SHARED = {"timeout": "5s"}


def show(stage):
    broker = stage.broker()
    certs = broker.certificates.folder
    address = broker.address("plaintext")
    pem = {name: (certs / name).read_text(encoding="utf-8") for name in ("ca.pem", "stranger-ca.pem", "client.crt", "client.key", "stranger.crt", "stranger.key")}
    # The refused one would be good for long: it is fetched anew because it was refused.
    wrong_token, no_token = Tokens(certs / "token.key", life=300), Tokens(certs / "token.key", life=12)
    wrong_token.change, no_token.client = {"aud": "somebody-else"}, ("gateway", "another-secret")

    def sasl(mechanism, **more):
        return {"bootstrap": [broker.address("sasl_ssl")], "tls": {"ca_pem": pem["ca.pem"]}, "sasl": {"mechanism": mechanism, **more}, **SHARED}

    def bearer(tokens):
        return sasl("OAUTHBEARER", token_endpoint=tokens.url, client_id="gateway", client_secret="client-secret", scope="kafka")

    def tls(who, authority="ca.pem"):
        keys = {"certificate_pem": pem[f"{who}.crt"], "key_pem": pem[f"{who}.key"]}
        return {"bootstrap": [broker.address("mtls")], "tls": {"ca_pem": pem[authority], **keys}, **SHARED}

    gw, late = {"username": "gw", "password": "gw-secret"}, {"username": "late", "password": "late-secret"}
    right = {
        "plaintext": {"bootstrap": [address], **SHARED},
        "scram-256": sasl("SCRAM-SHA-256", **gw),
        "scram-512": sasl("SCRAM-SHA-512", **gw),
        "plain": sasl("PLAIN", **gw),
        "token": bearer(stage.tokens),
        "certificate": tls("client"),
    }
    wrong = {
        # This user has another password, this one none of this kind, this one is not there.
        "wrong-scram-256": sasl("SCRAM-SHA-256", **late),
        "wrong-scram-512": sasl("SCRAM-SHA-512", **late),
        "wrong-plain": sasl("PLAIN", **late),
        "wrong-token": bearer(wrong_token),
        "no-token": bearer(no_token),
        "wrong-certificate": tls("stranger"),
        "wrong-authority": tls("client", "stranger-ca.pem"),
    }
    everything = {**right, **wrong}
    make(address, *(f"ways.{name}" for name in everything))
    password(address, ScramMechanism.SCRAM_SHA_256, b"another")
    grant(address, ["gw", "late", "gwcert", "gwtoken"], [(TOPIC, "ways.", WRITE)])
    gateway = Gateway(
        stage.binary, stage.folder / "ways", everything, {name: {"cluster": name, "topic": f"ways.{name}"} for name in everything}
    )  # fmt: skip
    stage.gateways.append(gateway)
    gateway.start()
    events = rounds(0, ["one", "two"], 3)
    gateway.post(events)
    verifier = None
    for name in right:
        with stage.claim(f"SETs get into a cluster by {name}"):
            gateway.drained([name], 20)
            verifier = verifier or Verifier(gateway.keys(), gateway.issuer)
            arrived(address, verifier, name, len(events))
    with stage.claim("a token is asked for with the configured scope, once and not for every record"):
        demand(stage.tokens.scopes == {"kafka"} and 1 <= stage.tokens.count <= 3, (stage.tokens.scopes, stage.tokens.count))
    for name, cause in CAUSES.items():
        with stage.claim(f"{name}: the endpoint is held, the stream is not paused, and the cause is named"):
            shown = held(gateway, name, cause)
            demand(shown["status"] == "enabled", shown)
            demand(shown["held"]["endpoint"] == f"kafka/{name}", shown["held"])
            demand(shown["parked"] == 0 and shown["waiting"] == len(events), shown)
            people = " ".join(gateway.command("streams", "show", name).split())
            demand(re.search(cause, people), f"people read: {people}")
            log = [line for line in gateway.text_of_log().splitlines() if f"kafka/{name}" in line]
            demand(any(re.search(cause, line) for line in log), f"the log says of it: {log[-3:]}")
            metrics = gateway.metrics()
            demand(re.search(rf'setgate_endpoint_held\{{endpoint="kafka/{name}"\}} 1\b', metrics), lines(metrics, "endpoint_held"))
    with stage.claim("the other clusters are not held, and their streams go on"):
        gateway.post(rounds(100, ["one", "two"], 1))
        told = gateway.drained(list(right), 20)
        demand(not any(told[name].get("held") for name in right), [told[name].get("held") for name in right])
    with stage.claim("no password, secret or token is in the log or in what the gateway shows"):
        shown = gateway.text_of_log() + gateway.metrics() + gateway.command("check", "--json") + "".join(gateway.command("streams", "show", name) for name in wrong)
        for secret in ("gw-secret", "late-secret", "client-secret", "PRIVATE KEY", stage.tokens.token().split(".")[0]):
            demand(secret not in shown, f"`{secret}` is shown")
    mend(address, broker, wrong_token, no_token)
    for name in wrong:
        if name == "wrong-authority":
            continue
        with stage.claim(f"{name}: delivery resumes by itself when the cause is mended"):
            gateway.drained([name], 40)
            arrived(address, verifier, name, len(events) + 2)
            shown = until(lambda: (now := gateway.show(name))["held"] is None and now, 5, lambda: gateway.show(name)["held"])
            demand(shown["status"] == "enabled" and shown["parked"] == 0, shown)
    with stage.claim("wrong-authority: delivery resumes after a restart with the right one"):
        gateway.stop()
        gateway.clusters["wrong-authority"] = tls("client")
        gateway.configure()
        gateway.start()
        gateway.drained(None, 30)
        arrived(address, verifier, "wrong-authority", len(events) + 2)
    gateway.stop()
    for tokens in (wrong_token, no_token):
        tokens.stop()


def held(gateway, name, cause):
    """Waits until the cause is told; what is told at first may be that no broker answered."""
    last = {}

    def told():
        last.clear()
        last.update(gateway.show(name))
        return last.get("held") and re.search(cause, last["held"]["cause"])

    until(told, 25, lambda: f"held is {last.get('held')}, the last error {last.get('last_error')!r}, status {last.get('status')} {last.get('reason')}")
    return last


def arrived(address, verifier, name, number):
    found = {verifier.claims(record.value, name)["txn"] for record in read(address, f"ways.{name}")}
    demand(len(found) == number, f"{len(found)} SETs of {number}")


def password(address, mechanism, secret):
    change = UserScramCredentialUpsertion("late", ScramCredentialInfo(mechanism, 4096), secret)
    operator = admin(address)
    done(operator.alter_user_scram_credentials([change]))


def mend(address, broker, wrong_token, no_token):
    """What the people of the broker and of the authorization server would do; the gateway is not touched."""
    password(address, ScramMechanism.SCRAM_SHA_256, b"late-secret")
    password(address, ScramMechanism.SCRAM_SHA_512, b"late-secret")
    wrong_token.change, no_token.client = {}, ("gateway", "client-secret")
    certs, both = broker.certificates.folder, broker.certificates.folder / "both-ca.pem"
    both.write_text((certs / "ca.pem").read_text(encoding="utf-8") + (certs / "stranger-ca.pem").read_text(encoding="utf-8"), encoding="utf-8")
    changes = {
        "listener.name.mtls.ssl.truststore.location": str(both),
        "listener.name.mtls.ssl.truststore.type": "PEM",
    }
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in changes.items()]
    resource = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=entries)
    operator = admin(address)
    done(operator.incremental_alter_configs([resource]))
    # Users of this kind are in the broker's own file.
    broker.plain["late"] = "late-secret"
    broker.restart()


def lines(text, part):
    return [line for line in text.splitlines() if part in line and not line.startswith("#")]
