"""One run of `lockstep serve` whose ranks do what they are told (inject.c), and what it leaves behind."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

WORLD = 3
TIMEOUT = 4  # --timeout: the deadline of what hangs
MARK = "LOCKSTEP_FAULT_DIR"
# So that what shall happen while a request runs can.
SERVE = ["serve", "--port", "0", "--isa", "generic", "--threads", "1", "--timeout", str(TIMEOUT)]
KINDS = ("usage io bad_config bad_json st_header st_truncated st_tensor bad_tokenizer bad_input unsupported "
         "no_memory busy shape comm_failed comm_init_failed nccl_init_failed comm_not_initialised device_failed "
         "protocol version_mismatch deadline hang rank_lost rank_mismatch wrong_result interrupted internal").split()
BLAME = re.compile(r"^lockstep: (?:rank (\d+)(?: \(([^,)]+)(?:, [^)]+)?\))?: )?(" + "|".join(KINDS) + r"): (.*)$", re.M)


class Trouble(Exception):
    """The run does not even come as far as its fault."""


# The launcher's, after what a rank did.
EXIT_CODES = {"kill": 137, "segv": 139, "abort": 134, "exit0": 1, "exit3": 3, "mpi_abort": 7, "stop": 4, "stuck": 4}


class Mpirun:
    """On this host. Others (launchers.py) have more hosts, which are there while they are entered."""
    name = "mpirun"
    has_grace = True  # a signal to it leaves the ranks time for last words

    def __init__(self, mpirun):
        self.mpirun = mpirun

    def missing(self):
        """Why it cannot be had here, or None."""
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def prepare(self, job):
        """Fits job.env; returns where the ranks' shared memory is."""
        return [job.backing]

    def command(self, job, words):
        passed = {k: v for k, v in job.env.items() if k.startswith("LOCKSTEP_FAULT")}
        options = [w for k, v in {**passed, "LD_PRELOAD": job.inject}.items() for w in ("-x", f"{k}={v}")]
        return [self.mpirun, "-np", str(WORLD), *options, *words]

    def host(self, rank):
        return socket.gethostname()

    def exit_codes(self, phase, event):
        """Those that are right."""
        if (phase, event) == ("start-up", "mpi_abort"):
            return [1]  # which before MPI_Init is Open MPI's own
        return [EXIT_CODES[event]]

    def signal_codes(self):
        return [1]

    def signal(self, job, event, number):
        job.process.send_signal(number)


def processes_with(mark):
    """{pid: state and name} of those alive that carry the mark in their environment."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mark.encode() not in f.read().split(b"\0"):
                    continue
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                name, _, rest = f.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if rest.split()[0] not in "ZX":
            found[int(pid)] = f"{rest.split()[0]} {name}"
    return found


def in_use(path):
    """Whether a living process has the file open or mapped."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
                if path in f.read():
                    return True
            if path in (os.readlink(e.path) for e in os.scandir(f"/proc/{pid}/fd")):
                return True
        except OSError:
            continue
    return False


class Job:
    def __init__(self, launcher, lockstep, inject, words=(), hold=None):
        self.launcher, self.inject = launcher, inject
        self.dir = tempfile.mkdtemp(prefix="lockstep-fault.")
        self.shm_before = set(os.listdir("/dev/shm"))
        self.backing = tempfile.mkdtemp(prefix="lockstep-fault.", dir=os.environ.get(
            "OMPI_MCA_btl_vader_backing_directory", "/dev/shm"))
        os.mkdir(self.path("tmp"))
        self.env = {**os.environ, MARK: self.dir, "TMPDIR": self.path("tmp"),
                    "OMPI_MCA_btl_vader_backing_directory": self.backing}
        if hold:
            self.env["LOCKSTEP_FAULT_HOLD"] = hold
        self.memory = launcher.prepare(self)
        self.orders = []
        for rank in range(WORLD):
            os.mkfifo(self.path(f"{rank}.in"))
            self.orders.append(os.open(self.path(f"{rank}.in"), os.O_RDWR | os.O_NONBLOCK))
        words = [lockstep, *SERVE, "--port-file", self.path("port"), "--status-file", self.path("status"), *words]
        with open(self.path("log"), "wb") as log:
            self.process = subprocess.Popen(launcher.command(self, words), env=self.env, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=log)
        self.ended = None
        self.port = None

    def path(self, name):
        return os.path.join(self.dir, name)

    def read(self, name):
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def wait_until(self, what, condition, seconds=30):
        """Longer where others are at work; what is promised is measured by the clock alone."""
        deadline = time.monotonic() + seconds * max(1, os.getloadavg()[0] / os.cpu_count())
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Trouble(f"waited in vain for {what}\n{self.read('log')}")
            time.sleep(0.005)

    # ---- ranks ----

    def order(self, rank, what):
        os.write(self.orders[rank], what.encode() + b"\n")

    def wait_at(self, rank, point):
        self.wait_until(f"rank {rank} at {point}", lambda: f"at {point}\n" in self.read(f"{rank}.out"))

    def pid(self, rank):
        return int(re.findall(r"pid (\d+)", self.read(f"{rank}.out"))[-1])

    # ---- the end ----

    def over(self):
        if self.process.poll() is None or processes_with(f"{MARK}={self.dir}"):
            return False
        self.ended = self.ended or time.monotonic()
        return True

    def wait_end(self, deadline):
        """Whether nothing of it runs any more by then."""
        while not self.over():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def running(self):
        return processes_with(f"{MARK}={self.dir}")

    def blame(self):
        """[(rank or None, host or None, kind, message)] of lockstep's own lines that say why."""
        return [(int(r) if r else None, h or None, k, m) for r, h, k, m in BLAME.findall(self.read("log"))]

    def status(self):
        text = self.read("status")
        return json.loads(text) if text else None

    def left(self):
        """Files of lockstep's own that it left behind; Open MPI's are its own affair."""
        theirs = re.compile(r"vader_segment\.|ompi\.|osc_rdma|pmix|\.pmix")
        here = [os.path.join(d, n) for d in (self.path("tmp"), *self.memory) for n in os.listdir(d)]
        new = set(os.listdir("/dev/shm")) - self.shm_before
        # Others may be at work on this machine; what is in use is theirs, as of ours nobody is left.
        shared = [p for p in (os.path.join("/dev/shm", n) for n in sorted(new) if n.startswith("lockstep"))
                  if os.path.isfile(p) and not in_use(p)]
        return [p for p in here if not theirs.match(os.path.basename(p))] + shared

    def close(self):
        for pid in self.running():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.kill()
        self.process.wait()
        for fd in self.orders:
            os.close(fd)
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.rmtree(self.backing, ignore_errors=True)
