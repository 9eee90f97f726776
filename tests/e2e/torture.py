#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills and stops random ranks of `demist run` at random moments and breaks a shard; the bits stay the same.

usage: torture.py DEMIST CONFIGS [KILLS [SEED [RANKS]]]

Trains the first stage of configs/tiny.textproto, longer, with a checkpoint every 20 steps. Moments are
drawn over the whole life of an attempt, saves and starts included. Every tenth disturbance is a SIGSTOP.
Then a shard is damaged under a run that is killed: it must end with exit code 3 and name the file, and go on
when the file is mended. The hash of parameters and moments must be that of an undisturbed run on one rank.
"""
import pathlib
import random
import signal
import sys
import tempfile
import time

from run import TRAINED, Run, send

STEPS_A_KILL = 50  # about as many as an attempt comes further


def make(binary, configs, folder, steps, ranks):
    return Run(binary, configs, folder, f"stages.{TRAINED}.steps={steps}", "checkpoint.every_steps=20",
               f"parallel.ranks={ranks}", "recovery.attempts=1000", "recovery.delay_seconds=0")


def disturb(run, chance, kills):
    """Disturbs attempt after attempt until `kills` are done or the stage is; returns how many were done."""
    done, stopped = 0, 0
    while done < kills and not run.training_is_done():
        run.expect(run.process.poll() is None, f"the run ended after {done} kills")
        ranks = run.ranks()
        if not ranks:
            time.sleep(0.01)
            continue
        # An attempt takes some 0.7 s to its first step; later moments are as likely as early ones.
        steps = run.steps()
        time.sleep(chance.uniform(0, 2.5))
        ranks = list(run.ranks().values())
        stop = done % 10 == 9
        # Before the first step a stopped rank is given half a minute: too long here (hangs.py).
        if not ranks or run.training_is_done() or (stop and run.steps() == steps):
            continue
        if not send(chance.choice(ranks), signal.SIGSTOP if stop else signal.SIGKILL):
            continue
        done, stopped = done + 1, stopped + stop
        wait_for_end(run, ranks)
    return done, stopped


def wait_for_end(run, ranks):
    end = time.monotonic() + 60
    while set(run.ranks().values()) & set(ranks):
        run.expect(time.monotonic() < end, "a disturbed attempt did not end")
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


def undisturbed(binary, configs, folder, steps):
    run = make(binary, configs, folder, steps, 1).start()
    run.finish_training()
    return run.hash()


def tortured(run, kills, seed):
    run.start()
    done, stopped = disturb(run, random.Random(seed), kills)
    run.finish_training()
    failed, hangs = run.failures(), run.events("hang")
    unnamed = [event for event in failed if "rank" not in event]
    print(f"{done} disturbances, {stopped} of them stops; {len(failed)} attempts ended early, {len(unnamed)} of them "
          f"before the ranks could be named; {len(hangs)} hangs named; {run.steps()} steps computed")
    run.expect(len(hangs) == stopped, "hangs named and processes stopped differ")
    return run.hash(), done


def with_damaged_shards(run):
    run.start().wait_for_steps(30)
    good = damage_shard(run)
    for pid in run.ranks().values():
        send(pid, signal.SIGKILL)
    output = run.finish(3)
    run.expect(any(shard.name in output for shard in good), "no damaged shard is named")
    for shard, content in good.items():
        shard.write_bytes(content)
    run.start().finish_training()
    return run.hash()


def main():
    binary, configs = sys.argv[1:3]
    kills, seed, ranks = (int(word) for word in [*sys.argv[3:], *["30", "1", "3"][len(sys.argv) - 3:]])
    steps = STEPS_A_KILL * kills
    with tempfile.TemporaryDirectory(prefix="demist-torture-") as folder:
        root, begin = pathlib.Path(folder), time.monotonic()
        hashes = {"undisturbed": undisturbed(binary, configs, root / "undisturbed", steps)}
        hashes["tortured"], done = tortured(make(binary, configs, root / "tortured", steps, ranks), kills, seed)
        few = 2 * STEPS_A_KILL
        hashes["undisturbed, short"] = undisturbed(binary, configs, root / "short", few)
        hashes["damaged shards"] = with_damaged_shards(make(binary, configs, root / "damaged", few, ranks))
        for name, value in hashes.items():
            print(f"{name:20} {value}")
        print(f"{time.monotonic() - begin:.0f} s")
        values = list(hashes.values())
        if values[0] != values[1] or values[2] != values[3]:
            sys.exit("the hashes differ")
        if done < kills / 2:
            sys.exit(f"only {done} of {kills} disturbances before training was done")


if __name__ == "__main__":
    main()
