// Measurements of the CUDA backend on one device. scripts/gpu_check runs them; by hand:
//   cuda_bench device | products [--tiny] | compare [--tiny] | attention [--tiny] | kernels
//   [--tiny] cuda_bench step --model base|large|xl|xxl|tiny --layers L --rows R --cols T
//                   --micro-batches N --steps S [--fast] [--operations]
// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "kernels/cuda/runtime.hpp"
#include "tests/cuda/bench/measurements.hpp"

namespace demist::bench {

void print(const nlohmann::json& measurement) {
  std::printf("%s\n", measurement.dump().c_str());
  std::fflush(stdout);
}

// proc(5): field 22 of /proc/self/stat is the start, in clock ticks since the machine's; the second
// field, in brackets, may hold blanks.
double process_seconds() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void describe_device() {
  cudaDeviceProp properties{};
  int driver = 0, runtime = 0, nccl = 0;
  cuda::check(cudaGetDeviceProperties(&properties, 0), "device properties");
  cuda::check(cudaDriverGetVersion(&driver), "driver version");
  cuda::check(cudaRuntimeGetVersion(&runtime), "runtime version");
  if (ncclGetVersion(&nccl) != ncclSuccess) throw EnvironmentError("NCCL tells no version");
  std::size_t free = 0, total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "device memory");
  print({{"kind", "device"},
         {"name", properties.name},
         {"capability", {properties.major, properties.minor}},
         {"multiprocessors", properties.multiProcessorCount},
         {"bytes", total},
         {"bytes_free", free},
         {"driver_cuda", driver},
         {"runtime_cuda", runtime},
         {"cublaslt", cublasLtGetVersion()},
         {"nccl", nccl}});
}

namespace {

int run(int argc, char** argv) {
  const std::string part = argc > 1 ? argv[1] : "";
  Options options({{"model", "tiny"},
                   {"layers", "2"},
                   {"rows", "2"},
                   {"cols", "16"},
                   {"micro-batches", "1"},
                   {"steps", "2"}},
                  {"fast", "operations", "tiny"});
  options.parse(argc, argv, 2);
  const mpi::Session session(&argc, &argv);
  if (part == "device") {
    describe_device();
  } else if (part == "products") {
    measure_products(options.is_set("tiny"));
  } else if (part == "attention") {
    compare_attention(options.is_set("tiny"));
  } else if (part == "kernels") {
    measure_kernels(options.is_set("tiny"));
  } else if (part == "step") {
    measure_step(session.world(), options);
  } else if (part == "compare") {
    return compare_runs(session.world(), options.is_set("tiny")) ? 0 : 1;
  } else {
    throw ConfigError(
        "usage: cuda_bench device | products | attention | kernels | step | compare [options]");
  }
  return 0;
}

}  // namespace
}  // namespace demist::bench

int main(int argc, char** argv) {
  try {
    return demist::bench::run(argc, argv);
  } catch (const demist::Error& error) {
    std::fprintf(stderr, "cuda_bench: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
