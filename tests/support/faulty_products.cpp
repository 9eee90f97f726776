// A processor that computes wrong, for whole programs that know nothing of it: preloaded
// (LD_PRELOAD), this library puts NaNs into oneDNN's products. FAULTY_PRODUCTS names a file, and
// the files beside it with a rank's number behind say when: while <file>.<rank> exists all products
// of that rank are wrong, and <file>.<rank>.once is removed by the one that is.
// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

std::string file_of_rank() {
  const char* file = std::getenv("FAULTY_PRODUCTS");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return file == nullptr || rank == nullptr ? "" : std::string(file) + "." + rank;
}

bool is_faulty() {
  static const std::string always = file_of_rank(), once = always + ".once";
  if (always.empty()) return false;
  return ::access(always.c_str(), F_OK) == 0 || ::unlink(once.c_str()) == 0;
}

}  // namespace

extern "C" dnnl_status_t dnnl_primitive_execute(const_dnnl_primitive_t primitive,
                                                dnnl_stream_t stream, int count,
                                                const dnnl_exec_arg_t* arguments) {
  static const auto sound = reinterpret_cast<decltype(&dnnl_primitive_execute)>(
      ::dlsym(RTLD_NEXT, "dnnl_primitive_execute"));
  const dnnl_status_t status = sound(primitive, stream, count, arguments);
  if (status != dnnl_success || !is_faulty()) return status;
  constexpr std::uint32_t nan = 0x7fc07fc0;  // one in fp32, two in bf16
  std::array<std::uint32_t, 16> nans;        // dropout may take one for nothing, but not so many
  nans.fill(nan);
  for (int i = 0; i < count; ++i) {
    if (arguments[i].arg != DNNL_ARG_DST) continue;
    void* product = nullptr;
    const dnnl_memory_desc_t* shape = nullptr;
    dnnl_memory_get_data_handle(arguments[i].memory, &product);
    dnnl_memory_get_memory_desc(arguments[i].memory, &shape);
    std::memcpy(product, nans.data(), std::min(sizeof nans, dnnl_memory_desc_get_size(shape)));
  }
  return status;
}
