#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills and stops random ranks of `demist run` at random moments and breaks a shard; the bits stay the same.

usage: torture.py DEMIST CONFIGS [KILLS [SEED [RANKS]]]

Trains the first stage of configs/tiny.textproto with a checkpoint every 20 steps, and without an end: it is stopped when
all disturbances have been, however fast the machine is. Moments are drawn over the whole life of an attempt, starts
included, and by turns over the steps between saves. Every tenth disturbance is a SIGSTOP. A disturbance counts when the
attempt that it met has ended of it.
An undisturbed run on one rank then makes as many steps: every loss, every gradient norm and the hash of parameters and
moments must be the same. Last, a shard is damaged under a run that is killed: it must end with exit code 3 and name the
file, and, when the file is mended, go on to the hash of an undisturbed run.
"""
import pathlib
import random
import signal
import sys
import tempfile
import time

from run import TRAINED, Run, expect, send

ENDLESS = 10**6  # steps
SAVED_EVERY = 20
FEW = 300  # of the run with damaged shards


def make(binary, configs, folder, steps, ranks):
    # A constant learning rate: a step does not depend on how many there will be.
    return Run(binary, configs, folder, f"stages.{TRAINED}.steps={steps}",
               f"stages.{TRAINED}.optimizer.schedule=CONSTANT", f"checkpoint.every_steps={SAVED_EVERY}",
               f"parallel.ranks={ranks}", "recovery.attempts=1000", "recovery.delay_seconds=0")


def disturb(run, chance, kills):
    """Disturbs attempt after attempt; returns how many of the disturbances were stops."""
    done, stopped = 0, 0
    while done < kills:
        run.expect(run.process.poll() is None, f"the run ended after {done} of {kills} disturbances")
        if not run.ranks():
            time.sleep(0.01)
            continue
        steps = run.steps()
        if done % 2 == 0:  # an attempt takes some 0.7 s to its first step; later moments are as likely as early ones
            time.sleep(chance.uniform(0, 2.5))
        else:  # so that saves are met on slow machines too
            run.wait_for_steps(chance.randrange(1, 2 * SAVED_EVERY))
        ranks, failed = list(run.ranks().values()), len(run.failures())
        stop = done % 10 == 9
        # Before the first step a stopped rank is given half a minute: too long here (hangs.py).
        if not ranks or (stop and run.steps() == steps):
            continue
        if not send(chance.choice(ranks), signal.SIGSTOP if stop else signal.SIGKILL):
            continue
        wait_for_end(run, ranks, failed)
        done, stopped = done + 1, stopped + stop
    return stopped


def wait_for_end(run, ranks, failed):
    """Until the attempt of these ranks is over and told as failed: there were `failed` such ones before."""
    end = time.monotonic() + 60
    while set(run.ranks().values()) & set(ranks) or len(run.failures()) == failed:
        run.expect(time.monotonic() < end, "a disturbed attempt did not end, or not as a failure")
        time.sleep(0.01)


def damage_shard(run):
    """Flips a byte in the middle of every shard of the corpus, which checks them block by block as it reads."""
    good = {}
    for shard in (run.folder / "corpora" / "train").glob("*.h5"):
        good[shard] = shard.read_bytes()
        with open(shard, "r+b") as file:
            middle = len(good[shard]) // 2
            file.seek(middle)
            file.write(bytes([good[shard][middle] ^ 0xFF]))
    return good


def finished(run):
    run.start().finish_training()
    return run


def tortured(run, kills, seed):
    run.start()
    stopped = disturb(run, random.Random(seed), kills)
    run.wait_for_steps(SAVED_EVERY)
    run.stop()
    failed, hangs = run.failures(), run.events("hang")
    unnamed = [event for event in failed if "rank" not in event]
    print(f"{kills} disturbances, {stopped} of them stops; {len(failed)} attempts ended early, {len(unnamed)} of them "
          f"before the ranks could be named; {len(hangs)} hangs named; {run.steps()} steps computed")
    run.expect(len(hangs) == stopped, "hangs named and processes stopped differ")
    return run.saved_steps()


def numbers(run, steps):
    """Loss and gradient norm of each of so many steps; those that were computed again must be what they were. An attempt that died
    may have come further than the last one, which began behind a save that was still under way."""
    found = {}
    for line in run.metrics("step"):
        now = (line["loss"], line["grad_norm"])
        then = found.setdefault(line["step"], now)
        run.expect(now == then, f"step {line['step']} was {then}, then {now}")
    return {step: pair for step, pair in found.items() if step <= steps}


def with_damaged_shards(run):
    run.start().wait_for_steps(30)
    run.expect(not run.training_is_done(), "training was done before a shard could be damaged")
    good = damage_shard(run)
    for pid in run.ranks().values():
        send(pid, signal.SIGKILL)
    output = run.finish(3)
    run.expect(any(shard.name in output for shard in good), "no damaged shard is named")
    for shard, content in good.items():
        shard.write_bytes(content)
    return finished(run)


def main():
    binary, configs = sys.argv[1:3]
    kills, seed, ranks = (int(word) for word in [*sys.argv[3:], *["30", "1", "3"][len(sys.argv) - 3:]])
    with tempfile.TemporaryDirectory(prefix="demist-torture-") as folder:
        root, begin = pathlib.Path(folder), time.monotonic()
        disturbed = make(binary, configs, root / "tortured", ENDLESS, ranks)
        steps = tortured(disturbed, kills, seed)
        alone = finished(make(binary, configs, root / "undisturbed", steps, 1))
        expect(numbers(disturbed, steps) == numbers(alone, steps), "losses or gradient norms differ")
        expect(len(numbers(alone, steps)) == steps, "steps are missing")
        short = finished(make(binary, configs, root / "short", FEW, 1))
        damaged = with_damaged_shards(make(binary, configs, root / "damaged", FEW, ranks))
        runs = (alone, disturbed, short, damaged)
        for run in runs:
            print(f"{run.folder.name:12} {run.hash()}")
        print(f"{steps} steps with equal losses and norms; {time.monotonic() - begin:.0f} s")
        hashes = [run.hash() for run in runs]
        expect(hashes[0] == hashes[1] and hashes[2] == hashes[3], "the hashes differ")


if __name__ == "__main__":
    main()
