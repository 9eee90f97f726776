// SPDX-License-Identifier: Apache-2.0
#include "core/h5.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

class H5Test : public testing::Test {
 protected:
  const test::TemporaryFolder folder_;
  const fs::path path_ = folder_.path() / "test.h5";
};

TEST_F(H5Test, WritesWhatItReadsAndMapsIt) {
  std::vector<std::uint32_t> tokens(40000);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint32_t>(i * 7);
  {
    auto file = h5::File::create(path_);
    file.write("tokens", tokens);
    file.write("deep/inside/empty", std::vector<double>{});
    file.set_attribute("/", "format", "demist.test");
    file.set_attribute("/tokens", "count", 40000);
    file.close();
  }
  const auto file = h5::File::open(path_);
  EXPECT_EQ(file.read_all<std::uint32_t>("tokens"), tokens);
  EXPECT_EQ(file.string_attribute("/", "format"), "demist.test");
  EXPECT_EQ(file.uint_attribute("/tokens", "count"), 40000u);
  EXPECT_TRUE(file.exists("deep/inside/empty"));
  EXPECT_FALSE(file.exists("deep/other/empty"));
  const h5::Extent extent = file.extent("tokens");
  EXPECT_EQ(extent.offset % 4096, 0u);
  EXPECT_EQ(extent.bytes, tokens.size() * 4);
  const MappedFile mapped(path_);
  EXPECT_EQ(std::memcmp(mapped.bytes().data() + extent.offset, tokens.data(), extent.bytes), 0);
}

TEST_F(H5Test, RefusesATruncatedFile) {
  auto file = h5::File::create(path_);
  file.write("x", std::vector<double>(100000, 1.0));
  file.close();
  fs::resize_file(path_, fs::file_size(path_) - 1);
  EXPECT_THROW(h5::File::open(path_), DataError);
}

TEST_F(H5Test, NamesTheMissingFileAndDataset) {
  try {
    h5::File::open(path_ / "absent");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("absent"), std::string::npos);
  }
  auto file = h5::File::create(path_);
  EXPECT_THROW(file.read_all<float>("nothing"), DataError);
}

}  // namespace
}  // namespace demist
