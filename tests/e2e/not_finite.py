#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One rank of `demist run` computes NaNs, once or from a moment on: the bits stay those of sound machines.

usage: not_finite.py DEMIST CONFIGS FAULTY_PRODUCTS

FAULTY_PRODUCTS is the library of tests/support/faulty_products.cpp. A NaN that comes once costs a step that is computed
again. A rank that goes on so ends the run with exit code 6, with nothing saved since; when the rank is well, the same
command goes on to the same bits.
"""
import os
import pathlib
import random
import sys
import tempfile
import time

from run import Run, expect


def make(binary, configs, folder, library, precision):
    # So many steps that there are some left when this script, on a busy machine, comes to its second fault.
    return Run(binary, configs, folder, "parallel.ranks=3", "stages.pretrain.steps=250", "checkpoint.every_steps=20",
               f"precision={precision}", LD_PRELOAD=library,
               FAULTY_PRODUCTS=str(folder.with_suffix(".fault")))


def sound(run):
    run.start().finish_training()
    run.expect(not run.events("step_recomputed", "step_skipped", "rollback"), "a false alarm")


def fault(run, rank, name=""):
    path = pathlib.Path(f"{run.environment['FAULTY_PRODUCTS']}.{rank}{name}")
    path.touch()
    return path


def passing(run):
    run.start()
    for rank in random.sample(range(3), 2):
        run.wait_for_steps(random.randrange(10, 30))
        path = fault(run, rank, ".once")
        run.wait_for(lambda: not path.exists())
    run.finish_training()
    told = run.events("step_recomputed")
    run.expect(len(told) == 2 and not run.events("step_skipped", "rollback"), f"{told}")


def staying(run):
    run.start().wait_for_steps(random.randrange(25, 45))  # behind the first checkpoint: there is a way back
    path = fault(run, random.randrange(3))
    output = run.finish(6)
    run.expect("not finite" in output and len(run.failures()) == 1, "it does not say why it ends, or tried again")
    run.expect(run.events("step_skipped") and run.events("rollback"), "it ended at once")
    path.unlink()  # the rank is well again, or another machine's
    run.start().finish_training()


def main():
    binary, configs, library = sys.argv[1:]
    seed = int(os.environ.get("DEMIST_SEED", time.time_ns() % 2**32))
    random.seed(seed)
    print(f"DEMIST_SEED={seed}")
    with tempfile.TemporaryDirectory(prefix="demist-not-finite-") as root:
        precision, hashes = random.choice(("FP32", "BF16")), {}
        for scene in (sound, passing, staying):
            run = make(binary, configs, pathlib.Path(root) / scene.__name__, library, precision)
            scene(run)
            hashes[scene] = run.hash()
            print(f"{precision} {scene.__name__:8} {run.hash()}", flush=True)
        expect(len(set(hashes.values())) == 1, "the hashes differ")


if __name__ == "__main__":
    main()
