// SPDX-License-Identifier: Apache-2.0
#include "data/shard.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/checksum.hpp"
#include "core/h5.hpp"
#include "tests/data/text_fixture.hpp"

namespace demist::data {
namespace {

constexpr std::int64_t kSmall = 1000, kLarge = 250002;  // vocabularies of u16 and u32 shards

ShardHeader header_for(std::int64_t vocab_size) {
  ShardHeader header;
  header.tokenizer_hash = std::string(64, 'a');
  header.vocab_size = vocab_size;
  header.corpus_name = "test";
  header.source = "input.txt";
  header.shard_index = 7;
  header.part = 1;
  header.languages = {"de", "en"};
  return header;
}

ShardContent content_for(std::int64_t vocab_size, std::uint64_t documents) {
  ShardContent content;
  for (std::uint64_t d = 0; d < documents; ++d) {
    for (std::uint64_t i = 0; i < 1 + d % 50; ++i)
      content.tokens.push_back(static_cast<std::uint32_t>(
          4 + mix64(d * 64 + i) % static_cast<std::uint64_t>(vocab_size - 5)));
    content.tokens.push_back(2);
    content.document_offsets.push_back(content.tokens.size());
    content.document_language.push_back(static_cast<std::uint8_t>(d % 2));
    content.document_source.push_back(d * 100);
  }
  return content;
}

class ShardTest : public testing::TestWithParam<std::tuple<std::int64_t, ShardIo>> {
 protected:
  ShardTest() : folder_(test::fresh_folder("shard")), path_(folder_ / "shard.h5") {}
  ~ShardTest() override { fs::remove_all(folder_); }
  std::int64_t vocab_size() const { return std::get<0>(GetParam()); }
  Shard open() const { return Shard(path_, std::get<1>(GetParam())); }
  std::string write(const ShardContent& content) const {
    return write_shard(path_, header_for(vocab_size()), content);
  }
  std::uint64_t offset_of(const std::string& dataset) const {
    return h5::File::open(path_).extent(dataset).offset;
  }

