// SPDX-License-Identifier: Apache-2.0
#include "data/sentencepiece_model.hpp"

#include <bit>
#include <cstring>
#include <functional>

#include "core/checksum.hpp"
#include "core/error.hpp"

namespace demist::data {
namespace {

[[noreturn]] void damaged() { throw DataError("not a whole SentencePiece model"); }

// One field of a protobuf message: a number (wire types 0, 1, 5) or bytes (wire type 2).
struct Field {
  std::uint32_t tag = 0;
  std::uint64_t number = 0;
  std::string_view bytes;
};

std::uint64_t take_varint(std::string_view& message) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (message.empty()) damaged();
    const auto byte = static_cast<unsigned char>(message.front());
    message.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  damaged();
}

std::string_view take_bytes(std::string_view& message, std::uint64_t count) {
  if (count > message.size()) damaged();
  const std::string_view bytes = message.substr(0, count);
  message.remove_prefix(count);
  return bytes;
}

std::uint64_t take_fixed(std::string_view& message, std::size_t width) {
  const std::string_view bytes = take_bytes(message, width);
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), width);  // little endian, as is every host we build for
  return value;
}

void for_each_field(std::string_view message, const std::function<void(const Field&)>& visit) {
  while (!message.empty()) {
    const std::uint64_t key = take_varint(message);
    Field field{.tag = static_cast<std::uint32_t>(key >> 3), .number = 0, .bytes = {}};
    switch (key & 7) {
      case 0:
        field.number = take_varint(message);
        break;
      case 1:
        field.number = take_fixed(message, 8);
        break;
      case 2:
        field.bytes = take_bytes(message, take_varint(message));
        break;
      case 5:
        field.number = take_fixed(message, 4);
        break;
      default:
        damaged();
    }
    visit(field);
  }
}

// int32 and enum fields are sign-extended to 64 bits on the wire.
std::int32_t as_int(const Field& field) {
  return static_cast<std::int32_t>(static_cast<std::int64_t>(field.number));
}

SentencePieceModel::Piece parse_piece(std::string_view message) {
  SentencePieceModel::Piece piece;
  for_each_field(message, [&](const Field& field) {
    if (field.tag == 1) piece.text = field.bytes;
    if (field.tag == 2)
      piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.number));
    if (field.tag == 3) piece.type = as_int(field);
  });
  return piece;
}

void parse_trainer_spec(std::string_view message, SentencePieceModel& model) {
  for_each_field(message, [&](const Field& field) {
    switch (field.tag) {
      case 3:
        model.model_type = as_int(field);
        break;
      case 24:
        model.whitespace_as_suffix = field.number != 0;
        break;
      case 35:
        model.byte_fallback = field.number != 0;
        break;
      case 40:
        model.unk_id = as_int(field);
        break;
      case 41:
        model.bos_id = as_int(field);
        break;
      case 42:
        model.eos_id = as_int(field);
        break;
      case 43:
        model.pad_id = as_int(field);
        break;
      default:  // how it was trained does not change how it encodes
        break;
    }
  });
}

void parse_normalizer_spec(std::string_view message, SentencePieceModel& model) {
  for_each_field(message, [&](const Field& field) {
    switch (field.tag) {
      case 1:
        model.normalizer_name = field.bytes;
        break;
      case 2:
        model.normalizer_charsmap = field.bytes;
        break;
      case 3:
        model.add_dummy_prefix = field.number != 0;
        break;
      case 4:
        model.remove_extra_whitespaces = field.number != 0;
        break;
      case 5:
        model.escape_whitespaces = field.number != 0;
        break;
      default:
        break;
    }
  });
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view serialized) {
  SentencePieceModel model;
  bool trainer = false, normalizer = false;
  for_each_field(serialized, [&](const Field& field) {
    switch (field.tag) {
      case 1:
        model.pieces.push_back(parse_piece(field.bytes));
        break;
      case 2:
        parse_trainer_spec(field.bytes, model);
        trainer = true;
        break;
      case 3:
        parse_normalizer_spec(field.bytes, model);
        normalizer = true;
        break;
      default:  // self-test samples and the denormalizer
        break;
    }
  });
  if (model.pieces.empty() || !trainer || !normalizer) damaged();
  return model;
}

std::string identity_of(const SentencePieceModel& model) {
  Sha256 hash;
  const auto number = [&](std::int64_t value) { hash.update(std::to_string(value) + "\n"); };
  const auto text = [&](std::string_view value) {
    number(static_cast<std::int64_t>(value.size()));  // lengths first: no two models look alike
    hash.update(value);
    hash.update("\n");
  };
  hash.update("demist.tokenizer/1\n");
  for (const bool flag : {model.whitespace_as_suffix, model.byte_fallback, model.add_dummy_prefix,
                          model.remove_extra_whitespaces, model.escape_whitespaces})
    number(flag ? 1 : 0);
  for (const std::int32_t id :
       {model.model_type, model.unk_id, model.bos_id, model.eos_id, model.pad_id})
    number(id);
  text(model.normalizer_name);
  text(model.normalizer_charsmap);
  number(static_cast<std::int64_t>(model.pieces.size()));
  for (const auto& piece : model.pieces) {
    text(piece.text);
    number(std::bit_cast<std::uint32_t>(piece.score));
    number(piece.type);
  }
  return hash.hex();
}

}  // namespace demist::data
