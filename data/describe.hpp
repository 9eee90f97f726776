// What `demist corpus show` and `demist inspect` print about shards and corpora.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/tokenizer.hpp"

namespace demist::data {

// A corpus folder or one shard file, as lines of text. Throws DataError.
std::string describe(const std::filesystem::path& path);

// Documents [first, first + count) of a corpus, decoded; fewer at its end. Throws DataError when
// `first` lies past the end or the tokenizer is not the corpus's.
std::string show_documents(const std::filesystem::path& folder, const Tokenizer& tokenizer,
                           std::uint64_t first, std::uint64_t count);

}  // namespace demist::data
