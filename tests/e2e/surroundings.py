#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What happens around a run does not end it: nobody reads what it says any more, its program is replaced, its disk is
full when an attempt begins, a command that makes its text is killed in the middle. The bits stay the same.

usage: surroundings.py DEMIST CONFIGS
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from checkpoints import SmallDisk
from run import Run, expect

SETTINGS = ("stages.pretrain.steps=60", "checkpoint.every_steps=10")


def kill_rank(run):
    """The only one; it is the supervisor's child."""
    before = len(run.events("attempt"))
    os.kill(run.launchers()[0], signal.SIGKILL)
    run.wait_for(lambda: len(run.events("attempt")) > before)
    run.wait_for_steps(3)


def without_a_reader(make):
    run = make("reader")
    run.said.write_text("")
    run.process = subprocess.Popen(run.command, env=run.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    run.wait_for(lambda: run.steps() >= 5)
    run.process.stdout.close()
    run.wait_for_steps(3)
    kill_rank(run)
    return run


def with_another_program(make):
    """It may be installed anew while it runs."""
    run = make("program")
    own = run.folder.with_name("demist")
    shutil.copy(run.binary, own)
    run.command[run.command.index(run.binary)] = str(own)
    run.start().wait_for(lambda: run.steps() >= 5)
    shutil.copy(run.binary, own.with_suffix(".new"))
    own.with_suffix(".new").rename(own)
    status = json.loads(run.demist("status", str(run.folder), "--json"))
    expect(status["state"] == "TRAINING" and "by hand" not in status["detail"], f"{status}")
    kill_rank(run)
    return run


def with_a_full_disk(make):
    run = make("disk")
    run.folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(run.folder)], capture_output=True).returncode:
        print("disk: left out, for no file system can be mounted here")
        return None
    disk = SmallDisk(run.folder)
    try:
        run.start().wait_for(lambda: run.events("checkpoint"))
        run.stop()
        disk.fill(run)
        run.start().wait_for(lambda: "could not be saved" in run.output())
        expect("started.json: cannot write" in run.output(), run.output())
        disk.free(run)
        run.finish_training()
        shutil.copytree(run.folder, run.folder.with_name("kept"))
    finally:
        disk.remove()
    run.folder = run.folder.with_name("kept")
    return run


def half_a_product(demist, root):
    """The command kills the stage after the first half, once."""
    folder, product, once = root / "half", root / "text.txt", root / "once"
    script = f"printf half > {product}; [ -e {once} ] || {{ touch {once}; kill -9 $PPID; sleep 60; }}; printf ' whole' >> {product}"
    recipe = root / "half.textproto"
    recipe.write_text(f'name: "half"\nstages {{ name: "text" kind: PREPARE command: "sh" command: "-c" command: "{script}" '
                      f'product: "{product}" }}\n')
    done = subprocess.run([demist, "run", str(recipe), "--set", f"run_dir={folder}"], capture_output=True, text=True)
    expect(done.returncode == 0 and product.read_text() == "half whole", f"{product.read_text()}\n{done}")
    expect("did not end well: it is run again" in done.stdout + done.stderr, f"{done}")


def main():
    demist, configs = sys.argv[1:3]
    with tempfile.TemporaryDirectory(prefix="demist-around-") as name:
        root = pathlib.Path(name)

        def make(folder):
            return Run(demist, configs, root / folder, *SETTINGS)

        quiet = make("quiet").start()
        quiet.finish_training()
        for scene in (without_a_reader, with_another_program, with_a_full_disk):
            print(scene.__name__, flush=True)
            run = scene(make)
            if run is None:
                continue
            if not run.training_is_done():
                run.finish_training()
            expect(run.hash() == quiet.hash(), f"{scene.__name__}: other bits than undisturbed")
        half_a_product(demist, root)


if __name__ == "__main__":
    main()
