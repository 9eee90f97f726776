#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A run folder that cannot be written, from the start and from a moment on: said plainly, and nothing is lost.

usage: read_only.py DEMIST CONFIGS

Folders and files lose their permissions; root, which heeds none, runs Demist without the privilege to pass over them.
"""
import os
import pathlib
import sys
import tempfile

from run import Run, expect

ENVIRONMENT = 5
HEEDS_PERMISSIONS = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def make(binary, configs, folder):
    return Run(binary, configs, folder, "parallel.ranks=2", "stages.pretrain.steps=60", "checkpoint.every_steps=10",
               "stages.adapt.steps=5", "recovery.delay_seconds=0.1", before=HEEDS_PERMISSIONS)


def set_writable(folder, writable):
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if writable else mode & ~0o222)


def content(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def always_writable(run):
    run.start().finish_training()


def from_the_start(run):
    run.folder.mkdir()
    set_writable(run.folder, False)
    output = run.start().finish(ENVIRONMENT)
    run.expect(str(run.folder) in output, "it does not name the folder")
    set_writable(run.folder, True)
    run.start().finish_training()


def in_the_middle(run):
    run.start()
    run.wait_for(lambda: run.events("checkpoint"))
    set_writable(run.folder, False)
    output = run.finish(ENVIRONMENT)
    run.expect("the final state could not be saved" in output and "the newest checkpoint is of step" in output,
               "it does not say what it could not do, and what it has")
    before = content(run.folder)
    output = run.start().finish(ENVIRONMENT)
    run.expect(content(run.folder) == before, "a refused run changed something")
    set_writable(run.folder, True)
    run.demist("checkpoint", "verify", str(run.folder))
    run.start().finish_training()


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-read-only-") as root:
        hashes = {}
        for scene in (always_writable, from_the_start, in_the_middle):
            run = make(binary, configs, pathlib.Path(root) / scene.__name__)
            scene(run)
            hashes[scene] = run.hash()
            print(f"{scene.__name__.replace('_', ' '):16} {run.hash()}", flush=True)
        expect(len(set(hashes.values())) == 1, "the hashes differ")


if __name__ == "__main__":
    main()
