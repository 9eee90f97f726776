// SPDX-License-Identifier: Apache-2.0
#include "data/corpus.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <zlib.h>

#include <chrono>
#include <thread>

#include "core/h5.hpp"
#include "core/seal.hpp"
#include "data/describe.hpp"
#include "data/manifest.hpp"
#include "tests/data/text_fixture.hpp"
#include "tests/support/compressed.hpp"

namespace demist::data {
namespace {

using test::Files;
using test::files_in;

class CorpusTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = test::fresh_folder("corpus_tokenizer");
    test::train_small_tokenizer(shared_, shared_ / "model.spm");
  }
  static void TearDownTestSuite() { fs::remove_all(shared_); }

  CorpusTest() : folder_(test::fresh_folder("corpus")) {
    build_.name = "test";
    build_.tokenizer = shared_ / "model.spm";
    build_.output = folder_ / "out";
    build_.range_bytes = 4096;
  }
  ~CorpusTest() override { fs::remove_all(folder_); }

  void add_input(const std::string& name, const std::string& text, const std::string& language,
                 DocumentFormat format = {}) {
    test::write_text(folder_ / name, text);
    build_.inputs.push_back({folder_ / name, language, format});
  }
  CorpusSummary run() const { return build_corpus(mpi::Comm(), build_); }
  std::string failure() const {
    return test::message_of<Error>([&] { (void)run(); });
  }

  static fs::path shared_;
  fs::path folder_;
  CorpusBuild build_;
};
fs::path CorpusTest::shared_;

TEST_F(CorpusTest, HoldsEveryDocumentOnceInOrder) {
  const std::string english = test::make_text(300, 2), german = test::make_text(100, 3);
  add_input("b.txt", english, "en");
  add_input("a.txt", german, "de");
  add_input("empty.txt", "", "fr");
  const CorpusSummary summary = run();
  EXPECT_EQ(summary.documents, 400u);
  EXPECT_EQ(summary.input_bytes, english.size() + german.size());
  EXPECT_EQ(summary.empty_inputs, 1u);
  EXPECT_FALSE(summary.already_done);
  EXPECT_GT(summary.shards, 5u);

  const Corpus corpus(build_.output);
  const Tokenizer tokenizer(build_.tokenizer);
  corpus.require_tokenizer(tokenizer);
  EXPECT_EQ(corpus.languages(), (std::vector<std::string>{"de", "en", "fr"}));
  EXPECT_EQ(corpus.n_tokens(), summary.tokens);
  std::string text;
  for (const Shard& shard : corpus.shards()) {
    EXPECT_EQ(shard.header().languages, corpus.languages());
    const auto offsets = shard.document_offsets();
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
      std::vector<std::int32_t> ids(offsets[d + 1] - offsets[d]);
      shard.read(offsets[d], ids);
      EXPECT_EQ(ids.back(), SpecialIds::eos);
      text += tokenizer.decode(ids) + "\n\n";
      const bool from_a = shard.header().source == "a.txt";
      EXPECT_EQ(shard.document_language()[d], from_a ? 0 : 1);
    }
  }
  std::string expected = english + german;  // lines of a document become one
  for (std::size_t i = 0; i + 2 < expected.size(); ++i)
    if (expected[i] == '\n' && expected[i + 1] != '\n' && expected[i - 1] != '\n')
      expected[i] = ' ';
  EXPECT_EQ(text, expected);
  verify_corpus(build_.output);
}

