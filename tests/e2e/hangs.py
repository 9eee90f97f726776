#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stops random ranks of `demist run` (SIGSTOP) at random moments: each is named, and in time.

usage: hangs.py DEMIST CONFIGS [STOPS [SEED [RANKS]]]

Half of the stops meet steps far shorter than the floor of 2 s, with a held-out loss and a save after each; half meet
steps of a second or so. One in five meets the start of an attempt. Each must be told once in events.jsonl, with rank,
host, phase and collective, and end its attempt with code 76; nothing else may be told. Shown is the time from the
signal to the event, also as a multiple of the slowest recent step: more than docs/protocol.md says is an error.
Before the first step that is half a minute, before the first heartbeat two.
"""
import collections
import pathlib
import random
import signal
import sys
import tempfile
import time

from run import TRAINED, Run, send

PHASES = ("start", "control", "load", "forward", "backward", "reduce", "optimizer", "save", "evaluate")
RECENT = 32          # steps that the watchers remember
LOOKS = 0.5          # seconds between reaching a limit and the event: looks, and a busy machine
FLOOR, SILENT = 2, 120  # seconds: of the limit in steps; before there is a heartbeat
STARTS = 0.2         # of the stops
# Seconds after the first step, or the beginning, over which moments are drawn; settings of the stage.
SHORT = (2, ("evaluate.every_steps=1", "evaluate.micro_batches=6"))
LONG = (5, ("batch.micro_batches=600",))


def make(binary, configs, folder, ranks, settings):
    return Run(binary, configs, folder, f"parallel.ranks={ranks}", f"stages.{TRAINED}.steps=1000000",
               "checkpoint.every_steps=1", "recovery.attempts=1000000", "recovery.delay_seconds=0",
               *(f"stages.{TRAINED}.{setting}" for setting in settings))


def slowest_recent_step(run, end):
    """Of the attempt that was under way at the time `end`; None before its first step."""
    begin = max(event["time"] for event in run.events("attempt") if event["time"] < end)
    seconds = [line["seconds"] for line in run.metrics("step") if begin < line["time"] < end]
    return max(seconds[-RECENT:], default=None)


def stop_one(run, chance, span):
    """Stops one rank of the next attempt; returns what was told of it, with `delay` and `slowest`."""
    run.wait_for(run.ranks)
    if chance.random() > STARTS:
        known = run.steps()
        run.wait_for(lambda: run.steps() > known)
    time.sleep(chance.uniform(0, span))
    run.wait_for(run.ranks)
    rank, pid = chance.choice(list(run.ranks().items()))
    told, ended = len(run.events("hang")), len(run.failures())
    begin = time.time()
    if not send(pid, signal.SIGSTOP):
        return None
    run.wait_for(lambda: len(run.events("hang")) > told or time.time() > begin + SILENT + 60)
    run.expect(len(run.events("hang")) == told + 1, f"rank {rank} was stopped, and nobody noticed")
    run.wait_for(lambda: len(run.failures()) > ended)
    event, end = run.events("hang")[-1], run.failures()[-1]
    run.expect((event["rank"], event["process"], event["stage"]) == (rank, pid, TRAINED) and event["host"] and
               event["phase"] in PHASES and isinstance(event["call"], str) and event["whole_process"],
               f"rank {rank}, process {pid} was stopped: {event}")
    run.expect((end["code"], end["rank"]) == (76, rank), f"rank {rank} was stopped: {end}")
    return {**event, "delay": event["time"] - begin, "slowest": slowest_recent_step(run, event["time"])}


def promised(stop):
    """Seconds, by docs/protocol.md."""
    if stop["slowest"] is None:
        return min(stop["limit"], SILENT) + LOOKS
    return max(FLOOR + LOOKS, 3 * stop["slowest"])


def show(name, stops):
    print(f"{name}. Phase, stops, of these in a collective; longest time to the event, in s and in slowest steps")
    by_phase = collections.defaultdict(list)
    for stop in stops:
        by_phase[stop["phase"] if stop["limit"] < SILENT else "(none yet)"].append(stop)
    for phase, some in sorted(by_phase.items()):
        delay = max(stop["delay"] for stop in some)
        multiple = max((stop["delay"] / stop["slowest"] for stop in some if stop["slowest"]), default=None)
        calls = sum(stop["call"] != "" for stop in some)
        times = f"{multiple:8.2f}" if multiple else "       -"
        print(f"  {phase:10} {len(some):4} {calls:4}  {delay:7.2f}  {times}")
    sys.stdout.flush()


def main():
    binary, configs = sys.argv[1:3]
    count, seed, ranks = (int(word) for word in [*sys.argv[3:], *["100", "1", "3"][len(sys.argv) - 3:]])
    chance, late = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="demist-hangs-") as root:
        for name, (span, settings), share in (("short steps", SHORT, count - count // 2),
                                              ("long steps", LONG, count // 2)):
            run = make(binary, configs, pathlib.Path(root) / name, ranks, settings).start()
            stops = []
            while len(stops) < share:
                stop = stop_one(run, chance, span)
                stops += [stop] if stop else []
            run.expect(not run.events("rank_died"), "a death was told, and nobody had died")
            run.stop()
            show(name, stops)
            late += [stop for stop in stops if stop["delay"] > promised(stop)]
    for stop in late:
        print(f"late by docs/protocol.md ({promised(stop):.2f} s): {stop}")
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
