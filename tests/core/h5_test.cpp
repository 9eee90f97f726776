// SPDX-License-Identifier: Apache-2.0
#include "core/h5.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/support/no_descriptors.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

class H5Test : public testing::Test {
 protected:
  const test::TemporaryFolder folder_;
  const fs::path path_ = folder_.path() / "test.h5";
};

TEST_F(H5Test, TellsAWrongPathFromWhatThisMachineCannotRead) {
  EXPECT_THROW(h5::File::open(folder_.path() / "none"), DataError);
  EXPECT_THROW(h5::File::open(folder_.path()), DataError);
  EXPECT_THROW(h5::File::open("/proc/self/mem"), UnreadError);  // EIO
  h5::File::create(path_).close();
  const test::NoDescriptors none;
  EXPECT_THROW(h5::File::open(path_), UnreadError);
}

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

TEST_F(H5Test, MakesTheSameBytesInMemory) {
  const auto fill = [](h5::File& file) {
    file.write("few", std::vector<std::uint8_t>{1, 2, 3});
    file.write("many", std::vector<std::uint64_t>(300000, 7));
    file.set_attribute("/", "closed", 1);
  };
  auto on_disk = h5::File::create(path_);
  fill(on_disk);
  on_disk.close();
  auto in_memory = h5::File::create_in_memory(folder_.path() / "never made.h5");
  fill(in_memory);
  const h5::Image image = in_memory.finish();
  EXPECT_TRUE(std::ranges::equal(image.bytes(), MappedFile(path_).bytes()));
  EXPECT_FALSE(fs::exists(folder_.path() / "never made.h5"));
  h5::File::create_in_memory(path_);  // and given up
}

TEST_F(H5Test, BytesDoNotTellTheTime) {
  const auto written_now = [&] {
    auto file = h5::File::create(path_);
    file.write("deep/inside/few", std::vector<std::uint8_t>{1, 2, 3});
    file.write("/deep/inside/fewer", std::vector<std::uint8_t>{1, 2});
    file.close();
    return read_file(path_);
  };
  const std::string before = written_now();
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 counts seconds
  EXPECT_TRUE(written_now() == before);
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
  atomic_write(path_, "text");
  try {
    h5::File::open(path_);
    FAIL();
  } catch (const DataError& error) {  // HDF5's own reason
    EXPECT_NE(std::string(error.what()).find("signature"), std::string::npos) << error.what();
  }
  auto file = h5::File::create(path_);
  try {
    file.read_all<float>("nothing");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("restore the file, or make it again"),
              std::string::npos)
        << error.what();
  }
}

// Reading them as one value or one list would write and read past our variables.
TEST_F(H5Test, RefusesForeignShapes) {
  const hid_t raw = H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t shape[] = {8, 8};
  const hid_t list = H5Screate_simple(1, shape, nullptr), null = H5Screate(H5S_NULL),
              matrix = H5Screate_simple(2, shape, nullptr), scalar = H5Screate(H5S_SCALAR);
  const hid_t variable = H5Tcopy(H5T_C_S1);
  H5Tset_size(variable, H5T_VARIABLE);
  const auto attribute = [&](const char* name, hid_t type, hid_t space) {
    H5Aclose(H5Acreate2(raw, name, type, space, H5P_DEFAULT, H5P_DEFAULT));
  };
  attribute("numbers", H5T_STD_U64LE, list);
  attribute("texts", H5T_C_S1, list);
  attribute("nothing", H5T_STD_U64LE, null);
  attribute("variable", variable, scalar);
  for (const auto& [name, space] :
       {std::pair{"matrix", matrix}, {"scalar", scalar}, {"null", null}})
    H5Dclose(H5Dcreate2(raw, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  for (const hid_t space : {list, null, matrix, scalar}) H5Sclose(space);
  H5Tclose(variable);
  H5Fclose(raw);

  const auto file = h5::File::open(path_);
  EXPECT_THROW(file.uint_attribute("/", "numbers"), DataError);
  EXPECT_THROW(file.uint_attribute("/", "nothing"), DataError);
  for (const char* name : {"texts", "numbers", "nothing", "variable"})
    EXPECT_THROW(file.string_attribute("/", name), DataError) << name;
  for (const char* name : {"matrix", "scalar", "null"})
    EXPECT_THROW(file.read_all<std::uint64_t>(name), DataError) << name;
}

}  // namespace
}  // namespace demist