TEST_F(CorpusTest, AFinishedCorpusIsLeftAlone) {
  add_input("a.txt", test::make_text(50, 2), "en");
  const CorpusSummary first = run();
  const Files files = files_in(build_.output);
  EXPECT_EQ(files.count("corpus.json"), 1u);
  for (const auto& [name, content] : files) EXPECT_FALSE(name.ends_with(".tmp")) << name;
  const CorpusSummary second = run();
  EXPECT_TRUE(second.already_done);
  EXPECT_EQ(second.tokens, first.tokens);
  EXPECT_EQ(second.documents, first.documents);
  EXPECT_EQ(files_in(build_.output), files);
  fs::remove(build_.output / "shard-000000-0000.h5");
  EXPECT_EQ(missing_part(build_.output), build_.output / "shard-000000-0000.h5");
  EXPECT_FALSE(run().already_done);
  EXPECT_EQ(files_in(build_.output), files);
  EXPECT_EQ(missing_part(build_.output), std::nullopt);
  test::flip_byte(build_.output / "shard-000000-0000.h5", 5000);
  EXPECT_EQ(missing_part(build_.output), std::nullopt);  // looks at names and sizes only
  EXPECT_FALSE(run().already_done);
  EXPECT_EQ(files_in(build_.output), files);
  fs::remove(build_.output / "corpus.json");
  EXPECT_EQ(missing_part(build_.output), build_.output / "corpus.json");
}

TEST_F(CorpusTest, AnInputIsTheSameHoweverItsPathIsSpelled) {
  add_input("a.txt", test::make_text(50, 2), "en");
  run();
  const fs::path absolute = build_.inputs[0].path;
  for (const fs::path& spelled :
       {fs::relative(absolute), absolute.parent_path() / "." / absolute.filename()}) {
    build_.inputs[0].path = spelled;
    EXPECT_TRUE(run().already_done) << spelled;
  }
}

TEST_F(CorpusTest, AnotherCorpusIsNotOverwritten) {
  add_input("a.txt", test::make_text(50, 2), "en");
  run();
  const Files files = files_in(build_.output);
  build_.name = "other";
  EXPECT_NE(failure().find("other inputs or options; remove the folder"), std::string::npos);
  build_.name = "test";
  test::write_text(folder_ / "a.txt", test::make_text(51, 2));
  EXPECT_NE(failure().find("other inputs or options"), std::string::npos);
  test::train_small_tokenizer(folder_, folder_ / "other.spm", 200);
  build_.tokenizer = folder_ / "other.spm";
  EXPECT_NE(failure().find("encoded with tokenizer"), std::string::npos);
  EXPECT_EQ(files_in(build_.output), files);
  EXPECT_NE(test::message_of([&] {
              Corpus(build_.output).require_tokenizer(Tokenizer(build_.tokenizer));
            }).find("encoded with tokenizer"),
            std::string::npos);
}

TEST_F(CorpusTest, TooMuchInvalidTextStopsTheBuildWhichThenGoesOn) {
  add_input("a.txt", test::make_text(100, 2) + "bad \xFF line\n\n" + test::make_text(100, 3), "en");
  build_.max_invalid_fraction = 0.001;
  const std::string message = failure();
  EXPECT_NE(message.find("1 of 201 documents"), std::string::npos) << message;
  EXPECT_NE(message.find("a.txt: document at byte"), std::string::npos) << message;
  EXPECT_THROW(Corpus{build_.output}, DataError);
  build_.max_invalid_fraction = 0.01;
  testing::internal::CaptureStderr();
  const CorpusSummary summary = run();
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("left out 1 of 201 documents (1 not UTF-8, 0 bad JSON, 0 too long); first: "),
            std::string::npos)
      << said;
  EXPECT_EQ(summary.skipped.invalid_utf8, 1u);
  EXPECT_EQ(summary.documents, 200u);
  EXPECT_GT(summary.kept_ranges, 3u);
}

