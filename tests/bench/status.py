#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long `demist status` takes for a run of many steps: processor seconds, of the program and the system.

usage: status.py DEMIST CONFIGS [STEPS [DEMIST...]]

Further programs are measured on the same run, for comparison. The last of three times counts for each.
"""
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

STEP = {"event": "step", "stage": "pretrain", "step": 0, "time": 0.0, "loss": 3.1234567890123, "grad_norm": 0.9123456789,
        "lr": 0.00012345678901234567, "tokens": 65536, "seconds": 0.24512345678901234,
        "tokens_per_second": 261234.12345678901, "load_seconds": 1.23456789e-05, "control_seconds": 0.00012345678901234,
        "rescaled": False}


def write_steps(path, steps):
    begin = json.loads(path.read_text().splitlines()[-1])["time"]
    with open(path, "a", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            line = {**STEP, "step": step, "time": begin + 0.2513 * step, "loss": STEP["loss"] + step * 1e-7}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def seconds(binary, run):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([binary, "status", str(run), "--json"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main():
    binary, configs = sys.argv[1:3]
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 1000000
    with tempfile.TemporaryDirectory(prefix="demist-status-") as root:
        run = pathlib.Path(root) / "run"
        settings = (f"run_dir={run}", "parallel.threads=1")
        subprocess.run([binary, "run", f"{configs}/tiny.textproto", *(w for s in settings for w in ("--set", s))],
                       check=True, capture_output=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
        write_steps(run / "metrics.jsonl", steps)
        for program in (binary, *sys.argv[4:]):
            print(f"{program}: {[seconds(program, run) for _ in range(3)][-1]:.2f} s for {steps} steps")


if __name__ == "__main__":
    main()
