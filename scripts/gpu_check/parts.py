# SPDX-License-Identifier: Apache-2.0
"""The parts of gpu-check: what each runs, and how long it may take."""
import dataclasses
import glob
import json
import pathlib
import shutil
import tempfile
import typing

import fixtures
from runner import PartFailed, PartSkipped


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    what: str
    limit_s: float
    body: typing.Callable


# The tests of tests/emulation, which say what the emulated device must do.
CONFORMANCE = ["WarpOf*", "Primitives*", "Runtime*", "*CublasLt*"]
# Rehearsed on two cores: one test of each kind.
REHEARSED_KERNELS = ["Device/GeluTest.MatchesTheCpu/*", "Device/RowsTest.GatherAndScatterCopy/*"]
# Large enough to take seconds of a host's time each: a part of their own.
REAL_SIZES = ["RealSizes.*"]
REHEARSED_TRAINING = ["Cases/CudaTrainer.OneHashForAnyNumberOfGroups/fp32PostMlm",
                      "Cases/CudaTrainer.AnswersAsTheCpuDoes/fp32PostMlm"]
# Every kernel once or more, in sizes of the emulated device: a sanitizer makes them a hundred times slower. Fused
# attention in all head dims, with dropout and without; not its case of one token, where decisions of dropout that
# nobody drew are read, for keys of weight 0: initcheck would tell.
SMALL = ["Device/*MatchesTheCpu/*", "Device/RowsTest.*", "DeviceOptimizerTest.*", "Device/CrossEntropyTest.*",
         "Cuda/AnyPath.MatchesTheCpu/*", *(f"Cuda/FusedAttention.MatchesTheOracle/{case}" for case in
                                           ("odd", "padded", "whole_tiles", "empty_rows_in_whole_tiles")),
         "CombineTerms.*", "WarpOf*", "Primitives*"]
# kProgramLoss of tests/cuda/tolerance.hpp, which a bundle does not hold.
PROGRAM_LOSS = 2e-2
SANITIZERS = {"memcheck": "accesses outside of allocations", "racecheck": "races in shared memory",
              "initcheck": "reads of memory that nothing wrote", "synccheck": "wrong barriers"}


