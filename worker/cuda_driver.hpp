// Whether this machine's GPUs can be used: NVIDIA's driver knows, and costs little to ask.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace demist {

// Of the GPUs that the kernels are compiled for: Ampere and later (bf16 on tensor cores, cp.async).
constexpr int kLeastComputeCapability = 8;
// Of a message: what an older device is told.
inline std::string too_old(int major, int minor) {
  return " has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
         ", this build needs " + std::to_string(kLeastComputeCapability) + ".0; ";
}

struct CudaDriver {
  bool usable = false;
  std::string problem;  // why not, although there is a driver; empty where there is none
};

// Loads nothing but the driver. It must know CUDA `major`, as all of that version's libraries ask,
// and all devices that it shows must have kernels in this build.
CudaDriver ask_cuda_driver(int major, const std::string& library = "libcuda.so.1");

}  // namespace demist
