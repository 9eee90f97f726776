// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/progress.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>

namespace demist {
namespace {

TEST(Progress, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(754), "12:34");
  EXPECT_EQ(format_duration(3 * 3600 + 5 * 60 + 9), "3:05:09");
  EXPECT_EQ(format_duration(2 * 86400 + 61), "2d 0:01:01");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(1e300), "?");
}

TEST(Progress, Counts) {
  EXPECT_EQ(format_count(950), "950");
  EXPECT_EQ(format_count(12345), "12.3k");
  EXPECT_EQ(format_count(999.9), "1.0k");
  EXPECT_EQ(format_count(123456), "123k");
  EXPECT_EQ(format_count(4.56e6), "4.56M");
}

TEST(Progress, LineHoldsEverything) {
  StepProgress p{"mlm", 12, 300, 6.41234, 1.234, 4e-4, 12345, 0.412, 83};
  EXPECT_EQ(format_progress(p),
            "mlm 12/300  loss 6.4123  grad 1.23  lr 4.00e-04  12.3k tok/s  41% of peak  ETA 1:23");
  p.peak_fraction = 0;
  EXPECT_EQ(format_progress(p).find("peak"), std::string::npos);
}

TEST(Progress, AnswersHaveARateAndAnEnd) {
  EXPECT_EQ(format_progress(AnswerProgress{"score", 120, 687, 3.478}),
            "score 120/687  34.5 samples/s  ETA 0:16");
}

std::string drawn(ProgressStyle style) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), std::fclose);
  {
    ProgressLine line(style, file.get());
    line.show("one", 100);
    line.show("two", 100.01);  // too soon
    line.show("three", 110);
    line.show("end", 110.01, true);
  }
  std::rewind(file.get());
  std::array<char, 256> text{};
  const std::size_t size = std::fread(text.data(), 1, text.size(), file.get());
  return {text.data(), size};
}

TEST(Progress, LinesOnAPipe) { EXPECT_EQ(drawn(ProgressStyle::lines), "one\nthree\nend\n"); }

TEST(Progress, InPlaceOnATerminal) {
  EXPECT_EQ(drawn(ProgressStyle::terminal), "\rone\033[K\rthree\033[K\rend\033[K\n");
}

TEST(Progress, SilentWhenAsked) { EXPECT_EQ(drawn(ProgressStyle::none), ""); }

}  // namespace
}  // namespace demist
