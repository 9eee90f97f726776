// SPDX-License-Identifier: Apache-2.0
#include "worker/device.hpp"

#include <dlfcn.h>

#include <filesystem>

#include "core/error.hpp"

namespace demist {
namespace {

constexpr const char* kLibrary = "libdemist_cuda.so";
constexpr const char* kDriver = "libcuda.so.1";

// Beside the program (a build folder, a bundle), or where `cmake --install` puts it.
std::filesystem::path cuda_library() {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const auto& folder : {program, program.parent_path() / "lib"})
    if (std::filesystem::exists(folder / kLibrary)) return folder / kLibrary;
  return {};
}

}  // namespace

Device make_cpu_device(const std::string& isa) {
  return {make_cpu_backend(isa), make_host_communicator};
}

Device make_device(DeviceKind kind, const mpi::Comm& world) {
  if (kind == DeviceKind::cpu) return make_cpu_device();
  if (kind == DeviceKind::cuda) return load_cuda_device(world);
  const std::int64_t with_cuda = world.all_reduce_sum(cuda_is_present() ? 1 : 0);
  if (with_cuda == 0) return make_cpu_device();
  if (with_cuda == world.size()) return load_cuda_device(world);
  throw EnvironmentError(std::to_string(with_cuda) + " of " + std::to_string(world.size()) +
                         " ranks have a GPU; set parallel.device to CPU, or leave the nodes "
                         "without one out");
}

bool cuda_is_present() {
  if (cuda_library().empty()) return false;
  void* driver = dlopen(kDriver, RTLD_LAZY | RTLD_LOCAL);
  if (driver != nullptr) dlclose(driver);
  return driver != nullptr;
}

Device load_cuda_device(const mpi::Comm& world) {
  const auto path = cuda_library();
  if (path.empty())
    throw EnvironmentError(std::string("this build has no CUDA part (") + kLibrary +
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
