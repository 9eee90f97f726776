// The parts of a serialized SentencePiece ModelProto that decide how text becomes ids.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace demist::data {

struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    std::int32_t type = 1;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  };
  std::vector<Piece> pieces;
  std::int32_t model_type = 1;  // 1 unigram, 2 BPE, 3 word, 4 character
  bool whitespace_as_suffix = false;
  bool byte_fallback = false;
  std::int32_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;
  std::string normalizer_name, normalizer_charsmap;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

// Reads the protobuf wire format (sentencepiece_model.proto of SentencePiece 0.1.97, a header that
// distributions do not ship). Throws DataError, without a file name, on a damaged message.
SentencePieceModel parse_sentencepiece_model(std::string_view serialized);

// SHA-256 (hex) over everything above in a fixed text form: docs/formats/tokenizer.md.
std::string identity_of(const SentencePieceModel& model);

}  // namespace demist::data
