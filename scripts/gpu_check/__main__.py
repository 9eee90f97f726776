# SPDX-License-Identifier: Apache-2.0
"""Checks and measures Demist on this machine's GPU.

usage: gpu-check [--output DIR] [--only PART,...] [--minutes M] [--list]

Writes results.json, report.md (for docs/benchmarks.md), fixtures.json and log.txt. Exit code 1 when a part
failed or ran out of time, 2 for wrong usage.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

import report
from bundle import Bundle
from parts import PARTS
from runner import FAILED, TIMED_OUT, Run

HERE = pathlib.Path(__file__).resolve().parent


def driver_version():
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


def parse(arguments):
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="gpu-check-results", help="folder for the results")
    parser.add_argument("--only", default="", help="names of parts, by commas")
    parser.add_argument("--minutes", type=float, default=8, help="time for everything (default: 8)")
    parser.add_argument("--list", action="store_true", help="name the parts")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)  # tiny, on the emulated device
    return parser.parse_args(arguments)


def chosen_parts(only):
    names = [name for name in only.split(",") if name]
    unknown = set(names) - {part.name for part in PARTS}
    if unknown:
        print(f"gpu-check: no part is called {', '.join(sorted(unknown))}; --list names them", file=sys.stderr)
        sys.exit(2)
    return [part for part in PARTS if not names or part.name in names]


def check(options, parts=None, bundle=None):
    parts = chosen_parts(options.only) if parts is None else parts
    output = pathlib.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    run = Run(bundle or Bundle(HERE.parent), output, options.minutes, options.rehearse)
    results = {"format": "demist.gpu-check/1", "rehearsal": options.rehearse, "bundle": run.bundle.about["id"],
               "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
               "host": {"cpu_cores": os.cpu_count(), "system": platform.platform(), "driver": driver_version()},
               "parts": [], "measurements": run.measurements}
    for part in parts:
        print(f"{part.name:12} {part.what} ...", flush=True)
        line = run.part(part)
        results["parts"].append(line)
        print(f"{'':12} {line['outcome']} in {line['seconds']:.1f} s {line['note']}", flush=True)
        # Written after every part: whoever ends us early keeps what is known.
        (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        (output / "report.md").write_text(report.markdown(results), encoding="utf-8")
    run.log.close()
    print(f"\n{output}/report.md\n")
    return 1 if any(line["outcome"] in (FAILED, TIMED_OUT) for line in results["parts"]) else 0


def main(arguments):
    if arguments[:1] == ["--exec"]:  # the launcher of bin/demist
        bundle = Bundle(HERE.parent)
        os.execve(bundle.program(arguments[1]), arguments[1:], bundle.environment())
    options = parse(arguments)
    if options.list:
        print("\n".join(f"{part.name:12} {part.limit_s:3} s  {part.what}" for part in PARTS))
        return 0
    return check(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
