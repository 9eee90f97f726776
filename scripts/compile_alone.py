#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every file of a batch (cmake/compiler.cmake) must compile by itself too, whatever stands before it there.

usage: compile_alone.py BUILD JOBS [FOLDER...]   of the product; all of its folders when none is named
"""
import concurrent.futures
import json
import pathlib
import shlex
import subprocess
import sys


def checks(build, folders):
    """For each file its batch's command without the output."""
    root = pathlib.Path.cwd()
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if "/Unity/unity_" not in entry["file"]:
            continue
        command = shlex.split(entry["command"])
        at = command.index("-o")  # -o OBJECT -c BATCH
        for line in pathlib.Path(entry["file"]).read_text().splitlines():
            file = line.removeprefix("#include ").strip('"') if line.startswith("#include ") else ""
            if file and (not folders or pathlib.Path(file).relative_to(root).parts[0] in folders):
                yield [*command[:at], "-fsyntax-only", file]


def main():
    build, jobs, *folders = sys.argv[1:]
    commands = list(checks(pathlib.Path(build), folders))
    with concurrent.futures.ThreadPoolExecutor(int(jobs)) as pool:
        results = list(pool.map(lambda command: subprocess.run(command, capture_output=True, text=True), commands))
    for result in results:
        sys.stderr.write(result.stderr)
    wrong = [result.args[-1] for result in results if result.returncode != 0]
    if wrong:
        sys.exit(f"these do not compile by themselves: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
