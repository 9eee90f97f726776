// SPDX-License-Identifier: Apache-2.0
#include "worker/cuda_driver.hpp"

#include <dlfcn.h>

namespace demist {
namespace {

constexpr int kSuccess = 0;

template <class Function>
Function* look_up(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

std::string text_of(void* library, int error) {
  const char* text = nullptr;
  const auto name = look_up<int(int, const char**)>(library, "cuGetErrorString");
  if (name == nullptr || name(error, &text) != kSuccess || text == nullptr) text = "unknown error";
  return std::string(text) + " (" + std::to_string(error) + ")";
}

// The first device that this build has no kernels for; empty: there is none.
std::string unknown_device(void* driver, int devices) {
  constexpr int kMajor = 75, kMinor = 76;  // CUdevice_attribute
  const auto device_of = look_up<int(int*, int)>(driver, "cuDeviceGet");
  const auto attribute_of = look_up<int(int*, int, int)>(driver, "cuDeviceGetAttribute");
  if (device_of == nullptr || attribute_of == nullptr) return {};
  for (int i = 0; i < devices; ++i) {
    int device = 0, major = 0, minor = 0;
    if (device_of(&device, i) == kSuccess && attribute_of(&major, kMajor, device) == kSuccess &&
        attribute_of(&minor, kMinor, device) == kSuccess && major < kLeastComputeCapability)
      return "device " + std::to_string(i) + too_old(major, minor) +
             "CUDA_VISIBLE_DEVICES leaves it out";
  }
  return {};
}

}  // namespace

// The C interface of cuda.h, which a build without CUDA does not have.
CudaDriver ask_cuda_driver(int major, const std::string& library) {
  // Never unloaded: a driver that was started keeps threads and memory.
  void* driver = dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return {};
  const auto start = look_up<int(unsigned)>(driver, "cuInit");
  const auto version = look_up<int(int*)>(driver, "cuDriverGetVersion");
  const auto count = look_up<int(int*)>(driver, "cuDeviceGetCount");
  if (start == nullptr || version == nullptr || count == nullptr)
    return {false, library + " is no driver of NVIDIA's"};
  int known = 0, devices = 0;
  if (version(&known) == kSuccess && known / 1000 < major)
    return {false, "the driver knows CUDA " + std::to_string(known / 1000) + "." +
                       std::to_string(known % 1000 / 10) + ", this build needs " +
                       std::to_string(major)};
  int error = start(0);
  if (error == kSuccess) error = count(&devices);
  if (error != kSuccess) return {false, "the driver says: " + text_of(driver, error)};
  if (devices == 0) return {false, "the driver shows no device"};
  const std::string unknown = unknown_device(driver, devices);
  return {unknown.empty(), unknown};
}

}  // namespace demist
