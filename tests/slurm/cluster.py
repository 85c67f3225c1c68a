"""A throw-away Slurm cluster on this machine: munged, slurmctld and one slurmd a virtual node.

    with Cluster(nodes=2) as cluster:
        cluster.run(["srun", "-N", "2", "hostname"])

Keys, configuration, logs and state live in one temporary directory; the daemons listen on loopback
only, are ended on the way out, and by the kernel should this process die. Needs root and Debian's
slurmctld, slurmd, slurm-client and munge. As there is no accounting and no cgroup plug-in, limits are
not enforced and sacct knows nothing.
"""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TOOLS = ["munged", "mungekey", "slurmctld", "slurmd", "srun", "sbatch", "sinfo", "squeue", "scancel",
         "scontrol"]
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
PR_SET_PDEATHSIG = 1

# A node of its own has its own host name and /dev/shm. Two nodes of one machine do not, and Open MPI
# names its segments by host and local rank: without this the ranks of both nodes would share one.
NODE = """
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "$2/hosts" /etc/hosts
echo "$1" > /proc/sys/kernel/hostname
exec slurmd -D -N "$1" -f "$2/slurm.conf"
"""


class Unavailable(Exception):
    """There can be no cluster here; the message says why."""


def require():
    """Raises Unavailable unless a cluster can be brought up here."""
    missing = [t for t in TOOLS if not shutil.which(t, path=PATH)]
    if missing:
        raise Unavailable(f"Slurm is not installed: no {missing[0]} (scripts/packages slurm)")
    if os.geteuid() != 0:
        raise Unavailable("only root can bring up a Slurm cluster")
    probe = ["unshare", "--mount", "--uts", "--propagation", "private", "mount", "-t", "tmpfs",
             "tmpfs", "/dev/shm"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        raise Unavailable("no privilege to make mount and host name spaces")


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Cluster:
    def __init__(self, nodes, cpus=4):
        self.names = [f"lab{i + 1}" for i in range(nodes)]
        self.cpus = cpus  # claimed by each node; may exceed what the machine has
        self.daemons = []
        self.dir = None
        self.env = None

    # ---- up and down ----

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="lockstep-slurm.")
        os.chmod(self.dir, 0o755)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_MCA_btl_"))}
        self.env.update(PATH=PATH, SLURM_CONF=self.path("slurm.conf"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if len(self.daemons) > 1:
            self._end_jobs()
        for daemon in reversed(self.daemons):  # munged last: the others still sign their messages
            daemon.terminate()
            try:
                daemon.wait(timeout=5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons = []
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def run(self, command, timeout=60, **options):
        """Runs a command with this cluster's srun, sbatch, ...; its output is captured as text."""
        options.setdefault("env", self.env)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(command, timeout=timeout, text=True, capture_output=True, check=False,
                              **options)

    def wait_for_job(self, job, seconds):
        """The exit code of a batch job once it has ended. (`sbatch --wait` looks every few seconds.)"""
        facts = {}

        def ended():
            shown = self.run(["scontrol", "--oneliner", "show", "job", job]).stdout
            facts.update(word.split("=", 1) for word in shown.split() if "=" in word)
            return facts.get("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

        self._wait(ended, seconds, f"job {job} did not end")
        return int(facts["ExitCode"].split(":")[0])

    def _start(self):
        for name in ("run", "state", "log"):
            os.mkdir(self.path(name))
        for name in self.names:
            os.makedirs(self.path("spool", name))
            os.makedirs(self.path("tmp", name))
        with open(self.path("hosts"), "w", encoding="ascii") as f:
            f.write(f"127.0.0.1 localhost {socket.gethostname()}\n")
            f.writelines(f"127.0.0.1 {name}\n" for name in self.names)
        with open(self.path("slurm.conf"), "w", encoding="ascii") as f:
            f.write(self._configuration())
        munge_key, munge_socket = self.path("munge.key"), self.path("run", "munge.sock")
        self.run(["mungekey", "--create", "--keyfile", munge_key])
        self._launch("munged", "munged", "--foreground", "--force", f"--key-file={munge_key}",
                     f"--socket={munge_socket}", f"--pid-file={self.path('run', 'munged.pid')}",
                     f"--log-file={self.path('log', 'munged.log')}",
                     f"--seed-file={self.path('run', 'munged.seed')}")
        self._wait(lambda: os.path.exists(munge_socket), 10, "munged did not start")
        self._launch("slurmctld", "slurmctld", "-D", "-f", self.path("slurm.conf"))
        for name in self.names:
            self._launch(f"slurmd-{name}", "unshare", "--mount", "--uts", "--propagation", "private",
                         "sh", "-ec", NODE, "sh", name, self.dir)
        self._wait(self._usable, 30, "the nodes did not become idle")

    def _launch(self, name, *command):
        with open(self.path("log", name + ".out"), "wb") as log:
            self.daemons.append(subprocess.Popen(
                command, cwd=self.dir, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent))

    def _wait(self, condition, seconds, otherwise):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(otherwise + "\n" + self._logs())
            time.sleep(0.1)

    def _usable(self):
        states = self.run(["sinfo", "-h", "-N", "-o", "%T"], timeout=20).stdout.split()
        return states == ["idle"] * len(self.names)

    def _end_jobs(self):
        def jobs():
            return self.run(["squeue", "-h"], timeout=20).stdout.strip()
        if jobs():
            self.run(["scancel", "--user=root"], timeout=20)
            try:
                self._wait(lambda: not jobs(), 15, "jobs did not end")
            except RuntimeError:
                pass  # their slurmd is about to end

    def _logs(self):
        text = []
        for name in sorted(os.listdir(self.path("log"))):
            with open(self.path("log", name), encoding="utf-8", errors="replace") as f:
                text += [f"{name}: {line.rstrip()}" for line in f.readlines()[-5:]]
        return "\n".join(text)

    def _configuration(self):
        controller, *ports = free_ports(1 + len(self.names))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus}"
            for name, port in zip(self.names, ports))
        return f"""\
ClusterName=lockstep
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self.path('run', 'munge.sock')}
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPidFile={self.path('run', 'slurmctld.pid')}
SlurmdPidFile={self.path('run', 'slurmd.%n.pid')}
SlurmctldLogFile={self.path('log', 'slurmctld.log')}
SlurmdLogFile={self.path('log', 'slurmd.%n.log')}
StateSaveLocation={self.path('state')}
SlurmdSpoolDir={self.path('spool', '%n')}
TmpFS={self.path('tmp', '%n')}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
MinJobAge=30
KillWait=30
{nodes}
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
