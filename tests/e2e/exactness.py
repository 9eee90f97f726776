#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains configs/tiny.textproto on several layouts and compares `demist inspect --hash`.

usage: exactness.py DEMIST CONFIGS PRECISION

The hash covers all parameters and moments. With reduction: EXACT it must be the same after the masked
LM (pretrain) and the diffusion stage (adapt) on 1, 2, 3 and 4 ranks, with 1 and 2 threads, and for
runs whose ranks were all killed with SIGKILL and that went on with another number of ranks.
"""
import pathlib
import shutil
import sys
import tempfile

from run import Run, StageRun

STAGES = ("pretrain", "adapt")
KILL_AFTER = "step-00000025"  # of 50; the tiny recipe saves every 25


class Bench:
    """Runs of single stages, in copies of a folder whose tokenizer and corpora are made."""

    def __init__(self, binary, configs, precision, root):
        self.binary, self.configs, self.root = binary, configs, pathlib.Path(root)
        self.settings = [f"precision={precision}", "model.hidden_dropout=0.1", "model.attention_dropout=0.1"]
        for stage in ("tokenizer", "corpus"):
            self.start("base", stage, 1, 1).finish()

    def start(self, name, stage, ranks, threads, options=()):
        return StageRun(self.binary, self.configs, self.root / name, stage, ranks, *self.settings,
                        f"parallel.threads={threads}", options=options).start()

    def fresh(self, name):
        shutil.copytree(self.root / "base", self.root / name)

    def checkpoints(self, name, stage):
        return self.root / name / stage / "checkpoints"

    def hash(self, name, stage):
        return Run(self.binary, self.configs, self.root / name).hash(stage)

    def kill_in_the_middle(self, name, stage, ranks, threads):
        """Ends every rank with SIGKILL between the first checkpoint and the last step."""
        run = self.start(name, stage, ranks, threads)
        run.wait_for((run.checkpoints(stage) / KILL_AFTER).exists, 0.005)
        run.kill()
        run.expect(not (run.folder / stage / "done.json").exists(), f"{stage} was done before it could be killed")

    def train(self, name, ranks, threads):
        self.fresh(name)
        for stage in STAGES:
            self.start(name, stage, ranks, threads).finish()

    def train_with_crashes(self, name, before, after):
        self.fresh(name)
        for stage in STAGES:
            self.kill_in_the_middle(name, stage, *before)
            self.start(name, stage, *after).finish()


def main():
    binary, configs, precision = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-exactness-") as root:
        bench = Bench(binary, configs, precision, root)
        layouts = {"1 rank, 1 thread": (1, 1), "1 rank, 2 threads": (1, 2), "2 ranks": (2, 1),
                   "3 ranks": (3, 1), "4 ranks": (4, 1)}
        for name, (ranks, threads) in layouts.items():
            bench.train(name, ranks, threads)
        bench.train_with_crashes("2 ranks, killed, 3 ranks", (2, 1), (3, 1))
        differ = False
        for stage in STAGES:
            hashes = {name: bench.hash(name, stage) for name in [*layouts, "2 ranks, killed, 3 ranks"]}
            for name, value in hashes.items():
                print(f"{precision} {stage:9} {name:26} {value}")
            differ |= len(set(hashes.values())) != 1 or len(next(iter(hashes.values()))) != 64
    sys.exit("the hashes differ" if differ else 0)


if __name__ == "__main__":
    main()
