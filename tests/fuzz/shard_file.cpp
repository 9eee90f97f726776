// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/shard_file.hpp"

#include <hdf5.h>

#include <algorithm>
#include <span>

#include "core/checksum.hpp"
#include "data/shard_format.hpp"

namespace demist::fuzz {
namespace {

namespace format = data::shard_format;

template <class Value>
std::string bytes_of_values(const std::vector<Value>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value)};
}

std::size_t size_of(ShardFile::Element element) {
  constexpr std::size_t sizes[] = {1, 2, 4, 8, 8, 8, 1};
  return sizes[element];
}

hid_t type_of(ShardFile::Element element) {
  const hid_t types[] = {H5T_STD_U8LE,  H5T_STD_U16LE,  H5T_STD_U32LE, H5T_STD_U64LE,
                         H5T_STD_I64LE, H5T_IEEE_F64LE, H5T_C_S1};
  return types[element];
}

// The space for `count` elements; `rows` means two rows, one of them cut off if there is no second
// half.
hid_t space_of(ShardFile::Shape shape, hsize_t count) {
  if (shape == ShardFile::none || (shape == ShardFile::scalar && count == 0))
    return H5Screate(H5S_NULL);
  if (shape == ShardFile::scalar) return H5Screate(H5S_SCALAR);
  const hsize_t rows[] = {2, count / 2};
  return shape == ShardFile::rows ? H5Screate_simple(2, rows, nullptr)
                                  : H5Screate_simple(1, &count, nullptr);
}

void write_attribute(hid_t file, const ShardFile::Values& values) {
  // A text is one element; other attributes are scalars unless their shape says otherwise.
  const bool text = values.element == ShardFile::text;
  const hid_t type = H5Tcopy(type_of(values.element));
  if (text) {
    H5Tset_size(type, std::max<std::size_t>(1, values.bytes.size()));
    H5Tset_strpad(type, H5T_STR_NULLPAD);
  }
  const auto shape = values.shape == ShardFile::usual ? ShardFile::scalar : values.shape;
  const hid_t space = space_of(shape, text ? 2 : values.bytes.size() / size_of(values.element));
  const hid_t id = H5Acreate2(file, values.name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT);
  std::string bytes = values.bytes;
  bytes.resize(2 * bytes.size() + 16);
  if (id >= 0 && H5Sget_simple_extent_type(space) != H5S_NULL) H5Awrite(id, type, bytes.data());
  H5Aclose(id);
  H5Sclose(space);
  H5Tclose(type);
}

void write_dataset(hid_t file, const ShardFile::Values& values) {
  hsize_t count = values.bytes.size() / size_of(values.element);
  const hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY);
  if (values.shape == ShardFile::chunked && count > 0) H5Pset_chunk(layout, 1, &count);
  if (values.shape == ShardFile::compact) H5Pset_layout(layout, H5D_COMPACT);
  const hid_t space = space_of(values.shape, count);
  const hid_t id = H5Dcreate2(file, values.name.c_str(), type_of(values.element), space,
                              H5P_DEFAULT, layout, H5P_DEFAULT);
  if (id >= 0 && H5Sget_simple_extent_npoints(space) > 0)
    H5Dwrite(id, type_of(values.element), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.bytes.data());
  H5Dclose(id);
  H5Sclose(space);
  H5Pclose(layout);
}

}  // namespace

ShardFile::ShardFile(bool narrow, unsigned documents) {
  std::vector<std::uint32_t> tokens;
  std::vector<std::uint64_t> offsets{0}, sources, language_tokens{0, 0};
  std::vector<std::uint8_t> languages;
  for (unsigned d = 0; d < documents; ++d) {
    for (unsigned i = 0; i < d % 5; ++i) tokens.push_back(4 + d * i);
    tokens.push_back(2);  // </s>
    languages.push_back(static_cast<std::uint8_t>(d % 2));
    language_tokens[d % 2] += tokens.size() - offsets.back();
    offsets.push_back(tokens.size());
    sources.push_back(100 * d);
  }
  string("format", format::kFormat);
  number("version", format::kVersion);
  string("tokenizer_sha256", std::string(64, 'a'));
  number("vocab_size", narrow ? 1000 : 250002);
  string("corpus_name", "fuzz");
  string("source", "input.txt");
  number("shard_index", 7);
  number("part", 0);
  number("n_tokens", tokens.size());
  number("n_docs", documents);
  string("languages", "de,en");
  number("closed", 1);
  const std::vector<std::uint16_t> half(tokens.begin(), tokens.end());
  datasets = {{format::kTokens, narrow ? u16 : u32, usual,
               narrow ? bytes_of_values(half) : bytes_of_values(tokens)},
              {format::kOffsets, u64, usual, bytes_of_values(offsets)},
              {format::kLanguage, u8, usual, bytes_of_values(languages)},
              {format::kSource, u64, usual, bytes_of_values(sources)},
              {format::kLanguageTokens, u64, usual, bytes_of_values(language_tokens)},
              {format::kBlockChecksums, u64, usual, {}},
              {format::kMetaChecksums, u64, usual, {}}};
}

