// SPDX-License-Identifier: Apache-2.0
#include "data/reader.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "tests/data/text_fixture.hpp"
#include "tests/support/compressed.hpp"

namespace demist::data {
namespace {

using test::gzipped, test::zstandard;

class ReaderTest : public testing::Test {
 protected:
  ReaderTest() : folder_(test::fresh_folder("reader")), path_(folder_ / "input") {}
  ~ReaderTest() override { fs::remove_all(folder_); }

  std::vector<std::string> lines() const {
    LineReader reader(path_);
    std::vector<std::string> lines;
    for (std::string line; reader.next(line);) lines.push_back(line);
    return lines;
  }
  std::vector<std::string> lines_of(const std::string& content) const {
    test::write_text(path_, content);
    return lines();
  }
  std::vector<std::string> documents_of(const std::string& content, DocumentFormat format = {}) {
    test::write_text(path_, content);
    std::vector<std::string> documents;
    LineReader reader(path_);
    read_documents(reader, format, skipped_, [&](const Document& document) {
      documents.emplace_back(document.text);
      offsets_.push_back(document.offset);
    });
    return documents;
  }

  fs::path folder_, path_;
  SkipCounts skipped_;
  std::vector<std::uint64_t> offsets_;
};

using Strings = std::vector<std::string>;

TEST_F(ReaderTest, EndsOfLinesAndFiles) {
  EXPECT_EQ(lines_of(""), Strings{});
  EXPECT_EQ(lines_of("\n"), Strings{""});
  EXPECT_EQ(lines_of("a\nb"), (Strings{"a", "b"}));
  EXPECT_EQ(lines_of("a\r\n\r\nb\r\n"), (Strings{"a", "", "b"}));
  EXPECT_EQ(lines_of("\xEF\xBB\xBF"
                     "a\n\xEF\xBB\xBF"),
            (Strings{"a", "\xEF\xBB\xBF"}));
  const std::string huge(3u << 20, 'x');
  EXPECT_EQ(lines_of("a\n" + huge + "\nb\n"), (Strings{"a", huge, "b"}));
}

TEST_F(ReaderTest, DecompressesByContent) {
  const std::string text = test::make_text(3000, 5);
  const Strings plain = lines_of(text);
  const std::string half = text.substr(0, text.size() / 2), rest = text.substr(text.size() / 2);
  EXPECT_EQ(lines_of(gzipped(text)), plain);
  EXPECT_EQ(lines_of(gzipped(half) + gzipped(rest)), plain);  // members
  EXPECT_EQ(lines_of(zstandard(text)), plain);
  const std::string user_data(
      "\x50\x2A\x4D\x18\x03\x00\x00\x00"
      "abc",
      11);                                                                    // skippable frame
  EXPECT_EQ(lines_of(user_data + zstandard(half) + zstandard(rest)), plain);  // frames
  EXPECT_EQ(lines_of(gzipped("")), Strings{});
  EXPECT_EQ(lines_of(zstandard("")), Strings{});
}

TEST_F(ReaderTest, ZerosAfterTheLastGzipMemberArePadding) {
  const std::string text = test::make_text(300, 5);
  const std::string two = gzipped(text) + gzipped(text);
  for (const std::size_t zeros : {1u, 511u, 1u << 20})  // the last more than is read at once
    EXPECT_EQ(lines_of(two + std::string(zeros, '\0')), lines_of(text + text)) << zeros;
  for (const std::string& after : {std::string("x"), gzipped(text)})
    EXPECT_NE(test::message_of([&] {
                lines_of(gzipped(text) + std::string(600, '\0') + after);
              }).find("something follows its padding"),
              std::string::npos);
}

TEST_F(ReaderTest, DamagedStreamsAreErrorsThatNameTheFile) {
  const std::string text = test::make_text(500, 5);
  for (const std::string& whole : {gzipped(text), zstandard(text)}) {
    for (const std::size_t size : {std::size_t{6}, whole.size() / 2, whole.size() - 1})
      EXPECT_NE(test::message_of([&] { lines_of(whole.substr(0, size)); }).find(path_.string()),
                std::string::npos);
    EXPECT_THROW(lines_of(whole + "garbage after the end"), DataError);
  }
  std::string flipped = gzipped(text);
  flipped[flipped.size() / 2] ^= 0x10;
  EXPECT_THROW(lines_of(flipped), DataError);
  EXPECT_NE(test::message_of([&] { LineReader(folder_ / "absent"); }).find("name a file that"),
            std::string::npos);
  EXPECT_THROW(
      {
        LineReader reader(folder_);
        std::string line;
        reader.next(line);
      },
      DataError);
}

TEST_F(ReaderTest, PlainDocumentsEndAtEmptyLines) {
  EXPECT_EQ(documents_of("\n\na\nb\n\n\r\nc\n"), (Strings{"a\nb", "c"}));
  EXPECT_EQ(offsets_, (std::vector<std::uint64_t>{2, 9}));
  EXPECT_EQ(documents_of("one"), Strings{"one"});
  EXPECT_EQ(documents_of(""), Strings{});
  EXPECT_EQ(skipped_.invalid() + skipped_.empty, 0u);
}

TEST_F(ReaderTest, InvalidUtf8IsCountedWithTheFirstPlace) {
  EXPECT_EQ(documents_of("good\n\nb\xFF"
                         "d\n\nfine\n\n\xED\xA0\x80\n"),
            (Strings{"good", "fine"}));
  EXPECT_EQ(skipped_.invalid_utf8, 2u);
  EXPECT_NE(skipped_.first.find(path_.string() + ": document at byte 6"), std::string::npos);
}

TEST_F(ReaderTest, JsonLines) {
  const DocumentFormat format{TextFormat::jsonl, "body"};
  EXPECT_EQ(documents_of("{\"body\": \"a\\nb\"}\r\n\n"
                         "{\"body\": 5}\n"
                         "{\"text\": \"x\"}\n"
                         "[1]\n"
                         "{\"body\": \"cut\n"
                         "{\"body\": \"\"}\n"
                         "{\"body\": \"\xFF\"}\n"
                         "{\"body\": \"\\u00e9\", \"more\": [{}]}",
                         format),
            (Strings{"a\nb", "é"}));
  EXPECT_EQ(skipped_.bad_json, 4u);
  EXPECT_EQ(skipped_.invalid_utf8, 1u);
  EXPECT_EQ(skipped_.empty, 1u);
  EXPECT_NE(skipped_.first.find("body"), std::string::npos);
}

TEST_F(ReaderTest, Utf8FollowsRfc3629) {
  for (const std::string good : {"", "ascii only", "é", "€", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF",
                                 "\xEE\x80\x80", "12345678é12345678"})
    EXPECT_TRUE(is_valid_utf8(good)) << good;
  for (const std::string bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82", "12345678\xFF", "\xE2\x28\xA1"})
    EXPECT_FALSE(is_valid_utf8(bad)) << testing::PrintToString(bad);
}

TEST_F(ReaderTest, AShortLineIsReadBeforeMoreIsTyped) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  for (const std::string line : {"P", "(", "", "\x1f"}) {  // most may begin a compressed stream
    ASSERT_EQ(::write(pipe[1], (line + "\n").data(), line.size() + 1),
              static_cast<ssize_t>(line.size() + 1));
    LineReader reader("/proc/self/fd/" + std::to_string(pipe[0]));
    std::string read;
    EXPECT_TRUE(reader.next(read));
    EXPECT_EQ(read, line);
  }
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(ReaderTest, ALineThatIsTooLongIsAnErrorWithItsPlace) {
  const std::string longest(kLongestText, 'x');
  EXPECT_EQ(lines_of("a\n" + longest + "\nb"), (Strings{"a", longest, "b"}));
  for (const auto& stored : {"a\n" + longest + "x\nb", gzipped("a\n" + longest + "xx"),
                             zstandard("a\n" + longest + "x")})
    EXPECT_NE(test::message_of([&] {
                lines_of(stored);
              }).find(path_.string() + ":2: longer than 16777216 bytes; break the line"),
              std::string::npos);
}

TEST_F(ReaderTest, DocumentsThatAreTooLongAreCounted) {
  const DocumentFormat plain{TextFormat::plain, "text", 5};
  const std::string text = "12345\n\n123\n4\n\n123\n45\n6\n\n\xFF 3456\n7\n\n8\n\n123456";
  for (const std::string& stored : {text, gzipped(text), zstandard(text)}) {
    skipped_ = {};
    EXPECT_EQ(documents_of(stored, plain), (Strings{"12345", "123\n4", "8"}));
    EXPECT_EQ(skipped_.too_long, 3u);
    EXPECT_EQ(skipped_.invalid(), 3u);
    EXPECT_NE(skipped_.first.find("document at byte 14: longer than 5 bytes to its empty line"),
              std::string::npos)
        << skipped_.first;
  }
  skipped_ = {};
  const std::string lines = R"({"t":"a"})" + std::string("\n") + R"({"t":"ab"})" + "\n[1234567890";
  EXPECT_EQ(documents_of(lines, {TextFormat::jsonl, "t", 9}), Strings{"a"});
  EXPECT_EQ(skipped_.too_long, 2u);
  EXPECT_NE(skipped_.first.find("document at byte 10: longer than 9 bytes"), std::string::npos);
}

TEST_F(ReaderTest, AnEndlessLineFillsNoMemory) {
  constexpr int members = 32;
  const std::string member = gzipped(std::string(16u << 20, 'x'));
  std::string bomb = gzipped("{}\n");
  for (int i = 0; i < members; ++i) bomb += member;  // 512 MiB in half a MiB
  test::write_text(path_, bomb);
  const auto peak_mib = [] {
    struct rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
  };
  const auto before = peak_mib();
  for (const TextFormat format : {TextFormat::plain, TextFormat::jsonl}) {
    LineReader reader(path_);
    read_documents(reader, {format, "text"}, skipped_, [](const Document&) {});
  }
  EXPECT_THROW(lines(), DataError);
  EXPECT_EQ(skipped_.too_long, 2u);
  EXPECT_LT(peak_mib() - before, 200);
}

// One from a pipe may never end.
TEST_F(ReaderTest, ALineThatIsAnErrorIsNotReadToItsEnd) {
  test::write_text(path_, "");
  fs::resize_file(path_, 4 * kLongestText);  // zeros
  LineReader reader(path_);
  std::string line;
  EXPECT_THROW(reader.next(line), DataError);
  EXPECT_LT(reader.bytes_read(), 2 * kLongestText);
}

// Else every range of a file that is one line would read it to the end.
TEST_F(ReaderTest, ARangeInsideALineReadsNoFurtherThanItself) {
  test::write_text(path_, "a\n");
  fs::resize_file(path_, 64u << 20);  // zeros
  LineReader reader(path_, 1000);
  EXPECT_FALSE(reader.skip_line(2000));
  EXPECT_LT(reader.bytes_read(), 1u << 20);
}

// Every way to cut a file into ranges gives every document once, in order.
TEST_F(ReaderTest, RangesOwnTheDocumentsThatBeginInThem) {
  const std::string plain =
      "\xEF\xBB\xBF"
      "a\nb\n\n\nccc\n\r\ndd\r\nee\r\n\r\n\n\nf\n\ng";
  const std::string after_a_mark = "\xEF\xBB\xBF\na\n\nb\n\nc";
  const std::string json = "{\"text\":\"a\"}\n\n{\"text\":\"b\"}\r\n{\"text\":\"c\"}";
  const std::string with_long_ones =
      "a\nlonger than all\nbb\n\nccccc\ndd\n\nlonger than all\n\n\r\nf\n\nlonger than all";
  const std::string long_json = json + "\n{\"text\":\"too long\"}\n{\"text\":\"d\"}";
  const DocumentFormat lines{TextFormat::jsonl, "text", 13}, short_documents{{}, "text", 8};
  for (const auto& [content, format] :
       {std::pair{plain, DocumentFormat{}}, std::pair{after_a_mark, DocumentFormat{}},
        std::pair{with_long_ones, short_documents}, std::pair{json, lines},
        std::pair{long_json, lines}}) {
    skipped_ = {};
    const Strings whole = documents_of(content, format);
    const SkipCounts all = skipped_;
    ASSERT_GE(whole.size() + all.too_long, 3u);
    for (std::uint64_t width = 1; width <= content.size(); ++width) {
      Strings parts;
      skipped_ = {};
      for (std::uint64_t begin = 0; begin < content.size(); begin += width)
        read_documents(path_, {begin, begin + width}, format, skipped_,
                       [&](const Document& document) { parts.emplace_back(document.text); });
      EXPECT_EQ(parts, whole) << "ranges of " << width;
      EXPECT_EQ(skipped_.too_long, all.too_long) << "ranges of " << width;
      EXPECT_EQ(skipped_.first, all.first) << "ranges of " << width;
    }
  }
}

}  // namespace
}  // namespace demist::data
