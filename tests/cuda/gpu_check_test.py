#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""gpu-check with programs that fail, hang or are not there, and its report of known numbers.

usage: gpu_check_test.py SOURCE_DIR
"""
import argparse
import importlib.util
import json
import pathlib
import re
import sys
import tempfile
import time
import unittest
import unittest.mock

SOURCE = pathlib.Path(sys.argv.pop(1)).resolve()
sys.dont_write_bytecode = True
sys.path.insert(0, str(SOURCE / "scripts" / "gpu_check"))
import bundle as bundle_module  # noqa: E402
import parts  # noqa: E402
import report  # noqa: E402
from parts import Part  # noqa: E402

spec = importlib.util.spec_from_file_location("gpu_check", SOURCE / "scripts" / "gpu_check" / "__main__.py")
gpu_check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_check)


def step(use, layers, all_layers, seconds, **more):
    return {"kind": "step", "use": use, "layers": layers, "all_layers": all_layers, "rows": 64, "cols": 512,
            "micro_batches": 4, "reduction": "EXACT", "seconds": seconds, "tokens": 131072, "model_flops": 1e12 * layers,
            "planned_bytes": 10e9, "measured_bytes": 11e9,
            "start": dict.fromkeys(("process", "device", "plan", "initialize", "first_step"), 0.25), **more}


class Parts(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        (self.root / "bin").mkdir()

    def tearDown(self):
        self.folder.cleanup()

    def program(self, name, script):
        path = self.root / "bin" / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def check(self, *chosen, minutes=1, programs=None):
        (self.root / "bundle.json").write_text(json.dumps({"id": "test", "programs": programs or {}}))
        options = argparse.Namespace(output=self.root / "out", minutes=minutes, rehearse=False, only="")
        code = gpu_check.check(options, chosen, bundle_module.Bundle(self.root))
        lines = json.loads((self.root / "out" / "results.json").read_text())["parts"]
        return code, {line["name"]: line for line in lines}

    def test_a_failing_and_a_hanging_part_cost_only_themselves(self):
        self.program("fails", "echo the reason; exit 3")
        self.program("crashes", "kill -SEGV $$")
        self.program("hangs", "sleep 60 & sleep 60")
        self.program("works", "exit 0")
        begin = time.monotonic()
        code, lines = self.check(*(Part(name, name, 1, lambda run, name=name: run.run(name) and "fine")
                                   for name in ("fails", "crashes", "hangs", "works")))
        self.assertLess(time.monotonic() - begin, 20)
        self.assertEqual(code, 1)
        self.assertEqual({name: line["outcome"] for name, line in lines.items()},
                         {"fails": "failed", "crashes": "failed", "hangs": "timed out", "works": "passed"})
        self.assertIn("ended with 3: the reason", lines["fails"]["note"])
        self.assertIn("SIGSEGV", lines["crashes"]["note"])
        self.assertIn("still running", lines["hangs"]["note"])

    def test_all_parts_passed_is_exit_code_0(self):
        self.program("works", "exit 0")
        self.assertEqual(self.check(Part("works", "", 5, lambda run: run.run("works") and ""))[0], 0)

    def test_no_time_left_is_said(self):
        code, lines = self.check(Part("late", "", 5, lambda run: ""), minutes=0)
        self.assertEqual((code, lines["late"]["outcome"]), (1, "timed out"))

    def test_a_missing_library_is_named(self):
        self.program("needs", "exit 0")
        code, lines = self.check(Part("needs", "", 5, lambda run: run.run("needs") and ""),
                                 programs={"needs": ["libnccl.so.99"]})
        self.assertEqual(code, 1)
        self.assertIn("libnccl.so.99 not found", lines["needs"]["note"])

    def test_an_older_system_is_told_so(self):
        (self.root / "bundle.json").write_text(json.dumps({"id": "test", "glibc": "2.999", "programs": {}}))
        with self.assertRaisesRegex(SystemExit, "this system has glibc 2.* needs 2.999"):
            bundle_module.Bundle(self.root)

    def test_libraries_are_found_and_the_bundle_comes_first(self):
        for folder in ("nvidia", "lib"):
            (self.root / folder).mkdir()
        (self.root / "nvidia" / "libnccl.so.99").touch()
        (self.root / "lib.tar.xz").touch()  # unpacked already: lib/
        (self.root / "bundle.json").write_text(json.dumps({"id": "test", "programs": {"needs": ["libnccl.so.99"]}}))
        with unittest.mock.patch.dict("os.environ", LD_LIBRARY_PATH=str(self.root / "nvidia")):
            found = bundle_module.Bundle(self.root)
            folders = found.environment()["LD_LIBRARY_PATH"].split(":")
        self.assertEqual(found.missing("needs"), [])
        self.assertEqual(folders[0], str(self.root.resolve() / "lib"))
        self.assertIn(str(self.root / "nvidia"), folders)

    def test_measurements_of_a_failing_program_are_kept(self):
        self.program("cuda_bench", 'echo \'{"kind": "note"}\'; exit 1')

        def body(run):
            try:
                run.measure("device")
            finally:
                self.kept = list(run.measurements)
        code, _ = self.check(Part("device", "", 5, lambda run: body(run)))
        self.assertEqual((code, self.kept), (1, [{"kind": "note"}]))

    def test_a_sanitizer_that_finds_something_fails(self):
        self.program("cuda_tests", "exit 0")
        self.program("compute-sanitizer", 'case "$2" in racecheck) exit 86;; *) echo "ERROR SUMMARY: 0 errors";; esac')
        tool = str(self.root / "bin" / "compute-sanitizer")
        before, parts.find_sanitizer = parts.find_sanitizer, lambda: tool
        try:
            code, lines = self.check(Part("sanitizer", "", 20, parts.sanitizer))
        finally:
            parts.find_sanitizer = before
        self.assertEqual((code, lines["sanitizer"]["outcome"]), (1, "failed"))
        self.assertIn("racecheck found races in shared memory", lines["sanitizer"]["note"])

    def test_an_attention_engine_that_is_wrong_fails(self):
        one = {"kind": "attention", "model": "base", "rows": 64, "cols": 512, "heads": 12, "head_dim": 64}
        lines = map(json.dumps, ({**one, "path": "OWN", "problem": ""}, {**one, "path": "CUDNN", "problem": "dQ differs"},
                                 {"kind": "cudnn", "version": 91900}))
        self.program("cuda_bench", "\n".join(f"echo '{line}'" for line in lines))
        code, found = self.check(Part("attention", "", 5, parts.attention))
        self.assertEqual((code, found["attention"]["note"]), (1, "CUDNN for base: dQ differs"))

    def test_without_a_sanitizer_the_part_is_skipped(self):
        before, parts.find_sanitizer = parts.find_sanitizer, lambda: None
        try:
            code, lines = self.check(Part("sanitizer", "", 20, parts.sanitizer))
        finally:
            parts.find_sanitizer = before
        self.assertEqual((code, lines["sanitizer"]["outcome"]), (0, "skipped"))

    def test_tests_that_do_not_run_fail(self):
        self.program("cuda_tests", 'for a in "$@"; do case "$a" in --gtest_output=json:*) '
                     'echo \'{"testsuites": []}\' > "${a#*json:}";; esac; done')
        code, lines = self.check(Part("kernels", "", 5, parts.kernels))
        self.assertEqual(code, 1)
        self.assertIn("has no test for", lines["kernels"]["note"])

    def test_the_limits_leave_room_in_eight_minutes(self):
        self.assertLess(sum(p.limit_s for p in parts.PARTS), 480)

    def test_the_limit_of_losses_is_that_of_the_table(self):
        table = (SOURCE / "tests" / "cuda" / "tolerance.hpp").read_text()
        self.assertEqual(parts.PROGRAM_LOSS, float(re.search(r" kProgramLoss = (\S+);", table)[1]))

    def program_writing(self, gpu, cpu):
        """A `demist run` whose loss depends on the device; the words behind its settings are KEY=VALUE."""
        self.program("demist", f"""loss={cpu}
