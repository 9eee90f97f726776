#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`demist train --replay-step` on runs of configs/tiny.textproto that are sound, and on some that are not.

usage: replay.py DEMIST CONFIGS

A sound run's steps come out again bit for bit on another number of ranks, from its beginning, from a
checkpoint, through a rollback and in the second stage; nothing in its folder changes. A digit changed in
metrics.jsonl, and checkpoints with sound checksums and other values, are found (exit code 6). What cannot
be replayed is refused with the way out. A run that checks itself has the bits of one that does not.
"""
import json
import shutil
import sys
import tempfile

from exactness import Bench
from run import expect

EQUAL, USAGE, CHECKPOINT, DIFFERS = 0, 2, 4, 6


class Replays(Bench):
    def replay(self, name, step, ranks=1, *options, stage="pretrain"):
        extra = [f"--replay-step={step}"]
        for option in options:
            extra += ["--set", option]
        run = self.start(name, stage, ranks, 1, extra)
        return run.process.wait(), run.output()

    def expect(self, name, step, code, *words, ranks=1, options=(), stage="pretrain"):
        found, output = self.replay(name, step, ranks, *options, stage=stage)
        what = f"replay of {name}, {stage}, step {step} on {ranks} ranks"
        expect(found == code, f"{what} ended with {found}, not {code}:\n{output}")
        for word in words:
            expect(word in output, f"{what} does not say '{word}':\n{output}")
        print(f"{name:12} {stage:9} step {step:3} on {ranks}: {found}, {output.strip().splitlines()[-1][:90]}",
              flush=True)
        return output

    def copy(self, name, of):
        shutil.copytree(self.root / of, self.root / name)

    def train_stage(self, name, ranks, *options, stage="pretrain"):
        self.fresh(name)
        kept, self.settings = self.settings, [*self.settings, *options]
        self.start(name, stage, ranks, 1).finish()
        self.settings = kept


def content(folder):
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in sorted(folder.rglob("*"))}


def sound_run(bench):
    """25 of 50 steps are between checkpoints."""
    bench.train("sound", 2, 1)
    before = content(bench.root / "sound")
    bench.expect("sound", 3, EQUAL, "from its beginning", "equal: 4 steps")
    output = bench.expect("sound", 24, EQUAL, "the state after it is step-00000025's, bit for bit", ranks=3)
    expect(output.count(" equal\n") == 25, output)
    bench.expect("sound", 30, EQUAL, "from step-00000025", "equal: 6 steps", ranks=4)
    bench.expect("sound", 49, EQUAL, "the state after it is step-00000050's, bit for bit")
    bench.expect("sound", 2, EQUAL, "from its beginning", ranks=2, stage="adapt")
    expect(content(bench.root / "sound") == before, "a replay changed the run's folder")


def refusals(bench):
    bench.expect("sound", 50, USAGE, "has steps 0 to 49")
    bench.expect("sound", 3, USAGE, "made with other settings", options=["seed=2"])
    bench.expect("sound", 3, USAGE, "does not train", stage="corpus")
    bench.expect("base", 3, USAGE, "has not begun")
    bench.expect("sound", 3, USAGE, "parallel.tensor = 1", ranks=2, options=["parallel.tensor=2"])
    bench.expect("sound", 24, CHECKPOINT, "no good checkpoint of 24 steps or fewer", "25, 50",
                 options=["checkpoint.every_steps=20"])
    bench.copy("short", "sound")
    metrics = bench.root / "short" / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines(True) if json.loads(line)["step"] < 31]
    metrics.write_text("".join(lines))
    bench.expect("short", 30, USAGE, "its last one is 29")


def seeded_faults(bench):
    bench.copy("digit", "sound")
    metrics = bench.root / "digit" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    for i, text in enumerate(lines):
        line = json.loads(text)
        if (line["event"], line["stage"], line["step"]) == ("step", "pretrain", 29):
            digits = repr(line["loss"])
            other = digits[:-1] + ("1" if digits[-1] != "1" else "2")
            expect(float(other) != float(digits), f"{digits} and {other} are the same number")
            lines[i] = text.replace(f'"loss":{digits}', f'"loss":{other}')
            expect(lines[i] != text, text)
    metrics.write_text("\n".join(lines) + "\n")
    output = bench.expect("digit", 30, DIFFERS, "first: step 28 (loss ")
    expect(output.count(" equal\n") == 5, output)

    # With two tensor-parallel ranks the recipe is the same and the last bits are not: whole
    # checkpoints, with sound checksums, of a state that this run never had.
    bench.train_stage("other", 2, "parallel.tensor=2")
    for name, step in ("changed 25", "step-00000025"), ("changed 50", "step-00000050"):
        bench.copy(name, "sound")
        folder = bench.checkpoints(name, "pretrain")
        shutil.rmtree(folder / step)
        shutil.copytree(bench.checkpoints("other", "pretrain") / step, folder / step)
    bench.expect("changed 25", 30, DIFFERS, "first: step 2", "DIFFERS: loss")
    bench.expect("changed 50", 49, DIFFERS, "first: the state after it differs from step-00000050's")

    # A damaged one is passed over, and an older state does.
    bench.copy("damaged", "sound")
    data = next(bench.checkpoints("damaged", "pretrain").glob("step-00000025/*.h5"))
    data.write_bytes(data.read_bytes()[:4096])
    bench.expect("damaged", 24, EQUAL, "the state is not compared")


def rollback(bench):
    """What was spoiled and left out is replayed as well, and then what came in its place."""
    guard = ["stages.pretrain.guard.window=4", "stages.pretrain.guard.bad_in_a_row=1",
             "stages.pretrain.guard.loss_spike=1.02", "stages.pretrain.guard.rollbacks=100",
             "checkpoint.every_steps=5", "checkpoint.keep_last=0"]
    kept, bench.settings = bench.settings, [*bench.settings, *guard]
    bench.fresh("rollback")
    run = bench.start("rollback", "pretrain", 2, 1)
    run.finish()
    back = run.events("rollback")[0]
    bench.expect("rollback", back["step"], EQUAL, f"back to step {back['step']}")
    bench.expect("rollback", 49, EQUAL)
    bench.settings = kept


def fast(bench):
    bench.train_stage("fast", 2, "reduction=FAST")
    bench.expect("fast", 30, EQUAL, "equal: 6 steps", ranks=2, options=["reduction=FAST"])
    bench.expect("fast", 30, USAGE, "start as many", options=["reduction=FAST"])


def self_check(bench):
    bench.train_stage("checked", 3, "recovery.self_check_every_steps=7")
    expect(bench.hash("checked", "pretrain") == bench.hash("sound", "pretrain"), "checks changed the bits")


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-replay-") as root:
        bench = Replays(binary, configs, "FP32", root)
        for scene in (sound_run, refusals, seeded_faults, rollback, fast, self_check):
            scene(bench)


if __name__ == "__main__":
    main()
