// What every fuzz target needs: input as numbers, input as a file, and what counts as a finding.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace demist {

namespace fs = std::filesystem;

namespace fuzz {

// A property of the code under test that does not hold.
inline void expect(bool holds, const char* property) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", property);
  std::abort();
}

// Whether `body` ended without an Expected, the one kind of error that its caller documents. Any
// other exception ends the process, and so is a finding.
template <class Expected, class Body>
bool accepts(const Body& body) {
  try {
    body();
    return true;
  } catch (const Expected& error) {
    const std::string_view what = error.what();
    expect(!what.empty() && what.find('\n') == std::string_view::npos, "an error is one line");
    return false;
  }
}

// The input as little-endian numbers and strings, front to back; zeros after its end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size)
      : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }
  std::string text(std::size_t most) {
    const std::size_t size = most < rest_.size() ? most : rest_.size();
    std::string text(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return text;
  }
  std::string rest() { return text(rest_.size()); }
  template <class Number>
  Number number() {
    Number value{};
    const std::string bytes = text(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  unsigned below(unsigned limit) { return number<std::uint8_t>() % limit; }  // limit <= 256

 private:
  std::string_view rest_;
};

// A file in the folder for temporary files, as long as the object lives.
class ScratchFile {
 public:
  explicit ScratchFile(std::string_view content = {})
      : path_((fs::temp_directory_path() / "demist-fuzz-XXXXXX").string()),
        fd_(::mkstemp(path_.data())) {
    const auto written = ::write(fd_, content.data(), content.size());
    expect(written == static_cast<ssize_t>(content.size()), "the input is written to a file");
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() {
    ::close(fd_);
    ::unlink(path_.c_str());
  }
  fs::path path() const { return path_; }
  int descriptor() const { return fd_; }

 private:
  std::string path_;
  int fd_;
};

}  // namespace fuzz
}  // namespace demist
