// What a device answered, written down for comparison with another device's answers: a line of JSON
// a call, into the file that DEMIST_ANSWERS names (scripts/gpu_check/fixtures.py reads it).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

#include "core/checksum.hpp"

namespace demist::cuda::test {

// Up to this many bytes are written out, of more their checksum.
constexpr std::size_t kAnswerBytes = 1024;

inline std::string answer_text(std::span<const std::byte> bytes) {
  if (bytes.size() > kAnswerBytes) return "\"xxh3\": \"" + xxh3_128_hex(bytes) + '"';
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const std::byte byte : bytes) {
    hex += kDigits[std::to_integer<int>(byte) >> 4];
    hex += kDigits[std::to_integer<int>(byte) & 15];
  }
  return "\"hex\": \"" + hex + '"';
}

inline void record_answer(std::span<const std::byte> bytes) {
  static const char* const path = std::getenv("DEMIST_ANSWERS");
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  if (path == nullptr || test == nullptr) return;
  std::FILE* file = std::fopen(path, "a");
  ASSERT_NE(file, nullptr) << path;
  std::fprintf(file, "{\"test\": \"%s.%s\", \"bytes\": %zu, %s}\n", test->test_suite_name(),
               test->name(), bytes.size(), answer_text(bytes).c_str());
  std::fclose(file);
}

}  // namespace demist::cuda::test
