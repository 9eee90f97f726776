// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/mpi_mail.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist::mpi {
namespace {

using test::world;

std::vector<Letter> collect(Mail& mail, std::size_t count) {
  std::vector<Letter> all;
  while (all.size() < count)
    for (Letter& letter : mail.collect()) all.push_back(std::move(letter));
  return all;
}

TEST(Mail, NothingHasComeWhereNothingWasSent) {
  Mail mail(world());
  EXPECT_TRUE(mail.collect().empty());
}

// Long texts need the other side to receive; nobody may wait for that when posting.
TEST(Mail, EveryRankPostsToEveryRankBeforeAnyCollects) {
  Mail mail(world());
  const std::string mine(3'000'000, static_cast<char>('a' + world().rank()));
  for (int to = 0; to < world().size(); ++to) mail.post(mine, to);
  for (int to = 0; to < world().size(); ++to) mail.post("short", to);
  std::vector<std::string> last(static_cast<std::size_t>(world().size()));
  for (const Letter& letter : collect(mail, 2 * last.size())) {
    std::string& before = last[static_cast<std::size_t>(letter.from)];
    if (before.empty()) {
      EXPECT_EQ(letter.text, std::string(3'000'000, static_cast<char>('a' + letter.from)));
    } else {
      EXPECT_EQ(letter.text, "short");
    }
    before = letter.text;
  }
  for (const std::string& text : last) EXPECT_EQ(text, "short");
  EXPECT_TRUE(mail.collect().empty());
  world().barrier();  // what was posted is received before the mail ends
}

TEST(Mail, EmptyTextsArrive) {
  Mail mail(world());
  mail.post("", 0);
  if (world().rank() == 0) {
    for (const Letter& letter : collect(mail, static_cast<std::size_t>(world().size())))
      EXPECT_EQ(letter.text, "");
  }
  world().barrier();
}

TEST(Mail, MailsDoNotMix) {
  Mail one(world()), other(world());
  const int next = (world().rank() + 1) % world().size();
  other.post("other", next);
  one.post("one", next);
  EXPECT_EQ(collect(one, 1).front().text, "one");
  EXPECT_EQ(collect(other, 1).front().text, "other");
}

TEST(Mail, ALoneProcessWritesToItself) {
  Mail mail{Comm()};
  mail.post("note", 0);
  const std::vector<Letter> letters = mail.collect();
  ASSERT_EQ(letters.size(), 1u);
  EXPECT_EQ(letters[0].text, "note");
}

}  // namespace
}  // namespace demist::mpi

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
