// Arithmetic whose results are known: matrix products and an all-reduce, timed and checked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "core/mpi.hpp"
#include "kernels/backend.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist::doctor {

// FLOP/s of products of pseudo-random matrices. Throws EnvironmentError when one is wrong.
double product_rate(Backend& backend);

// Whether `out` is a b^T, all of size x size. Each row is added up with random signs and compared
// with the same sum in double precision, so that every element counts.
bool is_product(std::span<const float> out, std::span<const float> a, std::span<const float> b,
                std::int64_t size);

// Bytes a second of an all-reduce of 1 MiB. Collective over both, which are of the same ranks; only
// when it is through does a rank that got a wrong sum throw EnvironmentError.
double all_reduce_rate(const mpi::Comm& world, Backend& backend, Communicator& communicator);

}  // namespace demist::doctor
