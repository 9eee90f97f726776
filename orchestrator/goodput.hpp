// Where the time of a run went, over all of its attempts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "orchestrator/goodput_line.hpp"
#include "orchestrator/growing_file.hpp"

namespace demist {

// Seconds; they add up to the time from the first line of the run's files to the last that tells of
// work.
struct Goodput {
  double useful = 0;     // steps that count, and stages that do not train
  double start = 0;      // from the start of an attempt to its first step
  double data_wait = 0;  // in steps that count: until their micro-batches were there
  double save = 0;       // training stood still for a checkpoint
  double evaluate = 0;   // held-out losses
  double lost = 0;  // steps that were done again or not applied, what failed attempts had begun,
                    // and the pauses after them
  double other = 0;
  double queued = 0;  // a job waited for its nodes
  double idle = 0;    // nobody worked: stopped by somebody, or a machine that was gone
  double working() const { return useful + start + data_wait + save + evaluate + lost + other; }
  double share() const { return working() > 0 ? useful / working() : 0; }
};

// Pure: from the text of metrics.jsonl and events.jsonl. Lines that are cut are passed over.
Goodput goodput_of(std::string_view metrics, std::string_view events);
// Of a run folder; files that are not there are empty.
Goodput goodput_of(const std::filesystem::path& run_dir);

// For who asks again and again: of each file only what was added since is read.
class GoodputReader {
 public:
  explicit GoodputReader(const std::filesystem::path& run_dir);
  Goodput read();

 private:
  struct Source {
    std::vector<GoodputLine> read();
    GrowingFile file;
    GoodputLines whole;  // lines with an end
  };
  Source metrics_, events_;
};

// "goodput 97.1 %: 12:01 of 12:23 useful; start 0:10, data 0:01, save 0:02, evaluate 0:05, lost
// 0:04, other 0:00; queued 3:00; idle 1:00"
std::string format(const Goodput& goodput);

}  // namespace demist
