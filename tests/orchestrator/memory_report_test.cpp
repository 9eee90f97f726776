// docs/memory.md holds what `demist inspect RECIPE --memory` prints.
// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/memory_report.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "core/file.hpp"

namespace demist {
namespace {

const fs::path kSource = DEMIST_SOURCE_DIR;

std::string report(const std::string& recipe, std::int64_t vocab,
                   const std::vector<std::string>& overrides = {}) {
  return describe_memory(load_recipe(kSource / "configs" / (recipe + ".textproto"), overrides),
                         vocab);
}

TEST(MemoryReport, DocumentsSayWhatTheCodeSays) {
  const std::string page = read_file(kSource / "docs" / "memory.md");
  for (const auto& [recipe, vocab] : {std::pair{"xlmr_base", 250002},
                                      {"xlmr_large", 250002},
                                      {"xlmr_xl", 250880},
                                      {"xlmr_xxl", 250880}})
    EXPECT_NE(page.find(report(recipe, vocab)), std::string::npos)
        << "docs/memory.md does not hold what `demist inspect " << recipe << " --memory --vocab "
        << vocab << "` prints:\n"
        << report(recipe, vocab);
}

TEST(MemoryReport, FollowsTheRecipe) {
  const std::string plain = report("xlmr_base", 250002);
  EXPECT_NE(plain.find("278,295,186 parameters"), std::string::npos) << plain;
  EXPECT_NE(plain.find("recompute NONE, TP 1 x DP 8"), std::string::npos) << plain;
  const std::string other =
      report("xlmr_base", 250002, {"parallel.recompute=LAYER", "parallel.tensor=2"});
  EXPECT_NE(other.find("recompute LAYER, TP 2 x DP 4"), std::string::npos) << other;
}

}  // namespace
}  // namespace demist
