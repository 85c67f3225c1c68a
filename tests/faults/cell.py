"""One cell of the matrix: a run is brought into a phase, something happens to one rank, and what the
server promises for that is held against what was seen."""
import os
import shutil
import signal
import tempfile
import time
from collections import namedtuple

from clients import Client, Prober, ask, stream, whole
from job import TIMEOUT, Job, Trouble

Cell = namedtuple("Cell", "phase event rank launcher")

PHASES = ["start-up", "init", "load", "prefill", "decode", "idle", "unload", "drain"]
DEATHS = ["kill", "segv", "abort", "exit0", "exit3", "mpi_abort"]
HANGS = ["stop", "stuck"]  # the whole process, or only what its main thread does
MISERIES = ["no_memory", "slow"]  # survived, or an end with blame
SET_ASIDE = ["prefill", "decode", "idle", "unload", "drain"]  # phases that need no memory that is not there
FILES = ["truncate", "remove", "truncate-reload"]  # of a model, while a rank loads it
SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP, "KILL": signal.SIGKILL}  # to the launcher
CANCEL = "scancel"  # of a job of srun's
LINKS = ["flap", "cut", "daemon"]  # of the rank on another host: the cable for 3 s and for good, mpirun's daemon
NOBODY = "-"  # the rank of what happens to no rank
DEATH_S, HANG_S = 5, TIMEOUT + 5  # until nothing runs any more
FLAP_S, FLAP_TIMEOUT = 3, 15  # TCP sends again at 3.0 s and then at 6.2 s
# In MPI_Init a deadline is all that a rank has. mpirun had better notice before that, within 7 s, and the other
# host's daemon, which has just sent something, takes until the kernel gives up.
CUT_TIMEOUT, GIVE_UP_S = 10, 25
DRAIN_S = 25 + 5  # --drain-timeout is 25
EXIT_INTERRUPTED = 130
HOLDS = {"start-up": "MPI_Init", "init": "MPI_Ibcast", "load": "pread"}
# A load begins after two looks at the demo model, each of 43 reads: the header's two, 25 vectors, 16 blocks. Rank 0
# reads the header once more for each.
LOOKS_LEADER, LOOKS_WORKER = 2 * (43 + 2), 2 * 43
STREAMS = 8
DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/kjv-qwen3-3m")


def hold(phase, rank):
    """Where a rank holds to be in this phase, and the how manieth time that it comes by."""
    before = 0 if phase != "load" else LOOKS_WORKER if rank else LOOKS_LEADER
    return f"{HOLDS[phase]} {before + 1}"


def limit(phase, event):
    if (phase, event) == ("start-up", "cut"):
        return GIVE_UP_S
    return HANG_S if event in HANGS or event == "cut" else DEATH_S