def gtest(run, program, patterns, answers=None):
    """Runs the tests that match; returns how many passed. Fails when none was there or one failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        environment = {"DEMIST_ANSWERS": str(answers)} if answers else {}
        child = run.start(program, "--gtest_brief=1", f"--gtest_filter={':'.join(patterns)}",
                          f"--gtest_output=json:{report}", environment=environment)
        run.finish(child)
        if child.timed_out or not report.exists():
            child.check()
            raise PartFailed(f"{program} left no report")
        tests = [test for suite in json.loads(report.read_text(encoding="utf-8"))["testsuites"]
                 for test in suite["testsuite"] if test["status"] == "RUN"]
    failed = [f"{test['classname']}.{test['name']}" for test in tests if "failures" in test]
    if failed:
        raise PartFailed(f"{len(failed)} of {len(tests)} tests failed: {', '.join(failed[:5])}")
    child.check()
    if not tests:
        raise PartFailed(f"{program} has no test for {':'.join(patterns)}")
    return len(tests)


def device(run):
    found = run.measure("device")[0]
    return f"{found['name']}, {found['bytes'] / 2**30:.1f} GiB, {found['bytes_free'] / 2**30:.1f} GiB free"


def gtest_all(run, *calls):
    """Runs them all, also when one fails; returns how many tests passed."""
    count, failures = 0, []
    for call in calls:
        try:
            count += gtest(run, *call)
        except PartFailed as failure:
            failures.append(failure)
    if failures:
        raise type(failures[0])("; ".join(map(str, failures)))
    return count


def conformance(run):
    """Primitives, CUDA runtime and cuBLASLt; then NCCL, alone and as the communicator uses it."""
    with tempfile.TemporaryDirectory() as folder:
        answers = pathlib.Path(folder) / "answers.jsonl"
        answers.touch()
        try:
            count = gtest_all(run, ("cuda_tests", CONFORMANCE, answers), ("cuda_nccl_test", ["Nccl.*"], answers),
                              ("cuda_communicator_test", ["*"]))
        finally:
            gathered = fixtures.gather(answers.read_text(encoding="utf-8").splitlines())
            described = [m for m in run.measurements if m["kind"] == "device"]
            (run.output / "fixtures.json").write_text(json.dumps(
                {"format": "demist.device-answers/1", "device": described[:1], "answers": gathered}, indent=1),
                encoding="utf-8")
    return f"{count} tests; {sum(map(len, gathered.values()))} answers of {len(gathered)} tests in fixtures.json"


def kernels(run):
    patterns = REHEARSED_KERNELS if run.rehearsal else ["*", "-" + CONFORMANCE[0], *CONFORMANCE[1:], *REAL_SIZES]
    return f"{gtest(run, 'cuda_tests', patterns)} tests"


def sizes(run):
    return f"{gtest(run, 'cuda_tests', REAL_SIZES)} tests"


def training(run):
    return f"{gtest(run, 'cuda_trainer_test', REHEARSED_TRAINING if run.rehearsal else ['*'])} tests"


def program_losses(run, name, kind, folder):
    """Losses by (stage, step) of the tiny recipe on a device."""
    run_dir = pathlib.Path(folder) / name
    settings = [f"run_dir={run_dir}", f"parallel.device={kind}", "parallel.ranks=1"]
    if run.rehearsal:
        settings += ["stages.pretrain.steps=6", "stages.adapt.steps=6"]
    run.run("demist", "run", run.bundle.root / "configs" / "tiny.textproto",
            *[word for setting in settings for word in ("--set", setting)])
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {(line["stage"], line["step"]): line["loss"] for line in lines if line["event"] == "step"}


def program(run):
    """`demist run` as a user starts it, from text to scores, on both devices."""
    with tempfile.TemporaryDirectory() as folder:
        gpu = program_losses(run, "device", "CPU" if run.rehearsal else "CUDA", folder)
        cpu = program_losses(run, "cpu", "CPU", folder)
    if set(cpu) != set(gpu):
        raise PartFailed(f"{len(cpu)} steps on the CPU, {len(gpu)} on the device")
    worst = max(abs(gpu[at] - cpu[at]) / cpu[at] for at in cpu)
    if not worst < PROGRAM_LOSS:
        raise PartFailed(f"losses differ by {worst:.2e} from the CPU's, the limit is {PROGRAM_LOSS:g}")
    return f"{len(gpu)} steps, losses within {worst:.1e} of the CPU's"


def repeat(run):
    found = run.measure("compare", *(["--tiny"] if run.rehearsal else []))[0]
    return f"{found['operations']} operations, the same bits beside a busy stream"


def attention(run):
    """Every engine of this build against the unfused path; cuDNN's only where the build has it."""
    found = run.measure("attention", *(["--tiny"] if run.rehearsal else []))
    wrong = [f"{m['path']} for {m['model']}: {m['problem']}" for m in found if m["kind"] == "attention" and m["problem"]]
    if wrong:
        raise PartFailed("; ".join(wrong))
    version = next(m["version"] for m in found if m["kind"] == "cudnn")
    return f"{len(found) - 1} checks; cuDNN {version or 'not built'}"


def single(run):
    return f"{len(run.measure('kernels', *(['--tiny'] if run.rehearsal else []), use='single'))} kernels"


def products(run):
    return f"{len(run.measure('products', *(['--tiny'] if run.rehearsal else [])))} shapes"


def step(run, use, model, layers, rows, micro_batches, *flags):
    """One run of `cuda_bench step` at 512 tokens a row; `use` says what the report does with it."""
    cols, steps = 512, 8
    if run.rehearsal:  # the same calls on the model that the emulated device can bear
        model, layers, rows, cols, steps = "tiny", min(layers, 2), 2, 16, 2
    return run.measure("step", "--model", model, "--layers", layers, "--rows", rows, "--cols", cols,
                       "--micro-batches", micro_batches, "--steps", steps, *flags, use=use)


