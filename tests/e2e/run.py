# SPDX-License-Identifier: Apache-2.0
"""A `demist run` of configs/tiny.textproto, seen from outside: by its files, its processes and what it says."""
import atexit
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

TRAINED = "pretrain"  # the stage that is disturbed


def expect(condition, message):
    if not condition:
        sys.exit(message)


class Run:
    """One run folder, and the `demist run` that works in it."""

    def __init__(self, binary, configs, folder, *settings, before=(), words=("run",), **environment):
        """`before`: the beginning of the command, a program that starts ours; `words`: what ours is to do."""
        self.binary, self.folder = binary, pathlib.Path(folder)
        self.command = [*before, binary, words[0], str(pathlib.Path(configs) / "tiny.textproto"), *words[1:]]
        for setting in (f"run_dir={folder}", "parallel.threads=1", *settings):
            self.command += ["--set", setting]
        self.environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment}
        self.said = self.folder.with_name(self.folder.name + ".said")
        self.journals = {name: Journal(self.folder / name) for name in ("events.jsonl", "metrics.jsonl")}
        self.process = None

    def start(self):
        with open(self.said, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
        atexit.register(self.process.terminate)  # when a test fails
        return self

    def output(self):
        """Since the last start."""
        return self.said.read_text(encoding="utf-8")

    def fail(self, message):
        said = "\n".join(self.output().splitlines()[-40:])
        if self.process.poll() is None:
            for _ in range(2):  # the second one ends it at once
                self.process.send_signal(signal.SIGINT)
                time.sleep(0.1)
            self.process.wait()
        sys.exit(f"{self.folder.name}: {message}:\n{said}")

    def expect(self, condition, message):
        if not condition:
            self.fail(message)

    def wait_for(self, condition, pause=0.01):
        while not condition():
            self.expect(self.process.poll() is None, f"the run ended early, with {self.process.poll()}")
            time.sleep(pause)

    def finish(self, code=0):
        self.process.wait(600)
        self.expect(self.process.returncode == code, f"ended with {self.process.returncode}, expected {code}")
        return self.output()

    def finish_training(self):
        """Not the stages behind."""
        self.wait_for(self.training_is_done, 0.02)
        self.stop()

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        return self.finish(75)

    def launchers(self):
        return children(self.process.pid)

    def ranks(self):
        """Process ids of the trained stage's ranks, by rank; empty between two attempts."""
        found = {}
        for launcher in self.launchers():
            for pid in children(launcher):
                if {b"train", TRAINED.encode()} <= set(words(pid, "cmdline")):
                    rank = [word for word in words(pid, "environ") if word.startswith(b"OMPI_COMM_WORLD_RANK=")]
                    found.update({int(word.split(b"=")[1]): pid for word in rank})
        return found

    def events(self, *names):
        return [event for event in self.journals["events.jsonl"].lines() if event["event"] in names]

    def metrics(self, name):
        lines = self.journals["metrics.jsonl"].lines()
        return [line for line in lines if line["event"] == name and line["stage"] == TRAINED]

    def steps(self):
        """Computed so far, those that were done again included."""
        return len(self.metrics("step"))

    def wait_for_steps(self, count):
        goal = self.steps() + count
        self.wait_for(lambda: self.steps() >= goal)

    def failures(self):
        return [event for event in self.events("attempt_ended") if event["code"] not in (0, 75)]

    def checkpoints(self, stage=TRAINED):
        return self.folder / stage / "checkpoints"

    def saved_steps(self):
        """Of the newest checkpoint."""
        return int((self.checkpoints() / "LATEST").read_text().strip().removeprefix("step-"))

    def training_is_done(self):
        return (self.folder / TRAINED / "done.json").exists()

    def hash(self, stage=TRAINED):
        return self.demist("inspect", str(self.checkpoints(stage)), "--hash").strip()

    def demist(self, *arguments):
        return subprocess.run([self.binary, *arguments], check=True, capture_output=True, text=True).stdout


class StageRun(Run):
    """A `demist train` of one stage, several ranks of it under mpirun, which nobody supervises."""

    def __init__(self, binary, configs, folder, stage, ranks, *settings, options=()):
        mpirun = ["mpirun", "--quiet", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks > 1 else []
        super().__init__(binary, configs, folder, *settings, before=mpirun,
                         words=("train", "--stage", stage, "--progress", "none", *options),
                         OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

    def launchers(self):
        return [self.process.pid]

    def kill(self):
        """All of it at once."""
        for pid in children(self.process.pid) + [self.process.pid]:
            send(pid, signal.SIGKILL)
        self.process.wait()


class Journal:
    """A file of JSON lines that grows; each line is read once."""

    def __init__(self, path):
        self.path, self.read, self.known = path, 0, []

    def lines(self):
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self.read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self.read += len(whole) + len(newline)
            self.known += map(json.loads, filter(None, whole.splitlines()))
        return self.known


def children(pid):
    try:
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def words(pid, name):
    """Of /proc/<pid>/cmdline or environ; none of a process that is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def limit_files(pids, length):
    """No file of theirs may be longer. 0: every write fails, as on a full disk."""
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))


def send(pid, how):
    """True: the process was still there."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True
