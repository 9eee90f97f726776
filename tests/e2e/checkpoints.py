#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Saves that go wrong while configs/tiny.textproto trains: what is lost is time, never bits.

usage: checkpoints.py DEMIST CONFIGS [RANKS]

An undisturbed run's hash (`demist inspect --hash`) must be that of runs whose disk went away for a
while, or until the end, or was full (a small one, or without the right to mount one a limit on the length of
files), which were killed while they saved at every step, and whose newest checkpoints were damaged before they went on.
"""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from exactness import Bench
from run import children, expect, limit_files, send

STAGE, SAVE_EVERY = "pretrain", 5


class Fire(Bench):
    def __init__(self, binary, configs, root, ranks):
        self.ranks = ranks
        super().__init__(binary, configs, "FP32", root)
        self.settings += ["stages.pretrain.steps=100", f"checkpoint.every_steps={SAVE_EVERY}",
                          "checkpoint.keep_last=4"]

    def begin(self, name):
        process = self.start(name, STAGE, self.ranks, 1)
        process.lines = []

        def read():
            for line in process.stdout:
                process.lines.append(line)

        process.reader = threading.Thread(target=read, daemon=True)
        process.reader.start()
        return process

    def end(self, process, code=0):
        process.wait()
        process.reader.join()
        expect(process.returncode == code,
               f"ended with {process.returncode}, not {code}:\n{''.join(process.lines)}")
        return "".join(process.lines)

    def metrics(self, name):
        path = self.root / name / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for_step(self, process, name, step):
        wait(process, lambda: any(m["event"] == "step" and m["step"] >= step for m in self.metrics(name)))

    def wait_for_checkpoint(self, process, name):
        wait(process, lambda: "checkpoint" in self.events(name))

    def events(self, name):
        path = self.root / name / "events.jsonl"
        return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []

    def take_away(self, name):
        """The folder of checkpoints is another file system's, which fails: nothing opens any more."""
        folder = self.checkpoints(name, STAGE)
        folder.rename(folder.parent / "away")
        folder.write_text("not a folder")

    def bring_back(self, name):
        folder = self.checkpoints(name, STAGE)
        folder.unlink()
        (folder.parent / "away").rename(folder)

    def expect_hash(self, name, expected):
        found = self.hash(name, STAGE)
        print(f"{name:34} {found}", flush=True)
        expect(found == expected, f"{name}: the hash differs from the undisturbed run's {expected}")

    def verify(self, name):
        command = [self.binary, "checkpoint", "verify", str(self.root / name / STAGE)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)


def wait(process, condition):
    while not condition():
        expect(process.poll() is None, "the run ended early:\n" + "".join(process.lines))
        time.sleep(0.002)


def away_for_a_while(fire):
    name = "away for a while"
    process = fire.begin(name)
    fire.wait_for_checkpoint(process, name)
    fire.take_away(name)
    wait(process, lambda: "checkpoint_failed" in fire.events(name))
    fire.bring_back(name)
    output = fire.end(process)
    expect("could not be saved" in output and "newest checkpoint is of step" in output, output)
    saves = [event for event in fire.events(name) if event.startswith("checkpoint")]
    expect(saves[-1] == "checkpoint", "the last save is no event")


def away_to_the_end(fire):
    name = "away to the end"
    process = fire.begin(name)
    fire.wait_for_checkpoint(process, name)
    fire.take_away(name)
    output = fire.end(process, 5)
    expect("the final state could not be saved" in output and "the newest checkpoint is of step" in output, output)
    fire.bring_back(name)
    expect(fire.verify(name).returncode == 0, "an older checkpoint suffered")
    fire.end(fire.begin(name))


def full_disk(fire):
    """Everything is on the full disk: metrics, events and logs too."""
    name = "full disk"
    folder = fire.root / name
    shutil.rmtree(folder)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(folder)], capture_output=True)
    disk = SmallDisk(folder) if mounted.returncode == 0 else FilesThatMayNotGrow()
    print(f"{name:34} of type {type(disk).__name__}", flush=True)
    try:
        shutil.copytree(fire.root / "base", folder, dirs_exist_ok=True)
        process = fire.begin(name)
        fire.wait_for_checkpoint(process, name)
        disk.fill(process)
        wait(process, lambda: any("could not be saved" in line for line in process.lines))
        disk.free(process)
        fire.end(process)
        steps = [m["step"] for m in fire.metrics(name) if m["event"] == "step"]
        expect(steps == list(range(1, 101)), f"metrics lost steps: {steps}")
        shutil.copytree(folder, fire.root / "kept")
    finally:
        disk.remove()
    shutil.rmtree(folder)
    (fire.root / "kept").rename(folder)


