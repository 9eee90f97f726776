// A token shard as values that may be anything: what write_shard() makes, edited before it is a
// file. Only then do wrong values get past the checksums, ours and HDF5's. SPDX-License-Identifier:
// Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.hpp"

namespace demist::fuzz {

struct ShardFile {
  // How the elements of a dataset or attribute are laid out; all but `usual` are foreign to shards.
  enum Shape { usual, scalar, none, rows, chunked, compact, kShapes };
  enum Element { u8, u16, u32, u64, i64, f64, text, kElements };
  struct Values {
    std::string name;
    Element element = u64;
    Shape shape = usual;
    std::string bytes;
    bool present = true;
  };
  std::vector<Values> attributes, datasets;
  bool fix_blocks = true, fix_meta = true;  // checksums

  // A shard of `documents` documents in two languages, as write_shard() would make it.
  ShardFile(bool narrow, unsigned documents);
  void edit(Input& input);
  void write(const fs::path& path);

 private:
  Values& dataset(const std::string& name);
  void number(const char* name, std::uint64_t value);
  void string(const char* name, const std::string& value);
  void fix_checksums();
};

}  // namespace demist::fuzz
