// HDF5's part of one rank's file: everything but the values. Laid out once for all saves of a
// state, because HDF5 needs longer for it than a fast disk for a small model's values.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "worker/checkpoint/data_file.hpp"
#include "worker/checkpoint/writer.hpp"

namespace demist::checkpoint {

class Tables {
 public:
  // With room for every block. `path`: of the file that it is for, which is made, empty, and named
  // in messages. Throws DataError, and EnvironmentError without memory.
  Tables(const std::filesystem::path& path, const WriterId& id,
         const std::vector<LogicalTensor>& tensors, const std::vector<PlannedBlock>& planned);

  // Whether they would come out the same, but for the step.
  bool fit(const WriterId& id, const std::vector<LogicalTensor>& tensors,
           const std::vector<PlannedBlock>& planned) const;
  // Into a file that has its size.
  void write(DataFile& file, std::int64_t step) const;

  std::uint64_t file_bytes() const { return memory_.size(); }
  const std::vector<Block>& blocks() const { return blocks_; }  // without checksums

 private:
  SparseFile memory_;
  WriterId id_;
  std::vector<LogicalTensor> tensors_;
  std::vector<Block> blocks_;
  std::uint64_t step_offset_ = 0;  // of the only bytes that differ from save to save
};

}  // namespace demist::checkpoint
