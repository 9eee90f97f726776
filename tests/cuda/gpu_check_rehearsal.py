#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs gpu-check on programs of the emulated device, in a folder shaped as the bundle's.

usage: gpu_check_rehearsal.py SOURCE_DIR OUTPUT_DIR NAME=PROGRAM...
"""
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Passes a program through, with the summary that compute-sanitizer prints.
SANITIZER = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift 2; done
"$@" || exit
echo "========= ERROR SUMMARY: 0 errors"
"""


def expect(condition, message):
    if not condition:
        sys.exit(message)


def make_bundle(source, programs, bundle):
    (bundle / "bin").mkdir(parents=True)
    for name, program in programs.items():
        os.symlink(os.path.abspath(program), bundle / "bin" / name)
    shutil.copytree(source / "scripts" / "gpu_check", bundle / "gpu_check")
    os.symlink(source / "configs", bundle / "configs")
    about = {"format": "demist.gpu-bundle/1", "id": "rehearsal", "programs": {name: [] for name in programs}}
    (bundle / "bundle.json").write_text(json.dumps(about))


def rehearse(source, bundle, output, tools):
    tool = tools / "compute-sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}", PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, str(bundle / "gpu_check"), "--rehearse", "--minutes", "9", "--output", str(output)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    expect(process.returncode == 0, f"gpu-check ended with {process.returncode}:\n{process.stdout}{process.stderr}"
           + (output / "log.txt").read_text()[-4000:])


