#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ranks that are killed or stopped under `demist run`: it names them, goes on, and ends in the same bits.

usage: failures.py DEMIST CONFIGS
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from run import Run, children, expect, send

RANKS = 3


def make(binary, configs, folder, *settings):
    return Run(binary, configs, folder, f"parallel.ranks={RANKS}", "stages.pretrain.steps=240",
               "checkpoint.every_steps=40", *settings)


def check_event(event, rank):
    expect(event["rank"] == rank and event["host"] and event["stage"] == "pretrain", f"wrong: {event}")
    phases = ("control", "load", "forward", "backward", "reduce", "optimizer", "save")
    expect(event["phase"] in phases and event["step"] >= 0, f"wrong: {event}")


def undisturbed(binary, configs, root):
    run = make(binary, configs, root / "undisturbed")
    run.start().finish()
    run.expect(not run.events("hang", "rank_died"), "a false alarm")
    run.expect(len(run.events("attempt")) == 5, "not one attempt a stage")
    run.expect(not list(run.folder.glob("ranks/*")), "exit records")
    return run.hash()


def disturbed(binary, configs, root):
    """A rank is killed, another one stopped; both are named, and the run goes on by itself."""
    run = make(binary, configs, root / "disturbed")
    run.start().wait_for_steps(60)
    send(run.ranks()[1], signal.SIGKILL)
    run.wait_for(run.failures)
    run.wait_for_steps(60)
    send(run.ranks()[2], signal.SIGSTOP)
    run.finish_training()
    output, died, hung = run.output(), run.events("rank_died"), run.events("hang")
    expect(len(died) == 1 and len(hung) == 1, f"{died}\n{hung}\n{output}")
    check_event(died[0], 1)
    check_event(hung[0], 2)
    expect(hung[0]["whole_process"] and hung[0]["limit"] < 60, f"wrong: {hung}")
    expect("rank 1" in output and "rank 2" in output and output.count("going on") == 2, output)
    return run.hash()


def lone(binary, configs, root):
    """A rank that is alone is a child of `demist run`: nobody else sees it die."""
    run = make(binary, configs, root / "lone", "parallel.ranks=1", "stages.pretrain.steps=100000")
    run.start().wait_for_steps(5)
    [rank] = children(run.process.pid)
    send(rank, signal.SIGKILL)
    run.wait_for(run.failures)
    run.stop()
    [died], [ended], output = run.events("rank_died"), run.failures(), run.output()
    check_event(died, 0)
    run.expect(died["process"] == rank, f"wrong: {died}")
    what = f"rank 0 (process {rank} on {died['host']}) was killed by signal 9 (Killed)"
    run.expect(ended["cause"].startswith(what) and ended["code"] == 137, f"wrong: {ended}")
    run.expect(what in output and "going on" in output, "it does not say who died")


def unseen(binary, configs, root):
    """A launcher may only tell that somebody died of a signal."""
    launcher = root / "bin" / "mpirun"
    launcher.parent.mkdir()
    launcher.write_text("#!/bin/sh\nexit 139\n")
    launcher.chmod(0o755)
    run = Run(binary, configs, root / "unseen", "parallel.ranks=2", "recovery.attempts=1",
              PATH=f"{launcher.parent}:{os.environ['PATH']}")
    output = run.start().finish(139)
    run.expect("was killed by signal 11 (Segmentation fault)" in output, "it does not say of what they died")
    run.expect("signal 11" in run.failures()[0]["cause"] and not run.events("rank_died"), "nobody knows who died")


def lost_daemon(binary, configs, root):
    """Of the hosts that the user named the one that ssh does not reach is left out of the next attempt."""
    tools = root / "tools"
    tools.mkdir()
    for name, body in {"mpiexec": f'echo "$*" >> {tools}/started; exit 255', "ssh": 'case "$*" in *" gone "*) exit 255;; esac'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    run = Run(binary, configs, root / "lost", "parallel.ranks=4", "recovery.attempts=2", "recovery.delay_seconds=0.1",
              PATH=f"{tools}:{os.environ['PATH']}")
    run.command += ["--launcher", f"{tools}/mpiexec --host here:2,gone:2"]
    output = run.start().finish(255)
    run.expect("mpirun lost a daemon" in output and "see to the hosts" in output, "255 is not explained")
    first, second = (tools / "started").read_text().splitlines()
    run.expect("--host here:2,gone:2" in first and "-n 4" in first, f"started as {first}")
    run.expect("--host here:2 " in second and "-n 2" in second, f"started as {second}")
    run.expect("gone\t" in (run.folder / "bad-nodes").read_text(), "the host is not remembered")


def edited(binary, configs, root):
    """A run that has begun works from what it was started from, whatever the user does to his recipe."""
    own = root / "own"
    own.mkdir()
    shutil.copytree(pathlib.Path(configs) / "tiny", own / "tiny")
    recipe = own / "tiny.textproto"
    shutil.copy(pathlib.Path(configs) / "tiny.textproto", recipe)
    run = make(binary, own, root / "edited")
    asked = subprocess.run([*run.command, "--dry-run"], check=True, capture_output=True, text=True).stdout
    [started_from] = [line.split()[-1] for line in asked.splitlines() if line.startswith("# hash: ")]
    run.start().wait_for_steps(60)
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace('name: "tiny"', 'name: "beta"').replace("lr: 2e-3", "lr: 9e-3"), encoding="utf-8")
    send(run.ranks()[1], signal.SIGKILL)
    run.wait_for(run.failures)
    run.wait_for_steps(60)
    run.stop()
    by_user, run.command = run.command, [binary, "run", str(run.folder), "--recorded", "--expect", started_from]
    recipe.unlink()  # a job, when it is requeued, does not even miss it
    run.start().finish()
    expect(len(run.failures()) == 1, f"wrong: {run.failures()}")
    record = (run.folder / "recipe.textproto").read_text(encoding="utf-8")
    expect('name: "tiny"' in record and "lr: 0.009" not in record, "edits count")
    recipe.write_text(text.replace("lr: 2e-3", "lr: 9e-3"), encoding="utf-8")
    run.command = by_user
    expect("holds work made with other settings" in run.start().finish(2), run.output())
    return run.hash()