TEST_F(CorpusTest, ALineThatExpandsToTooMuchIsLeftOut) {
  const std::string json =
      "{\"text\": \"bado kilu\"}\n{\"text\": \"" + std::string(kLongestText, 'x') + "\"}\n";
  add_input("a.jsonl.gz", test::gzipped(json), "en", {TextFormat::jsonl, "text"});
  EXPECT_LT(fs::file_size(folder_ / "a.jsonl.gz"), 100'000u);
  build_.max_invalid_fraction = 0.4;
  const std::string message = failure();
  EXPECT_NE(message.find("1 of 2 documents cannot be used (0 not UTF-8, 0 bad JSON, 1 too long)"),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("document at byte 22: longer than 16777216 bytes"), std::string::npos);
  build_.max_invalid_fraction = 0.5;
  testing::internal::CaptureStderr();
  EXPECT_EQ(run().skipped.too_long, 1u);
  testing::internal::GetCapturedStderr();
  const fs::path file = build_.output / kManifestName;
  const Manifest manifest = parse_manifest(read_file(file), file);
  EXPECT_EQ(manifest.inputs.at(0).skipped.too_long, 1u);
  EXPECT_EQ(run().skipped.too_long, 1u);  // as it is read from the manifest
}

TEST_F(CorpusTest, EmptyDocumentsAreNotAmongThoseLeftOut) {
  add_input("a.jsonl", "{\"text\": \"\"}\n{\"text\": \"bado kilu\"}\n{\n", "en",
            {TextFormat::jsonl, "text"});
  build_.max_invalid_fraction = 0.4;
  const std::string message = failure();
  EXPECT_NE(message.find("1 of 2 documents cannot be used"), std::string::npos) << message;
  build_.max_invalid_fraction = 0.5;
  testing::internal::CaptureStderr();
  EXPECT_EQ(run().skipped.empty, 1u);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("left out 1 of 2 documents"), std::string::npos) << said;
}

TEST_F(CorpusTest, InputsThatCannotBeUsedAreErrors) {
  EXPECT_NE(failure().find("no input files"), std::string::npos);
  build_.inputs = {{folder_ / "absent.txt", "en", {}}};
  EXPECT_NE(failure().find("absent.txt"), std::string::npos);
  build_.inputs = {{folder_, "en", {}}};
  EXPECT_NE(failure().find("is a folder"), std::string::npos);
  build_.inputs.clear();
  add_input("blank.txt", "\n\n\n", "en");
  EXPECT_NE(failure().find("no document in 1 input file"), std::string::npos);
  build_.inputs[0].language = "en,de";
  EXPECT_NE(failure().find("language tag"), std::string::npos);
  build_.inputs[0].language = "en";
  build_.tokenizer = folder_ / "absent.spm";
  EXPECT_NE(failure().find("absent.spm"), std::string::npos);
}

TEST_F(CorpusTest, ADamagedCompressedInputIsAnError) {
  add_input("a.gz", std::string("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", 10) + "junk", "en");
  EXPECT_NE(failure().find("a.gz: damaged compressed stream"), std::string::npos);
}

