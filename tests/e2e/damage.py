#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Results that are damaged, gone or made with other settings, as a user of `demist run` meets them.

usage: damage.py DEMIST CONFIGS

Every refusal must name what is wrong and a remedy that works, and nothing may change a result silently.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

from run import expect

DAMAGED, USAGE, NUMERIC, WRONG_DATA = 4, 2, 6, 3
STEPS = 4


def flip(path):
    """Changes a byte in the middle of a file: in a data file of these sizes, a value."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Bench:
    def __init__(self, binary, configs, root):
        self.binary, self.root = binary, pathlib.Path(root)
        self.recipe = str(pathlib.Path(configs) / "tiny.textproto")
        self.demist(0, "run", self.recipe, *self.settings(self.root / "base"))

    @staticmethod
    def settings(folder):
        values = [f"run_dir={folder}", f"stages.pretrain.steps={STEPS}", f"stages.adapt.steps={STEPS}",
                  "stages.pretrain.optimizer.warmup_steps=1", "stages.adapt.optimizer.warmup_steps=1",
                  "checkpoint.every_steps=2", "parallel.threads=1"]
        return [word for value in values for word in ("--set", value)]

    def demist(self, code, *arguments):
        done = subprocess.run([self.binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        expect(done.returncode == code,
               f"{' '.join(arguments)}\nended with {done.returncode}, expected {code}:\n{done.stdout}")
        return done.stdout

    def copy(self, name, without=()):
        folder = self.root / name
        shutil.copytree(self.root / "base", folder)
        for stage in without:
            shutil.rmtree(folder / stage)
        return folder

    def run(self, folder, code, *more):
        return self.demist(code, "run", self.recipe, *self.settings(folder), *more)

    def hash(self, folder, stage):
        return self.demist(0, "inspect", str(folder / stage / "checkpoints"), "--hash")


def end_of(folder, stage):
    return folder / stage / "checkpoints" / f"step-{STEPS:08d}"


def a_damaged_result_is_not_replaced_by_an_older_one(bench):
    for user, stage in (("adapt", "pretrain"), ("score", "adapt")):
        folder = bench.copy(f"damaged-{stage}", without={"adapt": ("adapt", "score")}.get(user, (user,)))
        flip(end_of(folder, stage) / "w0000.h5")
        output = bench.run(folder, DAMAGED)
        expect(f"stage {stage} is done, but its result is damaged" in output, output)
        shutil.rmtree(end_of(folder, stage))  # as the message says
        output = bench.run(folder, DAMAGED)
        expect(str(end_of(folder, stage)) in output and "--redo" in output, output)
        bench.run(folder, 0, "--redo")
        for each in ("pretrain", "adapt"):
            expect(bench.hash(folder, each) == bench.hash(bench.root / "base", each), f"{each} has other bits")


def training_does_not_begin_anew_silently(bench):
    folder = bench.copy("all-bad", without=("adapt", "score"))
    (folder / "pretrain" / "done.json").unlink()
    for checkpoint in (folder / "pretrain" / "checkpoints").glob("step-*"):
        flip(checkpoint / "w0000.h5")
    output = bench.run(folder, DAMAGED)
    expect("none of its checkpoints" in output and "delete" in output, output)
    shutil.rmtree(folder / "pretrain")
    bench.run(folder, 0)


def a_damaged_state_costs_no_checkpoint(bench):
    for name in ("started.json", "done.json"):
        folder = bench.copy(f"damaged-{name}", without=("adapt", "score"))
        stage = folder / "pretrain"
        if name == "started.json":
            (stage / "done.json").unlink()
        (stage / name).write_text("")
        output = bench.run(folder, WRONG_DATA)
        expect(f"{stage / name}: " in output and "delete this file and nothing else" in output, output)
        (stage / name).unlink()
        output = bench.run(folder, 0)
        expect(f"stage pretrain goes on from step {STEPS}" in output, output)
        for each in ("pretrain", "adapt"):
            expect(bench.hash(folder, each) == bench.hash(bench.root / "base", each), f"{each} has other bits")


def what_made_nothing_is_no_obstacle(bench):
    folder = bench.copy("failed", without=("pretrain", "adapt", "score"))
    bench.run(folder, NUMERIC, "--set", "stages.pretrain.optimizer.lr=1e30",
              "--set", "checkpoint.every_steps=0")
    bench.run(folder, 0)


def lost_results_are_made_again(bench):
    lost = {"tokenizer": ("tokenizer.model", WRONG_DATA), "corpus": ("corpora/train/corpus.json", WRONG_DATA),
            "score": ("score/samples.jsonl", WRONG_DATA), "pretrain": ("pretrain/checkpoints", DAMAGED)}
    for stage, (path, code) in lost.items():
        wanted = () if stage == "score" else ("pretrain", "adapt", "score") if stage != "pretrain" else ("adapt", "score")
        folder = bench.copy(f"lost-{stage}", without=wanted)
        gone = folder / path
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        output = bench.run(folder, code)
        expect(f"stage {stage} is done, but {gone}" in output and "--redo" in output, output)
        bench.run(folder, 0, "--redo")
        expect(bench.hash(folder, "adapt") == bench.hash(bench.root / "base", "adapt"), f"{stage}: other bits")
    folder = bench.copy("used-up")  # a result that nobody will read again may be deleted
    shutil.rmtree(folder / "pretrain" / "checkpoints")
    expect("stage pretrain is done already" in bench.run(folder, 0), "it was wanted")


def a_damaged_corpus_is_built_again(bench):
    folder = bench.copy("corpus", without=("pretrain", "adapt", "score"))
    corpus = folder / "corpora" / "train"
    shard = sorted(corpus.glob("shard-*.h5"))[0]
    flip(shard)
    output = bench.demist(WRONG_DATA, "corpus", "verify", str(corpus))
    expect(f"delete {corpus}" in output, output)
    shutil.rmtree(corpus)
    bench.run(folder, WRONG_DATA)
    bench.run(folder, 0, "--redo")
    bench.demist(0, "corpus", "verify", str(corpus))


def refusals_leave_the_record_alone(bench):
    folder = bench.copy("record")
    record = folder / "recipe.textproto"
    before = record.read_text()
    output = bench.run(folder, USAGE, "--set", "model.hidden=32")
    expect("other settings" in output and "--redo" in output, output)
    expect(record.read_text() == before, "the record of a refused run was written")


def main():
    with tempfile.TemporaryDirectory(prefix="demist-damage-") as root:
        bench = Bench(*sys.argv[1:], root)
        for check in (a_damaged_result_is_not_replaced_by_an_older_one, training_does_not_begin_anew_silently,
                      a_damaged_state_costs_no_checkpoint, what_made_nothing_is_no_obstacle, lost_results_are_made_again,
                      a_damaged_corpus_is_built_again, refusals_leave_the_record_alone):
            check(bench)
            print(check.__name__.replace("_", " "))


if __name__ == "__main__":
    main()