  fs::path folder_, path_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, ShardTest,
                         testing::Combine(testing::Values(kSmall, kLarge),
                                          testing::Values(ShardIo::mmap, ShardIo::pread)));

TEST_P(ShardTest, ReadsWhatWasWritten) {
  const ShardContent content = content_for(vocab_size(), 60000);  // several 1 MiB blocks
  const std::string hash = write(content);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
  const Shard shard = open();
  EXPECT_EQ(shard.hash(), hash);
  EXPECT_EQ(shard.header().n_tokens, content.tokens.size());
  EXPECT_EQ(shard.header().n_documents, 60000u);
  EXPECT_EQ(shard.header().source, "input.txt");
  EXPECT_EQ(shard.header().shard_index, 7u);
  EXPECT_EQ(shard.header().part, 1u);
  EXPECT_EQ(shard.header().languages, (std::vector<std::string>{"de", "en"}));
  EXPECT_EQ(shard.header().language_tokens[0] + shard.header().language_tokens[1],
            content.tokens.size());
  EXPECT_TRUE(std::ranges::equal(shard.document_offsets(), content.document_offsets));
  EXPECT_TRUE(std::ranges::equal(shard.document_language(), content.document_language));
  EXPECT_TRUE(std::ranges::equal(shard.document_source(), content.document_source));
  std::vector<std::int32_t> tokens(content.tokens.size());
  shard.read(0, tokens);
  EXPECT_TRUE(std::ranges::equal(tokens, content.tokens));
  std::vector<std::int32_t> row(512);
  for (const std::uint64_t begin : {std::uint64_t{0}, std::uint64_t{524000}, tokens.size() - 512}) {
    shard.prefetch(begin, row.size());
    shard.read(begin, row);
    EXPECT_TRUE(std::equal(row.begin(), row.end(), tokens.begin() + static_cast<long>(begin)));
  }
  EXPECT_THROW(shard.read(tokens.size() - 511, row), InternalError);
  shard.verify();
}

TEST_P(ShardTest, ThreadsMayReadTogether) {
  const ShardContent content = content_for(vocab_size(), 60000);
  write(content);
  const Shard shard = open();
  std::vector<std::jthread> threads;
  std::atomic<int> wrong = 0;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::vector<std::int32_t> row(1000);
      for (std::size_t begin = t * 97; begin + 1000 < content.tokens.size(); begin += 4001) {
        shard.read(begin, row);
        if (!std::equal(row.begin(), row.end(), content.tokens.begin() + static_cast<long>(begin)))
          ++wrong;
      }
    });
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

TEST(ShardBytes, EqualContentGivesEqualBytes) {
  const fs::path folder = test::fresh_folder("shard_bytes");
  const ShardContent content = content_for(kSmall, 500);
  write_shard(folder / "a.h5", header_for(kSmall), content);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's times have seconds
  write_shard(folder / "b.h5", header_for(kSmall), content);
  EXPECT_EQ(read_file(folder / "a.h5"), read_file(folder / "b.h5"));
  fs::remove_all(folder);
}

TEST_P(ShardTest, AFlippedTokenIsFoundWhenItsBlockIsTouched) {
  const ShardContent content = content_for(vocab_size(), 60000);
  write(content);
  test::flip_byte(path_, offset_of("/tokens") + (1u << 20) + 12345);
  const Shard shard = open();
  std::vector<std::int32_t> row(512);
  shard.read(0, row);  // block 0 is whole
  const std::uint64_t inside = ((1u << 20) + 12345) / (vocab_size() == kSmall ? 2 : 4);
  for (const auto& body : {std::function<void()>([&] { shard.read(inside, row); }),
                           std::function<void()>([&] { shard.verify(); })}) {
    const std::string message = test::message_of(body);
    EXPECT_NE(message.find(path_.string()), std::string::npos);
    EXPECT_NE(message.find("bytes 1048576 to 2097151"), std::string::npos) << message;
  }
}

TEST_P(ShardTest, AFlippedMetadataByteIsNamed) {
  for (const std::string dataset : {"/doc_offsets", "/doc_lang", "/doc_source", "/block_xxh3"}) {
    write(content_for(vocab_size(), 300));
    test::flip_byte(path_, offset_of(dataset) + 3);
    const std::string message = test::message_of([&] {
      const Shard shard = open();
      shard.verify();
    });
    EXPECT_NE(message.find(dataset), std::string::npos) << message;
  }
}

// Whatever byte of the file changes: an error, or nothing that a reader can see.
TEST_P(ShardTest, AnyFlippedByteIsFoundOrHarmless) {
  const ShardContent content = content_for(vocab_size(), 20);
  const std::string hash = write(content);
  const std::uint64_t size = fs::file_size(path_);
  int found = 0;
  for (std::uint64_t at = 0; at < size; at += 5) {
    test::flip_byte(path_, at);
    try {
      const Shard shard = open();
      shard.verify();
      std::vector<std::int32_t> tokens(content.tokens.size());
      shard.read(0, tokens);
      EXPECT_EQ(shard.hash(), hash) << at;
      EXPECT_TRUE(std::ranges::equal(tokens, content.tokens)) << at;
      EXPECT_EQ(shard.header().tokenizer_hash, std::string(64, 'a')) << at;
    } catch (const DataError&) {
      ++found;
    }
    test::flip_byte(path_, at);
  }
  EXPECT_GT(found, 100);
}

TEST_P(ShardTest, TruncatedAndForeignFilesAreRefused) {
  write(content_for(vocab_size(), 300));
  const std::string whole = read_file(path_);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    test::write_text(path_, whole.substr(0, size));
    EXPECT_NE(test::message_of([&] { open(); }).find(path_.string()), std::string::npos);
  }
  std::string zeros = whole.substr(0, whole.size() / 2);
  zeros.resize(whole.size());
  test::write_text(path_, zeros);
  EXPECT_THROW(open().verify(), DataError);
  h5::File::create(path_).close();
  EXPECT_NE(test::message_of([&] { open(); }).find("name a file that `demist corpus build` made"),
            std::string::npos);
}

