"""Servers that tests start for themselves: S3, PostgreSQL, Slurm, and ones that do not answer."""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from conftest import ROOT
from moto.server import ThreadedMotoServer

BUCKET = "bucket"
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


class S3Server:
    """An S3 server in this process, with one bucket. What it holds outlives a stop."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.start(0)
        boto3.client("s3", endpoint_url=f"http://{self.address}", **KEYS).create_bucket(Bucket=BUCKET)

    def start(self, port: int | None = None) -> None:
        """Start it; again on its port."""
        self._server = ThreadedMotoServer("127.0.0.1", self.port if port is None else port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.address = f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop()
        self._server._server.server_close()

    def uri(self, path: str) -> str:
        """Return the address of a folder in the bucket."""
        return f"s3://{BUCKET}/{path}?endpoint_override={self.address}&scheme=http"


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run an S3 server; the environment has keys for it, and nothing else of Amazon."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in KEYS.items():
            patch.setenv("AWS_DEFAULT_REGION" if name == "region_name" else name.upper(), value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = S3Server()
        yield server
        server.stop()


def questions_of_grafana() -> list[str]:
    """What the example's dashboard asks Prometheus."""
    dashboard = json.loads((ROOT / "examples/grafana/searches.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@contextlib.contextmanager
def unanswered(listening: bool) -> Iterator[str]:
    """A HOST:PORT where nobody listens, or where somebody does and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen(100)
        yield f"127.0.0.1:{server.getsockname()[1]}"


PASSWORD = "pass-9f3e-word"


class PostgreSQL:
    """A PostgreSQL server of its own, from Debian's binaries.

    Attributes:
        url: of its database, with the password.
    """

    def __init__(self, folder: Path):
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not binaries:
            pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
        pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'brainreg[postgresql]')")
        self._binaries, self._data = binaries[-1].parent, folder / "data"
        self._data.mkdir()
        password = folder / "password"
        password.write_text(PASSWORD)
        # It refuses to run as root.
        self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] * (os.getuid() == 0)
        if self._as_user:
            for path in (folder, self._data, password):
                shutil.chown(path, "postgres", "postgres")
        self._run(
            "initdb", "--username=user", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._options = f"-F -p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        self.address = f"127.0.0.1:{port}"
        self.url = f"postgresql+psycopg://user:{PASSWORD}@{self.address}/postgres"
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, self._binaries / program, "-D", self._data, *arguments]
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr

    def start(self) -> None:
        self._run("pg_ctl", "start", "-w", "-o", self._options, "-l", str(self._data / "log"))

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "fast")


@contextlib.contextmanager
def postgresql_server() -> Iterator[PostgreSQL]:
    """Run a PostgreSQL server."""
    with tempfile.TemporaryDirectory(prefix="postgresql") as folder:  # a socket's path must be short
        server = PostgreSQL(Path(folder))
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):  # a test may have stopped it
                server.stop()


_SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A Slurm from Debian's packages, whose nodes are all this machine; a job that is run again waits ten seconds.

    Args:
        folder: of its files.
        nodes: how many, each with a part of the cores.

    Attributes:
        environment: variables with which its commands find it.
    """

    def __init__(self, folder: Path, nodes: int = 1):
        if os.getuid() or not all(map(shutil.which, ("munged", "slurmctld", "slurmd", "sbatch"))):
            pytest.skip("Slurm is not installed (Debian: apt install slurmctld slurmd slurm-client munge), or not root")
        self.folder = folder
        for name in ("munge", "state"):
            (folder / name).mkdir()
        with contextlib.ExitStack() as free:
            sockets = [free.enter_context(socket.socket()) for _ in range(1 + nodes)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1] for one in sockets]
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        config = folder / "slurm.conf"
        host, cores = socket.gethostname(), max((os.cpu_count() or 1) // nodes, 1)
        names = [host] if nodes == 1 else [f"node{i}" for i in range(nodes)]
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} State=UNKNOWN"
            for name, port in zip(names, ports[1:], strict=True)
        ]
        content = _SLURM.format(host=host, ports=ports, folder=folder, nodes="\n".join(lines))
        config.write_text(content)
        self.environment = {**os.environ, "SLURM_CONF": str(config)}
        files = [f"--{name}-file={folder}/munge/{name}" for name in ("pid", "log", "seed")]
        munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge/socket", *files]
        self._processes: list[subprocess.Popen] = []
        for i, command in enumerate((munged, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in names))):
            log = (folder / f"{command[0]}{i}.out").open("w")
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            self._processes.append(process)
            time.sleep(1)
        self._wait_for("idle")

    def _wait_for(self, state: str) -> None:
        for _ in range(60):
            if state in self.run("sinfo", "--noheader", "--format=%t", check=False):
                return
            time.sleep(1)
        raise AssertionError("\n".join(path.read_text() for path in self.folder.glob("*.out")))

    def run(self, *command: str, check: bool = True, **options: Any) -> str:
        """Run one of Slurm's commands, and return what it prints."""
        ended = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, **options)
        assert not check or ended.returncode == 0, ended.stderr
        return ended.stdout

    def stop(self) -> None:
        self.run("scancel", "--signal=KILL", "--full", "--user=root", check=False)  # the scripts, and what they started
        for process in reversed(self._processes):
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def slurm(nodes: int = 1) -> Iterator[Slurm]:
    """Run a Slurm."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        server = Slurm(Path(folder), nodes)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of an MLflow server, from an environment of its own; skips the test where it is not installed."""
    program = Path(__file__).parent.parent / ".venv" / "mlflow" / "bin" / "mlflow"
    if not program.exists():
        pytest.skip("MLflow's server is not installed: make .venv/services")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    store = [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}"]
    command = [str(program), "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", *store]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 240
        while True:
            assert server.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < end, "MLflow's server does not begin"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
