"""Who starts the ranks on more than one host: srun on two virtual nodes of a throw-away Slurm, and
mpirun on two hosts that are network namespaces, joined by a cable that can be pulled. Rank WORLD - 1
is alone on the second. Both need root."""
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from job import EXIT_CODES, WORLD, Mpirun, Trouble

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../slurm"))
import cluster as slurm

FAR = WORLD - 1  # the rank of the second host
TCP = ["--mca", "oob_tcp_if_include", "eth0", "--mca", "btl_tcp_if_include", "eth0"]
# Without these mpirun itself takes minutes to believe that a host is gone, and stays until then; with
# them 5 to 7 s, which 3 s without a cable do not reach. Where it has just sent something they do not count, but
# the kernel's tcp_retries2: 15 minutes, and 13 to 25 s with 5 (see HOST).
KEEPALIVE = [w for k, v in (("time", 2), ("intvl", 1), ("probes", 5))
             for w in ("--mca", f"oob_tcp_keepalive_{k}", str(v))]
CLONE_NEWNET = 0x40000000


class Srun(Mpirun):
    name = "srun"
    has_grace = False

    def __init__(self):
        self.cluster = None

    def missing(self):
        try:
            slurm.require()
        except slurm.Unavailable as e:
            return str(e)
        return None

    def __enter__(self):
        self.cluster = slurm.Cluster(nodes=2).__enter__()
        return self

    def __exit__(self, *_):
        self.cluster.__exit__()

    def prepare(self, job):
        job.env.update({k: self.cluster.env[k] for k in ("PATH", "SLURM_CONF")})
        job.env.pop("OMPI_MCA_btl_vader_backing_directory")  # a node's /dev/shm is its own
        return [f"/proc/{d.pid}/root/dev/shm" for d in self.cluster.daemons[-2:]]

    def command(self, job, words):
        return ["srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--cpus-per-task=1", "-N2", f"-n{WORLD}",
                f"--export=ALL,LD_PRELOAD={job.inject}", *words]

    def host(self, rank):
        return self.cluster.names[1 if rank == FAR else 0]

    def exit_codes(self, phase, event):
        """The highest of all ranks': 5 of those that end for the sake of one, 137 of whom srun kills. Of a 0 it
        takes no notice, and until the ranks know each other nor does anybody else."""
        if (phase, event) == ("start-up", "exit0"):
            return [4]
        return [5, 137] if event in ("exit0", "exit3") else [EXIT_CODES[event]]

    def signal_codes(self):
        return [137]

    def signal(self, job, event, number):
        if event == "scancel":
            ids = self.cluster.run(["squeue", "-h", "-o", "%i"]).stdout.split()
            self.cluster.run(["scancel", *ids])
            return
        job.process.send_signal(number)
        if event == "INT":  # at the first srun only says how the ranks are
            time.sleep(0.3)
            job.process.send_signal(number)


# ---- hosts ----

# Each is a process that holds namespaces for the network, the host's name and what is mounted. They
# share files and process numbers, so that one test sees them all, and end with it.
HOST = """
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "$2/hosts" /etc/hosts
echo "$1" > /proc/sys/kernel/hostname
echo 5 > /proc/sys/net/ipv4/tcp_retries2
ip link set lo up
echo $$ > "$2/$1.new"
mv "$2/$1.new" "$2/$1"
exec sleep infinity
"""
# What mpirun takes for ssh.
ENTER = """#!/bin/sh
host=$1
shift
exec nsenter --target "$(cat "{dir}/$host")" --net --mount --uts -- sh -c "$*"
"""


def set_net(fd):
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Hosts(Mpirun):
    name = "hosts"
    names = ["fault1", "fault2"]

    def __init__(self, mpirun):
        super().__init__(shutil.which(mpirun))
        self.dir, self.holders, self.home = None, {}, None

    def missing(self):
        if os.geteuid() != 0:
            return "only root can make network namespaces"
        for tool in ("ip", "nsenter", "unshare"):
            if not shutil.which(tool, path=slurm.PATH):
                return f"no {tool} (packages iproute2, util-linux)"
        probe = ["unshare", "--net", "--mount", "--uts", "ip", "link", "add", "br0", "type", "bridge"]
        done = subprocess.run(probe, capture_output=True, text=True, env={**os.environ, "PATH": slurm.PATH}, check=False)
        return f"no network of namespaces: {done.stderr.strip()}" if done.returncode else None

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="lockstep-hosts.")
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        set_net(self.home)
        os.close(self.home)
        for holder in self.holders.values():
            holder.kill()
            holder.wait()
        self.holders = {}
        shutil.rmtree(self.dir)

    def start(self):
        with open(os.path.join(self.dir, "hosts"), "w", encoding="ascii") as f:
            f.write("127.0.0.1 localhost\n")
            f.writelines(f"10.77.0.{i} {name}\n" for i, name in enumerate(self.names, 1))
        with open(os.path.join(self.dir, "enter"), "w", encoding="ascii") as f:
            f.write(ENTER.format(dir=self.dir))
            os.chmod(f.name, 0o755)
        for name in ["hub", *self.names]:
            self.holders[name] = subprocess.Popen(
                ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-ec", HOST, "sh", name,
                 self.dir], env={**os.environ, "PATH": slurm.PATH}, preexec_fn=slurm.die_with_parent)
        for name, holder in self.holders.items():
            while not os.path.exists(os.path.join(self.dir, name)):
                if holder.poll() is not None:
                    raise Trouble(f"no namespaces for {name}")
                time.sleep(0.01)
        self.on("hub", "ip link add br0 type bridge && ip link set br0 up")
        for i, name in enumerate(self.names, 1):
            self.on("hub", f"ip link add port{i} type veth peer name eth0 netns {self.holders[name].pid} && "
                           f"ip link set port{i} master br0 up")
            self.on(name, f"ip addr add 10.77.0.{i}/24 dev eth0 && ip link set eth0 up")
        # From now on what is started here is on the first host's network, and so are the clients.
        with open(f"/proc/{self.holders[self.names[0]].pid}/ns/net", "rb") as f:
            set_net(f.fileno())

    def on(self, name, command):
        subprocess.run([os.path.join(self.dir, "enter"), name, command], check=True,
                       env={**os.environ, "PATH": slurm.PATH})

    def prepare(self, job):
        job.env["PATH"] = slurm.PATH
        job.env.pop("OMPI_MCA_btl_vader_backing_directory")  # a host's /dev/shm is its own
        return [f"/proc/{self.holders[name].pid}/root/dev/shm" for name in self.names]

    def command(self, job, words):
        options = ["--host", f"{self.names[0]}:{FAR},{self.names[1]}:1", "--map-by", "slot",
                   "--mca", "plm_rsh_agent", os.path.join(self.dir, "enter"), *TCP, *KEEPALIVE]
        mpirun, *rest = super().command(job, words)
        return ["nsenter", "--target", str(self.holders[self.names[0]].pid), "--net", "--mount", "--uts", "--",
                mpirun, *options, *rest]

    def host(self, rank):
        return self.names[1 if rank == FAR else 0]

    def exit_codes(self, phase, event):
        """Of a host that is gone mpirun may know as soon as lockstep does."""
        return {"cut": [4, 205], "daemon": [205]}.get(event) or super().exit_codes(phase, event)

    def pull_cable(self):
        self.on("hub", "ip link set port2 down")

    def plug_cable(self):
        self.on("hub", "ip link set port2 up")

    def kill_daemon(self, job):
        for pid, name in job.running().items():
            if name.endswith(" orted"):
                os.kill(pid, signal.SIGKILL)