def may_mount():
    may = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0
    if not may:
        print("skipped: a machine that cannot read needs the right to mount")
    return may


def hides(run, hidden):
    """Rank 1's machine does not see a folder in the first attempt at training, as with a mount that is gone."""
    wrapper = run.folder.with_name(run.folder.name + ".hides")
    wrapper.write_text(f"""#!/bin/sh
case "$OMPI_COMM_WORLD_RANK $*" in
  "1 "*"--stage pretrain"*) mkdir {wrapper}.begun 2>/dev/null || exec "$@" ;;
  *) exec "$@" ;;
esac
exec unshare --mount sh -c 'mount -t tmpfs none "$0" && exec "$@"' {hidden} "$@"
""")
    wrapper.chmod(0o755)
    run.command += ["--launcher", f"mpirun {wrapper}"]


def unread_on_one_machine(binary, configs, root):
    """The run goes on when rank 1's machine sees the corpora."""
    run = make(binary, configs, root / "unread", "recovery.delay_seconds=0.1")
    hides(run, run.folder / "corpora")
    run.start().finish_training()
    [ended] = run.failures()
    run.expect(ended["code"] == 5 and ended["again"], f"wrong: {ended}")
    run.expect("rank 1" in ended["cause"] and "other ranks can read it" in ended["cause"], f"wrong: {ended}")
    return run.hash()


def unseen_record(binary, configs, root):
    """The same for what every attempt works from."""
    run = make(binary, configs, root / "unseen-record", "recovery.delay_seconds=0.1")
    hides(run, run.folder)
    run.start().wait_for_steps(1)
    run.stop()
    [ended] = run.failures()
    run.expect(ended["code"] == 5 and ended["again"], f"wrong: {ended}")
    run.expect("rank 1" in ended["cause"] and "recipe.textproto" in ended["cause"] and ended["host"], f"wrong: {ended}")


def bad_steps(binary, configs, root):
    """Steps that count as bad are skipped and gone back from alike on any ranks, and after crashes on the way."""
    settings = ("stages.pretrain.steps=60", "checkpoint.every_steps=5", "checkpoint.keep_last=3")
    settings += tuple(f"stages.pretrain.guard.{rule}" for rule in ("norm_spike=1.08", "window=6", "bad_in_a_row=2",
                                                                   "rollbacks=50"))
    whole = make(binary, configs, root / "bad", *settings, "parallel.ranks=1")
    whole.start().finish_training()
    cut = make(binary, configs, root / "bad-cut", *settings)
    cut.start()
    for _ in range(2):
        known = len(cut.events("rollback"))
        cut.wait_for(lambda: len(cut.events("rollback")) > known, 0.002)
        victim = cut.ranks()[1]
        send(victim, signal.SIGKILL)  # before the state after going back is saved
        cut.wait_for(lambda: cut.ranks().get(1) != victim, 0.002)
    cut.finish_training()
    decisions = [[(event["step"], event["data_steps"]) for event in run.events("rollback")] for run in (whole, cut)]
    expect(set(decisions[0]) == set(decisions[1]) and len(decisions[0]) > 2, f"decisions differ: {decisions}")
    expect(whole.hash() == cut.hash(), "the hashes differ")
    lost = make(binary, configs, root / "bad-lost", *settings, "parallel.ranks=1", "recovery.delay_seconds=0.1")
    target = lost.checkpoints() / f"step-{decisions[0][0][0]:08}"
    lost.start().wait_for(target.exists, 0.001)
    target.rename(root / "away")  # as if its save had failed
    lost.finish_training()
    [ended] = lost.failures()
    lost.expect(ended["code"] == 5 and "it is made again from step" in ended["cause"], f"wrong: {ended}")
    lost.expect(whole.hash() == lost.hash(), "the hash differs where the way back was lost")


def hopeless(binary, configs, root):
    """What comes again and again without a step ends the run; what nobody can mend is not tried again."""
    run = make(binary, configs, root / "hopeless", "recovery.attempts=2", "recovery.delay_seconds=0.1")
    run.start()
    seen = set()
    while run.process.poll() is None:
        for launcher in children(run.process.pid):
            for pid in children(launcher) if launcher not in seen else []:
                seen.add(launcher)
                send(pid, signal.SIGKILL)
                break
        time.sleep(0.005)
    run.expect(run.process.returncode not in (0, 75), f"ended with {run.process.returncode}")
    run = make(binary, configs, root / "numeric", "stages.pretrain.optimizer.lr=1e30")
    output = run.start().finish(6)
    expect("going on" not in output and len(run.failures()) == 1, output)


def main():
    binary, configs = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-failures-") as folder:
        root = pathlib.Path(folder)
        expected = undisturbed(binary, configs, root)
        expect(disturbed(binary, configs, root) == expected, "the hashes differ")
        lone(binary, configs, root)
        unseen(binary, configs, root)
        lost_daemon(binary, configs, root)
        expect(edited(binary, configs, root) == expected, "the hashes differ")
        if may_mount():
            expect(unread_on_one_machine(binary, configs, root) == expected, "the hashes differ")
            unseen_record(binary, configs, root)
        bad_steps(binary, configs, root)
        hopeless(binary, configs, root)


if __name__ == "__main__":
    main()
