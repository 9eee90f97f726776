// Drivers that are there and of no use.
// SPDX-License-Identifier: Apache-2.0
#include "worker/cuda_driver.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

namespace demist {
namespace {

struct Answers {
  int start, version, devices, capability = 90;
};

CudaDriver ask(const Answers& answers) {
  const auto set = [](const char* name, int value) {
    setenv(name, std::to_string(value).c_str(), 1);
  };
  set("FAKE_CUDA_INIT", answers.start);
  set("FAKE_CUDA_VERSION", answers.version);
  set("FAKE_CUDA_DEVICES", answers.devices);
  set("FAKE_CUDA_CAPABILITY", answers.capability);
  return ask_cuda_driver(13, DEMIST_FAKE_CUDA_DRIVER);
}

TEST(CudaDriver, OfThisVersionWithADeviceIsUsable) {
  for (const int version : {13000, 13020, 14000})
    for (const int capability : {80, 86, 120}) {
      const CudaDriver found = ask({0, version, 2, capability});
      EXPECT_TRUE(found.usable) << version << " " << capability;
      EXPECT_EQ(found.problem, "");
    }
}

// A machine without a GPU, as most are: nothing is worth a word.
TEST(CudaDriver, ThatIsNotThereIsNoProblem) {
  const CudaDriver found = ask_cuda_driver(13, "libcuda_of_nobody.so.1");
  EXPECT_FALSE(found.usable);
  EXPECT_EQ(found.problem, "");
}

TEST(CudaDriver, WithoutUseSaysWhy) {
  const auto problem = [](const Answers& answers) {
    const CudaDriver found = ask(answers);
    EXPECT_FALSE(found.usable);
    return found.problem;
  };
  EXPECT_EQ(problem({100, 13000, 0}), "the driver says: no CUDA-capable device is detected (100)");
  EXPECT_EQ(problem({999, 13000, 0}), "the driver says: unknown error (999)");
  EXPECT_EQ(problem({0, 12040, 8}), "the driver knows CUDA 12.4, this build needs 13");
  EXPECT_EQ(problem({0, 13000, 0}), "the driver shows no device");
  EXPECT_EQ(
      problem({0, 13000, 3, 75}),
      "device 2 has compute capability 7.5, this build needs 8.0; CUDA_VISIBLE_DEVICES leaves "
      "it out");
  EXPECT_EQ(ask_cuda_driver(13, "libc.so.6").problem, "libc.so.6 is no driver of NVIDIA's");
}

}  // namespace
}  // namespace demist
