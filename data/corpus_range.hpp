// One numbered input range becomes shards: the work that a corpus build hands out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "data/corpus.hpp"
#include "data/corpus_plan.hpp"
#include "data/manifest.hpp"
#include "data/tokenizer.hpp"

namespace demist::data {

class RangeBuilder {
 public:
  // Called between documents with the stored input bytes read so far.
  using Heartbeat = std::function<void(std::uint64_t bytes_read)>;

  RangeBuilder(const CorpusBuild& build, const BuildPlan& plan, const Tokenizer& tokenizer);

  // The result of an earlier, interrupted build, if its shards are all there and whole.
  std::optional<RangeResult> finished(const InputRange& range) const;
  // Depends on the range alone. The shards are on disk, then the result, when this returns.
  RangeResult run(const InputRange& range, const Heartbeat& heartbeat) const;

 private:
  const CorpusBuild& build_;
  const BuildPlan& plan_;
  const Tokenizer& tokenizer_;
  std::vector<std::string> languages_;
};

}  // namespace demist::data
