// Checkpoints that are damaged, cut, gone or hostile are refused, and say what is wrong with them.
// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"
#include "tests/support/checkpoint_fixture.hpp"
#include "tests/support/no_descriptors.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/manifest.hpp"

namespace demist::checkpoint {
namespace {

using nlohmann::json;
using test::CheckpointTest;
using test::contains;
using test::failure;
using test::flip_byte;

// Rewrites a manifest with a valid seal, as a hostile or buggy writer would.
void edit_manifest(const fs::path& directory, const std::function<void(json&)>& edit) {
  json value = json::parse(read_file(directory / "MANIFEST.json"));
  value.erase("xxh3");
  edit(value);
  std::string text = value.dump();
  text.pop_back();
  text += ",\"xxh3\":\"" + xxh3_128_hex(bytes_of(text)) + "\"}\n";
  atomic_write(directory / "MANIFEST.json", text);
}

// Other programs read by them; values do not depend on them.
TEST_F(CheckpointTest, DamagedHdf5TablesAreFound) {
  const fs::path directory = save_step(1), path = directory / "w0000.h5";
  Checkpoint(directory).verify_tables();
  const std::string whole = read_file(path);
  int found = 0;
  for (const std::string text : {"OHDR", "FRHP", "TREE", "adam_m"}) {
    const std::size_t at = whole.find(text);
    if (at == std::string::npos) continue;  // HDF5 has laid it out otherwise
    flip_byte(path, at);
    try {
      Checkpoint(directory).verify_tables();
    } catch (const CheckpointError& error) {
      EXPECT_TRUE(contains(error.what(), "w0000.h5: its HDF5 tables are damaged"));
      ++found;
    }
    EXPECT_EQ(failure(directory), "nothing wrong");
    flip_byte(path, at);
  }
  EXPECT_GE(found, 2);
  Checkpoint(directory).verify_tables();
}

TEST_F(CheckpointTest, FlippedByteIsFoundOnReadAndNamed) {
  const fs::path directory = save_step(1);
  const h5::Extent extent = h5::File::open(directory / "w0000.h5").extent("/t/tall/adam_m");
  flip_byte(directory / "w0000.h5", extent.offset + 40);
  const Checkpoint checkpoint(directory);
  std::vector<float> values(29);
  checkpoint.read({4, Kind::adam_v, 0, values});  // intact parts stay usable
  try {
    checkpoint.read({4, Kind::adam_m, 28, std::span(values).first(1)});
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_TRUE(contains(error.what(), "w0000.h5"));
    EXPECT_TRUE(contains(error.what(), "'tall' (adam_m)"));
  }
  EXPECT_THROW(checkpoint.hash(), CheckpointError);
  EXPECT_TRUE(contains(failure(directory), "damaged"));
}

TEST_F(CheckpointTest, EveryDamagedByteOfTheManifestIsFound) {
  const fs::path directory = save_step(1);
  const std::uint64_t size = fs::file_size(directory / "MANIFEST.json");
  for (std::uint64_t at = 0; at < size; at += 1 + size / 97) {
    flip_byte(directory / "MANIFEST.json", at);
    EXPECT_TRUE(contains(failure(directory), "MANIFEST.json")) << "byte " << at;
    flip_byte(directory / "MANIFEST.json", at);
  }
  flip_byte(directory / "MANIFEST.json", size - 1);
  EXPECT_TRUE(contains(failure(directory), "MANIFEST.json"));
  flip_byte(directory / "MANIFEST.json", size - 1);
  EXPECT_EQ(failure(directory), "nothing wrong");
}

TEST_F(CheckpointTest, TruncatedOrMissingFilesAreNamed) {
  const fs::path directory = save_step(1), file = directory / "w0000.h5";
  fs::resize_file(file, fs::file_size(file) - 1);
  EXPECT_TRUE(contains(failure(directory), "w0000.h5: has"));
  fs::remove(file);
  EXPECT_TRUE(contains(failure(directory), "w0000.h5: No such file"));
  for (const char* text : {"", "{}", "garbage", "[1,2", "{\"format\":1}"}) {
    atomic_write(directory / "MANIFEST.json", text);
    EXPECT_TRUE(contains(failure(directory), "MANIFEST.json")) << text;
  }
  fs::remove(directory / "MANIFEST.json");
  EXPECT_TRUE(contains(failure(directory), "never finished"));
  EXPECT_TRUE(contains(failure(root() / "nowhere"), "no such"));
}

TEST_F(CheckpointTest, HostileManifestsAreRefused) {
  const fs::path directory = save_step(1);
  const std::string good = read_file(directory / "MANIFEST.json");
  const std::vector<std::pair<const char*, std::function<void(json&)>>> edits = {
      {"format", [](json& m) { m["format"] = "demist.ckpt/2"; }},
      {"traversal", [](json& m) { m["files"][0]["name"] = "../step-00000001/w0000.h5"; }},
      {"absolute", [](json& m) { m["files"][0]["name"] = "/etc/passwd"; }},
      {"hidden", [](json& m) { m["files"][0]["name"] = ".."; }},
      {"empty name", [](json& m) { m["files"][0]["name"] = ""; }},
      {"number for a name", [](json& m) { m["files"][0]["name"] = 5; }},
      {"negative size", [](json& m) { m["files"][0]["bytes"] = -1; }},
      {"huge size", [](json& m) { m["files"][0]["bytes"] = 18446744073709551615u; }},
      {"negative rows", [](json& m) { m["tensors"][0]["rows"] = -37; }},
      {"product overflow",
       [](json& m) { m["tensors"][0]["rows"] = m["tensors"][0]["cols"] = 1l << 40; }},
      {"fraction", [](json& m) { m["tensors"][0]["rows"] = 37.5; }},
      {"twice", [](json& m) { m["tensors"][0]["name"] = "tall"; }},
      {"step", [](json& m) { m["meta"]["step"] = -1; }},
      {"no meta", [](json& m) { m.erase("meta"); }},
      {"blocks", [](json& m) { m["blocks"] = "none"; }},
      {"missing block", [](json& m) { m["blocks"].erase(1); }},
      {"doubled block", [](json& m) { m["blocks"].push_back(m["blocks"][0]); }},
      {"tensor index", [](json& m) { m["blocks"][0]["tensor"] = 6; }},
      {"file index", [](json& m) { m["blocks"][0]["file"] = 1; }},
      {"kind", [](json& m) { m["blocks"][0]["kind"] = "adam_w"; }},
      {"huge offset", [](json& m) { m["blocks"][0]["offset"] = 1l << 49; }},
      {"negative offset", [](json& m) { m["blocks"][0]["offset"] = -4; }},
      {"huge count", [](json& m) { m["blocks"][0]["count"] = 9223372036854775807; }},
      {"negative count", [](json& m) { m["blocks"][0]["count"] = -1; }},
      {"stripe count", [](json& m) { m["blocks"][0]["stripes"][0][1] = 1l << 49; }},
      {"stripe repeat",
       [](json& m) {
         m["blocks"][0]["stripes"][0] = {0, 1, 2, 1l << 49};
       }},
      {"stripe overlaps",
       [](json& m) {
         m["blocks"][0]["stripes"][0] = {0, 222, 1, 2};
       }},
      {"stripe start", [](json& m) { m["blocks"][0]["stripes"][0][0] = -1; }},
      {"short stripe",
       [](json& m) {
         m["blocks"][0]["stripes"][0] = {0, 1};
       }},
      {"no checksums", [](json& m) { m["blocks"][0]["xxh3"] = json::array(); }},
      {"bad checksum", [](json& m) { m["blocks"][0]["xxh3"][0] = "123"; }},
      {"other checksum", [](json& m) { m["blocks"][0]["xxh3"][0] = "0123456789abcdef"; }},
      // Counts agree, places do not: only the full check can tell.
      {"overlap and gap", [](json& m) {
         m["blocks"][0]["stripes"] = {{0, 222, 0, 1}, {100, 222, 0, 1}};
       }}};
  for (const auto& [what, edit] : edits) {
    edit_manifest(directory, edit);
    EXPECT_TRUE(contains(failure(directory), "step-00000001")) << what;
    EXPECT_NE(failure(directory), "nothing wrong") << what;
    atomic_write(directory / "MANIFEST.json", good);
  }
  edit_manifest(directory, [](json&) {});
  EXPECT_EQ(failure(directory), "nothing wrong");
}

TEST(CheckpointManifest, DeepAndBrokenTextsAreRefused) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  const std::string body = R"({"format":"demist.ckpt/1","meta":{"step":)" + deep + "}";
  const std::string sealed = body + ",\"xxh3\":\"" + xxh3_128_hex(bytes_of(body)) + "\"}\n";
  EXPECT_THROW(parse_manifest(sealed, "manifest"), CheckpointError);
  for (const std::string text : {R"({"name":)", R"({"name":1,"bytes":2,"blocks":[]})", "[]"})
    EXPECT_THROW(parse_part(text), CheckpointError) << text;
}

TEST_F(CheckpointTest, LatestFallsBackToTheNewestGoodOne) {
  EXPECT_FALSE(open_latest(root()).has_value());
  save_step(5);
  const fs::path ten = save_step(10), twenty = save_step(20);
  fs::create_directories(root() / "step-00000030.tmp");
  fs::create_directories(root() / "step-00000040");  // without a manifest: does not exist
  fs::create_directories(root() / "step-x");
  fs::remove(root() / "LATEST");
  EXPECT_EQ(open_latest(root())->meta().step, 20);
  EXPECT_EQ(open_step(root(), 20).meta().step, 20);
  EXPECT_THROW(open_step(root(), 30), CheckpointError);
  fs::remove(root() / "step-00000040");
  EXPECT_EQ(open_any(root()).meta().step, 20);
  const h5::Extent extent = h5::File::open(twenty / "w0000.h5").extent("/t/tall/parameter");
  flip_byte(twenty / "w0000.h5", extent.offset);
  EXPECT_EQ(open_latest(root())->meta().step, 10);
  EXPECT_THROW(open_step(root(), 20), CheckpointError);  // whoever names it wants no other
  EXPECT_THROW(open_any(root()), CheckpointError);
  flip_byte(ten / "MANIFEST.json", 100);
  EXPECT_EQ(open_latest(root())->meta().step, 5);
  fs::remove(root() / "step-00000005/w0000.h5");
  EXPECT_THROW(open_latest(root()), CheckpointError);  // not the same as none
  EXPECT_THROW(open_any(root()), CheckpointError);
  EXPECT_THROW(open_any(folder_.path() / "nowhere"), CheckpointError);
}

TEST_F(CheckpointTest, WhatThisMachineCannotReadIsNotBad) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer looks at memory through a pipe, for which there is no descriptor";
#endif
  const fs::path five = save_step(5);
  save_step(10);
  {
    const test::NoDescriptors none;
    EXPECT_THROW(open_latest(root()), UnreadError);
    EXPECT_THROW(Checkpoint{five}, UnreadError);
    EXPECT_THROW(as_checkpoint_error([&] { return fs::directory_iterator(root()); }), UnreadError);
  }
  EXPECT_EQ(open_latest(root())->meta().step, 10);
  EXPECT_THROW(as_checkpoint_error([&] { return fs::directory_iterator(root() / "none"); }),
               CheckpointError);
}

}  // namespace
}  // namespace demist::checkpoint