class SmallDisk:
    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"

    def fill(self, _):
        with open(self.ballast, "wb", buffering=0) as ballast:
            try:
                while ballast.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    def free(self, _):
        self.ballast.unlink()

    def remove(self):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class FilesThatMayNotGrow:
    """What a full disk does to a rank, without one."""

    def fill(self, process):
        limit_files(children(process.pid), 0)

    def free(self, process):
        limit_files(children(process.pid), resource.RLIM_INFINITY)

    def remove(self):
        pass


def killed_while_saving(fire):
    """Every step is saved, so that a kill is in the middle of a save more often than not."""
    name = "killed while saving"
    kept, fire.settings = fire.settings, [*fire.settings, "checkpoint.every_steps=1"]
    for attempt in range(6):
        process = fire.begin(name)
        fire.wait_for_step(process, name, 1 + 14 * attempt)
        time.sleep(random.random() * 0.03)
        expect(process.poll() is None, "the run ended before it was killed:\n" + "".join(process.lines))
        for pid in children(process.pid) + [process.pid]:
            send(pid, signal.SIGKILL)
        process.wait()
        found = fire.verify(name)
        expect(found.returncode in (0, 2), "a kill left a bad checkpoint:\n" + found.stdout + found.stderr)
    fire.end(fire.begin(name))
    fire.settings = kept
    left = [path.name for path in fire.checkpoints(name, STAGE).iterdir() if path.name.endswith(".tmp")]
    expect(not left, f"leftovers: {left}")


def damaged(fire):
    name = "damaged checkpoints"
    fire.end(fire.begin(name))
    newest = sorted(fire.checkpoints(name, STAGE).glob("step-*"))[-3:]
    manifest = json.loads((newest[2] / "MANIFEST.json").read_text())
    block = random.choice(manifest["blocks"])
    with open(newest[2] / manifest["files"][block["file"]]["name"], "r+b") as file:  # a flipped bit
        at = block["offset"] + random.randrange(4 * block["count"])
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << random.randrange(8)]))
    os.truncate(newest[1] / "w0000.h5", 4096)
    (newest[0] / "MANIFEST.json").unlink()
    found = fire.verify(name)
    expect(found.returncode == 4 and "3 of 4" in found.stderr, found.stdout + found.stderr)
    (fire.root / name / STAGE / "done.json").unlink()
    output = fire.end(fire.begin(name))
    expect(output.count("passing over a bad checkpoint") == 3, output)


def see_to_mounts():
    """What is mounted here nobody else sees, and it is gone when this script ends, however that comes."""
    may = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    if may and "DEMIST_OWN_MOUNTS" not in os.environ:
        command = ["unshare", "--mount", sys.executable, *sys.argv]
        os.execvpe(command[0], command, {**os.environ, "DEMIST_OWN_MOUNTS": "1"})


def main():
    see_to_mounts()
    binary, configs = sys.argv[1:3]
    ranks = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    seed = int(os.environ.get("DEMIST_SEED", time.time_ns() % 2**32))
    random.seed(seed)
    print(f"DEMIST_SEED={seed}")
    with tempfile.TemporaryDirectory(prefix="demist-checkpoints-") as root:
        fire = Fire(binary, configs, root, ranks)
        fire.fresh("undisturbed")
        fire.end(fire.begin("undisturbed"))
        expected = fire.hash("undisturbed", STAGE)
        for scene in (away_for_a_while, away_to_the_end, full_disk, killed_while_saving, damaged):
            name = {damaged: "damaged checkpoints"}.get(scene, scene.__name__.replace("_", " "))
            fire.fresh(name)
            scene(fire)
            fire.expect_hash(name, expected)


if __name__ == "__main__":
    main()
