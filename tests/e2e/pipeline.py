#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The whole of configs/tiny.textproto, shortened: raw text to scores, and what a user does afterwards.

usage: pipeline.py DEMIST CONFIGS
"""
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

from run import expect

LONGEST_LINE = 16 << 20  # kLongestText of data/reader.hpp
STAGES = ("tokenizer", "corpus", "pretrain", "adapt", "score")


class Demist:
    def __init__(self, binary):
        self.binary = binary

    def __call__(self, *arguments, code=0, text=None, stdout=subprocess.PIPE):
        done = subprocess.run([self.binary, *map(str, arguments)], input=text, stdout=stdout, stderr=subprocess.PIPE,
                              text=True)
        expect(done.returncode == code, f"{' '.join(map(str, arguments))}\nended with {done.returncode}, "
                                        f"expected {code}:\n{done.stdout}\n{done.stderr}")
        return done


def run_to_the_end(demist, recipe, folder, pairs):
    command = ["run", recipe, "--set", f"run_dir={folder}", "--set", "parallel.threads=1",
               "--set", "tasks.telegrams.max_length=50"]
    for stage in ("pretrain", "adapt"):
        command += ["--set", f"stages.{stage}.steps=6"]
    first = demist(*command)
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("metric", "score", "score_baseline", "held_out", "scores"):
        expect(key in summary, f"summary.json lacks {key}: {summary}")
    expect(set(summary["seconds"]) == set(STAGES), summary)
    for stage in ("pretrain", "adapt"):
        expect(summary["held_out"][stage]["after"] < summary["held_out"][stage]["before"], summary)
    score = summary["scores"]["score"]
    test_pairs = sum(line.rstrip("\n").endswith("\ttest") for line in pairs.open())
    expect(score["examples"] + score["left_out"] == test_pairs and score["left_out"] > 0, summary)
    expect(f"{score['left_out']} left out" in first.stdout, first.stdout)
    samples = [json.loads(line) for line in (folder / "score" / "samples.jsonl").open()]
    expect(len(samples) == score["examples"], f"{len(samples)} samples")
    expect(first.stdout.count("\nreference  ") == 3, first.stdout)  # samples: 3

    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.h5")}
    steps = (folder / "metrics.jsonl").read_text()
    second = demist(*command)
    for stage in STAGES:
        expect(f"stage {stage} is done already" in second.stderr, second.stderr)
    expect({path: path.stat().st_mtime_ns for path in folder.rglob("*.h5")} == made, "a file was written again")
    expect((folder / "metrics.jsonl").read_text() == steps, "a step was done again")
    expect(second.stdout.count("\nreference  ") == 3, second.stdout)
    return command


def generate(demist, folder):
    both = demist("generate", folder, "arrived safe", "send money", "--length", 6, "--steps", 3).stdout
    expect(both.count("\n") == 2, both)
    one = demist("generate", folder, "--length", 6, "--steps", 3, text="send money\n").stdout
    expect(both.endswith(one), f"an answer depends on its company:\n{both}\n{one}")
    prompts = folder.parent / "prompts.gz"
    prompts.write_bytes(gzip.compress(b"\xef\xbb\xbfarrived safe\r\nsend money\n"))
    of_file = demist("generate", folder, "--file", prompts, "--length", 6, "--steps", 3).stdout
    expect(of_file == both, f"a compressed file is read as something else:\n{of_file}")
    prompts.write_bytes(b"send money\n\xff\xfe\n")
    refused = demist("generate", folder, "--file", prompts, "--length", 6, code=3).stderr
    expect("prompt 2 is not valid UTF-8" in refused, refused)
    prompts.write_bytes(gzip.compress(b"send money\n" + bytes(LONGEST_LINE + 1)))
    refused = demist("generate", folder, "--file", prompts, "--length", 6, code=3).stderr
    expect(f"{prompts}:2: longer than {LONGEST_LINE} bytes" in refused, refused)
    model = folder / "tokenizer.model"
    ids = demist("tokenizer", "encode", model, "send money").stdout
    expect(demist("tokenizer", "encode", model, text="send money\n").stdout == ids, "lines are read as something else")
    refused = demist("tokenizer", "encode", model, text="a\n" + "b" * (LONGEST_LINE + 1), code=3).stderr
    expect(f"standard input:2: longer than {LONGEST_LINE} bytes" in refused, refused)
    shown = demist("generate", folder, "send money", "--length", 6, "--steps", 3, "--show-steps")
    drawn = shown.stderr.strip("\n").split("\n")
    expect(len(drawn) == 3 and [line.split()[0] for line in drawn] == ["1", "2", "3"], shown.stderr)
    expect(drawn[0].count("\u2591") > drawn[1].count("\u2591") > drawn[2].count("\u2591") == 0, shown.stderr)
    expect(shown.stdout == one, "watching changes the answer")


def evaluate(demist, folder, pairs):
    output = demist("evaluate", folder, pairs, "--split-field", 2, "--limit", 5, "--steps", 2, "--show").stdout
    expect(output.count("reference  ") == 5 and "5 examples in" in output, output)
    for row in ("model", "lead", "copy"):
        expect(f"\n{row:<10}  ROUGE-L " in output, output)
    refused = demist("evaluate", folder, pairs, "--split-field", 2, "--max-length", 4, code=3).stderr
    expect("of at most 4 tokens" in refused, refused)
    refused = demist("evaluate", folder, pairs, "--length", 1000, code=2).stderr
    expect("leave room for" in refused, refused)  # as `generate` does, and not a shorter answer
    with open("/dev/full", "w") as full:
        demist("generate", folder, "send money", stdout=full, code=5)


def go_without_held_out_pairs(demist, command, folder):
    redone = demist(*command, "--redo", "--set", "tasks.telegrams.valid=none")
    expect("no pair in split 'none'" in redone.stderr, redone.stderr)
    expect("stage pretrain is done already" in redone.stderr, redone.stderr)
    held_out = json.loads((folder / "summary.json").read_text())["held_out"]
    expect(set(held_out) == {"pretrain"}, held_out)


def prepare_with_no_program(demist, root):
    """It is not tried again: it would be missing again."""
    recipe, folder = root / "none.textproto", root / "none"
    recipe.write_text('name: "none"\nstages { name: "text" kind: PREPARE command: "no-such-program" product: "{run}/1" }\n')
    refused = demist("run", recipe, "--set", f"run_dir={folder}", code=2).stderr
    expect("cannot start no-such-program" in refused, refused)
    events = (folder / "events.jsonl").read_text()
    expect(events.count('"event":"attempt"') == 1, events)


def main():
    demist, configs = Demist(sys.argv[1]), pathlib.Path(sys.argv[2])
    pairs = configs / "tiny" / "pairs.tsv"
    with tempfile.TemporaryDirectory(prefix="demist-pipeline-") as root:
        folder = pathlib.Path(root) / "run"
        command = run_to_the_end(demist, configs / "tiny.textproto", folder, pairs)
        generate(demist, folder)
        evaluate(demist, folder, pairs)
        go_without_held_out_pairs(demist, command, folder)
        prepare_with_no_program(demist, pathlib.Path(root))


if __name__ == "__main__":
    main()
