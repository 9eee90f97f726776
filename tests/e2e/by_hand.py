#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`demist train` under a user's own mpirun: status sees it, cancel reaches it, and the same command goes on.

usage: by_hand.py DEMIST CONFIGS
"""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from run import TRAINED, expect

MPIRUN = ["mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "-n", "2"]


class ByHand:
    def __init__(self, binary, configs, folder):
        self.binary, self.folder = binary, folder
        self.recipe = [str(pathlib.Path(configs) / "tiny.textproto"), "--progress", "none"]
        for setting in (f"run_dir={folder}", "parallel.threads=1", f"stages.{TRAINED}.steps=100000"):
            self.recipe += ["--set", setting]
        self.environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        self.said = folder.with_name("by-hand.said")

    def command(self, stage):
        return [self.binary, "train", *self.recipe, "--stage", stage]

    def prepare(self):
        for stage in ("tokenizer", "corpus"):
            subprocess.run(self.command(stage), check=True, env=self.environment, capture_output=True)

    def start(self):
        with open(self.said, "w", encoding="utf-8") as file:
            return subprocess.Popen([*MPIRUN, *self.command(TRAINED)], env=self.environment, stdout=file, stderr=file)

    def demist(self, *arguments, code=0):
        done = subprocess.run([self.binary, *arguments], check=False, capture_output=True, text=True)
        expect(done.returncode == code, f"demist {arguments} ended with {done.returncode}, expected {code}: "
                                        f"{done.stdout}{done.stderr}\n{self.said.read_text()}")
        return done.stdout

    def status(self):
        return json.loads(self.demist("status", str(self.folder), "--json"))

    def wait_for(self, process, condition):
        while not condition(self.status()):
            expect(process.poll() is None, f"it ended early, with {process.poll()}:\n{self.said.read_text()}")
            time.sleep(0.2)


def is_cancelled(run):
    """Saves, ends with 75, and goes on although the request still lies there."""
    process = run.start()
    run.wait_for(process, lambda s: s["state"] == "TRAINING" and s["step"] > 3)
    expect("started by hand" in run.demist("status", str(run.folder)), "status hides who works")
    said = run.demist("cancel", str(run.folder))
    expect("SAVING" in said and "STOPPED" in said and "demist train" in said, said)
    process.wait(60)
    expect(process.returncode == 75 and (run.folder / "STOP").exists(), f"ended with {process.returncode}")
    saved = run.status()["step"]
    process = run.start()
    run.wait_for(process, lambda s: s["state"] == "TRAINING" and s["step"] > saved)
    expect(f"goes on from step {saved}" in run.said.read_text(), run.said.read_text())
    return process


def is_ended_at_once(run, process):
    """Nobody saves that fast: cancel says so with its code, and ends the ranks."""
    said = run.demist("cancel", str(run.folder), "--wait", "0", code=5)
    expect("not stopped in time" in said and "ended process" in said, said)
    process.wait(60)
    expect(process.returncode not in (0, 75), f"ended with {process.returncode}")
    expect(run.status()["state"] == "STOPPED", f"{run.status()}")


def is_elsewhere(run):
    """A supervisor of another host, which nobody here can end."""
    with open(run.folder / "events.jsonl", "a", encoding="utf-8") as file:
        print(json.dumps({"time": time.time(), "event": "run_start", "host": "elsewhere", "process": 42, "srun": False}),
              file=file)
    os.utime(run.folder / TRAINED / "started.json")
    said = run.demist("cancel", str(run.folder), "--now", code=5)
    expect("on elsewhere: demist cancel" in said and "process 42" in said, said)


def is_hidden(run):
    """A recipe that one rank's machine does not have is that machine's trouble, one that nobody has the user's."""
    for ranks, code, words in (("1", 5, "rank 1"), ("0 | 1", 2, "there is no recipe")):
        wrapper = run.folder.with_name("hides")
        wrapper.write_text(f"""#!/bin/sh
case $OMPI_COMM_WORLD_RANK in
  {ranks}) exec {run.binary} train /no/such.textproto --stage {TRAINED} ;;
esac
exec "$@"
""")
        wrapper.chmod(0o755)
        done = subprocess.run([*MPIRUN, str(wrapper), *run.command(TRAINED)], check=False, env=run.environment,
                              capture_output=True, text=True)
        expect(done.returncode == code, f"ended with {done.returncode}, expected {code}: {done.stderr}")
        expect(words in done.stderr, f"wrong: {done.stderr}")


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-by-hand-") as root:
        run = ByHand(binary, configs, pathlib.Path(root) / "run")
        run.prepare()
        is_hidden(run)
        expect(socket.gethostname() in (run.folder / "lock").read_text(), "the lock does not name its holder")
        process = is_cancelled(run)
        is_ended_at_once(run, process)
        is_elsewhere(run)


if __name__ == "__main__":
    main()
