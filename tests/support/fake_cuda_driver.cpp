// NVIDIA's driver as far as ask_cuda_driver() goes. The environment says what it answers.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

namespace {

int number(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return number("FAKE_CUDA_INIT"); }
int cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_VERSION");
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_DEVICES");
  return 0;
}
int cuDeviceGet(int* device, int index) {
  *device = 10 + index;
  return 0;
}
// The last device is that of FAKE_CUDA_CAPABILITY, the others are of 9.0.
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const bool last = device == 10 + number("FAKE_CUDA_DEVICES") - 1;
  const int capability = last ? number("FAKE_CUDA_CAPABILITY") : 90;
  if (attribute != 75 && attribute != 76) return 1;
  *value = attribute == 75 ? capability / 10 : capability % 10;
  return 0;
}
int cuGetErrorString(int error, const char** text) {
  if (error != 100) return 1;
  *text = "no CUDA-capable device is detected";
  return 0;
}

}  // extern "C"