def module(source, name):
    spec = importlib.util.spec_from_file_location(name, source / "scripts" / "gpu_check" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def check_results(results):
    outcomes = {part["name"]: part["outcome"] for part in results["parts"]}
    expect(set(outcomes.values()) == {"passed"}, f"not all parts passed: {outcomes}")
    expect(len(outcomes) == 16, f"{len(outcomes)} parts")
    kinds = {m["kind"] for m in results["measurements"]}
    expect(kinds == {"attention", "cudnn", "device", "product", "step", "operation", "repeat"}, f"measured: {kinds}")
    note = next(part["note"] for part in results["parts"] if part["name"] == "attention")
    expect(note == "2 checks; cuDNN not built", note)
    repeat = next(m for m in results["measurements"] if m["kind"] == "repeat")
    expect(repeat["same_bits"] and not repeat["not_run"] and repeat["operations"] > 100, f"{repeat}")


def check_costs(results):
    """Bytes and FLOPs of a call, by the comments of the kernels: 32 tokens of 64 in bf16, one head, rows of 16;
    211 words, padded to 216."""
    operations = {(m["name"], m["shape"]): m for m in results["measurements"]
                  if m["kind"] == "operation" and m["use"] == "base"}
    for (name, shape), m in operations.items():
        if name == "gemm":
            words = shape.split()
            sizes = [int(words[words.index(letter) + 1]) for letter in "mnk"]
            expect(m["flops"] == m["calls"] * 2 * sizes[0] * sizes[1] * sizes[2], f"FLOPs of {name} {shape}: {m}")
    activations = 2 * 32 * 64
    for name, shape, each, bytes_or_flops in (
            ("dropout", "bf16 32x64", 2 * activations, "bytes"), ("add", "bf16 32x64", 3 * activations, "bytes"),
            ("bias_gelu_forward", "bf16 32x256", 8 * activations, "bytes"),
            ("bias_gelu_backward", "bf16 32x256", 12 * activations, "bytes"),
            ("cross_entropy_statistics", "fp32 4x216", 4 * 4 * 216, "bytes"),
            ("cross_entropy_backward", "fp32 4x216", 6 * 4 * 216, "bytes"),
            ("attention_forward", "bf16 2x16, 1 heads of 64", 4 * 32 * 16 * 64, "flops"),
            ("attention_backward", "bf16 2x16, 1 heads of 64", 14 * 32 * 16 * 64, "flops")):
        m = operations[name, shape]
        expect(m[bytes_or_flops] == m["calls"] * each, f"{bytes_or_flops} of {name}: {m}")
    single = {m["name"]: m for m in results["measurements"] if m["kind"] == "operation" and m["use"] == "single"
              and (m["name"].startswith("fused") or "8 ranks" in m["shape"])}
    product, rows_and_decisions = 2 * 128 * 128 * 64, 128 * (16 + 128 // 8)
    for name, flops, moved in (("fused attention forward", 2 * product, 128 * (8 * 64 + 4)),
                               ("fused attention dQ", 3 * product, 128 * 12 * 64 + rows_and_decisions),
                               ("fused attention dK, dV", 4 * product, 128 * 12 * 64 + rows_and_decisions),
                               ("sum_terms", 0, 256 * (8 * 4 + 2)), ("max_terms", 0, 256 * (8 * 4 + 4))):
        expect((single[name]["flops"], single[name]["bytes"]) == (flops, moved), f"costs of {name}: {single[name]}")


def backend_operations(source):
    """The public operations of kernels/backend.hpp."""
    text = (source / "kernels" / "backend.hpp").read_text().split(" private:")[0]
    names = [line.split("(")[0].split()[1] for line in text.splitlines() if line.startswith("  void ")]
    expect(len(names) > 20, f"found only {names}")
    return names


def check_attention_cells(text):
    """OWN and UNFUSED: milliseconds, TFLOP/s, no share for either pass, and the verdict."""
    for path in ("OWN", "UNFUSED"):
        row = next((line for line in text.splitlines() if line.startswith(f"| {path} | tiny")), "")
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        expect(len(cells) == 9 and cells[4] == cells[7] == "–" and cells[8] == "yes", f"attention of {path}: {row}")
        expect(all(float(cell.replace(",", "")) > 0 for cell in (cells[2], cells[3], cells[5], cells[6])), row)


def check_report(source, results, text):
    expect("not measured" not in text, "a table is empty:\n" + text)
    expect(text.startswith("## Rehearsal on an emulated device"), text[:100])
    for name in backend_operations(source):
        expect(f"| {name} |" in text, f"{name} has no line:\n{text}")
    for use in ("base", "large", "xl", "xxl"):
        expect(f"| {use}, " in text, f"no step of {use}")
    for use in ("xl", "xxl"):
        for name in ("add_layernorm_forward", "add_layernorm_backward", "bias_gelu_forward", "attention_backward"):
            expect(f"| {use} | {name} | bf16 " in text, f"no {name} at the width of {use}:\n{text}")
    expect("| xxl, scaled to 2 |" in text, "xxl is not scaled")
    for kernel, shape in (("fused attention forward", "1x128, 1 heads of 64"), ("fused attention dQ", "1x128, 1 heads of 64"),
                          ("fused attention dK, dV", "1x128, 1 heads of 64"), ("sum_terms", "bf16, 8 ranks, 256"),
                          ("max_terms", "fp32, 2 ranks, 1024")):
        expect(f"| {kernel} | {shape} | " in text, f"{kernel} has no line:\n{text}")
    check_attention_cells(text)
    # The emulated device has no data sheet, so nothing may be compared with one.
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| gemm |") or line.startswith("| square"):
            expect(cells[-1] == "–", f"a share of an unknown limit: {line}")
    report = module(source, "report")
    empty = report.markdown({**results, "parts": [], "measurements": []})
    tables = [line for line in empty.splitlines() if line.startswith("|")]
    expect(not tables and empty.count("not measured") == 10, "numbers without measurements:\n" + empty)


def check_fixtures(source, output):
    fixtures = module(source, "fixtures")
    answers = json.loads((output / "fixtures.json").read_text())["answers"]
    expect(len(answers) > 40, f"answers of {len(answers)} tests")
    expect(not list(fixtures.differences(answers, answers)), "answers differ from themselves")
    changed = json.loads(json.dumps(answers))
    changed["Primitives.MmaMultipliesTiles"][0]["hex"] = "00" * 512
    found = list(fixtures.differences(answers, changed))
    expect(len(found) == 1 and found[0].startswith("Primitives.MmaMultipliesTiles: 1 of 1"), str(found))


def main(source, output, *pairs):
    source, output = pathlib.Path(source).resolve(), pathlib.Path(output).resolve()
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle, tools = pathlib.Path(folder) / "bundle", pathlib.Path(folder) / "tools"
        tools.mkdir()
        make_bundle(source, dict(pair.split("=", 1) for pair in pairs), bundle)
        rehearse(source, bundle, output, tools)
        results = json.loads((output / "results.json").read_text())
        check_results(results)
        check_costs(results)
        check_report(source, results, (output / "report.md").read_text())
        check_fixtures(source, output)
        print("\n".join(f"{part['name']:12} {part['seconds']:5.1f} s" for part in results["parts"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
