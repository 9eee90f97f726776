// SPDX-License-Identifier: Apache-2.0
#include "core/error.hpp"

#include <gtest/gtest.h>

namespace demist {
namespace {

TEST(Error, IsOneLineWhateverWentIntoIt) {
  EXPECT_STREQ(ConfigError("\"a\nb\" cannot\tname \x1b[31m a folder \xc3\xa9").what(),
               "\"a b\" cannot name  [31m a folder \xc3\xa9");
}

}  // namespace
}  // namespace demist
