// Text, folders and a small tokenizer for the data tests: made here, the same every time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <map>
#include <string>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/philox.hpp"
#include "data/tokenizer.hpp"
#include "tests/support/flip_byte.hpp"

namespace demist::test {

// Words of a made-up language: two to four syllables, some with letters outside ASCII.
inline std::string make_word(std::uint64_t number) {
  constexpr std::array syllables = {"ba", "do", "ki", "lu", "mé", "nor", "pa", "ri", "sü", "ta"};
  std::string word;
  for (std::uint64_t rest = number + 10; rest > 0; rest /= 10) word += syllables[rest % 10];
  return word;
}

// Documents of one to four lines, an empty line after each.
inline std::string make_text(std::uint64_t documents, std::uint64_t seed) {
  const std::uint64_t key = stream_key(seed, "test text", 0);
  std::string text;
  for (std::uint64_t d = 0; d < documents; ++d) {
    const std::uint64_t lines = 1 + uniform_int(draw(key, d, 0), 4);
    for (std::uint32_t line = 1; line <= lines; ++line) {
      const auto words = static_cast<std::uint32_t>(4 + uniform_int(draw(key, d, line), 8));
      for (std::uint32_t w = 0; w < words; ++w) {
        const double u = uniform(draw(key, d, line, w + 1));
        text += make_word(static_cast<std::uint64_t>(u * u * 400)) + (w + 1 < words ? " " : ".");
      }
      text += '\n';
    }
    text += '\n';
  }
  return text;
}

inline void write_text(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A fresh folder of this process and test.
inline fs::path fresh_folder(const std::string& name) {
  const fs::path folder =
      fs::path(testing::TempDir()) / ("demist_" + name + "_" + std::to_string(::getpid()));
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

using Files = std::map<std::string, std::string>;

// Names relative to the folder, and contents.
inline Files files_in(const fs::path& folder) {
  Files files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      files[fs::relative(entry.path(), folder).string()] = read_file(entry.path());
  return files;
}

// What the error says; fails the test when nothing is thrown.
template <class Expected = DataError, class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const Expected& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

inline void train_small_tokenizer(const fs::path& folder, const fs::path& model, int pieces = 300) {
  write_text(folder / "train.txt", make_text(400, 1));
  data::TokenizerTraining training;
  training.inputs = {folder / "train.txt"};
  training.pieces = pieces;
  data::train_tokenizer(training, model);
}

}  // namespace demist::test
