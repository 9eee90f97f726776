// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/machine_link.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <limits>

#include "core/error.hpp"

namespace demist {
namespace {

Pulse pulse_of(int rank, std::int64_t step) {
  Pulse pulse;
  pulse.rank = rank;
  pulse.process = 100 + rank;
  pulse.phase = Phase::backward;
  pulse.step = step;
  pulse.call = "all_reduce";
  pulse.beats = 7;
  pulse.ticks = std::numeric_limits<std::uint64_t>::max();
  pulse.slowest_step = 0.25;
  pulse.slowest[static_cast<std::size_t>(Phase::save)] = 1.5;
  return pulse;
}

// Exchanges until `condition` holds; as long as it takes.
void exchange_until(const std::vector<std::pair<MachineLink*, std::vector<Pulse>>>& links,
                    const std::function<bool()>& condition) {
  while (!condition()) {
    for (const auto& [link, pulses] : links) link->exchange(pulses);
    ::usleep(1000);
  }
}

class MachineLinkTest : public testing::Test {
 protected:
  std::unique_ptr<ListeningLink> first_ = listen_to_machines("node0");
  std::unique_ptr<MachineLink> second_ = call_first_machine(first_->meeting_point(), 1, "node1");
  const std::vector<Pulse> mine_{pulse_of(0, 41)}, others_{pulse_of(1, 40), pulse_of(2, 41)};

  void meet() {
    exchange_until({{first_.get(), mine_}, {second_.get(), others_}},
                   [&] { return first_->others().contains(1) && second_->others().contains(0); });
  }
};

TEST_F(MachineLinkTest, EachHearsWhatTheOtherOnesRanksDo) {
  meet();
  const OtherMachine& other = first_->others().at(1);
  EXPECT_EQ(other.host, "node1");
  ASSERT_EQ(other.pulses.size(), 2u);
  const Pulse& heard = other.pulses[1];
  EXPECT_EQ(heard.host, "node1");
  EXPECT_EQ(heard.rank, 2);
  EXPECT_EQ(heard.process, 102);
  EXPECT_TRUE(heard.alive);
  EXPECT_FALSE(heard.ended);
  EXPECT_EQ(heard.phase, Phase::backward);
  EXPECT_EQ(heard.step, 41);
  EXPECT_EQ(heard.call, "all_reduce");
  EXPECT_EQ(heard.beats, 7u);
  EXPECT_EQ(heard.ticks, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(heard.slowest_step, 0.25);
  EXPECT_EQ(heard.slowest[static_cast<std::size_t>(Phase::save)], 1.5);
  EXPECT_EQ(second_->others().at(0).pulses[0].step, 41);
}

TEST_F(MachineLinkTest, NewsReplaceWhatWasKnown) {
  meet();
  std::vector<Pulse> later = others_;
  for (Pulse& pulse : later) ++pulse.ticks, ++pulse.step;
  exchange_until({{first_.get(), mine_}, {second_.get(), later}},
                 [&] { return first_->others().at(1).pulses[0].step == 41; });
  EXPECT_EQ(first_->others().size(), 1u);
}

TEST_F(MachineLinkTest, WhoEndsWithoutAWordIsDead) {
  meet();
  second_.reset();
  exchange_until({{first_.get(), mine_}}, [&] { return !first_->others().at(1).pulses[0].alive; });
  EXPECT_FALSE(first_->others().at(1).pulses[1].alive);
  EXPECT_EQ(first_->others().at(1).pulses[1].step, 41);
}

TEST_F(MachineLinkTest, TheFirstMachineIsWatchedAsWell) {
  meet();
  first_.reset();
  exchange_until({{second_.get(), others_}},
                 [&] { return !second_->others().at(0).pulses[0].alive; });
}

TEST_F(MachineLinkTest, WhoSaysGoodByeIsForgotten) {
  meet();
  second_->leave();
  exchange_until({{first_.get(), mine_}}, [&] { return first_->others().empty(); });
  for (int i = 0; i < 10; ++i) first_->exchange(mine_);  // the line's end does not bring it back
  EXPECT_TRUE(first_->others().empty());
}

TEST_F(MachineLinkTest, OnlyTheSecondMachineWatchesTheFirst) {
  const auto third = call_first_machine(first_->meeting_point(), 2, "node2");
  meet();
  exchange_until({{first_.get(), mine_}, {third.get(), {pulse_of(3, 41)}}},
                 [&] { return first_->others().contains(2); });
  exchange_until(
      {{second_.get(), others_}, {third.get(), {pulse_of(3, 42)}}, {first_.get(), mine_}},
      [&] { return first_->others().at(2).pulses[0].step == 42; });
  EXPECT_TRUE(third->others().empty());
}

TEST_F(MachineLinkTest, WhoDoesNotKnowTheTokenIsNotHeard) {
  MeetingPoint wrong = first_->meeting_point();
  wrong.token[0] = wrong.token[0] == 'a' ? 'b' : 'a';
  const auto stranger = call_first_machine(wrong, 2, "elsewhere");
  meet();
  for (int i = 0; i < 100; ++i) {
    stranger->exchange(others_);
    first_->exchange(mine_);
    ::usleep(1000);
  }
  EXPECT_FALSE(first_->others().contains(2));
}

TEST_F(MachineLinkTest, StrangersThatTalkNonsenseAreHungUpOn) {
  for (const std::string& words :
       {std::string("\xff\xff\xff\xff too long"), std::string("\0\0\0\1!", 5),
        std::string("GET / HTTP/1.1\r\n\r\n")}) {
    const int line = ::socket(AF_INET, SOCK_STREAM, 0);
    ::sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(first_->meeting_point().port);
    ::inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    ASSERT_EQ(::connect(line, reinterpret_cast<const ::sockaddr*>(&to), sizeof to), 0);
    ASSERT_EQ(::send(line, words.data(), words.size(), MSG_NOSIGNAL),
              static_cast<::ssize_t>(words.size()));
    char byte = 0;
    const auto is_closed = [&] {
      return ::recv(line, &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN;
    };
    exchange_until({{first_.get(), mine_}}, is_closed);
    ::close(line);
  }
  meet();
}

TEST(MachineWireTest, DamagedLettersAreRefused) {
  EXPECT_THROW(decode_machine_letter("\xff"), EnvironmentError);
  MachineLetter letter{"token", 1, "node1", {pulse_of(1, 4)}, false};
  letter.pulses[0].slowest_step = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(decode_machine_letter(encode(letter)), EnvironmentError);
  letter = {"token", -1, "node1", {}, false};
  EXPECT_THROW(decode_machine_letter(encode(letter)), EnvironmentError);
}

}  // namespace
}  // namespace demist
