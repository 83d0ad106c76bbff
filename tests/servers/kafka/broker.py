"""Apache Kafka in KRaft mode on this machine: certificates, users, one node or three, started, killed and started again.

Everything listens on free ports of 127.0.0.1. PLAINTEXT is the operator's listener; SASL_SSL and MTLS are judged by ACLs.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from running import free_ports  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
# Of the broker's own kinds of users: name -> password.
PLAIN = {"gw": "gw-secret", "admin": "admin-secret"}
SCRAM = {"gw": "gw-secret", "admin": "admin-secret"}
LISTENERS = ("plaintext", "controller", "sasl_ssl", "mtls")


def quiet(_):
    """Takes the client's log lines and the errors of a broker that is not up yet."""


def bound(words):
    """A process that ends with this one, however this one ends; to be started by its main thread."""
    return ["setpriv", "--pdeathsig", "KILL", *words] if shutil.which("setpriv") else list(words)


def admin(address):
    settings = {"bootstrap.servers": address, "reconnect.backoff.max.ms": 300, "error_cb": quiet, "log_level": 0}
    return AdminClient(settings)


def done(futures):
    """Waits for all of these. The client that was asked must outlive them."""
    for future in futures.values():
        future.result(20)


class Certificates:
    """What a broker shows and believes, and what a stranger would show."""

    def __init__(self, folder):
        self.folder = folder
        if (folder / "done").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for authority in ("ca", "stranger-ca"):
            self.openssl("req", "-x509", *self.key(f"{authority}.key"), "-days", "30", "-subj", f"/CN={authority}", "-out", f"{authority}.pem")
        self.leaf("server", "localhost", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        self.leaf("client", "gwcert", "ca", "extendedKeyUsage=clientAuth\n")
        self.leaf("stranger", "gwcert", "stranger-ca", "extendedKeyUsage=clientAuth\n")
        self.token_key()
        (folder / "done").touch()

    def openssl(self, *words):
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {' '.join(words)}: {done.stderr}")

    @staticmethod
    def key(name):
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name

    def leaf(self, name, common, authority, extensions):
        (self.folder / f"{name}.ext").write_text(extensions, encoding="utf-8")
        self.openssl("req", *self.key(f"{name}.key"), "-subj", f"/O=tests/CN={common}", "-out", f"{name}.csr")
        self.openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
            "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.crt",
        )  # fmt: skip
        whole = "".join((self.folder / part).read_text(encoding="utf-8") for part in (f"{name}.key", f"{name}.crt", f"{authority}.pem"))
        (self.folder / f"{name}.pem").write_text(whole, encoding="utf-8")

    def token_key(self):
        """The key of the authorization server, and its public half where the broker looks for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        clear = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.folder / "token.key").write_bytes(clear)
        public = {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "one", "alg": "ES256", "use": "sig"}
        (self.folder / "jwks.json").write_text(json.dumps({"keys": [public]}), encoding="utf-8")


class Cluster:
    """One broker or three."""

    def __init__(self, jars, folder, nodes=1, heap="256m"):
        self.folder, self.nodes, self.heap = folder, range(1, nodes + 1), heap
        self.jars, self.archive = jars, jars / "classes.jsa"
        self.class_path = ":".join(str(jar) for jar in sorted(jars.glob("*.jar")))
        if not self.class_path:
            raise RuntimeError(f"no jars in {jars}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificates = Certificates(folder / "certs")
        self.plain = dict(PLAIN)
        ports = iter(free_ports(len(LISTENERS) * nodes))
        self.ports = {node: {listener: next(ports) for listener in LISTENERS} for node in self.nodes}
        self.processes = {}

    def java(self, *words, archive=True):
        words = list(words)
        if archive and self.archive.exists():
            words[:0] = [f"-XX:SharedArchiveFile={self.archive}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off", "-Xshare:auto"]
        return [
            "java", f"-Xmx{self.heap}", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{self.certificates.folder}/jwks.json",
            "-cp", self.class_path, *words,
        ]  # fmt: skip

    def properties(self, node):
        return self.folder / f"server-{node}.properties"

    def write_properties(self, node):
        """Written at every start: what the tests change of it holds from the next start on."""
        if len(self.nodes) == 1:
            quorum = f"controller.quorum.bootstrap.servers=127.0.0.1:{self.ports[node]['controller']}"
        else:
            quorum = "controller.quorum.voters=" + ",".join(f"{one}@127.0.0.1:{self.ports[one]['controller']}" for one in self.nodes)
        users = " ".join(f'user_{name}="{password}"' for name, password in self.plain.items())
        text = (HERE / "server.properties").read_text(encoding="utf-8").format(
            node=node, quorum=quorum, certs=self.certificates.folder, data=self.folder / f"data-{node}",
            plain=f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};",
            copies=len(self.nodes), least=min(2, len(self.nodes)), **self.ports[node],
        )  # fmt: skip
        self.properties(node).write_text(text, encoding="utf-8")

    def format(self, node):
        words = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config", str(self.properties(node))]
        if len(self.nodes) == 1:
            words.append("--standalone")
        for name, password in SCRAM.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                words += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        # What it prints shows the stored keys.
        done = subprocess.run(self.java(*words), cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"a broker's folder could not be formatted: {done.stderr[-2000:]}")

    def start(self, node=1, wait=True, options=()):
        fresh = not (self.folder / f"data-{node}" / "meta.properties").exists()
        self.write_properties(node)
        if fresh:
            self.format(node)
        with open(self.folder / f"server-{node}.log", "ab") as log:
            self.processes[node] = subprocess.Popen(
                bound(self.java(*options, "kafka.Kafka", str(self.properties(node)), archive=not options)),
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.ready([node])

    def start_all(self):
        for node in self.nodes:
            self.start(node, wait=False)
        self.ready(self.nodes)

    def ready(self, nodes, seconds=60):
        """Waits until each of these nodes answers and lists them all."""
        end = time.monotonic() + seconds
        for node in nodes:
            while True:
                with contextlib.suppress(Exception):
                    if set(nodes) <= set(admin(self.address("plaintext", node)).list_topics(timeout=2).brokers):
                        break
                if self.processes[node].poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"broker {node} did not come up; see {self.folder}/server-{node}.log\n{self.last_words(node)}")
                time.sleep(0.05)

    def last_words(self, node):
        text = (self.folder / f"server-{node}.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-15:])

    def kill(self, node=1):
        self.processes[node].send_signal(signal.SIGKILL)
        self.processes[node].wait(20)

    def restart(self, node=1):
        """Ends a broker as its operator does, and starts it with what is in its file now."""
        self.processes[node].send_signal(signal.SIGTERM)
        self.processes[node].wait(30)
        self.start(node)

    def stop(self):
        """Ends all. Of several the last would wait for a quorum that is gone, so they are killed."""
        running = [process for process in self.processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM if len(self.nodes) == 1 else signal.SIGKILL)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                continue
            process.kill()

    def address(self, listener, node=None):
        nodes = [node] if node else self.nodes
        return ",".join(f"127.0.0.1:{self.ports[one][listener]}" for one in nodes)

    def tool(self, *words, seconds=60):
        """Runs one of the Java tools to its end and returns what it printed."""
        done = subprocess.run(self.java("-Dlog4j2.level=ERROR", *words), cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
        if done.returncode != 0:
            raise RuntimeError(f"{words[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def description(self):
        """What a client needs, for people and for other programs."""
        certs = self.certificates.folder
        return {
            **{listener: self.address(listener) for listener in ("plaintext", "sasl_ssl", "mtls")},
            "pids": {str(node): process.pid for node, process in self.processes.items()},
            "ca_pem": str(certs / "ca.pem"),
            "client_key": str(certs / "client.key"),
            "client_crt": str(certs / "client.crt"),
            "client_principal": "User:gwcert",
            "stranger_ca_pem": str(certs / "stranger-ca.pem"),
            "stranger_key": str(certs / "stranger.key"),
            "stranger_crt": str(certs / "stranger.crt"),
            "users": SCRAM,
            "folder": str(self.folder),
        }


def archive(jars, folder):
    """Writes the class archive that halves the time of a start: what a short run of one broker has loaded."""
    target = jars / "classes.jsa"
    if target.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    cluster = Cluster(jars, folder)
    fresh = folder / "classes.jsa"
    try:
        cluster.start(options=(f"-XX:ArchiveClassesAtExit={fresh}",))
        admin(cluster.address("plaintext")).list_topics(timeout=5)
    finally:
        process = cluster.processes.get(1)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            cluster.stop()
    # Without one everything works, only slower.
    if fresh.exists():
        os.replace(fresh, target)
    shutil.rmtree(folder, ignore_errors=True)
