// Checksums for detecting damage (XXH3) and identities (SHA-256).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace demist {

std::uint64_t xxh3_64(std::span<const std::byte> bytes);
// 32 lower-case hex digits.
std::string xxh3_128_hex(std::span<const std::byte> bytes);

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Streaming SHA-256; hex() ends it: 64 lower-case hex digits.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(bytes_of(text)); }
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};
std::string sha256_hex(std::string_view text);

}  // namespace demist
