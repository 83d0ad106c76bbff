"""Brings a broker up, says where it is, and stays until it is told to end."""

import argparse
import json
import pathlib
import shutil
import signal
import sys
import threading

from broker import Cluster, admin, archive
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from tokens import Tokens

# Who may do what, beside the operator: topics that begin so, for all the ways in.
RIGHTS = [
    (ResourceType.TOPIC, "sets.", AclOperation.WRITE),
    (ResourceType.TOPIC, "sets.", AclOperation.CREATE),
    (ResourceType.TOPIC, "events.", AclOperation.READ),
    (ResourceType.TOPIC, "errors.", AclOperation.WRITE),
    (ResourceType.GROUP, "setgate", AclOperation.READ),
]


def grant(address, principals, rights=RIGHTS, operator=None):
    operator = operator or admin(address)
    bindings = [
        AclBinding(kind, name, ResourcePatternType.PREFIXED, f"User:{who}", "*", operation, AclPermissionType.ALLOW)
        for who in principals
        for kind, name, operation in rights
    ]
    for done in operator.create_acls(bindings).values():
        done.result(20)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--jars", required=True, type=pathlib.Path)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--three", action="store_true")
    options = parser.parse_args()
    archive(options.jars, options.jars.parent / "archive")
    # A broker's ports are new each time, so what was there before is of no use.
    shutil.rmtree(options.folder, ignore_errors=True)
    end = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: end.set())
    cluster = Cluster(options.jars, options.folder.absolute(), nodes=3 if options.three else 1)
    try:
        cluster.start_all()
        tokens = Tokens(cluster.certificates.folder / "token.key")
        grant(cluster.address("plaintext"), ["gw", "gwcert", "gwtoken"])
        shown = cluster.description() | {
            "token_endpoint": tokens.url,
            "client_id": tokens.client[0],
            "client_secret": tokens.client[1],
            "token_principal": f"User:{tokens.subject}",
            "rights": "User:gw, User:gwcert, User:gwtoken: write and create sets.*, read events.*, write errors.*, groups setgate*",
        }
        (options.folder / "kafka.json").write_text(json.dumps(shown, indent=2), encoding="utf-8")
        print(f"PLAINTEXT {shown['plaintext']}\nSASL_SSL  {shown['sasl_ssl']}\nMTLS      {shown['mtls']}\nTOKENS    {tokens.url}")
        print(f"{options.folder}/kafka.json tells of users and files; ^C ends it", flush=True)
        end.wait()
    finally:
        cluster.stop()


sys.exit(main())
