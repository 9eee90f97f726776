// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/hosts.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

using Words = std::vector<std::string>;

std::string text_of(const std::vector<Host>& hosts) {
  std::string text;
  for (const Host& host : hosts) text += host.name + ":" + std::to_string(host.slots) + " ";
  return text;
}

// With an ssh that is a script.
class HostsTest : public testing::Test {
 protected:
  HostsTest() { ::setenv("PATH", (folder_.path().string() + ":" + path_).c_str(), 1); }
  ~HostsTest() override { ::setenv("PATH", path_.c_str(), 1); }

  // Connects to all but those hosts.
  void lose(const std::string& hosts) const {
    atomic_write(folder_.path() / "ssh",
                 "#!/bin/sh\ncase \"$*\" in " + hosts + ") exit 255;; esac\n");
    fs::permissions(folder_.path() / "ssh", fs::perms::owner_all);
  }
  Hosts hosts(int tensor = 1) const {
    return {folder_.path(), hosts_in({"--host", "a:2,b:2,c:2"}), tensor};
  }

  const test::TemporaryFolder folder_;
  const std::string path_ = std::getenv("PATH");
  static constexpr int kLost = static_cast<int>(ExitCode::suspect);
};

TEST_F(HostsTest, AreFoundAmongTheOptionsOfMpirun) {
  EXPECT_TRUE(hosts_in({"-x", "A", "--mca", "btl", "self"}).empty());
  EXPECT_TRUE(hosts_in({"--hostfile", "/no/such/file"}).empty());
  for (const char* name : {"--host", "-host", "-H"})
    EXPECT_EQ(text_of(hosts_in({"-x", "A", name, "a:2,b,b,c:*"})), "a:2 b:2 c:0 ");
  const std::string file = folder_.path() / "hosts";
  atomic_write(file, "# ours\na slots=4 max_slots=8 # the first\n\nb\n");
  for (const char* name : {"--hostfile", "-machinefile"})
    EXPECT_EQ(text_of(hosts_in({name, file})), "a:4 b:0 ");
  EXPECT_EQ(text_of(hosts_in({"--host", "b:1", "--hostfile", file})), "b:1 ");
}

TEST_F(HostsTest, AListStandsInPlaceOfThem) {
  EXPECT_EQ(with_hosts({"-x", "A", "--hostfile", "f", "-H", "a,b", "wrap"}, "b:2"),
            (Words{"--host", "b:2", "-x", "A", "wrap"}));
}

TEST_F(HostsTest, NamesOfOneMachineAreRecognized) {
  EXPECT_TRUE(same_machine("node7", "node7.cluster"));
  EXPECT_TRUE(same_machine("10.0.0.1", "10.0.0.1"));
  EXPECT_FALSE(same_machine("node7", "node70"));
  EXPECT_FALSE(same_machine("10.0.0.1", "10.0.0.2"));
}

TEST_F(HostsTest, ABadOneIsLeftOutWithItsSlots) {
  EXPECT_EQ(hosts().next(6).hosts, "") << "as the user named them";
  add_bad_node(folder_.path(), "b.cluster", "of before");
  EXPECT_EQ(hosts().next(6).hosts, "a:2,c:2");
  EXPECT_EQ(hosts().next(6).ranks, 4);
  EXPECT_EQ(hosts().next(3).ranks, 3);
  EXPECT_EQ(hosts().next(7).ranks, 7) << "more than there ever were slots: the user's will";
  EXPECT_EQ(hosts(3).next(6).ranks, 3);
  for (const char* host : {"a", "c"}) add_bad_node(folder_.path(), host, "too");
  EXPECT_EQ(hosts().next(6).hosts, "") << "rather than none";
  EXPECT_EQ(hosts().next(6).ranks, 6);
}

TEST_F(HostsTest, OneThatIsNamedTwiceInARowIsBad) {
  lose("nobody");
  Hosts ours = hosts();
  for (const char* host : {"b", "c", "b"}) ours.ended(kLost, host, true);
  ours.ended(0, "", false);
  ours.ended(kLost, "b", true);
  EXPECT_EQ(ours.next(6).hosts, "");
  ours.ended(kLost, "b", true);
  EXPECT_EQ(ours.next(6).hosts, "a:2,c:2");
}

TEST_F(HostsTest, OneThatDoesNotAnswerIsBadAtOnce) {
  lose("*' c true'");
  Hosts ours = hosts();
  ours.ended(kLost, "", true);
  ours.ended(kLost, "b", true);
  EXPECT_EQ(ours.next(6).hosts, "") << "nobody looks at it for another's death";
  ours.ended(kDaemonLost, "", false);
  EXPECT_EQ(ours.next(6).hosts, "a:2,b:2");
}

}  // namespace
}  // namespace demist
