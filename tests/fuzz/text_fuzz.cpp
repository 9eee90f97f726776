// Documents of a text or JSONL file, plain, gzip or zstd. The first byte chooses the format and the
// longest document, the second where the file is cut; the rest is the file.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "data/byte_source.hpp"
#include "data/reader.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace demist;
using namespace demist::data;

namespace {

struct Documents {
  std::vector<std::pair<std::uint64_t, std::string>> list;  // where each begins, and its text
  SkipCounts skipped;
  bool operator==(const Documents& other) const {
    return list == other.list && skipped.invalid_utf8 == other.skipped.invalid_utf8 &&
           skipped.bad_json == other.skipped.bad_json &&
           skipped.too_long == other.skipped.too_long && skipped.empty == other.skipped.empty &&
           skipped.first == other.skipped.first;
  }
  DocumentSink sink(std::size_t longest) {
    return [this, longest](const Document& document) {
      fuzz::expect(document.text.size() <= longest, "a document is not too long");
      fuzz::expect(!document.text.empty() && is_valid_utf8(document.text), "a document is text");
      list.emplace_back(document.offset, document.text);
    };
  }
};

Documents whole(const fs::path& path, const DocumentFormat& format) {
  Documents documents;
  LineReader reader(path);
  read_documents(reader, format, documents.skipped, documents.sink(format.longest));
  return documents;
}

Documents cut(const fs::path& path, const DocumentFormat& format, std::uint64_t step,
              std::uint64_t size) {
  Documents documents;
  for (std::uint64_t begin = 0; begin < size; begin += step) {
    SkipCounts skipped;
    read_documents(path, {begin, begin + step}, format, skipped, documents.sink(format.longest));
    documents.skipped.add(skipped);
  }
  return documents;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  DocumentFormat format;
  const auto settings = input.number<std::uint8_t>();
  if ((settings & 1) != 0) format.format = TextFormat::jsonl;
  if ((settings & 2) != 0) format.longest = settings >> 2;
  const std::uint64_t step = 1 + input.number<std::uint8_t>();
  const std::string text = input.rest();
  const fuzz::ScratchFile file(text);

  fuzz::accepts<DataError>([&] {
    const Documents documents = whole(file.path(), format);
    if (!is_seekable_text(file.path())) return;
    fuzz::expect(
        cut(file.path(), format, std::max(step, text.size() / 16), text.size()) == documents,
        "a cut gives every document once");
  });
  return 0;
}
