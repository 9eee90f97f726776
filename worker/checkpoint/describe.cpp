// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/describe.hpp"

#include <sstream>

#include "core/file.hpp"

namespace demist::checkpoint {
namespace {

std::string kinds_of(const Checkpoint& checkpoint) {
  std::string text;
  for (const Kind kind : kKinds)
    if (checkpoint.has(kind)) text += (text.empty() ? "" : ", ") + std::string(name_of(kind));
  return text.empty() ? "none" : text;
}

}  // namespace

std::string describe(const Checkpoint& checkpoint) {
  const Meta& meta = checkpoint.meta();
  std::int64_t parameters = 0;
  for (const LogicalTensor& tensor : checkpoint.tensors()) parameters += tensor.size();
  std::uint64_t bytes = 0;
  for (const StoredFile& file : checkpoint.files()) bytes += file.bytes;
  std::ostringstream out;
  out << "checkpoint   " << checkpoint.directory().string() << "\n"
      << "stage        " << meta.stage << ", " << meta.step << " steps done\n"
      << "model        " << meta.model_json << "\n"
      << "tensors      " << checkpoint.tensors().size() << ", " << parameters << " parameters\n"
      << "kinds        " << kinds_of(checkpoint) << "\n"
      << "recipe       " << meta.recipe_hash << "\n"
      << "tokenizer    " << meta.tokenizer_hash << "\n"
      << "data         " << meta.data_hash << "\n"
      << "written by   " << checkpoint.files().size() << " ranks, " << format_bytes(bytes) << "\n";
  for (const StoredFile& file : checkpoint.files())
    out << "  " << file.name << "   " << format_bytes(file.bytes) << ", " << file.values
        << " values in " << file.datasets << " datasets\n";
  return out.str();
}

}  // namespace demist::checkpoint
