"""A real Slurm on this machine, for tests: two nodes with two GPUs each by name, accounting, preemption.

Slurm's programs read /etc/slurm and nothing else, because the Snakemake plugin takes SLURM_CONF out of the environment.
So this writes there, and refuses to where it finds a file that is not its own: it must never touch a node of a real
cluster. It installs nothing (.ci/setup.sh does), listens on 127.0.0.1 and keeps everything else in a temporary folder.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARKER = "# Written by noah's tests for a cluster on this machine; may be deleted. Its processes: "
CONFIG = Path("/etc/slurm")
FROM_THE_PACKAGE = {"plugstack.conf": "include /etc/slurm/plugstack.conf.d/*.conf"}
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sacctmgr", "sacct")
NODES = ("n1", "n2")
CPUS = 2

SLURM_CONF = """
ClusterName=noahtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass={folder}/munge.socket
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[16821-16822] CPUs={cpus} RealMemory=16000 Gres=gpu:2
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13306
StorageUser=slurm
StoragePass=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
GRES_CONF = """
NodeName=n[1-2] Name=gpu File=/dev/tty[0-1]
"""
SQL = """
create database slurm_acct_db;
create user 'slurm'@'127.0.0.1' identified by 'slurm';
grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';
create user 'slurm'@'localhost' identified by 'slurm';
grant all on slurm_acct_db.* to 'slurm'@'localhost';
"""


def why_not() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.environ.get("NOAH_TEST_SLURM") != "1":
        return "NOAH_TEST_SLURM is not 1: a Slurm on this machine is started only when asked for"
    if os.geteuid() != 0:
        return "only root can start a Slurm"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (.ci/setup.sh does)" if missing else None


class SlurmCluster:
    """A running cluster."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self, state: str = "RUNNING", rule: str = "") -> list[str]:
        """Ids of the jobs in a state, of a rule where one is named."""
        lines = self.run("squeue", "-h", "-t", state, "-o", "%i %k").splitlines()
        return [line.split()[0] for line in lines if f"rule_{rule}" in line]

    def accounted(self) -> list[dict[str, str]]:
        """What sacct knows of all jobs, every start of a requeued one included."""
        fields = ("JobIDRaw", "State", "Comment", "TimelimitRaw", "AllocTRES", "ElapsedRaw")
        lines = self.run("sacct", "-X", "-D", "-n", "-P", "-o", ",".join(fields)).splitlines()
        return [dict(zip(fields, line.split("|"), strict=True)) for line in lines]

    def start_controller(self) -> None:
        self.run("slurmctld")
        wait_for("the controller", lambda: "UP" in self.run("scontrol", "ping", check=False))

    def stop_controller(self) -> None:
        _stop(self.folder / "slurmctld.pid")

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """As a power cut does: the daemon and everything that runs there."""
        here = set(self.run("squeue", "-h", "-w", node, "-o", "%i").split())
        _stop(self.folder / f"slurmd.{node}.pid", signal.SIGKILL)
        for process in Path("/proc").glob("[0-9]*"):
            title = _text(process / "cmdline")
            keeper = title.startswith("slurmstepd: ") and title.split("[")[1].split(".")[0] in here
            if keeper or f"SLURMD_NODENAME={node}\0" in _text(process / "environ"):
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Start all daemons; stop them and take the files out of /etc/slurm afterwards, whatever happens.

    Raises:
        RuntimeError: /etc/slurm holds a file of somebody else.
    """
    _refuse_a_real_one()
    folder = Path(tempfile.mkdtemp(prefix="noah-slurm-"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder)
    try:
        _start(cluster)
        yield cluster
    finally:
        if shutil.which("scancel"):
            subprocess.run(["scancel", "--me", "--signal=KILL", "--full"], capture_output=True, timeout=60)
            time.sleep(1)
            subprocess.run(["scancel", "--me"], capture_output=True, timeout=60)
        _clean_up(folder)


def _refuse_a_real_one() -> None:
    for path in CONFIG.rglob("*"):
        if path.is_dir():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith(MARKER):
            _clean_up(Path(text.splitlines()[0].removeprefix(MARKER)))  # of a test run that was killed
        elif text.strip() != FROM_THE_PACKAGE.get(path.name):
            raise RuntimeError(f"{path} is not ours: this may be a node of a real cluster, no Slurm is started here")


def _start(cluster: SlurmCluster) -> None:
    folder, host = cluster.folder, os.uname().nodename.split(".")[0]
    names = {"host": host, "folder": folder, "cpus": CPUS}
    CONFIG.mkdir(exist_ok=True)
    for name, text in {"slurm.conf": SLURM_CONF, "slurmdbd.conf": SLURMDBD_CONF, "gres.conf": GRES_CONF}.items():
        path = CONFIG / name
        path.write_text(MARKER + str(folder) + text.format(**names))
        path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)
    for name in ("state", "spool.n1", "spool.n2", "db"):
        (folder / name).mkdir()

    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    cluster.run("munged", "--force", *(f"--{option}={folder}/munge.{end}" for option, end in places.items()))

    database, socket = ["--no-defaults", f"--datadir={folder}/db"], f"{folder}/db.socket"
    cluster.run(
        "mariadb-install-db", *database, "--user=root", "--skip-test-db", "--auth-root-authentication-method=normal"
    )
    with open(folder / "mariadb.log", "w", encoding="utf-8") as log:
        listens = [f"--socket={socket}", "--port=13306", "--bind-address=127.0.0.1", f"--pid-file={folder}/mariadb.pid"]
        subprocess.Popen(
            ["mariadbd", *database, "--user=root", *listens], stdout=log, stderr=log, start_new_session=True
        )
    client = ["mariadb", "--no-defaults", f"--socket={socket}"]
    wait_for("MariaDB", lambda: subprocess.run([*client, "-e", "select 1"], capture_output=True).returncode == 0)
    cluster.run(*client, "-e", SQL)

    cluster.run("slurmdbd")
    wait_for("slurmdbd", lambda: "started" in _text(folder / "slurmdbd.log"))
    wait_for(
        "accounting", lambda: "noahtest" in cluster.run("sacctmgr", "-i", "add", "cluster", "noahtest", check=False)
    )
    cluster.start_controller()
    for node in NODES:
        cluster.start_node(node)
    wait_for("the nodes", lambda: set(cluster.run("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"})


def _clean_up(folder: Path) -> None:
    for name in ("slurmd.n1", "slurmd.n2", "slurmctld", "slurmdbd", "mariadb", "munge"):
        _stop(folder / f"{name}.pid")
    for path in CONFIG.glob("*.conf"):
        if path.read_text(encoding="utf-8", errors="replace").startswith(MARKER):
            path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _stop(pid_file: Path, signum: int = signal.SIGTERM, patience_s: int = 20) -> None:
    """End a process that we started, the hard way where it does not go."""
    number = _text(pid_file).strip()
    if not number:
        return
    deadline = time.monotonic() + patience_s
    while Path(f"/proc/{number}").exists() and not _is_zombie(number):
        os.kill(int(number), signum if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.3)
    pid_file.unlink(missing_ok=True)


def _is_zombie(number: str) -> bool:
    return _text(Path(f"/proc/{number}/stat")).rpartition(")")[2].split()[:1] == ["Z"]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def wait_for(what: str, is_there, patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not is_there():
        assert time.monotonic() < deadline, f"{what}: not there after {patience_s:.0f} s"
        time.sleep(0.3)
