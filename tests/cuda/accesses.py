#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kernels move 16 bytes at a time: what nvcc makes of them, read from their PTX.

usage: accesses.py NVCC SOURCE_DIR

nvcc may cut an access: one through a pointer that it takes for unaligned into bytes, one beside a branch that stores
elements into theirs. Results stay the same, so that no other test sees it.
"""
import collections
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile

FLAGS = ("-ptx", "-arch=compute_90", "-O3", "-DNDEBUG", "-std=c++20", "--expt-relaxed-constexpr", "--diag-suppress=554")
# Of kernels/cuda/chunk.hpp; Access::any moves element by element.
WHOLE, TAIL, ANY = (f"(demist::cuda::Access){number}" for number in range(3))
FUSED = ("attention_forward_kernel", "query_gradient_kernel", "key_gradient_kernel")


def accesses(nvcc, source, file, folder):
    """{kernel: {(ld or st, space, bytes): how many instructions}}"""
    ptx = folder / f"{file.stem}.ptx"
    subprocess.run([nvcc, *FLAGS, "-I", source, "-o", ptx, file], check=True)
    text = subprocess.run(["c++filt"], input=ptx.read_text(), capture_output=True, text=True, check=True).stdout
    kernels = {}
    for entry in re.split(r"^(?:\.visible )?\.entry ", text, flags=re.MULTILINE)[1:]:
        name = entry[:entry.index("\n")]
        count = collections.Counter()
        for kind, space, vector, bits in re.findall(r"\b(ld|st)\.(global|shared)\.(?:nc\.|cs\.)*(v[24]\.)?[a-z](\d+)", entry):
            size = int(bits) // 8 * int(vector[1] if vector else 1)
            count[kind, space, size] += 1
        kernels[name] = count
    return kernels


def narrow(count, kind):
    return sum(number for (k, space, size), number in count.items() if (k, space) == (kind, "global") and size < 16)


def problems(kernels):
    """What is cut. A kernel for rows with a tail may move as many elements as the one that moves nothing else."""
    for name, count in kernels.items():
        if any(space == "global" and size == 1 for _, space, size in count):
            yield f"{name} moves single bytes"
        if TAIL in name:
            by_element = kernels.get(name.replace(TAIL, ANY))
            if by_element is None:
                yield f"{name} has no variant that moves elements, to compare with"
                continue
            for kind, what in (("ld", "reads"), ("st", "writes")):
                if narrow(count, kind) > narrow(by_element, kind):
                    yield f"{name} {what} pieces of less than 16 bytes: {dict(count)}"
            if not count["ld", "global", 16] and not count["st", "global", 16]:
                yield f"{name} moves no 16 bytes: {dict(count)}"
        if WHOLE in name and (count["ld", "global", 2] or count["st", "global", 2]):
            yield f"{name} moves single elements: {dict(count)}"
        if any(fused in name for fused in FUSED):
            if not count["st", "global", 16] or count["st", "shared", 2]:
                yield f"{name} writes its strips in small pieces: {dict(count)}"


def main(nvcc, source):
    files = sorted(pathlib.Path(source, "kernels", "cuda").glob("*.cu"))
    kernels = {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda file: accesses(nvcc, source, file, pathlib.Path(folder)), files):
            kernels.update(found)
    tails = sum(TAIL in name for name in kernels)
    wholes = sum(WHOLE in name for name in kernels)
    fused = sum(any(kind in name for kind in FUSED) for name in kernels)
    if tails < 20 or wholes < 1 or fused != 18:
        sys.exit(f"{tails} kernels for rows with a tail, {wholes} for whole rows and {fused} of attention among "
                 f"{len(kernels)}: names have changed")
    found = list(problems(kernels))
    if found:
        sys.exit("\n".join(found))
    print(f"{len(kernels)} kernels, {tails} of them for rows with a tail")


if __name__ == "__main__":
    main(*sys.argv[1:])
