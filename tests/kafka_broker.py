"""A real Kafka broker on this machine: one node of KRaft, from the jars that tests/kafka/pom.xml names.

Needs `java` (17 or later) and, the first time, `mvn`. `python tests/kafka_broker.py` fetches the jars.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pytest

POM = Path(__file__).parent / "kafka" / "pom.xml"
PARTITIONS = 4
USER = "relay"
HOST = "127.0.0.1"
FETCH_SECONDS = 240
START_SECONDS = 120
# A broker of a test lives for minutes: quick to start counts for more than quick for long.
JVM = ["-Xmx256m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto"]
TOOL = ["-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]


# Kept until this process ends: the handle of a process that still runs must not be collected.
_LEFT_TO_OTHERS: "list[KafkaBroker]" = []


class BrokerMissing(Exception):
    """Java or the jars are not here; the message says what."""


def cache_dir() -> Path:
    """Where the jars are kept, one folder for each version of the pom."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sfm-graph" / "kafka" / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


def jars() -> Path:
    """The folder of the jars; Maven fetches them when they are not there. Raises BrokerMissing."""
    folder = cache_dir()
    if folder.is_dir():
        return folder
    if shutil.which("mvn") is None:
        raise BrokerMissing("no mvn to fetch Kafka's jars with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    # Renamed when whole: a fetch that is cut off leaves nothing that looks complete.
    with tempfile.TemporaryDirectory(dir=folder.parent) as home:
        here = Path(home)
        shutil.copy(POM, here / "pom.xml")
        command = ["mvn", "-B", "-q", "dependency:copy-dependencies", f"-DoutputDirectory={here / 'jars'}"]
        try:
            subprocess.run(command, cwd=here, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BrokerMissing(f"Kafka's jars were not fetched within {FETCH_SECONDS} s") from error
        except subprocess.CalledProcessError as error:
            raise BrokerMissing(f"mvn could not fetch Kafka's jars: {error.stdout[-400:]}") from error
        (here / "jars").rename(folder)


def java() -> str:
    """The path of Java. Raises BrokerMissing."""
    found = shutil.which("java")
    if found is None:
        raise BrokerMissing("no java to run a Kafka broker with")
    told = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=START_SECONDS)
    version = re.search(r'version "(\d+)', told.stderr)
    if version is None or int(version[1]) < 17:
        raise BrokerMissing(f"a Kafka broker needs Java 17 or later, here is: {told.stderr.strip()[:100]}")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((HOST, 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class KafkaBroker:
    """One broker in a folder of its own: `start`, `kill` like a power cut, `start` again on the same ports and data.

    `bootstrap` speaks PLAINTEXT. `secured` speaks SASL_SSL (SCRAM-SHA-512 and PLAIN) for USER with `password`, by a
    certificate for localhost that `ca` vouches for; it is there when the broker was made `with_security`.
    """

    home: Path
    ports: list[int]
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    with_security: bool = True
    pid: int | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def bootstrap(self) -> str:
        """Host and port of the open listener."""
        return f"{HOST}:{self.ports[0]}"

    @property
    def secured(self) -> str:
        """Host and port of the listener with TLS and passwords."""
        return f"localhost:{self.ports[2]}"

    @property
    def ca(self) -> Path:
        """The certificate to trust, as PEM."""
        return self.home / "ca.pem"

    def prepare(self) -> None:
        """Write the configuration and format the storage, once."""
        self.home.mkdir(parents=True, exist_ok=True)
        if self.with_security:
            self._make_certificate()
        (self.home / "server.properties").write_text(self._properties())
        scram = ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={self.password}]"] if self.with_security else []
        identity = "c2ZtLWdyYXBoLXRlc3RzIQ"
        self._run_class("kafka.tools.StorageTool", "format", "-t", identity, "-c", "server.properties", *scram)

    def start(self) -> None:
        """Returns when the broker answers. The process outlives this one unless it is stopped or killed."""
        environment = {**os.environ, "LC_ALL": "C"}
        with (self.home / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [java(), *JVM, "-cp", f"{jars()}/*", "kafka.Kafka", "server.properties"],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.pid = self.process.pid
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker did not start: {self._log_end()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone. Data stay."""
        self._end(signal.SIGKILL)

    def state(self) -> str:
        """Whether it runs and answers, and the end of its log, to read in a report."""
        runs = self.pid is not None and _alive(self.pid)
        return f"broker: runs {runs}, answers {self._answers()}, its log ends with {self._log_end()}"

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        os.kill(self._pid(), signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self._pid(), signal.SIGCONT)

    def make_topic(self, name: str, partitions: int = PARTITIONS, **config: str) -> None:
        """Create a topic; `config` by Kafka's names with _ for the points."""
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topic = NewTopic(name, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
        for future in admin.create_topics([topic], operation_timeout=30, request_timeout=30).values():
            future.result(60)

    def _pid(self) -> int:
        if self.pid is None:
            raise RuntimeError("the broker does not run")
        return self.pid

    def _end(self, how: signal.Signals) -> None:
        if self.pid is None:
            return
        try:
            os.kill(self.pid, how)
            while self.process is None and _alive(self.pid):
                time.sleep(0.02)
        except ProcessLookupError:
            pass
        if self.process is not None:
            self.process.wait(30)
        self.pid = self.process = None

    def _answers(self) -> bool:
        # An answer to ApiVersions: the port alone opens before the broker serves.
        request = bytes.fromhex("0012000000000001" + "0004" + "70696e67")
        try:
            with socket.create_connection((HOST, self.ports[0]), timeout=1) as link:
                link.sendall(len(request).to_bytes(4, "big") + request)
                return len(link.recv(4)) == 4
        except OSError:
            return False

    def _log_end(self) -> str:
        return (self.home / "broker.log").read_text(errors="replace")[-2000:]

    def _run_class(self, name: str, *arguments: str) -> None:
        command = [java(), *TOOL, "-cp", f"{jars()}/*", name, *arguments]
        subprocess.run(command, cwd=self.home, check=True, capture_output=True, timeout=START_SECONDS)

    def _make_certificate(self) -> None:
        keytool = shutil.which("keytool") or str(Path(java()).resolve().parent / "keytool")
        store = ["-keystore", "server.p12", "-storetype", "PKCS12", "-storepass", self.password, "-alias", "broker"]
        name = ["-dname", "CN=localhost", "-ext", "SAN=dns:localhost,ip:127.0.0.1", "-ext", "bc:critical=ca:true"]
        use = ["-ext", "ku:critical=digitalSignature,keyEncipherment,keyCertSign", "-validity", "2"]
        for command in (
            [keytool, "-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", *store, *name, *use],
            [keytool, "-exportcert", "-rfc", *store, "-file", str(self.ca)],
        ):
            subprocess.run(command, cwd=self.home, check=True, capture_output=True, timeout=START_SECONDS)

    def _properties(self) -> str:
        open_port, controller, secured = self.ports
        listeners = [f"PLAINTEXT://{HOST}:{open_port}", f"CONTROLLER://{HOST}:{controller}"]
        if self.with_security:
            listeners.append(f"SASL_SSL://localhost:{secured}")
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(listeners),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.home / "logs"),
            "num.partitions": str(PARTITIONS),
            "auto.create.topics.enable": "true",
            "default.replication.factor": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A broker that was killed is let in again when its session has run out, by default after 9 s.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "400",
            "num.network.threads": "2",
            "num.io.threads": "2",
            # Space that tests never fill: an index file alone would take 10 MB of it for each partition.
            "log.index.size.max.bytes": "65536",
            "log.cleaner.dedupe.buffer.size": "8388608",
        }
        if self.with_security:
            lines |= self._security()
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def _security(self) -> dict[str, str]:
        module = "org.apache.kafka.common.security"
        return {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f'{module}.plain.PlainLoginModule required user_{USER}="{self.password}";'
            ),
            "ssl.keystore.location": str(self.home / "server.p12"),
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.password": self.password,
        }


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@contextmanager
def kafka_broker(*, with_security: bool = False) -> Iterator[KafkaBroker]:
    """A started broker of one's own, which may be killed. Raises BrokerMissing."""
    java()
    jars()
    with tempfile.TemporaryDirectory(prefix="sfm-kafka-") as home:
        broker = KafkaBroker(Path(home), free_ports(3), with_security=with_security)
        broker.prepare()
        try:
            broker.start()
            yield broker
        finally:
            broker.kill()


@contextmanager
def shared_broker(run: str) -> Iterator[KafkaBroker]:
    """The broker that all processes of a run share: the first to come starts it, the last to go ends it."""
    java()
    jars()
    home = Path(tempfile.gettempdir()) / f"sfm-kafka-{run}"
    with _door(home) as door, (home / "users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)  # let go of when a process ends, however it ends
        broker = _join(home)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield broker
        finally:
            fcntl.flock(door, fcntl.LOCK_EX)
            with suppress(BlockingIOError):  # others still use it
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                broker.kill()
                shutil.rmtree(home)
            _LEFT_TO_OTHERS.append(broker)


def _door(home: Path) -> TextIO:
    """The locked file that lets in one process at a time."""
    while True:
        home.mkdir(exist_ok=True)
        path = home / "door"
        with suppress(FileNotFoundError):
            door = path.open("w")
            fcntl.flock(door, fcntl.LOCK_EX)
            # The last process of before may have removed it in the meantime.
            if os.path.samestat(os.fstat(door.fileno()), path.stat()):
                return door
            door.close()


def _join(home: Path) -> KafkaBroker:
    note = home / "broker.json"
    if note.exists():
        known = json.loads(note.read_text())
        return KafkaBroker(home / "broker", known["ports"], known["password"], pid=known["pid"])
    broker = KafkaBroker(home / "broker", free_ports(3))
    broker.prepare()
    broker.start()
    note.write_text(json.dumps({"ports": broker.ports, "password": broker.password, "pid": broker.pid}))
    note.chmod(0o600)
    return broker


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaBroker]:
    """The broker of this run; not for tests that kill it. Skips where it cannot run."""
    try:
        with shared_broker(os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))) as broker:
            yield broker
    except BrokerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def own_kafka() -> Iterator[KafkaBroker]:
    """A broker of this test alone, to kill and start again. Skips where it cannot run."""
    try:
        with kafka_broker() as broker:
            yield broker
    except BrokerMissing as missing:
        pytest.skip(str(missing))


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{jars()}\n")
    except BrokerMissing as missing:
        sys.exit(str(missing))
