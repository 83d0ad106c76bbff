"""Shows with a real Apache Kafka, one by one, what the gateway promises about Kafka."""

import contextlib
import pathlib
import sys
import time
import traceback

import show_access
import show_bridge
import show_failures
import show_sources
import show_ways
from broker import Cluster, archive
from running import arguments, play
from tokens import Tokens

GROUPS = {
    "bridge": show_bridge.show,
    "ways": show_ways.show,
    "access": show_access.show,
    "sources": show_sources.show,
    "check": show_access.check,
    "broker": show_failures.one,
    "three": show_failures.three,
}
# Fewer than this were not tried.
CLAIMS = 64


class Stage:
    """What the claims share: the broker, the binary, a folder, and the count of what held."""

    def __init__(self, options, folder):
        self.options, self.folder, self.binary = options, folder, options.gateway
        self.held, self.failed, self.gateways, self.clusters = [], [], [], []
        self.cluster, self.tokens = None, None

    @contextlib.contextmanager
    def claim(self, text):
        """What is said of the gateway, and what must not fail for it to be true."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the claim does not hold
            self.failed.append(text)
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"  FAILED {text}\n    {type(error).__name__}: {error}\n    at {pathlib.Path(where.filename).name}:{where.lineno}", flush=True)
        else:
            self.held.append(text)
            print(f"  ok {text}", flush=True)

    def broker(self):
        """The one broker that most claims share."""
        if self.cluster is None:
            self.cluster = self.up("one", 1)
            self.tokens = Tokens(self.cluster.certificates.folder / "token.key")
        return self.cluster

    def up(self, name, nodes):
        cluster = Cluster(self.options.jars, self.folder / name, nodes)
        self.clusters.append(cluster)
        cluster.start_all()
        return cluster

    def end(self):
        for gateway in self.gateways:
            gateway.end()
        for cluster in self.clusters:
            cluster.stop()


def run(options, folder):
    stage, began = Stage(options, folder), time.monotonic()
    names = options.only.split(",") if options.only else list(GROUPS)
    try:
        archive(options.jars, options.jars.parent / "archive")
        stage.broker()
        for name in names:
            before = time.monotonic()
            try:
                GROUPS[name](stage)
            except Exception as error:  # noqa: BLE001 - the other groups are still worth their time
                stage.failed.append(name)
                traceback.print_exc(file=sys.stdout)
                print(f"  FAILED {name}: {error}", flush=True)
            for gateway in stage.gateways:
                gateway.end()
            print(f"  -- {name}: {time.monotonic() - before:.0f} s", flush=True)
    finally:
        stage.end()
    if not options.only and len(stage.held) + len(stage.failed) < CLAIMS:
        stage.failed.append(f"only {len(stage.held)} claims of {CLAIMS} were tried")
    for text in stage.failed:
        print(f"  FAILED {text}", flush=True)
    if not stage.failed:
        print(f"  kafka: {len(stage.held)} claims hold, {time.monotonic() - began:.0f} s", flush=True)
    return not stage.failed


def main():
    parser = arguments()
    parser.add_argument("--jars", required=True, type=pathlib.Path)
    parser.add_argument("--kcat", default="kcat")
    parser.add_argument("--only", help="groups of claims: " + ", ".join(GROUPS))
    options = parser.parse_args()
    play("kafka", options, lambda folder: run(options, folder))


if __name__ == "__main__":
    main()
