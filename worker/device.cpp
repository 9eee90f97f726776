// SPDX-License-Identifier: Apache-2.0
#include "worker/device.hpp"

#include <dlfcn.h>

#include <filesystem>

#include "core/error.hpp"
#include "core/log.hpp"
#include "worker/cuda_driver.hpp"

namespace demist {
namespace {

constexpr const char* kLibrary = "libdemist_cuda.so";

// Beside the program (a build folder, a bundle), or where `cmake --install` puts it.
std::filesystem::path cuda_library() {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const auto& folder : {program, program.parent_path() / "lib"})
    if (std::filesystem::exists(folder / kLibrary)) return folder / kLibrary;
  return {};
}

// Whether AUTO may take a GPU here; says why not where one would be expected.
bool cuda_is_usable() {
  if (cuda_library().empty()) return false;
  const CudaDriver driver = ask_cuda_driver(DEMIST_CUDA_MAJOR);
  if (!driver.problem.empty())
    log::warning("parallel.device: AUTO finds no GPU here: " + driver.problem);
  return driver.usable;
}

}  // namespace

Device make_cpu_device(const std::string& isa) {
  return {make_cpu_backend(isa), make_host_communicator};
}

Device make_device(DeviceKind kind, const mpi::Comm& world) {
  if (kind == DeviceKind::cpu) return make_cpu_device();
  if (kind == DeviceKind::cuda) return load_cuda_device(world);
  const std::int64_t with_cuda = world.all_reduce_sum(cuda_is_usable() ? 1 : 0);
  if (with_cuda == 0) return make_cpu_device();
  if (with_cuda == world.size()) return load_cuda_device(world);
  throw EnvironmentError(std::to_string(with_cuda) + " of " + std::to_string(world.size()) +
                         " ranks have a GPU; set parallel.device to CPU, or leave the nodes "
                         "without one out");
}

Device load_cuda_device(const mpi::Comm& world) {
  const auto path = cuda_library();
  if (path.empty())
    throw ConfigError(std::string("this build has no CUDA part (") + kLibrary +
                      "); configure with -DDEMIST_CUDA=ON where nvcc is, or set "
                      "parallel.device: CPU");
  // Never unloaded: the device it makes outlives this call.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr)
    throw EnvironmentError(path.string() + " does not load: " + dlerror() +
                           "; the CUDA and NCCL libraries must be on LD_LIBRARY_PATH");
  using Make = void (*)(const mpi::Comm*, Device*);
  const auto make = reinterpret_cast<Make>(dlsym(library, "demist_make_cuda_device"));
  if (make == nullptr)
    throw EnvironmentError(path.string() + " belongs to another version of demist; rebuild it");
  Device device;
  make(&world, &device);
  return device;
}

}  // namespace demist
