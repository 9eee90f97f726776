// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/file.hpp"
#include "core/h5.hpp"
#include "tests/support/checkpoint_state.hpp"
#include "tests/support/no_descriptors.hpp"
#include "tests/support/temporary_folder.hpp"
#include "worker/checkpoint/catalog.hpp"
#include "worker/checkpoint/data_file.hpp"
#include "worker/checkpoint/describe.hpp"
#include "worker/checkpoint/layout.hpp"
#include "worker/checkpoint/manifest.hpp"

namespace demist::checkpoint {
namespace {

using nlohmann::json;
using test::make_meta;
using test::make_state;
using test::Split;
using test::State;

class CheckpointTest : public testing::Test {
 protected:
  fs::path save_step(std::int64_t step, int keep_last = 0) {
    const auto pieces = pieces_of(state_, Split::rows, 0, 1);
    save(mpi::Comm(), root(), state_.tensors, pieces, make_meta(step), keep_last);
    char name[32];
    std::snprintf(name, sizeof name, "step-%08d", static_cast<int>(step));
    return root() / name;
  }
  fs::path root() const { return folder_.path() / "checkpoints"; }

  test::TemporaryFolder folder_;
  State state_ = make_state(test::small_table());
};

testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << text << "' lacks '" << part << "'";
}

// Opens, verifies and returns what was wrong.
std::string failure(const fs::path& directory) {
  try {
    Checkpoint(directory).verify();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "nothing wrong";
}

void flip_byte(const fs::path& path, std::uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

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

TEST_F(CheckpointTest, ReturnsMetaTableAndBits) {
  const Checkpoint checkpoint(save_step(120));
  EXPECT_EQ(checkpoint.meta().step, 120);
  EXPECT_EQ(checkpoint.meta().stage, "pretrain");
  EXPECT_EQ(checkpoint.meta().model_json, make_meta(0).model_json);
  EXPECT_EQ(checkpoint.meta().state_json, make_meta(0).state_json);
  EXPECT_EQ(checkpoint.meta().recipe_hash + checkpoint.meta().tokenizer_hash +
                checkpoint.meta().data_hash,
            "r1t1d1");
  ASSERT_EQ(checkpoint.tensors().size(), state_.tensors.size());
  EXPECT_EQ(checkpoint.find("tall"), 4u);
  EXPECT_FALSE(checkpoint.find("nothing").has_value());
  EXPECT_TRUE(checkpoint.has(Kind::adam_v));
  checkpoint.verify();
  for (const Split split : test::kSplits)
    for (int ranks = 1; ranks <= 5; ++ranks)
      for (int rank = 0; rank < ranks; ++rank)
        EXPECT_EQ(difference(checkpoint, state_, split, rank, ranks), "");
  EXPECT_EQ(read_file(root() / "LATEST"), "step-00000120\n");
}

TEST_F(CheckpointTest, IsPlainHdf5) {
  const h5::File file = h5::File::open(save_step(1) / "w0000.h5");
  EXPECT_EQ(file.string_attribute("/", "format"), "demist.ckpt/1");
  const auto values = file.read_all<float>("/t/tall/adam_m");
  ASSERT_EQ(values.size(), 29u);
  EXPECT_EQ(std::memcmp(values.data(), state_.at(4, Kind::adam_m, 0), 29 * sizeof(float)), 0);
  EXPECT_EQ(file.read_all<std::int64_t>("/t/tall/adam_m.stripes"),
            (std::vector<std::int64_t>{0, 29, 0, 1}));
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

TEST_F(CheckpointTest, ParametersAloneAreAState) {
  std::vector<Piece> pieces = pieces_of(state_, Split::columns, 0, 1);
  std::erase_if(pieces, [](const Piece& piece) { return piece.kind != Kind::parameter; });
  save(mpi::Comm(), root(), state_.tensors, pieces, make_meta(3), 0);
  const Checkpoint checkpoint(root() / "step-00000003");
  checkpoint.verify();
  EXPECT_TRUE(checkpoint.has(Kind::parameter));
  EXPECT_FALSE(checkpoint.has(Kind::adam_m));
  std::vector<float> moment(1);
  EXPECT_THROW(checkpoint.read({0, Kind::adam_m, 0, moment}), CheckpointError);
}

TEST_F(CheckpointTest, ManyShortRunsAreOneStripe) {
  State state = make_state({{"wide", 100000, 3}});
  std::vector<Piece> pieces;
  for (std::int64_t row = 0; row < 100000; ++row)
    for (const std::int64_t column : {0, 2})
      pieces.push_back({0, Kind::parameter, row * 3 + column,
                        std::span<const float>(state.at(0, Kind::parameter, row * 3 + column), 1)});
  for (std::int64_t row = 0; row < 100000; ++row)
    pieces.push_back({0, Kind::parameter, row * 3 + 1,
                      std::span<const float>(state.at(0, Kind::parameter, row * 3 + 1), 1)});
  save(mpi::Comm(), root(), state.tensors, pieces, make_meta(1), 0);
  EXPECT_LT(fs::file_size(root() / "step-00000001/MANIFEST.json"), 2000u);
  const Checkpoint checkpoint(root() / "step-00000001");
  std::vector<float> values(300000);
  checkpoint.read({0, Kind::parameter, 0, values});
  EXPECT_EQ(std::memcmp(values.data(), state.at(0, Kind::parameter, 0), 1200000), 0);
}

TEST_F(CheckpointTest, HashSeesEveryBitAndTheStep) {
  const auto hash_of = [&](const std::vector<LogicalTensor>& table, std::int64_t step) {
    save(mpi::Comm(), root(), table, pieces_of(state_, Split::rows, 0, 1), make_meta(step), 0);
    return open_any(root()).hash();
  };
  const std::string first = hash_of(state_.tensors, 1);
  EXPECT_EQ(first.size(), 64u);
  EXPECT_EQ(hash_of(state_.tensors, 1), first);
  EXPECT_NE(hash_of(state_.tensors, 2), first);
  fs::remove_all(root());
  auto renamed = state_.tensors;
  renamed[3].name = "other";
  EXPECT_NE(hash_of(renamed, 1), first);
  auto reshaped = state_.tensors;
  std::swap(reshaped[4].rows, reshaped[4].cols);
  EXPECT_NE(hash_of(reshaped, 1), first);
  float* value = state_.at(5, Kind::adam_v, 100);
  *value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(*value) ^ 1u);
  EXPECT_NE(hash_of(state_.tensors, 1), first);
}

TEST_F(CheckpointTest, HashIsWhatTheFormatSays) {
  State state = make_state({{"b", 1, 2}, {"a", 2, 1}});
  std::vector<Piece> pieces = pieces_of(state, Split::rows, 0, 1);
  std::erase_if(pieces, [](const Piece& piece) { return piece.kind == Kind::adam_v; });
  save(mpi::Comm(), root(), state.tensors, pieces, make_meta(9), 0);
  Sha256 sha;
  const auto add = [&](const char* head, std::size_t tensor, Kind kind) {
    sha.update(head);
    sha.update(std::as_bytes(std::span<const float>(state.at(tensor, kind, 0), 2)));
  };
  add("a\n2 1 parameter\n", 1, Kind::parameter);
  add("a\n2 1 adam_m\n", 1, Kind::adam_m);
  add("b\n1 2 parameter\n", 0, Kind::parameter);
  add("b\n1 2 adam_m\n", 0, Kind::adam_m);
  sha.update("step 9\n");
  EXPECT_EQ(open_any(root()).hash(), sha.hex());
}

TEST_F(CheckpointTest, ManifestIsSealedAsTheFormatSays) {
  const std::string text = read_file(save_step(1) / "MANIFEST.json");
  ASSERT_GT(text.size(), 44u);
  const std::string sealed = text.substr(0, text.size() - 44), seal = text.substr(sealed.size());
  const auto bytes = std::as_bytes(std::span<const char>(sealed.data(), sealed.size()));
  EXPECT_EQ(seal, ",\"xxh3\":\"" + xxh3_128_hex(bytes) + "\"}\n");
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

TEST_F(CheckpointTest, RenamedCheckpointIsNotTrustedByItsName) {
  save_step(1);
  save_step(2);
  fs::rename(root() / "step-00000001", root() / "step-00000009");
  EXPECT_EQ(open_latest(root())->meta().step, 2);
  EXPECT_EQ(open_any(root() / "step-00000009").meta().step, 1);  // named outright: as asked
}

TEST_F(CheckpointTest, LeftoversOfAKilledSaveAreReplaced) {
  fs::create_directories(root() / "step-00000007.tmp/deep");
  atomic_write(root() / "step-00000007.tmp/w0000.h5", "half a file");
  atomic_write(root() / "step-00000007.tmp/w0009.h5", "of a larger job");
  const fs::path directory = save_step(7);
  EXPECT_FALSE(fs::exists(root() / "step-00000007.tmp"));
  EXPECT_FALSE(fs::exists(directory / "w0009.h5"));
  EXPECT_EQ(failure(directory), "nothing wrong");
}

TEST_F(CheckpointTest, TheSameStepCanBeSavedAgain) {
  const std::string before = Checkpoint(save_step(7)).hash();
  // As if killed between the two renames: the old one counts until the new one is there.
  fs::rename(root() / "step-00000007", root() / "step-00000007.old");
  EXPECT_EQ(open_latest(root())->hash(), before);
  *state_.at(3, Kind::parameter, 0) = 2.0f;
  save_step(7);
  EXPECT_FALSE(fs::exists(root() / "step-00000007.old"));
  EXPECT_NE(open_latest(root())->hash(), before);
  save_step(7);
  EXPECT_EQ(failure(root() / "step-00000007"), "nothing wrong");
}

TEST_F(CheckpointTest, KeepsTheNewest) {
  const auto exists = [&](int step) {
    char name[32];
    std::snprintf(name, sizeof name, "step-%08d", step);
    return fs::exists(root() / name);
  };
  for (const int step : {1, 2, 3, 4}) save_step(step, 2);
  EXPECT_TRUE(!exists(1) && !exists(2) && exists(3) && exists(4));
  save_step(1, 1);  // the one just written is never pruned
  EXPECT_TRUE(exists(1));
  for (const int step : {5, 6, 7}) save_step(step, 0);
  EXPECT_TRUE(exists(5) && exists(6) && exists(7));
}

TEST_F(CheckpointTest, WrongPiecesLeaveNothingBehind) {
  const std::string before = Checkpoint(save_step(1)).hash();
  const auto code_of = [&](const std::function<void(std::vector<Piece>&)>& edit) {
    auto pieces = pieces_of(state_, Split::rows, 0, 1);
    edit(pieces);
    try {
      save(mpi::Comm(), root(), state_.tensors, pieces, make_meta(2), 1);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::done;
  };
  EXPECT_EQ(code_of([](auto& p) { p.pop_back(); }), ExitCode::internal);       // a gap
  EXPECT_EQ(code_of([](auto& p) { p.push_back(p[0]); }), ExitCode::internal);  // an overlap
  EXPECT_EQ(code_of([](auto& p) { p[0].start = 1; }), ExitCode::internal);     // past the end
  EXPECT_EQ(code_of([](auto& p) { p[0].start = -1; }), ExitCode::internal);
  EXPECT_EQ(code_of([](auto& p) { p[0].tensor = 99; }), ExitCode::internal);
  EXPECT_FALSE(fs::exists(root() / "step-00000002"));
  EXPECT_FALSE(fs::exists(root() / "step-00000002.tmp"));
  EXPECT_EQ(open_latest(root())->hash(), before);
}

TEST_F(CheckpointTest, ReadsOutsideATensorAreRefused) {
  const Checkpoint checkpoint(save_step(1));
  std::vector<float> values(14);
  EXPECT_THROW(checkpoint.read({1, Kind::parameter, 0, values}), CheckpointError);
  EXPECT_THROW(checkpoint.read({1, Kind::parameter, -1, std::span(values).first(2)}),
               CheckpointError);
  EXPECT_THROW(checkpoint.read({6, Kind::parameter, 0, values}), InternalError);
  checkpoint.read({1, Kind::parameter, 13, {}});
  checkpoint.read({2, Kind::parameter, 0, {}});
}

TEST_F(CheckpointTest, DescribesItself) {
  const std::string text = describe(Checkpoint(save_step(42)));
  EXPECT_TRUE(contains(text, "pretrain, 42 steps done"));
  EXPECT_TRUE(contains(text, "6, 1015 parameters"));
  EXPECT_TRUE(contains(text, "parameter, adam_m, adam_v"));
  EXPECT_TRUE(contains(text, "w0000.h5"));
}

// Space that runs out must not reach HDF5; a file-size limit stands for the full disk.
TEST_F(CheckpointTest, DataFileReportsWhatItCannotWrite) {
  const fs::path path = folder_.path() / "w0000.h5";
  EXPECT_THROW(DataFile{path}, EnvironmentError);
  atomic_write(path, "x");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  DataFile file(path);
  const std::vector<std::byte> bytes(8192);
  std::string message;
  try {
    file.write_at(1, bytes);
  } catch (const EnvironmentError& error) {
    message = error.what();
  }
  EXPECT_THROW(file.reserve(8192), EnvironmentError);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(contains(message, "w0000.h5: cannot write"));
  file.write_at(1, bytes);
  file.sync();
  EXPECT_EQ(fs::file_size(path), 8193u);
}

TEST(CheckpointLayout, StripesSayTheSameRuns) {
  const std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> cases = {
      {},
      {{0, 5}},
      {{2, 3}, {12, 3}, {22, 3}},           // a column split
      {{8, 2}, {12, 3}, {22, 3}, {32, 1}},  // cut in the middle of rows
      {{0, 1}, {5, 1}, {7, 1}, {9, 1}, {30, 4}}};
  for (const auto& expected : cases) {
    std::vector<checkpoint::Run> runs, back;
    for (const auto& [start, count] : expected) runs.push_back({start, count});
    for (const Stripe& stripe : to_stripes(runs)) {
      EXPECT_TRUE(stripe.valid(40));
      append_runs(stripe, back);
    }
    ASSERT_EQ(back.size(), runs.size());
    for (std::size_t i = 0; i < runs.size(); ++i)
      EXPECT_TRUE(back[i].start == runs[i].start && back[i].count == runs[i].count);
  }
  EXPECT_EQ(to_stripes(std::vector<checkpoint::Run>{{2, 3}, {12, 3}, {22, 3}}).size(), 1u);
}

TEST(CheckpointLayout, TilingFindsGapsAndOverlaps) {
  const auto check = [](std::vector<checkpoint::Run> runs) -> std::string {
    try {
      check_tiling(runs, 10, "x");
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(check({{6, 4}, {0, 6}}), "");
  EXPECT_EQ(check({{0, 6}, {7, 3}}), "x: elements [6, 7) are missing");
  EXPECT_EQ(check({{0, 6}, {6, 3}}), "x: elements [9, 10) are missing");
  EXPECT_EQ(check({{0, 6}, {5, 5}}), "x: elements [5, 6) are stored twice");
  EXPECT_EQ(check({{0, 11}}), "x: elements [10, 11) are outside the tensor");
}

}  // namespace
}  // namespace demist::checkpoint
