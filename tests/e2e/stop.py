#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C once, twice, at the end of a stage, and two runs in one folder, as a user of `demist run` meets them.

The run that was stopped has the bits of one that makes as many steps undisturbed.

usage: stop.py DEMIST CONFIGS
"""
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from run import TRAINED, Run, expect, send

# The command of the first stage sends the signal to `demist run` when it has made what it is for; once, for it may be
# ended before the stage has seen that it is done, and is run again then.
TWO_STAGES = """
name: "two"
stages {
  name: "first"
  kind: PREPARE
  command: "sh" command: "-c" command: "touch $0/1; [ -e $0/told ] || { touch $0/told; kill -INT $(cut -d' ' -f4 /proc/$PPID/stat); }" command: "{run}"
  product: "{run}/1"
}
stages { name: "second" kind: PREPARE command: "touch" command: "{run}/2" product: "{run}/2" }
"""


def at_the_end_of_a_stage(binary, root):
    recipe, folder = root / "two.textproto", root / "two"
    recipe.write_text(TWO_STAGES, encoding="utf-8")
    for code, second in ((75, False), (0, True)):
        ended = subprocess.run([binary, "run", str(recipe), "--set", f"run_dir={folder}"], check=False,
                               capture_output=True, text=True)
        expect(ended.returncode == code and (folder / "2").exists() == second, f"{ended}")


def tells_of_a_death_while_it_stops(run):
    """Then nothing was saved: 75 would say that it was."""
    run.start().wait_for_steps(5)
    rank = run.ranks()[1]
    send(rank, signal.SIGSTOP)  # it does not save
    run.process.send_signal(signal.SIGINT)
    run.wait_for(lambda: "saving and stopping" in run.output())
    send(rank, signal.SIGKILL)
    output = run.finish(76)
    run.expect("rank 1 (process" in output and "died" in output, output)
    said = run.demist("status", str(run.folder))
    run.expect("FAILED" in said and "rank 1" in said, said)


def leaves_no_ranks_behind(run):
    """They save, as after a Ctrl-C, when nobody watches them any more."""
    run.start().wait_for_steps(5)
    ranks = run.ranks().values()
    run.process.kill()
    run.process.wait()
    until = time.time() + 60
    while time.time() < until and any(pathlib.Path(f"/proc/{pid}").exists() for pid in ranks):
        time.sleep(0.05)
    live_on = [pid for pid in ranks if send(pid, signal.SIGKILL)]
    expect(not live_on, f"the ranks of a killed supervisor live on: {live_on}")
    last = run.metrics("step")[-1]["step"]
    expect((run.checkpoints() / "LATEST").read_text() == f"step-{last:08}\n", f"step {last} was not saved")


def does_not_begin_anew_without_its_disk(run):
    away = run.folder / "away"
    run.checkpoints().rename(away)
    output = run.start().finish(5)
    run.expect("has saved checkpoints, and there is none in" in output, output)
    run.expect(not list(run.checkpoints().glob("step-*")), "it began anew")
    if run.checkpoints().exists():
        run.checkpoints().rmdir()
    away.rename(run.checkpoints())


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-stop-") as root:
        at_the_end_of_a_stage(binary, pathlib.Path(root))
        constant = f"stages.{TRAINED}.optimizer.schedule=CONSTANT"  # a step does not depend on how many there will be
        settings = (f"stages.{TRAINED}.steps=1000000", constant, "parallel.ranks=2", "recovery.attempts=1")
        run = Run(binary, configs, pathlib.Path(root) / "run", *settings).start()
        run.wait_for(lambda: run.events("attempt"))  # the first stage begins: it does not listen to signals
        run.stop()

        run.start().wait_for_steps(5)
        second = Run(binary, configs, run.folder, *settings)
        second.said = run.said.with_name("second.said")
        output = second.start().finish(5)
        run.expect("another process works here" in output, output)
        run.stop()
        saved = (run.checkpoints() / "LATEST").read_text()

        run.start().wait_for_steps(5)
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.01)  # two pending signals of a kind are one
        run.process.send_signal(signal.SIGINT)
        output = run.finish(130)
        step = str(int(saved.strip().removeprefix("step-")))
        run.expect(f"goes on from step {step}" in output, f"did not go on from {saved}")

        tells_of_a_death_while_it_stops(run)
        leaves_no_ranks_behind(run)
        does_not_begin_anew_without_its_disk(run)
        run.start().wait_for_steps(5)
        run.stop()
        steps = run.saved_steps()
        alone = Run(binary, configs, pathlib.Path(root) / "alone", f"stages.{TRAINED}.steps={steps}", constant)
        alone.start().finish_training()
        expect(run.hash() == alone.hash(), f"after {steps} steps the hashes differ: {run.hash()}, {alone.hash()}")


if __name__ == "__main__":
    main()
