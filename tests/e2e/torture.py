#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills and stops random ranks of `demist run` at random moments and breaks a shard; the bits stay the same.

usage: torture.py DEMIST CONFIGS [KILLS [SEED [RANKS]]]

Trains the first stage of configs/tiny.textproto, longer, with a checkpoint every 20 steps. Moments are
drawn over the whole life of an attempt, saves and starts included. Every tenth disturbance is a SIGSTOP.
Then a shard is damaged under a run that is killed: it must end with exit code 3 and name the file, and go on
when the file is mended. The hash of parameters and moments must be that of an undisturbed run on one rank.
"""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

STEPS_A_KILL = 50  # about as many as an attempt comes further


class Run:
    def __init__(self, binary, configs, folder, steps, ranks):
        self.binary, self.folder = binary, pathlib.Path(folder)
        self.command = [binary, "run", str(pathlib.Path(configs) / "tiny.textproto"), "--ranks", str(ranks)]
        for setting in (f"run_dir={folder}", f"stages.pretrain.steps={steps}", "checkpoint.every_steps=20",
                        "parallel.threads=1", "recovery.attempts=1000", "recovery.delay_seconds=0"):
            self.command += ["--set", setting]
        self.log = None

    def start(self):
        self.log = open(self.folder.with_suffix(".log"), "a", encoding="utf-8")
        environment = dict(os.environ, OMP_WAIT_POLICY="passive")
        return subprocess.Popen(self.command, env=environment, stdout=self.log, stderr=subprocess.STDOUT)

    def ranks(self, process):
        """Processes of the stage's ranks: grandchildren, below mpirun; none between two attempts."""
        return [pid for launcher in children(process.pid) for pid in children(launcher) if is_rank(pid)]

    def lines(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def steps(self):
        return sum('"event":"step"' in line and '"stage":"pretrain"' in line for line in self.lines("metrics.jsonl"))

    def training_is_done(self):
        return (self.folder / "pretrain" / "done.json").exists()

    def hash(self):
        command = [self.binary, "inspect", str(self.folder / "pretrain" / "checkpoints"), "--hash"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def children(pid):
    try:
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_rank(pid):
    try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"train" in command and b"pretrain" in command


def fail(run, message):
    sys.exit(f"{message}\n" + "\n".join(run.folder.with_suffix(".log").read_text().splitlines()[-30:]))


def disturb(run, process, chance, kills):
    """Disturbs attempt after attempt until `kills` are done or the stage is; returns how many were done."""
    done, stopped = 0, 0
    while done < kills and not run.training_is_done():
        ranks = run.ranks(process)
        if process.poll() is not None:
            fail(run, f"the run ended with {process.returncode} after {done} kills")
        if not ranks:
            time.sleep(0.01)
            continue
        # An attempt takes some 0.7 s to its first step; later moments are as likely as early ones.
        steps = run.steps()
        time.sleep(chance.uniform(0, 2.5))
        ranks = run.ranks(process)
        stop = done % 10 == 9
        # Before the first step a stopped rank is given minutes: too long for a test.
        if not ranks or run.training_is_done() or (stop and run.steps() == steps):
            continue
        try:
            os.kill(chance.choice(ranks), signal.SIGSTOP if stop else signal.SIGKILL)
        except ProcessLookupError:
            continue
        done, stopped = done + 1, stopped + stop
        if not stop:
            while run.ranks(process) and set(run.ranks(process)) & set(ranks):
                time.sleep(0.01)
        else:
            wait_for_end(run, process, ranks)
    return done, stopped


def wait_for_end(run, process, ranks):
    end = time.monotonic() + 60
    while set(run.ranks(process)) & set(ranks):
        if time.monotonic() > end:
            fail(run, "a stopped rank was not noticed")
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


def end_of_training(run, process):
    while not run.training_is_done():
        if process.poll() is not None:
            fail(run, f"the run ended with {process.returncode}")
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    return run.hash()


def undisturbed(binary, configs, folder, steps):
    run = Run(binary, configs, folder, steps, 1)
    return end_of_training(run, run.start())


def tortured(run, kills, seed):
    process = run.start()
    done, stopped = disturb(run, process, random.Random(seed), kills)
    result = end_of_training(run, process)
    events = [json.loads(line) for line in run.lines("events.jsonl")]
    failed = [event for event in events if event["event"] == "attempt_ended" and event["code"] not in (0, 75)]
    hangs = [event for event in events if event["event"] == "hang"]
    unnamed = [event for event in failed if "rank" not in event]
    print(f"{done} disturbances, {stopped} of them stops; {len(failed)} attempts ended early, {len(unnamed)} of them "
          f"before the ranks could be named; {len(hangs)} hangs named; {run.steps()} steps computed")
    if len(hangs) != stopped:
        fail(run, "hangs named and processes stopped differ")
    return result, done


def with_damaged_shards(run):
    process = run.start()
    while run.steps() < 30:
        if process.poll() is not None:
            fail(run, f"the run ended with {process.returncode}")
        time.sleep(0.01)
    good = damage_shard(run)
    for pid in run.ranks(process):
        os.kill(pid, signal.SIGKILL)
    if process.wait(60) != 3 or not any(shard.name in run.folder.with_suffix(".log").read_text() for shard in good):
        fail(run, f"damaged shards: ended with {process.returncode}, or did not name one")
    for shard, content in good.items():
        shard.write_bytes(content)
    return end_of_training(run, run.start())


def main():
    binary, configs = sys.argv[1:3]
    kills, seed, ranks = (int(word) for word in [*sys.argv[3:], *["30", "1", "3"][len(sys.argv) - 3:]])
    steps = STEPS_A_KILL * kills
    with tempfile.TemporaryDirectory(prefix="demist-torture-") as folder:
        root, begin = pathlib.Path(folder), time.monotonic()
        hashes = {"undisturbed": undisturbed(binary, configs, root / "undisturbed", steps)}
        hashes["tortured"], done = tortured(Run(binary, configs, root / "tortured", steps, ranks), kills, seed)
        few = 2 * STEPS_A_KILL
        hashes["undisturbed, short"] = undisturbed(binary, configs, root / "short", few)
        hashes["damaged shards"] = with_damaged_shards(Run(binary, configs, root / "damaged", few, ranks))
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
