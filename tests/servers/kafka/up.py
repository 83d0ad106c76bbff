"""Brings a broker up, says where it is, and stays until it is told to end."""

import argparse
import json
import pathlib
import shutil
import signal
import sys
import threading

from access import CREATE, GROUP, READ, TOPIC, WRITE, grant
from broker import Cluster, archive
from tokens import Tokens

# Who may do what, beside the operator: topics that begin so, for all the ways in.
RIGHTS = [
    (TOPIC, "sets.", WRITE),
    (TOPIC, "sets.", CREATE),
    (TOPIC, "events.", READ),
    (TOPIC, "errors.", WRITE),
    (GROUP, "setgate", READ),
]


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
        grant(cluster.address("plaintext"), ["gw", "gwcert", "gwtoken"], RIGHTS)
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