def base(run):
    step(run, "base", "base", 12, 64, 4, "--operations")


def price(run):
    step(run, "price", "base", 12, 64, 4)
    step(run, "price", "base", 12, 64, 4, "--fast")
    # One gradient a step goes another way (worker/optimizer/exact_reducer.cpp); either reduction has operations
    # of its own.
    step(run, "price", "base", 12, 64, 1, "--operations")
    step(run, "price", "base", 12, 64, 1, "--fast", "--operations")


def large(run):
    step(run, "large", "large", 24, 32, 4)


def xl(run):
    step(run, "xl", "xl", 2, 32, 2, "--operations")
    step(run, "xl", "xl", 6, 32, 2)


def xxl(run):
    step(run, "xxl", "xxl", 1, 16, 2, "--operations")
    step(run, "xxl", "xxl", 3, 16, 2)


def find_sanitizer():
    places = [shutil.which("compute-sanitizer"), *sorted(glob.glob("/usr/local/cuda*/bin/compute-sanitizer")),
              *sorted(glob.glob("/usr/local/cuda*/compute-sanitizer/compute-sanitizer"))]
    return next((place for place in places if place and pathlib.Path(place).exists()), None)


def sanitizer(run):
    """All four tools at once: each is slow on the host, not on the device."""
    tool = find_sanitizer()
    if tool is None:
        raise PartSkipped("compute-sanitizer is not on PATH; it comes with the CUDA toolkit")
    patterns = REHEARSED_KERNELS if run.rehearsal else SMALL
    children = {name: run.start("cuda_tests", "--gtest_brief=1", f"--gtest_filter={':'.join(patterns)}",
                                under=[tool, "--tool", name, "--error-exitcode", "86"]) for name in SANITIZERS}
    for child in children.values():
        run.finish(child)
    if all("Device not supported" in child.text for child in children.values()):
        raise PartSkipped("compute-sanitizer does not support this machine's device")
    found = [f"{name} found {SANITIZERS[name]}" for name, child in children.items() if child.process.returncode == 86]
    if found:
        raise PartFailed("; ".join(found) + ": log.txt")
    for child in children.values():
        child.check()
        if "ERROR SUMMARY: 0 errors" not in child.text and "RACECHECK SUMMARY: 0 hazards" not in child.text:
            raise PartFailed(f"{child.name()} printed no summary")
    return ", ".join(SANITIZERS)


# Their limits leave room in eight minutes for all; what checks comes before what measures for long.
PARTS = [
    Part("device", "the device answers", 25, device),
    Part("conformance", "primitives, CUDA runtime, cuBLASLt and NCCL as the emulated device has them", 30, conformance),
    Part("kernels", "every kernel against the CPU", 35, kernels),
    Part("training", "20 training steps against the CPU backend", 40, training),
    Part("program", "`demist run configs/tiny.textproto` on both devices", 30, program),
    Part("repeat", "every operation again beside a busy stream: the same bits", 20, repeat),
    Part("sizes", "kernels in the sizes of large models against the CPU", 24, sizes),
    Part("attention", "attention engines against the unfused path", 25, attention),
    Part("sanitizer", "compute-sanitizer on small tests", 65, sanitizer),
    Part("products", "matrix products", 20, products),
    Part("single", "kernels of attention one by one, and of sums over ranks", 10, single),
    Part("base", "a step of XLM-R base, with each operation", 30, base),
    Part("price", "EXACT against FAST", 30, price),
    Part("large", "a step of XLM-R large", 30, large),
    Part("xl", "a step of some layers of XLM-R XL", 30, xl),
    Part("xxl", "a step of some layers of XLM-R XXL", 35, xxl),
]
