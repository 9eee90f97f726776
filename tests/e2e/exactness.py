#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains configs/tiny.textproto on several layouts and compares `demist inspect --hash`.

usage: exactness.py DEMIST CONFIGS PRECISION

The hash covers all parameters and moments. With reduction: EXACT it must be the same after the masked
LM (pretrain) and the diffusion stage (adapt) on 1, 2, 3 and 4 ranks, with 1 and 2 threads, and for
runs whose ranks were all killed with SIGKILL and that went on with another number of ranks.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from run import children

STAGES = ("pretrain", "adapt")
KILL_AFTER = "step-00000025"  # of 50; the tiny recipe saves every 25


class Bench:
    def __init__(self, binary, configs, precision, root):
        self.binary, self.root = binary, pathlib.Path(root)
        self.recipe = str(pathlib.Path(configs) / "tiny.textproto")
        self.settings = [f"precision={precision}", "model.hidden_dropout=0.1", "model.attention_dropout=0.1"]
        self.environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                                OMP_WAIT_POLICY="passive")
        for stage in ("tokenizer", "corpus"):
            self.finish(self.start("base", stage, 1, 1))

    def start(self, name, stage, ranks, threads, options=()):
        settings = [*self.settings, f"run_dir={self.root / name}", f"parallel.threads={threads}"]
        command = [self.binary, "train", self.recipe, "--stage", stage, "--progress", "none",
                   *options]
        if ranks > 1:
            command = ["mpirun", "--quiet", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", *command]
        for setting in settings:
            command += ["--set", setting]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def finish(self, process):
        output, _ = process.communicate()
        if process.returncode != 0:
            sys.exit(f"{' '.join(process.args)}\nended with {process.returncode}:\n{output}")

    def fresh(self, name):
        shutil.copytree(self.root / "base", self.root / name)

    def checkpoints(self, name, stage):
        return self.root / name / stage / "checkpoints"

    def hash(self, name, stage):
        command = [self.binary, "inspect", str(self.checkpoints(name, stage)), "--hash"]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True,
                              text=True).stdout.strip()

    def kill_in_the_middle(self, name, stage, ranks, threads):
        """Ends every rank with SIGKILL between the first checkpoint and the last step."""
        process = self.start(name, stage, ranks, threads)
        while not (self.checkpoints(name, stage) / KILL_AFTER).exists():
            if process.poll() is not None:
                self.finish(process)
                sys.exit(f"{name}: stage {stage} ended without {KILL_AFTER}")
            time.sleep(0.005)
        for pid in children(process.pid) + [process.pid]:
            os.kill(pid, 9)
        process.communicate()
        if (self.root / name / stage / "done.json").exists():
            sys.exit(f"{name}: stage {stage} was done before it could be killed")

    def train(self, name, ranks, threads):
        self.fresh(name)
        for stage in STAGES:
            self.finish(self.start(name, stage, ranks, threads))

    def train_with_crashes(self, name, before, after):
        self.fresh(name)
        for stage in STAGES:
            self.kill_in_the_middle(name, stage, *before)
            self.finish(self.start(name, stage, *after))


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
