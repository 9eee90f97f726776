// SPDX-License-Identifier: Apache-2.0
#include "core/seal.hpp"

#include <string_view>

#include "core/checksum.hpp"
#include "core/error.hpp"

namespace demist {
namespace {

constexpr std::string_view kHead = ",\"xxh3\":\"", kTail = "\"}\n";
constexpr std::size_t kSize = kHead.size() + 32 + kTail.size();

std::string seal_of(std::string_view body) {
  return std::string(kHead) + xxh3_128_hex(bytes_of(body)) + std::string(kTail);
}

}  // namespace

std::string sealed(std::string object) {
  ensure(object.ends_with('}'), "seal: not a JSON object");
  object.pop_back();  // the seal closes it
  return object + seal_of(object);
}

std::optional<std::string> unsealed(const std::string& text) {
  if (text.size() < kSize) return std::nullopt;
  const std::string_view body = std::string_view(text).substr(0, text.size() - kSize);
  if (std::string_view(text).substr(body.size()) != seal_of(body)) return std::nullopt;
  return std::string(body) + "}";
}

}  // namespace demist
