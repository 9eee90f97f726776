#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ranks that are killed or stopped under `demist run`: it names them, goes on, and ends in the same bits.

usage: failures.py DEMIST CONFIGS
"""
import atexit
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

RANKS = 3


class Run:
    def __init__(self, binary, configs, folder, *settings):
        self.binary, self.folder = binary, pathlib.Path(folder)
        self.command = [binary, "run", str(pathlib.Path(configs) / "tiny.textproto")]
        self.environment = dict(os.environ, OMP_WAIT_POLICY="passive")
        for setting in (f"run_dir={folder}", f"parallel.ranks={RANKS}", "parallel.threads=1",
                        "stages.pretrain.steps=240", "checkpoint.every_steps=40", *settings):
            self.command += ["--set", setting]

    def start(self):
        process = subprocess.Popen(self.command, env=self.environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        atexit.register(process.terminate)  # when a test fails
        return process

    def steps(self):
        metrics = self.folder / "metrics.jsonl"
        return metrics.read_text().count('"event":"step"') if metrics.exists() else 0

    def wait_for_steps(self, process, count):
        goal = self.steps() + count
        while self.steps() < goal:
            expect(process.poll() is None, "the run ended early:\n" + (process.stdout.read() if process.poll() else ""))
            time.sleep(0.01)

    def rank_process(self, process, rank, needed=True):
        """The process of one rank: a grandchild, below mpirun."""
        for launcher in children(process.pid):
            for pid in children(launcher):
                environment = environment_of(pid)
                if f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment:
                    return pid
        expect(not needed, f"rank {rank} is not there")
        return None

    def events(self, name):
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def failures(self):
        return [event for event in self.events("attempt_ended") if event["code"] != 0]

    def hash(self):
        command = [self.binary, "inspect", str(self.folder / "adapt" / "checkpoints"), "--hash"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def children(pid):
    try:
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def environment_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def expect(condition, message):
    if not condition:
        sys.exit(message)


def finish(process, code):
    output, _ = process.communicate(timeout=240)
    expect(process.returncode == code, f"ended with {process.returncode}, expected {code}:\n{output}")
    return output


def check_event(event, rank):
    expect(event["rank"] == rank and event["host"] and event["stage"] == "pretrain", f"wrong: {event}")
    phases = ("control", "load", "forward", "backward", "reduce", "optimizer", "save")
    expect(event["phase"] in phases and event["step"] >= 0, f"wrong: {event}")


def undisturbed(binary, configs, root):
    run = Run(binary, configs, root / "undisturbed")
    output = finish(run.start(), 0)
    expect(not run.events("hang") and not run.events("rank_died"), f"a false alarm:\n{output}")
    expect(len(run.events("attempt")) == 5, f"not one attempt a stage:\n{output}")
    expect(not list((run.folder / "ranks").glob("*")) if (run.folder / "ranks").exists() else True, "exit records")
    return run.hash()


def disturbed(binary, configs, root):
    """A rank is killed, another one stopped; both are named, and the run goes on by itself."""
    run = Run(binary, configs, root / "disturbed")
    process = run.start()
    run.wait_for_steps(process, 60)
    os.kill(run.rank_process(process, 1), signal.SIGKILL)
    while not run.failures():
        time.sleep(0.01)
    run.wait_for_steps(process, 60)
    os.kill(run.rank_process(process, 2), signal.SIGSTOP)
    output = finish(process, 0)
    died, hung = run.events("rank_died"), run.events("hang")
    expect(len(died) == 1 and len(hung) == 1, f"{died}\n{hung}\n{output}")
    check_event(died[0], 1)
    check_event(hung[0], 2)
    expect(hung[0]["whole_process"] and hung[0]["limit"] < 60, f"wrong: {hung}")
    expect("rank 1" in output and "rank 2" in output and output.count("going on") == 2, output)
    return run.hash()


def bad_steps(binary, configs, root):
    """Steps that count as bad are skipped and gone back from alike on any ranks, and after crashes on the way."""
    settings = ("stages.pretrain.steps=60", "checkpoint.every_steps=5", "checkpoint.keep_last=3",
                "stages.adapt.steps=6")
    settings += tuple(f"stages.pretrain.guard.{rule}" for rule in ("norm_spike=1.08", "window=6", "bad_in_a_row=2",
                                                                   "rollbacks=50"))
    whole = Run(binary, configs, root / "bad", *settings, "parallel.ranks=1")
    finish(whole.start(), 0)
    cut = Run(binary, configs, root / "bad-cut", *settings)
    process = cut.start()
    for _ in range(2):
        known = len(cut.events("rollback"))
        while len(cut.events("rollback")) == known:
            expect(process.poll() is None, "the run ended early")
            time.sleep(0.002)
        victim = cut.rank_process(process, 1)
        os.kill(victim, signal.SIGKILL)  # before the state after going back is saved
        while cut.rank_process(process, 1, False) == victim:
            time.sleep(0.002)
    finish(process, 0)
    decisions = [[(event["step"], event["data_steps"]) for event in run.events("rollback")] for run in (whole, cut)]
    expect(set(decisions[0]) == set(decisions[1]) and len(decisions[0]) > 2, f"decisions differ: {decisions}")
    expect(whole.hash() == cut.hash(), "the hashes differ")


def hopeless(binary, configs, root):
    """What comes again and again without a step ends the run; what nobody can mend is not tried again."""
    run = Run(binary, configs, root / "hopeless", "recovery.attempts=2", "recovery.delay_seconds=0.1")
    process = run.start()
    seen = set()
    while process.poll() is None:
        for launcher in children(process.pid):
            for pid in children(launcher) if launcher not in seen else []:
                seen.add(launcher)
                os.kill(pid, signal.SIGKILL)
                break
        time.sleep(0.005)
    output = process.stdout.read()
    expect(process.returncode not in (0, 75), f"ended with {process.returncode}:\n{output}")
    run = Run(binary, configs, root / "numeric", "stages.pretrain.optimizer.lr=1e30")
    output = finish(run.start(), 6)
    expect("going on" not in output and len(run.failures()) == 1, output)


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-failures-") as folder:
        root = pathlib.Path(folder)
        expected = undisturbed(binary, configs, root)
        expect(disturbed(binary, configs, root) == expected, "the hashes differ")
        bad_steps(binary, configs, root)
        hopeless(binary, configs, root)


if __name__ == "__main__":
    main()