TEST_F(CorpusTest, CompressedInputGivesTheSameTokens) {
  const std::string text = test::make_text(200, 2);
  add_input("a.txt", text, "en");
  run();
  const Corpus plain(build_.output);
  const fs::path zipped = folder_ / "a.txt.gz";
  gzFile file = gzopen(zipped.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  build_.inputs[0].path = zipped;
  build_.output = folder_ / "out2";
  run();
  const Corpus compressed(build_.output);
  EXPECT_EQ(compressed.n_tokens(), plain.n_tokens());
  EXPECT_GT(compressed.shards().size(), 3u);  // cut while reading
  EXPECT_EQ(compressed.shards()[1].header().part, 1u);
  verify_corpus(build_.output);
}

TEST_F(CorpusTest, DamageIsFoundAndNamed) {
  add_input("a.txt", test::make_text(200, 2), "en");
  run();
  const fs::path shard = build_.output / "shard-000001-0000.h5", other = shard.string() + ".old";
  const std::string whole = read_file(shard);
  const auto verified = [&] { return test::message_of([&] { verify_corpus(build_.output); }); };
  test::flip_byte(shard, h5::File::open(shard).extent("/tokens").offset + 10);
  EXPECT_NE(verified().find("shard-000001-0000.h5: the checksum of block 0"), std::string::npos);
  EXPECT_NE(verified().find("delete " + build_.output.string() + " and build"), std::string::npos);
  test::write_text(shard, whole.substr(0, whole.size() - 10));
  EXPECT_NE(verified().find("shard-000001-0000.h5: is not a whole HDF5 file"), std::string::npos);
  test::write_text(shard, read_file(build_.output / "shard-000002-0000.h5"));  // whole, but not it
  EXPECT_NE(verified().find("shard-000001-0000.h5"), std::string::npos);
  fs::remove(shard);
  EXPECT_NE(verified().find("shard-000001-0000.h5: is missing"), std::string::npos);
  EXPECT_NE(verified().find("delete " + build_.output.string() + " and build"), std::string::npos);
  test::write_text(shard, whole);
  verify_corpus(build_.output);

  const fs::path manifest = build_.output / "corpus.json";
  const std::string text = read_file(manifest);
  for (const std::string& bad :
       {std::string(), text.substr(0, text.size() / 2), std::string("{}"), std::string("[1]")}) {
    test::write_text(manifest, bad);
    EXPECT_NE(verified().find("corpus.json"), std::string::npos);
  }
  fs::remove(manifest);
  EXPECT_NE(verified().find("holds no corpus"), std::string::npos);
  fs::create_directory(build_.output / kStateFolder);  // what a build under way has
  EXPECT_NE(verified().find("not a finished corpus"), std::string::npos);
}

// JSON's numbers that are no counts were taken for huge ones.
TEST(Manifests, CountsAreIntegersInARange) {
  Manifest manifest{.name = "n",
                    .tokenizer_hash = "",
                    .vocab_size = 300,
                    .languages = {"en"},
                    .inputs = {},
                    .shards = {{"shard-000000-0000.h5", 4096, 7, 1, ""}}};
  const std::string whole = unsealed(to_json(manifest)).value();
  for (const std::string number :
       {"-1", "-7", "7.0", "0.5", "1e99", "18446744073709551615", "\"7\"", "null", "[7]"}) {
    std::string text = whole;
    for (std::size_t at = 0; (at = text.find("\"n_tokens\": 7", at)) != std::string::npos;)
      text.replace(at, 13, "\"n_tokens\": " + number), at += 13;
    EXPECT_NE(test::message_of([&] {
                (void)parse_manifest(sealed(text), "here/corpus.json");
              }).find("here/corpus.json: damaged: n_tokens is not an integer in [0, "),
              std::string::npos)
        << number;
  }
}

TEST(Manifests, OfOlderBuildsCountNoLongDocuments) {
  Manifest manifest{.name = "n",
                    .tokenizer_hash = "",
                    .vocab_size = 300,
                    .languages = {"en"},
                    .inputs = {{"a.txt", "en", "plain", 70, 0, {1, 2, 0, 4, ""}}},
                    .shards = {}};
  std::string text = unsealed(to_json(manifest)).value();
  const std::size_t at = text.find("\"too_long\"");
  text.erase(at, text.find("\"empty\"") - at);
  const SkipCounts read = parse_manifest(sealed(text), "corpus.json").inputs.at(0).skipped;
  EXPECT_EQ(read.invalid(), 3u);
  EXPECT_EQ(read.empty, 4u);
}

TEST_F(CorpusTest, EveryFlippedByteOfTheManifestIsFound) {
  add_input("a.txt", test::make_text(20, 2), "en");
  run();
  const fs::path manifest = build_.output / "corpus.json";
  const std::string whole = read_file(manifest);
  const auto message_of = [&](const std::string& text) {
    return test::message_of([&] { (void)parse_manifest(text, manifest); });
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 1);
    EXPECT_NE(message_of(flipped).find("corpus.json: damaged"), std::string::npos) << at;
  }
  std::string unsealed = whole.substr(0, whole.rfind(",\"xxh3\"")) + "}\n";
  EXPECT_NE(message_of(unsealed).find("delete " + build_.output.string() + " and build"),
            std::string::npos)
      << message_of(unsealed);
  EXPECT_EQ(parse_manifest(whole, manifest).inputs.at(0).name, "a.txt");
}

