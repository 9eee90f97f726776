#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hours of training with a failure every few minutes: nothing is lost, nothing is told that was not, goodput adds up.

usage: soak.py DEMIST CONFIGS [MINUTES [SECONDS [SEED [RANKS]]]]   60 minutes, a failure every 600 s, 3 ranks

In turn: a rank is killed; one is stopped; one is killed in the middle of a save; the disk is full for a while (no
file may grow: a limit on file sizes, which needs no root); the run is asked to end (SIGTERM) and started again. When
the time is over the run is stopped, and what it has is compared with a run of as many steps that nobody disturbed,
which takes another MINUTES or so. 99 % goodput is the goal for an hour; it is shown, not asserted.
"""
import collections
import json
import pathlib
import random
import resource
import signal
import sys
import tempfile
import time

from run import TRAINED, Run, expect, limit_files, send

# Steps of about a tenth of a second. The rate of learning does not depend on how many there will be.
WORK = ("model.layers=4", "model.hidden=128", "stages.pretrain.batch.micro_batches=12",
        "stages.pretrain.optimizer.schedule=CONSTANT")
NOT_SAVED = "could not be saved"
Failure = collections.namedtuple("Failure", "what time rank process")


class Soak:
    def __init__(self, run, chance):
        self.run, self.chance, self.failures, self.full = run, chance, [], []
        self.kinds = (self.killed, self.stopped, self.killed_in_a_save, self.full_disk, self.preempted)

    def fail(self, number):
        """One failure, until training goes on."""
        self.kinds[number % len(self.kinds)]()
        failure, run = self.failures[-1], self.run
        run.wait_for(lambda: self.goes_on(failure))
        named = [event["time"] for event in self.alarms() if event["process"] == failure.process]
        step = next(line["time"] for line in run.metrics("step") if self.is_after(line, failure))
        print(f"  {failure.what:22} " + (f"rank {failure.rank}, " if failure.process else "") +
              (f"named after {named[0] - failure.time:.2f} s, " if named else "") +
              f"the next step after {step - failure.time:.2f} s", flush=True)

    def goes_on(self, failure):
        return any(self.is_after(line, failure) for line in self.run.metrics("step"))

    def is_after(self, step, failure):
        """Of a later attempt, when this one was to end by the failure."""
        begins = [line["time"] for line in self.run.metrics("start") if line["time"] > failure.time]
        begin = failure.time if failure.what == "full disk" else min(begins, default=float("inf"))
        return step["time"] > begin

    def alarms(self):
        return self.run.events("rank_died", "hang")

    def signal_to_a_rank(self, what, how):
        self.run.wait_for(self.run.ranks)
        rank, process = self.chance.choice(list(self.run.ranks().items()))
        self.failures.append(Failure(what, time.time(), rank, process))
        send(process, how)

    def killed(self):
        self.signal_to_a_rank("SIGKILL", signal.SIGKILL)

    def stopped(self):
        self.signal_to_a_rank("SIGSTOP", signal.SIGSTOP)

    def killed_in_a_save(self):
        self.run.wait_for(lambda: list(self.run.checkpoints().glob("*.tmp")), 0.001)
        self.signal_to_a_rank("SIGKILL during a save", signal.SIGKILL)

    def full_disk(self):
        run, begin = self.run, time.time()
        said, saved = run.output().count(NOT_SAVED), len(run.events("checkpoint"))
        limit_files(run.ranks().values(), 0)
        run.wait_for(lambda: run.output().count(NOT_SAVED) > said)  # there is no room for an event either
        limit_files(run.ranks().values(), resource.RLIM_INFINITY)
        run.wait_for(lambda: len(run.events("checkpoint")) > saved)
        self.full.append((begin, time.time()))
        self.failures.append(Failure("full disk", begin, None, None))

    def preempted(self):
        self.failures.append(Failure("SIGTERM", time.time(), None, None))
        self.run.stop(signal.SIGTERM)
        self.run.start()

    def expect_no_false_alarm(self):
        run, causes = self.run, {failure.process for failure in self.failures if failure.process}
        told = [event["process"] for event in self.alarms()]
        run.expect(set(told) <= causes and len(set(told)) == len(told), f"{self.alarms()} of {self.failures}")
        stopped = {failure.process for failure in self.failures if failure.what == "SIGSTOP"}
        run.expect({event["process"] for event in run.events("hang")} == stopped, f"{run.events('hang')}")
        run.expect(len(run.failures()) == len(causes), f"{len(causes)} ranks were hit: {run.failures()}")
        for event in run.events("checkpoint_failed"):
            full = any(begin < event["time"] < end for begin, end in self.full)
            run.expect(full, f"a save failed by itself: {event}")
        others = run.events("step_recomputed", "step_skipped", "corruption_found", "rollback")
        run.expect(not others, f"numbers were doubted: {others}")
        print(f"  {len(told)} alarms, each with its cause")


def expect_goodput_to_add_up(run):
    """Its parts are all of the time, and what counts is the time of the steps that count."""
    status = run.demist("status", str(run.folder))
    print("".join(line + "\n" for line in status.splitlines() if "goodput" in line), end="")
    parts = json.loads(run.demist("status", str(run.folder), "--json"))["goodput"]
    parts.pop("share")
    passed = run.events("attempt_ended")[-1]["time"] - run.events("run_start")[0]["time"]
    run.expect(min(parts.values()) >= 0 and abs(sum(parts.values()) - passed) < 0.01, f"of {passed} s: {parts}")
    steps = {line["step"]: line["seconds"] for line in run.metrics("step")}
    stages = {event["stage"]: event["time"] for event in run.events("attempt")}
    ended = [event for event in run.events("attempt_ended") if event["stage"] != TRAINED]
    others = sum(event["time"] - stages[event["stage"]] for event in ended)
    counts, steps = parts["useful"] + parts["data_wait"], sum(steps.values())
    run.expect(abs(counts - steps - others) < 0.01 * counts, f"{counts} s count; steps {steps} s, others {others} s")


def make(binary, configs, folder, steps, ranks, *settings):
    return Run(binary, configs, folder, *WORK, f"parallel.ranks={ranks}", f"stages.{TRAINED}.steps={steps}", *settings)


def soak(run, minutes, every, chance):
    begin, soak = time.time(), Soak(run.start(), chance)
    run.wait_for_steps(1)
    for number in range(1, int(minutes * 60 / every + 1)):
        run.wait_for(lambda: time.time() > begin + min(number * every, minutes * 60), 0.1)
        if number * every < minutes * 60:
            soak.fail(number - 1)
    run.stop()
    soak.expect_no_false_alarm()
    expect_goodput_to_add_up(run)
    return run.metrics("step")[-1]["step"]


def main():
    binary, configs = sys.argv[1:3]
    given = [*sys.argv[3:], *["60", "600", "1", "3"][len(sys.argv) - 3:]]
    minutes, every, seed, ranks = float(given[0]), float(given[1]), int(given[2]), int(given[3])
    with tempfile.TemporaryDirectory(prefix="demist-soak-") as folder:
        root = pathlib.Path(folder)
        run = make(binary, configs, root / "soaked", 10**9, ranks, f"stages.{TRAINED}.evaluate.every_steps=200",
                   "checkpoint.every_steps=20", "recovery.attempts=1000", "recovery.delay_seconds=1")
        steps = soak(run, minutes, every, random.Random(seed))
        print(f"  {run.steps()} steps computed for {steps}", flush=True)
        # Of any layout, the bits are the same; two ranks are the fastest on two cores at this size.
        other = make(binary, configs, root / "undisturbed", steps, 2).start()
        other.finish_training()
        print(f"soaked       {run.hash()}\nundisturbed  {other.hash()}")
        expect(run.hash() == other.hash(), "the hashes differ")


if __name__ == "__main__":
    main()