class Run:
    """A cell that is played: `complaints` is empty where every promise was kept."""

    def __init__(self, cell, launcher, lockstep, inject):
        self.cell, self.launcher, self.lockstep, self.inject = cell, launcher, lockstep, inject
        self.complaints, self.blame, self.log, self.seconds, self.code = [], [], "", None, None
        self.streams, self.queued, self.admin, self.prober = [], None, None, None
        self.actor = 1 if cell.rank == NOBODY else cell.rank  # who holds where it shall happen
        self.job = self.models = None

    def complain(self, text):
        self.complaints.append(text)

    def play(self):
        cell = self.cell
        at_start = cell.phase in HOLDS and cell.event != "truncate-reload"
        first_hold = f"{self.actor} {hold(cell.phase, self.actor)}" if at_start else None
        words = ["--prefill-chunk", "32"]  # so that it is soon known what runs
        try:
            if cell.event in FILES:
                words += self.make_models()
            if cell.event == "flap":
                words += ["--timeout", str(FLAP_TIMEOUT)]
            if (cell.phase, cell.event) == ("start-up", "cut"):
                words += ["--timeout", str(CUT_TIMEOUT)]
            self.job = Job(self.launcher, self.lockstep, self.inject, words, first_hold)
            self.enter()
            self.fired = time.monotonic()
            self.fire()
            self.judge()
        except Trouble as e:
            self.complain(str(e))
        finally:
            self.finish()
        return self

    def finish(self):
        if self.prober:
            self.prober.stop()
        for s in [*self.streams, self.queued, self.admin]:
            if s:
                s.hang_up()
        if self.job:
            self.log, self.blame, self.code = self.job.read("log"), self.job.blame(), self.job.process.poll()
            self.job.close()
        if self.models:
            shutil.rmtree(self.models)

    # ---- into the phase ----

    def enter(self):
        phase, job = self.cell.phase, self.job
        if self.cell.event == "truncate-reload":
            self.wait_ready()
            self.enter_reload()
        elif phase in HOLDS:
            self.wait_held(HOLDS[phase])
        else:
            self.wait_ready()
            getattr(self, "enter_" + phase)()
        if phase != "start-up":
            self.wait_port()
            self.prober = Prober(job.port)

    def wait_held(self, point):
        self.job.wait_at(self.actor, point)
        time.sleep(0.3)  # so that the others are where they wait for it

    def wait_port(self):
        job = self.job
        job.wait_until("a port", lambda: job.read("port").endswith("\n"))
        job.port = int(job.read("port").rpartition(":")[2])

    def wait_ready(self):
        self.wait_port()
        self.wait_state("ready")

    def wait_state(self, state):
        self.job.wait_until(state, lambda: f'"{state}"' in ask(self.job.port, "GET", "/health").body)

    def arm(self, point):
        self.job.order(self.actor, "hold " + point)
        self.job.wait_until("an armed rank", lambda: "armed" in self.job.read(f"{self.actor}.out"))

    def metric(self, name):
        text = ask(self.job.port, "GET", "/metrics").body
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("lockstep_" + name))

    def enter_prefill(self):
        self.streams = [stream(self.job.port, n_prompt=800, tokens=200) for _ in range(STREAMS)]
        self.job.wait_until("a running request", lambda: self.metric("num_requests_running{") >= 1)
        if any(s.events() for s in self.streams):
            raise Trouble("the prompts were read too fast")

    def enter_decode(self):
        self.streams = [stream(self.job.port) for _ in range(STREAMS)]
        self.job.wait_until("first tokens", lambda: all(s.events() for s in self.streams))
        self.queued = whole(self.job.port)
        self.job.wait_until("a queue", lambda: self.metric("num_requests_waiting{") == 1)

    def enter_idle(self):
        ask(self.job.port, "POST", "/v1/completions", {"prompt": "And", "max_tokens": 4})
        time.sleep(0.5)

    def enter_unload(self):
        self.arm("free 1")
        self.admin = Client(self.job.port, "POST", "/v1/admin/unload")
        self.wait_held("free")

    def enter_reload(self):
        ask(self.job.port, "POST", "/v1/admin/unload")
        self.arm(hold("load", self.actor))
        self.admin = Client(self.job.port, "POST", "/v1/admin/load", {"model": "victim"})
        self.wait_held("pread")

    def enter_drain(self):
        self.enter_decode()
        os.kill(self.job.pid(0), signal.SIGTERM)
        self.wait_state("draining")

    # ---- the event ----

    def fire(self):
        cell, job = self.cell, self.job
        if cell.event in SIGNALS or cell.event == CANCEL:
            self.launcher.signal(job, cell.event, SIGNALS.get(cell.event))
            time.sleep(0.2)
            job.order(self.actor, "go")  # it was only to be there
        elif cell.event == "daemon":  # the rank stays where it is, lest it be done before anybody has noticed
            self.launcher.kill_daemon(job)
        elif cell.event in LINKS:
            self.launcher.pull_cable()
            job.order(self.actor, "go")
        elif cell.event in FILES:
            weights = os.path.join(self.models, "victim", "model.safetensors")
            if cell.event == "remove":
                os.remove(weights)
            else:
                os.truncate(weights, 1000)
            job.order(cell.rank, "go")
        else:
            job.order(cell.rank, cell.event)

    def make_models(self):
        """Options of a server that loads, or may load, a model which is ours to damage."""
        self.models = tempfile.mkdtemp(prefix="lockstep-fault.")
        for name in ("victim", "good"):
            shutil.copytree(DEMO, os.path.join(self.models, name))
        first = "good" if self.cell.event == "truncate-reload" else "victim"
        return ["--model-root", self.models, "--model", os.path.join(self.models, first)]

    # ---- the verdict ----

    def judge(self):
        event = self.cell.event
        if event in MISERIES:
            self.judge_misery()
        elif event in SIGNALS:
            self.judge_signal(event)
        elif event in (CANCEL, "flap"):
            getattr(self, "judge_" + event)()
        elif event in FILES:
            getattr(self, "judge_" + event.replace("-", "_"))()
        else:
            self.judge_end(event)

    def wait_end(self, seconds):
        """Waits for twice as long as is allowed, so that what is late is told from what never ends."""
        job = self.job
        if not job.wait_end(self.fired + 2 * seconds):
            self.complain(f"still there after {2 * seconds} s: {job.running()}, launcher {job.process.poll()}")
            return
        self.seconds = job.ended - self.fired
        if self.seconds > seconds:
            self.complain(f"took {self.seconds:.1f} s, not {seconds}")

    def judge_end(self, event):
        self.wait_end(HANG_S if self.is_unseen(event) else limit(self.cell.phase, event))
        self.judge_exit(event)
        self.judge_blame(event)
        self.judge_status(event)
        self.judge_clients(event)
        self.judge_left()

    def judge_exit(self, event):
        code, right = self.job.process.poll(), self.launcher.exit_codes(self.cell.phase, event)
        if code not in right:
            self.complain(f"exit code {code}, not {' or '.join(map(str, right))}")

    def judge_left(self):
        left = self.job.left()
        if left:
            self.complain(f"left behind: {left}")

    def is_unseen(self, event):
        """While the ranks do not know each other srun alone knows of an end, and takes no notice of a good one."""
        return (self.cell.phase, event, self.cell.launcher) == ("start-up", "exit0", "srun")

    def kinds(self, event):
        if self.is_unseen(event):
            return ["deadline"]
        return ["rank_lost"] if event in [*DEATHS, "daemon"] else ["deadline", "hang"]

    def judge_blame(self, event):
        blame, cell = self.job.blame(), self.cell
        if len(blame) != 1:
            self.complain(f"{len(blame)} lines of blame")
        for rank, host, kind, message in blame[:1]:
            if cell.phase == "start-up" and "MPI_Init" in message and rank is not None:
                continue  # in there nobody knows more than where it is itself
            if kind not in self.kinds(event):
                self.complain(f"blame is of kind {kind}, not {self.kinds(event)[0]}")
            if rank != cell.rank:
                self.complain(f"blame names rank {rank}")
            elif host != self.launcher.host(rank):
                self.complain(f"blame names host {host}")

    def leader_lives(self, event):
        return self.cell.rank != 0 or event == "stuck"

    def judge_status(self, event):
        status, cell = self.job.status(), self.cell
        if status is None:
            if self.leader_lives(event) and cell.phase != "start-up":
                self.complain("no status file")
            return
        want = {"exit_code": 5 if self.kinds(event) == ["rank_lost"] else 4, "rank": cell.rank,
                "host": self.launcher.host(cell.rank)}
        if cell.phase == "start-up":
            del want["rank"], want["host"]
            if self.launcher.host(cell.rank) != self.launcher.host(0) and status.get("kind") == "interrupted":
                if status.get("exit_code") != EXIT_INTERRUPTED:
                    self.complain(f"status file says {status}")
                return  # in there another host's rank is known to the launcher alone
        wrong = {k: status.get(k) for k, v in want.items() if status.get(k) != v}
        if status.get("kind") not in self.kinds(event):
            wrong["kind"] = status.get("kind")
        if wrong:
            self.complain(f"status file says {wrong}")

    def judge_clients(self, event):
        clients = {f"stream {i}": s for i, s in enumerate(self.streams)}
        clients.update({k: c for k, c in (("queued request", self.queued), ("admin", self.admin)) if c})
        for name, c in clients.items():
            c.join(2)
            if c.is_alive():
                self.complain(f"{name} never ends")
            elif "[DONE]" in c.events():
                self.complain(f"{name} ends with [DONE]")
        if self.leader_lives(event) and self.cell.phase != "start-up":
            self.judge_words(event, clients)

    def judge_words(self, event, clients):
        """Every client is told the same: what happened, and to whom."""
        self.prober.stop()
        if not self.prober.failed:
            self.complain("/health never says failed")
        elif f"rank {self.cell.rank}" not in self.prober.failed.body:
            self.complain(f"/health says {self.prober.failed.body}")
        if self.prober.refused:
            clients["new request"] = self.prober.refused
        seen = {}
        for name, c in clients.items():
            e = c.error()
            if name.startswith("stream"):
                name = "streams"
            elif c.status != 503:
                self.complain(f"{name}: status {c.status}")
            seen.setdefault(str({k: e.get(k) for k in ("type", "rank", "host")}), set()).add(name)
            if e.get("type") not in self.kinds(event):
                continue
            seen.setdefault(e.get("message"), set())
        want = {"rank": self.cell.rank, "host": self.launcher.host(self.cell.rank)}
        for words, names in seen.items():
            if names and not any(words == str({"type": k, **want}) for k in self.kinds(event)):
                self.complain(f"{', '.join(sorted(names))}: error {words}")
        words = [w for w, names in seen.items() if not names]
        if len(words) > 1:
            self.complain(f"not the same words: {words}")

    # ---- what may be survived ----

    def judge_misery(self):
        """It may go on, slowly or without what there was no memory for, or end for a reason that it gives."""
        job = self.job
        patience = time.monotonic() + TIMEOUT + 2
        while time.monotonic() < patience and job.process.poll() is None:
            time.sleep(0.05)
        if self.cell.phase == "drain" and job.process.poll() == 0:
            self.judge_left()  # that was all it had to do
            return
        try:
            if job.process.poll() is None:
                self.judge_survivor()
        except Trouble:
            if job.process.poll() is None:
                raise
        if job.process.poll() != 0:
            self.complaints.clear()
            self.judge_end_in_misery()
            if self.cell.event == "no_memory" and self.cell.phase in SET_ASIDE:
                self.complain("ended, where all that steps take is set aside")
        elif self.seconds is None:
            self.complain("ended by itself, with exit code 0")

    def judge_end_in_misery(self):
        job, rank = self.job, self.cell.rank
        self.wait_end(2 * TIMEOUT + 30)
        blame = job.blame()
        if len(blame) != 1:
            self.complain(f"{len(blame)} lines of blame")
        if self.cell.phase == "start-up":
            return  # the end is MPI's, and nobody knows more than that it is in MPI_Init
        if [b[0] for b in blame] != [rank]:
            self.complain(f"blame names ranks {[b[0] for b in blame]}")
        for _, _, kind, _ in blame:
            if kind not in (["no_memory"] if self.cell.event == "no_memory" else self.kinds("stop")):
                self.complain(f"blame is of kind {kind}")
        status, code = job.status() or {}, job.process.poll()
        if (status.get("rank"), status.get("exit_code")) != (rank, code):
            self.complain(f"exit code {code}; the status file says {status}")
        self.judge_left()

    def judge_survivor(self):
        """It serves on, and ends as it would have without."""
        job = self.job
        job.order(self.actor, "mend")
        for s in [*self.streams, *filter(None, [self.queued])]:
            s.hang_up()
        if self.cell.phase in HOLDS:
            self.wait_ready()
        if self.cell.phase not in ("drain", "unload"):
            reply = ask(job.port, "POST", "/v1/completions", {"prompt": "And", "max_tokens": 2}, seconds=40)
            if reply.status != 200:
                self.complain(f"survived, and answers {reply.status} {reply.trouble or ''}: {reply.body}")
        if self.cell.phase != "drain":
            os.kill(job.pid(0), signal.SIGTERM)
        self.fired = time.monotonic()
        self.wait_end(30)
        if job.process.poll() != 0:
            self.complain(f"survived, and then ended with exit code {job.process.poll()}")
        if job.blame():
            self.complain("survived, with blame")
        self.judge_left()

    # ---- a model's files ----

    def judge_truncate(self):
        """Nobody asked for anything yet: it ends as with any bad model, and says whose read failed."""
        job, rank = self.job, self.cell.rank
        self.wait_end(DEATH_S)
        if job.process.poll() != 2:
            self.complain(f"exit code {job.process.poll()}, not 2")
        blame = job.blame()
        if [(b[0], b[2]) for b in blame] != [(rank, "st_truncated")]:
            self.complain(f"blame is not one line of st_truncated at rank {rank}")
        status = job.status() or {}
        if (status.get("exit_code"), status.get("kind"), status.get("rank")) != (2, "st_truncated", rank):
            self.complain(f"status file says {status}")
        self.judge_left()

    def judge_remove(self):
        """What is open stays."""
        self.judge_survivor()

    def judge_truncate_reload(self):
        """A load that fails leaves the server as it was before."""
        job, rank = self.job, self.cell.rank
        self.admin.join(10)
        if (self.admin.status, self.admin.error().get("type")) != (400, "st_truncated"):
            self.complain(f"the load: {self.admin.status} {self.admin.body}")
        elif self.admin.error().get("rank") != rank:
            self.complain(f"the load names rank {self.admin.error().get('rank')}")
        self.wait_state("unloaded")
        again = ask(job.port, "POST", "/v1/admin/load", {"model": "good"}, seconds=30)
        if again.status != 200:
            self.complain(f"the next load: {again.status} {again.body}")
        self.judge_survivor()

    # ---- the cable ----

    def judge_flap(self):
        """What was under way goes on when it is back."""
        time.sleep(FLAP_S)
        before = [len(s.events()) for s in self.streams]
        self.launcher.plug_cable()
        if self.cell.phase in ("prefill", "decode", "drain"):
            self.job.wait_until("more of every stream", lambda: all(
                len(s.events()) > n or "[DONE]" in s.events() for s, n in zip(self.streams, before)), 60)
        for i, s in enumerate(self.streams):
            if s.error():
                self.complain(f"stream {i} ends with {s.error()}")
        self.judge_survivor()

    # ---- the launcher ----

    def judge_scancel(self):
        """It drains, as far as there is anything to finish."""
        serving = self.cell.phase not in HOLDS
        self.wait_end(DRAIN_S if serving else DEATH_S)
        if serving and self.job.process.poll() != 0:
            self.complain(f"exit code {self.job.process.poll()}, not 0")
        for rank, _, kind in (b[:3] for b in self.job.blame()):
            far = self.launcher.host(int(rank)) != self.launcher.host(0)  # whose end looks like a death in there
            if self.cell.phase != "start-up" or not (kind == "interrupted" or far):
                self.complain("cancelled, with blame")
        for i, s in enumerate(self.streams):
            s.join(2)
            if s.is_alive() or "[DONE]" not in s.events() and '"abort"' not in s.body:
                self.complain(f"stream {i} does not end as it should")
        self.judge_left()

    def judge_signal(self, event):
        job = self.job
        self.wait_end(DEATH_S)
        speaks = event != "KILL" and self.launcher.has_grace
        code = job.process.poll()
        right = [-signal.SIGKILL] if event == "KILL" else self.launcher.signal_codes()
        if code not in right:
            self.complain(f"exit code {code}, not {right[0]}")
        n = len(job.blame())
        if speaks and n != 1:
            self.complain(f"{n} lines of blame")
        for i, s in enumerate(self.streams):
            s.join(2)
            if s.is_alive() or "[DONE]" in s.events():
                self.complain(f"stream {i} does not end as it should")
            elif speaks and not s.error():
                self.complain(f"stream {i} ends without an error event")
        self.judge_left()
