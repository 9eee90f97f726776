#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A rank that is slowed while a stage runs: it gets fewer micro-batches, and the bits stay the same.

usage: balance.py DEMIST CONFIGS

The rank is stopped two thirds of the time, in pulses of milliseconds, as another program on its machine
would slow it. `rebalanced` events must take micro-batches from it, and give them back afterwards. Then
another run makes as many steps undisturbed.
"""
import json
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time

from run import TRAINED, Run, expect

RANKS, SLOW, ENDLESS = 3, 1, 10**6
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


def make(binary, configs, folder, ranks, steps):
    """Its steps are long enough to be measured, and do not depend on how many there will be."""
    return Run(binary, configs, folder, "precision=FP32", "model.hidden_dropout=0.1", "model.attention_dropout=0.1",
               f"parallel.ranks={ranks}", f"stages.{TRAINED}.steps={steps}",
               f"stages.{TRAINED}.optimizer.schedule=CONSTANT", f"stages.{TRAINED}.batch.micro_batches=12",
               f"stages.{TRAINED}.batch.max_tokens=1024", "checkpoint.every_steps=0")


def share_is_small(run):
    """Whether the newest shares out give the slow group less than half of the largest one."""
    events = run.events("rebalanced")
    slow = [group for group in events[-1]["groups"] if group["group"] == SLOW] if events else []
    return bool(slow) and slow[0]["micro_batches"] * 2 < events[-1]["largest_share"]


def slowed(run):
    """Until the rank has had fewer micro-batches for a while, and as many again."""
    run.start().wait_for_steps(20)
    begin = run.steps()
    with Pulses(run.ranks()[SLOW]):
        run.wait_for(lambda: share_is_small(run), 0.05)
        adapted = run.steps()
        run.wait_for_steps(30)
        end = run.steps()
    run.wait_for(lambda: not share_is_small(run), 0.05)
    back = run.steps()
    run.wait_for_steps(10)
    run.stop()
    for event in run.events("rebalanced"):
        print(json.dumps(event))
    print(f"slowed from step {begin} to {end}; shared out anew by step {adapted}, and again by {back}")

    def seconds(first, last):
        return statistics.median(line["seconds"] for line in run.metrics("step")[first:last])

    print("median step: %.3f s before, %.3f s slowed, %.3f s after" % (
        seconds(5, begin), seconds(adapted, end), seconds(back, run.steps())))
    return run.saved_steps()


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-balance-") as folder:
        root = pathlib.Path(folder)
        disturbed = make(binary, configs, root / "slowed", RANKS, ENDLESS)
        undisturbed = make(binary, configs, root / "undisturbed", 2, slowed(disturbed))
        undisturbed.start().finish_training()
        expect(undisturbed.hash() == disturbed.hash(), "the bits depend on who computed what")


if __name__ == "__main__":
    main()