TEST(ShardBytes, AFileThatShrinksIsAnErrorInPreadMode) {
  const fs::path folder = test::fresh_folder("shard_shrinks");
  write_shard(folder / "a.h5", header_for(kSmall), content_for(kSmall, 60000));
  const Shard shard(folder / "a.h5", ShardIo::pread);
  fs::resize_file(folder / "a.h5", 5000);
  std::vector<std::int32_t> row(512);
  EXPECT_NE(test::message_of([&] { shard.read(100000, row); }).find("shorter"), std::string::npos);
  fs::remove_all(folder);
}

TEST_P(ShardTest, ContentMustBeSound) {
  ShardContent content = content_for(vocab_size(), 3);
  content.document_offsets[1] = 0;
  EXPECT_THROW(write(content), InternalError);
  content = content_for(vocab_size(), 3);
  content.tokens[0] = static_cast<std::uint32_t>(vocab_size());
  EXPECT_THROW(write(content), InternalError);
  content = content_for(vocab_size(), 3);
  content.document_language[0] = 2;
  EXPECT_THROW(write(content), InternalError);
}

// As another writer's mistake would have it: every checksum is right.
TEST_P(ShardTest, TokensOfALanguageMustBeThoseOfItsDocuments) {
  write(content_for(vocab_size(), 3));
  const std::uint64_t counts = offset_of("/language_tokens"), checksums = offset_of("/meta_xxh3");
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  const std::array<std::uint64_t, 2> wrong{1, 1};
  const std::uint64_t checksum = xxh3_64(std::as_bytes(std::span(wrong)));
  file.seekp(static_cast<std::streamoff>(counts));
  file.write(reinterpret_cast<const char*>(wrong.data()), sizeof wrong);
  file.seekp(static_cast<std::streamoff>(checksums + 3 * sizeof checksum));  // of kMetaNames
  file.write(reinterpret_cast<const char*>(&checksum), sizeof checksum);
  file.close();
  EXPECT_NE(test::message_of([&] { open(); }).find("/language_tokens differs"), std::string::npos);
}

TEST_P(ShardTest, DocumentsMustEndWithTheEndToken) {
  ShardContent content = content_for(vocab_size(), 3);
  content.tokens.back() = 9;
  write(content);
  EXPECT_NE(test::message_of([&] { open().verify(); }).find("</s>"), std::string::npos);
}

std::vector<std::uint64_t> dumped(const fs::path& path, const std::string& dataset) {
  const std::string command = "h5dump -y -w 1 -d " + dataset + " '" + path.string() + "'";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::vector<std::uint64_t> values;
  bool data = false;
  std::array<char, 512> line{};
  while (std::fgets(line.data(), line.size(), pipe) != nullptr) {
    const std::string text = line.data();
    if (data && text.find('}') != std::string::npos) data = false;
    if (data && text.find_first_of("0123456789") != std::string::npos)
      values.push_back(std::stoull(text));
    if (text.find("DATA {") != std::string::npos) data = true;
  }
  EXPECT_EQ(WEXITSTATUS(::pclose(pipe)), 0) << command;
  return values;
}

// docs/formats/tokens.md promises that any HDF5 program can read a shard.
TEST_P(ShardTest, PlainH5dumpReadsIt) {
  const ShardContent content = content_for(vocab_size(), 200);
  write(content);
  EXPECT_TRUE(std::ranges::equal(dumped(path_, "/tokens"), content.tokens));
  EXPECT_TRUE(std::ranges::equal(dumped(path_, "/doc_offsets"), content.document_offsets));
  EXPECT_TRUE(std::ranges::equal(dumped(path_, "/doc_lang"), content.document_language));
}

}  // namespace
}  // namespace demist::data