void ShardFile::number(const char* name, std::uint64_t value) {
  attributes.push_back({name, u64, usual, bytes_of_values(std::vector{value})});
}
void ShardFile::string(const char* name, const std::string& value) {
  attributes.push_back({name, text, usual, value});
}

ShardFile::Values& ShardFile::dataset(const std::string& name) {
  return *std::ranges::find(datasets, name, &Values::name);
}

void ShardFile::edit(Input& input) {
  const unsigned kind = input.below(9);
  auto& list = kind < 5 ? datasets : attributes;
  Values& values = list[input.below(static_cast<unsigned>(list.size()))];
  switch (kind) {
    case 0:    // one element of a dataset
    case 5: {  // the number of an attribute
      const std::size_t size = size_of(values.element), count = values.bytes.size() / size;
      if (count == 0) break;
      const std::size_t at = kind == 5 ? 0 : input.number<std::uint16_t>() % count;
      const auto value = input.number<std::uint64_t>();
      std::memcpy(values.bytes.data() + at * size, &value, size);
      break;
    }
    case 1:  // its length
      values.bytes.resize(input.number<std::uint16_t>() % 4096);
      break;
    case 2:
    case 6:
      values.element = static_cast<Element>(input.below(kElements));
      if (kind == 2 && values.element == text) values.element = u8;
      break;
    case 3:
    case 7:
      values.shape = static_cast<Shape>(input.below(kShapes));
      break;
    case 4:
      values.present = (input.below(2) == 1);
      fix_blocks = input.below(8) != 0;
      fix_meta = input.below(8) != 0;
      break;
    case 8:  // the bytes of an attribute
      values.present = input.below(16) != 0;
      values.bytes = input.text(input.number<std::uint16_t>() % 1024);
      break;
    default:
      break;
  }
}

void ShardFile::fix_checksums() {
  // As the reader sees it: /doc_lang in bytes, all else in 8.
  const auto numbers = [](const Values& values) {
    std::vector<std::uint64_t> numbers;
    const std::size_t size = size_of(values.element);
    for (std::size_t at = 0; values.present && at + size <= values.bytes.size(); at += size) {
      std::uint64_t number = 0;
      std::memcpy(&number, values.bytes.data() + at, size);
      numbers.push_back(number);
    }
    return numbers;
  };
  const std::string& tokens = dataset(format::kTokens).bytes;
  Values& blocks = dataset(format::kBlockChecksums);
  if (fix_blocks && blocks.bytes.empty()) {
    std::vector<std::uint64_t> checksums;
    for (std::size_t at = 0; at < tokens.size(); at += format::kBlockBytes)
      checksums.push_back(
          xxh3_64(bytes_of(std::string_view(tokens).substr(at, format::kBlockBytes))));
    blocks.bytes = bytes_of_values(checksums);
  }
  Values& meta = dataset(format::kMetaChecksums);
  if (!fix_meta || !meta.bytes.empty()) return;
  const std::vector<std::uint64_t> languages = numbers(dataset(format::kLanguage));
  meta.bytes = bytes_of_values(format::checksums_of(
      {.document_offsets = numbers(dataset(format::kOffsets)),
       .document_language = std::vector<std::uint8_t>(languages.begin(), languages.end()),
       .document_source = numbers(dataset(format::kSource)),
       .language_tokens = numbers(dataset(format::kLanguageTokens)),
       .block_checksums = numbers(dataset(format::kBlockChecksums))}));
}

void ShardFile::write(const fs::path& path) {
  fix_checksums();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  expect(file >= 0, "HDF5 makes a file");
  for (const Values& values : attributes)
    if (values.present) write_attribute(file, values);
  for (const Values& values : datasets)
    if (values.present) write_dataset(file, values);
  H5Pclose(access);
  expect(H5Fclose(file) >= 0, "HDF5 closes it");
}

}  // namespace demist::fuzz
