// A file of lines that others append to: each whole line is read once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace demist {

class GrowingFile {
 public:
  explicit GrowingFile(std::filesystem::path path) : path_(std::move(path)) {}

  // Whether what was read is no longer how the file begins: it is gone, shorter, another one, or
  // has other bytes where reading would go on. Reading then begins anew.
  bool begins_anew();
  // Calls visit(text) with whole lines, many at a time, that were not read before. A file that is
  // not there has none.
  void read(const std::function<void(std::string_view text)>& visit);
  // What stood behind the last whole line then.
  std::string_view unfinished() const { return unfinished_; }

 private:
  std::filesystem::path path_;
  std::int64_t read_ = 0;  // bytes, of whole lines
  std::string mark_;       // the last of them
  dev_t device_ = 0;
  ino_t file_ = 0;
  std::string unfinished_;
};

}  // namespace demist
