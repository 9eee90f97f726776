// The parts of cuda_bench. Each prints JSON, one object a line, which scripts/gpu_check reads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "core/mpi.hpp"
#include "kernels/backend.hpp"
#include "tests/bench/synthetic.hpp"

namespace demist::bench {

// A line that begins with '{' is a measurement; everything else on stdout is for people.
void print(const nlohmann::json& measurement);
// Since this process was started, in seconds, its loading included.
double process_seconds();

// What the device and the libraries call themselves.
void describe_device();
// bf16 in [-1, 1): a product of zeros draws less power and runs faster than one of numbers.
Buffer<bf16> random_numbers(Backend& backend, std::size_t size);
// Every attention engine of this build against the unfused one, and its time, in the models'
// shapes.
void compare_attention(bool tiny);
// The kernels of fused attention one by one, and those that add what the ranks of a group sent:
// a step on one device shows the ones together, and has none of the others.
void measure_kernels(bool tiny);
// The rate of matrix products: the best that can be had, and those of the XLM-R layers.
void measure_products(bool tiny);
// A training step: time, parts of the start, memory; with "operations" also each operation's time.
void measure_step(const mpi::Comm& world, const Options& options);
// Two training runs, one of them beside a neighbour that keeps the device busy: every operation
// must write the same bits. False when one does not.
bool compare_runs(const mpi::Comm& world, bool tiny);

}  // namespace demist::bench
