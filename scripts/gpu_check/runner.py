# SPDX-License-Identifier: Apache-2.0
"""Runs the parts of gpu-check one after another: a part that fails or hangs ends alone."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

SKIPPED, PASSED, FAILED, TIMED_OUT = "skipped", "passed", "failed", "timed out"


class PartFailed(Exception):
    """The part is over; the message is one line for the report."""


class PartTimedOut(PartFailed):
    """A program of the part was still running when its time was over."""


class PartSkipped(Exception):
    """This machine cannot do the part; the message says what it lacks."""


class Child:
    """A program of the bundle: its exit code, what it printed, and how long it ran."""

    def __init__(self, words, environment, folder):
        self.words = [str(word) for word in words]
        self.output = tempfile.TemporaryFile(mode="w+", errors="replace")
        self.begin = time.monotonic()
        # A session of its own, so that whatever it starts ends with it.
        self.process = subprocess.Popen(self.words, env=environment, cwd=folder, stdout=self.output,
                                        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def finish(self, deadline):
        """Waits, but not beyond the deadline (time.monotonic())."""
        self.timed_out = False
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.timed_out = True
            self.kill()
        except BaseException:  # Ctrl-C, which a session of its own does not get
            self.kill()
            raise
        self.seconds = time.monotonic() - self.begin
        self.output.seek(0)
        self.text = self.output.read()
        self.output.close()
        return self

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def name(self):
        return " ".join([pathlib.Path(self.words[0]).name, *self.words[1:3]])

    def last_line(self):
        lines = [line for line in self.text.splitlines() if line.strip() and not line.startswith("{")]
        return lines[-1].strip() if lines else "it printed nothing"

    def check(self):
        if self.timed_out:
            raise PartTimedOut(f"{self.name()} was still running after {self.seconds:.0f} s")
        if self.process.returncode < 0:
            name = signal.Signals(-self.process.returncode).name
            raise PartFailed(f"{self.name()} was ended by {name}: {self.last_line()}")
        if self.process.returncode > 0:
            raise PartFailed(f"{self.name()} ended with {self.process.returncode}: {self.last_line()}")
        return self

    def measurements(self):
        """The whole lines of JSON that it printed (cuda_bench)."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]


class Run:
    """What the parts share: the bundle, the output folder, the clock, and what was measured."""

    def __init__(self, bundle, output, minutes, rehearsal):
        self.bundle, self.output, self.rehearsal = bundle, pathlib.Path(output), rehearsal
        self.end = time.monotonic() + 60 * minutes
        self.part_end = self.end
        self.measurements = []
        self.log = open(self.output / "log.txt", "w", encoding="utf-8")

    def start(self, program, *arguments, environment=None, under=()):
        missing = self.bundle.missing(program)
        if missing:
            raise PartFailed(f"{', '.join(missing)} not found: put its folder on LD_LIBRARY_PATH")
        return Child([*under, self.bundle.program(program), *arguments],
                     {**self.bundle.environment(), **(environment or {})}, self.bundle.root)

    def finish(self, child):
        child.finish(self.part_end)
        self.log.write(f"== {' '.join(child.words)}\n{child.text}\n== {child.seconds:.1f} s, "
                       f"{'timed out' if child.timed_out else child.process.returncode}\n\n")
        self.log.flush()
        return child

    def run(self, program, *arguments, **options):
        return self.finish(self.start(program, *arguments, **options)).check()

    def measure(self, *arguments, **tags):
        """Runs cuda_bench; keeps what it measured also when it fails in the end."""
        child = self.finish(self.start("cuda_bench", *arguments))
        found = [{**measurement, **tags} for measurement in child.measurements()]
        self.measurements += found
        child.check()
        return found

    def part(self, part):
        """One part's line of the report."""
        begin = time.monotonic()
        # Rehearsals are about the parts, not about the machine, which may be busy with other tests.
        limit = min(part.limit_s * (5 if self.rehearsal else 1), self.end - begin)
        self.part_end = begin + limit
        line = {"name": part.name, "what": part.what, "limit_s": part.limit_s, "outcome": PASSED, "note": ""}
        try:
            if limit <= 0:
                raise PartTimedOut("no time was left")
            line["note"] = part.body(self) or ""
        except PartSkipped as reason:
            line.update(outcome=SKIPPED, note=str(reason))
        except PartTimedOut as reason:
            line.update(outcome=TIMED_OUT, note=str(reason))
        except PartFailed as reason:
            line.update(outcome=FAILED, note=str(reason))
        except Exception as error:  # a bug of one part must not cost the others
            line.update(outcome=FAILED, note=f"{type(error).__name__}: {error}")
        line["seconds"] = round(time.monotonic() - begin, 2)
        return line
