#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`demist doctor` on two ranks: it tells versions, and names the rank whose products are wrong.

usage: doctor.py DEMIST FAULTY_PRODUCTS

FAULTY_PRODUCTS is the library of tests/support/faulty_products.cpp. Slurm's name of a node stands for another host.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

from run import expect


def examine(binary, library, root):
    rank = [f"{variable}={value}" for variable, value in (("LD_PRELOAD", library), ("FAULTY_PRODUCTS", root / "fault"))]
    ranks = []
    for host in ("left", "right"):
        ranks += [*([":"] if ranks else []), "-n", "1", "env", f"SLURMD_NODENAME={host}", *rank, binary, "doctor", root]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", *map(str, ranks)], env=environment,
                          capture_output=True, text=True, check=False)


def main():
    binary, library = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="demist-doctor-") as folder:
        root = pathlib.Path(folder)
        well = examine(binary, library, root)
        expect(well.returncode == 0 and "BROKEN" not in well.stdout and "all-reduce" in well.stdout, f"{well}")
        versions = [line for line in well.stdout.splitlines() if " versions " in line]
        expect(len(versions) == 1 and all(f"{name}: " in versions[0] for name in ("HDF5", "MPI", "PMIx")), f"{well}")
        expect("not known" not in versions[0], f"mpirun has a PMIx: {versions}")
        (root / "fault.1").touch()
        ill = examine(binary, library, root)
        expect(ill.returncode == 5 and "BROKEN  products     right: computes wrong" in ill.stdout, f"{ill}")
        expect("left: " not in ill.stdout, f"the wrong one is named: {ill}")


if __name__ == "__main__":
    main()
