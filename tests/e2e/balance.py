#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A rank that is slowed while a stage runs: it gets fewer micro-batches, and the bits stay the same.

usage: balance.py DEMIST CONFIGS

The rank is stopped two thirds of the time, in pulses of milliseconds, as another program on its machine
would slow it. `rebalanced` events must take micro-batches from it, and give them back afterwards.
"""
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time

from exactness import Bench
from run import children, expect, words

RANKS, SLOW, STEPS = 3, 1, 300
STOPPED, RUNNING = 0.008, 0.004  # seconds


class Pulses:
    """Slows a process while in scope."""

    def __init__(self, pid):
        self.pid, self.over = pid, threading.Event()
        self.thread = threading.Thread(target=self.beat)

    def beat(self):
        while not self.over.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            time.sleep(STOPPED)
            os.kill(self.pid, signal.SIGCONT)
            time.sleep(RUNNING)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Stage(Bench):
    """The masked LM of the tiny recipe, with steps that are long enough to be measured."""

    def __init__(self, binary, configs, root, *settings):
        super().__init__(binary, configs, "FP32", root)
        self.settings += [f"stages.pretrain.steps={STEPS}", "stages.pretrain.batch.micro_batches=12",
                          "stages.pretrain.batch.max_tokens=1024", "checkpoint.every_steps=0", *settings]

    def lines(self, name, file, event):
        path = self.root / name / file
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def shares(self, name):
        return self.lines(name, "events.jsonl", "rebalanced")

    def steps(self, name):
        return len(self.lines(name, "metrics.jsonl", "step"))

    def wait(self, process, until, what):
        while not until():
            expect(process.poll() is None, f"the stage ended before {what}")
            time.sleep(0.05)

    def wait_for_steps(self, name, process, count):
        goal = self.steps(name) + count
        self.wait(process, lambda: self.steps(name) >= goal, f"step {goal}")

    def seconds(self, name, begin, end):
        """The median of steps [begin, end)."""
        return statistics.median(line["seconds"] for line in self.lines(name, "metrics.jsonl", "step")[begin:end])


def rank_process(mpirun, rank):
    for pid in children(mpirun):
        if f"OMPI_COMM_WORLD_RANK={rank}".encode() in words(pid, "environ"):
            return pid
    sys.exit(f"rank {rank} is not there")


def share_is_small(events):
    """Whether the newest shares out give the slow group less than half of the largest one."""
    slow = [group for group in events[-1]["groups"] if group["group"] == SLOW] if events else []
    return bool(slow) and slow[0]["micro_batches"] * 2 < events[-1]["largest_share"]


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-balance-") as root:
        stage = Stage(binary, configs, root)
        stage.fresh("undisturbed")
        stage.finish(stage.start("undisturbed", "pretrain", 2, 1))
        stage.fresh("slowed")
        process = stage.start("slowed", "pretrain", RANKS, 1)
        stage.wait_for_steps("slowed", process, 20)
        begin = stage.steps("slowed")
        with Pulses(rank_process(process.pid, SLOW)):
            stage.wait(process, lambda: share_is_small(stage.shares("slowed")), "the slow rank had fewer micro-batches")
            adapted = stage.steps("slowed")
            stage.wait_for_steps("slowed", process, 30)
            end = stage.steps("slowed")
        stage.wait(process, lambda: not share_is_small(stage.shares("slowed")), "the rank got them back")
        back = stage.steps("slowed")
        stage.finish(process)
        for event in stage.shares("slowed"):
            print(json.dumps(event))
        print(f"slowed from step {begin} to {end}; shared out anew by step {adapted}, and again by {back}")
        print("median step: %.3f s before, %.3f s slowed, %.3f s after" % (
            stage.seconds("slowed", 5, begin), stage.seconds("slowed", adapted, end),
            stage.seconds("slowed", back, STEPS)))
        hashes = {stage.hash(name, "pretrain") for name in ("undisturbed", "slowed")}
        expect(len(hashes) == 1, "the bits depend on who computed what")


if __name__ == "__main__":
    main()