// A child is killed while it builds; the same files come out as without the kill.
TEST_F(CorpusTest, AKilledBuildGoesOnToTheSameBytes) {
  add_input("a.txt", test::make_text(800, 2), "en");
  run();
  const Files reference = files_in(build_.output);
  fs::remove_all(build_.output);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    build_corpus(mpi::Comm(), build_);
    ::_exit(0);
  }
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!fs::exists(build_.output / ".build" / "range-5.json") &&
         !fs::exists(build_.output / "corpus.json") && std::chrono::steady_clock::now() < give_up)
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  test::write_text(build_.output / "shard-000040-0000.h5.tmp", "half a shard");
  test::write_text(build_.output / "shard-000900-0000.h5", "of an earlier build");
  const CorpusSummary summary = run();
  if (!summary.already_done) {
    EXPECT_GE(summary.kept_ranges, 5u);
    EXPECT_EQ(files_in(build_.output), reference);
  }
}

TEST_F(CorpusTest, AFinishedRangeIsKeptOnlyWhenItsShardIsWhole) {
  add_input("a.txt", test::make_text(200, 2) + "\xFF\n", "en");
  build_.max_invalid_fraction = 0;
  failure();  // all ranges are done, the manifest is not
  const fs::path shard = build_.output / "shard-000001-0000.h5";
  const Files before = files_in(build_.output);
  test::flip_byte(shard, h5::File::open(shard).extent("/tokens").offset + 10);
  fs::remove(build_.output / "shard-000002-0000.h5");
  build_.max_invalid_fraction = 0.1;
  const CorpusSummary summary = run();
  EXPECT_EQ(summary.kept_ranges + 2, summary.shards);
  const Files after = files_in(build_.output);
  for (const auto& [name, content] : after) {
    if (name.ends_with(".h5")) {
      EXPECT_EQ(content, before.at(name)) << name;
    }
  }
}

// A file-size limit stands for the full disk. HDF5 must not see it: it would crash at exit.
TEST_F(CorpusTest, AFullDiskIsOneErrorAndTheBuildGoesOnLater) {
  add_input("a.txt", test::make_text(300, 5), "en");
  run();
  const Files expected = files_in(build_.output);
  fs::remove_all(build_.output);
  std::size_t largest = 0;
  for (const auto& [name, content] : expected)
    if (name.ends_with(".h5")) largest = std::max(largest, content.size());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  for (const std::size_t limit : {std::size_t{1000}, largest - 1}) {  // no shard; some shards
    const rlimit small{.rlim_cur = limit, .rlim_max = before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const mpi::Outcome outcome = mpi::attempt([&] { run(); });
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(outcome.code, ExitCode::environment) << outcome.message;
    EXPECT_NE(outcome.message.find(".h5: cannot write"), std::string::npos) << outcome.message;
    for (const auto& [name, content] : files_in(build_.output))
      EXPECT_FALSE(name.ends_with(".tmp")) << name;
  }
  ::signal(SIGXFSZ, handler);
  EXPECT_GT(run().kept_ranges, 0u);
  EXPECT_EQ(files_in(build_.output), expected);
}

TEST_F(CorpusTest, IsDescribed) {
  add_input("a.txt", "bado kilu.\n\nnor pa ta.\n\nlast one.\n", "en");
  run();
  const std::string text = describe(build_.output);
  EXPECT_NE(text.find("documents      3"), std::string::npos) << text;
  EXPECT_NE(text.find("input          a.txt (en, plain"), std::string::npos) << text;
  EXPECT_NE(describe(build_.output / "shard-000000-0000.h5").find("from a.txt"), std::string::npos);
  const Tokenizer tokenizer(build_.tokenizer);
  const std::string shown = show_documents(build_.output, tokenizer, 1, 1);
  EXPECT_NE(shown.find("[1] en, "), std::string::npos) << shown;
  EXPECT_NE(shown.find("at byte 12\nnor pa ta.\n"), std::string::npos) << shown;
  EXPECT_EQ(shown.find("bado"), std::string::npos);
  EXPECT_THROW(show_documents(build_.output, tokenizer, 3, 1), DataError);
}

}  // namespace
}  // namespace demist::data