for word in "$@"; do case "$word" in
  run_dir=*) folder="${{word#run_dir=}}";;
  parallel.device=CUDA) loss={gpu};;
esac; done
mkdir -p "$folder"
echo "{{\\"event\\": \\"step\\", \\"stage\\": \\"s\\", \\"step\\": 1, \\"loss\\": $loss}}" > "$folder/metrics.jsonl"
""")

    def test_losses_beyond_the_limit_fail(self):
        for gpu, outcome in ((4 * (1 + 0.9 * parts.PROGRAM_LOSS), "passed"), (4 * (1 + 1.1 * parts.PROGRAM_LOSS), "failed"),
                             ("NaN", "failed")):
            self.program_writing(gpu, 4)
            _, lines = self.check(Part("program", "", 20, parts.program))
            self.assertEqual(lines["program"]["outcome"], outcome, lines["program"]["note"])

    def test_checks_come_before_long_measurements(self):
        names = [p.name for p in parts.PARTS]
        self.assertEqual(names[-5:], ["base", "price", "large", "xl", "xxl"])


class Report(unittest.TestCase):
    def text(self, *measurements, device="NVIDIA H100 80GB HBM3"):
        found = [{"kind": "device", "name": device, "multiprocessors": 132, "bytes": 80 * 2**30, "runtime_cuda": 13000,
                  "cublaslt": 130100, "nccl": 22809}, *measurements]
        return report.markdown({"rehearsal": False, "date": "2026-01-02", "bundle": "b", "parts": [],
                                "host": {"driver": "580", "cpu_cores": 16}, "measurements": found})

    def test_mfu_is_flops_over_seconds_over_the_peak(self):
        text = self.text(step("base", 12, 12, 2.0, model_flops=989e12))
        self.assertIn("| base, 12 of 12 layers | 4 of 64 x 512 | 2,000 | 65,536 | 494 | 50.0 % |", text)

    def test_layers_are_scaled_on_the_line_through_two_measurements(self):
        text = self.text(step("xl", 2, 36, 1.0), step("xl", 6, 36, 2.0))
        self.assertIn("| xl, scaled to 36 | 4 of 64 x 512 | 9,500 | 13,797 | 3.79 | 0.4 % |", text)

    def test_an_operation_is_compared_with_the_longer_of_its_limits(self):
        operation = {"kind": "operation", "use": "base", "shape": "s", "calls": 2}
        text = self.text({**operation, "name": "gemm", "seconds": 4e-3, "bytes": 3.35e9, "flops": 2 * 989e9},
                         {**operation, "name": "add", "seconds": 4e-3, "bytes": 3.35e9, "flops": 0},
                         step("base", 12, 12, 0.01))
        self.assertIn("| gemm | s | 2 | 4 | 50.0 % | 494 TFLOP/s | 50.0 % |", text)
        self.assertIn("| add | s | 2 | 4 | 50.0 % | 0.838 TB/s | 25.0 % |", text)
        self.assertIn("Together 8 ms (products 4 ms, attention 0 ms", text)

    def test_the_price_of_exact(self):
        text = self.text(step("price", 12, 12, 1.1), step("price", 12, 12, 1.0, reduction="FAST"))
        self.assertIn("| 4 | 1,100 | 1,000 | 10.0 % |", text)

    def test_attention_engines_stand_side_by_side(self):
        one = {"kind": "attention", "model": "base", "rows": 64, "cols": 512, "heads": 12, "head_dim": 64, "problem": ""}
        text = self.text({**one, "path": "OWN", "forward_seconds": 1e-3, "backward_seconds": 3e-3},
                         {**one, "path": "CUDNN", "problem": "dQ is wrong", "kept_bytes": 4e8, "planned_bytes": 5e8})
        # 4 * 32,768 * 512 * 768 FLOP in 1 ms, 10 of them in 3; 203 MB at 3.35 TB/s take longer than 51.5 GFLOP at
        # 989 TFLOP/s, and 129 GFLOP longer than 404 MB.
        self.assertIn("| OWN | base, 64 x 512, 12 heads of 64 | 1 | 51.5 | 6.1 % | 3 | 42.9 | 4.3 % | yes |", text)
        self.assertIn("| CUDNN | base, 64 x 512, 12 heads of 64 | – | – | – | – | – | – | "
                      "dQ is wrong; keeps 0.40 GB, planned 0.50 |", text)
        text = self.text({**one, "path": "OWN", "forward_seconds": 1e-3, "backward_seconds": 3e-3}, device="NVIDIA Z900")
        self.assertIn("| 1 | 51.5 | – | 3 | 42.9 | – | yes |", text)

    def test_wide_operations_stand_by_the_call(self):
        operation = {"kind": "operation", "use": "xxl", "shape": "bf16 8192x4096", "calls": 4, "flops": 0}
        text = self.text({**operation, "name": "add", "seconds": 4e-4, "bytes": 3.35e8},
                         {**operation, "name": "add_layernorm_forward", "seconds": 8e-4, "bytes": 6.7e8},
                         {**operation, "name": "gemm", "seconds": 1, "bytes": 1}, {**operation, "name": "adamw", "seconds": 1,
                                                                                   "bytes": 1})
        self.assertIn("| xxl | add | bf16 8192x4096 | 0.1 | 0.838 TB/s | 25.0 % |", text)
        self.assertIn("| xxl | add_layernorm_forward | bf16 8192x4096 | 0.2 | 0.838 TB/s | 25.0 % |", text)
        self.assertNotIn("| xxl | gemm", text)
        self.assertNotIn("| xxl | adamw", text)

    def test_an_unknown_device_has_no_shares(self):
        text = self.text(step("base", 12, 12, 2.0), device="NVIDIA Z900")
        self.assertIn("| 65,536 | 6 | – |", text)
        self.assertIn("not known here", text)


if __name__ == "__main__":
    unittest.main()
