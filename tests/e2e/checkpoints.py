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
import subprocess
import sys
import tempfile
import time

from exactness import Bench
from run import expect, limit_files

STAGE, SAVE_EVERY = "pretrain", 5


class Fire(Bench):
    def __init__(self, binary, configs, root, ranks):
        self.ranks = ranks
        super().__init__(binary, configs, "FP32", root)
        self.settings += ["stages.pretrain.steps=100", f"checkpoint.every_steps={SAVE_EVERY}",
                          "checkpoint.keep_last=4"]

    def begin(self, name):
        return self.start(name, STAGE, self.ranks, 1)

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
        return subprocess.run(command, capture_output=True, text=True)


def away_for_a_while(fire):
    name = "away for a while"
    run = fire.begin(name)
    run.wait_for(lambda: run.events("checkpoint"), 0.002)
    fire.take_away(name)
    run.wait_for(lambda: run.events("checkpoint_failed"), 0.002)
    fire.bring_back(name)
    output = run.finish()
    expect("could not be saved" in output and "newest checkpoint is of step" in output, output)
    expect(run.events("checkpoint", "checkpoint_failed")[-1]["event"] == "checkpoint", "the last save is no event")


def away_to_the_end(fire):
    name = "away to the end"
    run = fire.begin(name)
    run.wait_for(lambda: run.events("checkpoint"), 0.002)
    fire.take_away(name)
    output = run.finish(5)
    expect("the final state could not be saved" in output and "the newest checkpoint is of step" in output, output)
    fire.bring_back(name)
    expect(fire.verify(name).returncode == 0, "an older checkpoint suffered")
    fire.begin(name).finish()


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
        run = fire.begin(name)
        run.wait_for(lambda: run.events("checkpoint"), 0.002)
        disk.fill(run)
        run.wait_for(lambda: "could not be saved" in run.output())
        disk.free(run)
        run.finish()
        steps = [line["step"] for line in run.metrics("step")]
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

    def fill(self, run):
        limit_files(run.ranks().values(), 0)

    def free(self, run):
        limit_files(run.ranks().values(), resource.RLIM_INFINITY)

    def remove(self):
        pass


def killed_while_saving(fire):
    """Every step is saved, so that a kill is in the middle of a save more often than not."""
    name = "killed while saving"
    kept, fire.settings = fire.settings, [*fire.settings, "checkpoint.every_steps=1"]
    for attempt in range(6):
        run, goal = fire.begin(name), 1 + 14 * attempt
        run.wait_for(lambda: any(line["step"] >= goal for line in run.metrics("step")), 0.002)
        time.sleep(random.random() * 0.03)
        run.expect(run.process.poll() is None, "it ended before it was killed")
        run.kill()
        found = fire.verify(name)
        expect(found.returncode in (0, 2), "a kill left a bad checkpoint:\n" + found.stdout + found.stderr)
    fire.begin(name).finish()
    fire.settings = kept
    left = [path.name for path in fire.checkpoints(name, STAGE).iterdir() if path.name.endswith(".tmp")]
    expect(not left, f"leftovers: {left}")


def damaged(fire):
    name = "damaged checkpoints"
    fire.begin(name).finish()
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
    output = fire.begin(name).finish()
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
        fire.begin("undisturbed").finish()
        expected = fire.hash("undisturbed", STAGE)
        for scene in (away_for_a_while, away_to_the_end, full_disk, killed_while_saving, damaged):
            name = {damaged: "damaged checkpoints"}.get(scene, scene.__name__.replace("_", " "))
            fire.fresh(name)
            scene(fire)
            fire.expect_hash(name, expected)


if __name__ == "__main__":
    main()
