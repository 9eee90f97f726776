#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ranks on several machines watch each other: one that is killed or stopped is named, also when it is alone on its.

usage: machines.py DEMIST CONFIGS

The machines are one here, with a folder for heartbeats each (DEMIST_HEARTBEATS), so ranks of one cannot read those of
another. mpirun starts the ranks, as a user would, and nobody watches from outside.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from run import children, expect, words

LIMIT = 120  # seconds until something is told; far more than it takes
SUSPECT = 76


class Job:
    """`demist train` on machines with `shares` ranks each."""

    def __init__(self, binary, configs, root, shares, steps):
        self.folder, self.said = root / "run", root / "said"
        recipe, settings = str(pathlib.Path(configs) / "tiny.textproto"), []
        for setting in (f"run_dir={self.folder}", "parallel.threads=1", f"stages.pretrain.steps={steps}",
                        f"parallel.ranks={sum(shares)}"):
            settings += ["--set", setting]
        for stage in ("tokenizer", "corpus"):
            subprocess.run([binary, "run", recipe, "--stage", stage, *settings], check=True, capture_output=True)
        command = ["mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "--allow-run-as-root"]
        for machine, ranks in enumerate(shares):
            beats = root / f"machine{machine}"
            beats.mkdir()
            command += [":"] * (machine > 0) + ["-n", str(ranks), "-x", f"DEMIST_HEARTBEATS={beats}", binary, "train",
                        recipe, "--stage", "pretrain", "--progress", "none", *settings]
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        with open(self.said, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def lines(self, name):
        path = self.folder / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def told(self):
        return [event for event in self.lines("events.jsonl") if event["event"] in ("hang", "rank_died")]

    def ranks(self):
        found = {}
        for pid in children(self.process.pid):
            for word in words(pid, "environ"):
                if word.startswith(b"OMPI_COMM_WORLD_RANK="):
                    found[int(word.split(b"=")[1])] = pid
        return found

    def expect(self, condition, message):
        if condition:
            return
        self.process.kill()
        sys.exit(f"{message}:\n{self.said.read_text(encoding='utf-8')}")

    def train(self, steps):
        until = time.time() + LIMIT
        while sum(line["event"] == "step" for line in self.lines("metrics.jsonl")) < steps:
            self.expect(self.process.poll() is None and time.time() < until, "it does not train")
            time.sleep(0.05)

    def end(self):
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return self.expect(False, "it does not end")


def disturbed(binary, configs, shares, rank, how):
    """The event that names the rank, and the seconds until then."""
    with tempfile.TemporaryDirectory(prefix="demist-machines-") as root:
        job = Job(binary, configs, pathlib.Path(root), shares, 1000000)
        job.train(20)
        pid, begin = job.ranks()[rank], time.time()
        os.kill(pid, how)
        code = job.end()
        job.expect(code != 0, "it ended well")
        told = job.told()
        job.expect(len(told) == 1, f"of rank {rank}, process {pid}: {told}")
        event = told[0]
        job.expect((event["rank"], event["process"]) == (rank, pid), f"it was rank {rank}, process {pid}: {event}")
        job.expect(event["event"] == ("hang" if how == signal.SIGSTOP else "rank_died"), f"{event}")
        record = json.loads((job.folder / "ranks" / f"pretrain.{rank}.exit").read_text(encoding="utf-8"))
        job.expect(record["code"] == SUSPECT and f"rank {rank} (process {pid}" in record["message"], f"{record}")
        print(f"  {how.name} of rank {rank} on {shares}: {event['time'] - begin:.2f} s, {record['message']}", flush=True)


def undisturbed(binary, configs, shares):
    with tempfile.TemporaryDirectory(prefix="demist-machines-") as root:
        job = Job(binary, configs, pathlib.Path(root), shares, 100)
        job.expect(job.end() == 0, "it failed")
        job.expect(not job.told(), f"nobody died: {job.told()}")
        said = job.said.read_text(encoding="utf-8")
        job.expect("watches its own ranks alone" not in said, "the machines did not meet")
        left = [str(path) for path in pathlib.Path(root).glob("machine*/*/*")]
        job.expect(not left, f"heartbeats were left: {left}")


def main():
    binary, configs = sys.argv[1:3]
    expect(pathlib.Path(binary).exists(), f"there is no {binary}")
    undisturbed(binary, configs, (1, 2, 1))
    disturbed(binary, configs, (2, 1), 2, signal.SIGKILL)
    disturbed(binary, configs, (2, 1), 2, signal.SIGSTOP)
    disturbed(binary, configs, (1, 2), 0, signal.SIGSTOP)
    disturbed(binary, configs, (1, 2), 2, signal.SIGKILL)


if __name__ == "__main__":
    main()
