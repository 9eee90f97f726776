#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C once, twice, and two runs in one folder, as a user of `demist run` meets them.

usage: stop.py DEMIST CONFIGS
"""
import pathlib
import signal
import subprocess
import sys
import tempfile
import time


class Run:
    def __init__(self, binary, configs, folder):
        self.folder = pathlib.Path(folder)
        self.command = [binary, "run", str(pathlib.Path(configs) / "tiny.textproto"), "--ranks", "2"]
        for setting in (f"run_dir={folder}", "stages.pretrain.steps=100000"):
            self.command += ["--set", setting]

    def start(self):
        return subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def steps(self):
        metrics = self.folder / "metrics.jsonl"
        return metrics.read_text().count('"event":"step"') if metrics.exists() else 0

    def wait_for_steps(self, process, count):
        goal = self.steps() + count
        while self.steps() < goal:
            expect(process.poll() is None, "the run ended early:\n" + (process.stdout.read() if process.poll() else ""))
            time.sleep(0.01)


def expect(condition, message):
    if not condition:
        sys.exit(message)


def finish(process, code):
    output, _ = process.communicate(timeout=60)
    expect(process.returncode == code, f"ended with {process.returncode}, expected {code}:\n{output}")
    return output


def main():
    with tempfile.TemporaryDirectory(prefix="demist-stop-") as folder:
        run = Run(*sys.argv[1:], folder)
        process = run.start()
        process.stdout.readline()  # the first stage begins: it does not listen to signals
        process.send_signal(signal.SIGINT)
        finish(process, 75)

        process = run.start()
        run.wait_for_steps(process, 5)
        output = finish(run.start(), 5)
        expect("another process works here" in output, output)

        process.send_signal(signal.SIGINT)
        finish(process, 75)
        saved = (pathlib.Path(folder) / "pretrain" / "checkpoints" / "LATEST").read_text()

        process = run.start()
        run.wait_for_steps(process, 5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)  # two pending signals of a kind are one
        process.send_signal(signal.SIGINT)
        output = finish(process, 130)
        step = str(int(saved.strip().removeprefix("step-")))
        expect(f"goes on from step {step}" in output, f"did not go on from {saved}:\n{output}")


if __name__ == "__main__":
    main()
