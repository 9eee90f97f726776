// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/hosts.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <future>
#include <map>
#include <sstream>
#include <string_view>

#include "core/error.hpp"
#include "core/log.hpp"
#include "core/machine.hpp"
#include "orchestrator/process.hpp"

namespace demist {
namespace {

constexpr std::array<std::string_view, 3> kHostOptions{"--host", "-host", "-H"};
constexpr std::array<std::string_view, 5> kFileOptions{"--hostfile", "-hostfile", "--machinefile",
                                                       "-machinefile", "--default-hostfile"};

template <class Names>
bool is_in(const Names& names, const std::string& word) {
  return std::ranges::find(names, word) != names.end();
}

// What follows any of these options; of several the last.
template <class Names>
std::string argument_of(const Names& names, const std::vector<std::string>& options) {
  std::string argument;
  for (std::size_t i = 0; i + 1 < options.size(); ++i)
    if (is_in(names, options[i])) argument = options[i + 1];
  return argument;
}

int number_in(std::string_view text) {
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

void add_host(Host host, std::vector<Host>& hosts) {
  const auto known = std::ranges::find(hosts, host.name, &Host::name);
  if (known == hosts.end())
    hosts.push_back(std::move(host));
  else
    known->slots += host.slots;
}

// "a:2,b": one slot where no number is given; "a:*": as many as there are cores.
std::vector<Host> listed_hosts(const std::string& list) {
  std::vector<Host> hosts;
  std::istringstream items(list);
  for (std::string item; std::getline(items, item, ',');) {
    const std::size_t colon = item.find(':');
    const int slots = colon == std::string::npos ? 1 : number_in(item.substr(colon + 1));
    if (colon != 0 && !item.empty()) add_host({item.substr(0, colon), slots}, hosts);
  }
  return hosts;
}

// "a slots=2" a line, and comments.
std::vector<Host> hosts_of_file(const std::string& file) {
  std::vector<Host> hosts;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    Host host;
    if (!(words >> host.name)) continue;
    for (std::string word; words >> word;)
      if (word.starts_with("slots=")) host.slots = number_in(word.substr(6));
    add_host(host, hosts);
  }
  return hosts;
}

std::string list_of(const std::vector<Host>& hosts) {
  std::string list;
  for (const Host& host : hosts)
    list += (list.empty() ? "" : ",") + host.name + ":" +
            (host.slots > 0 ? std::to_string(host.slots) : "*");
  return list;
}

// 0: that of some is not told.
int slots_of(const std::vector<Host>& hosts) {
  int slots = 0;
  for (const Host& host : hosts) {
    if (host.slots <= 0) return 0;
    slots += host.slots;
  }
  return slots;
}

// mpirun starts its daemons so. What another agent would say is not known.
bool answers(const std::string& host) {
  if (host == "localhost" || same_machine(host, host_name())) return true;
  if (std::getenv("OMPI_MCA_plm_rsh_agent") != nullptr) return true;
  constexpr double patience = 30;                   // seconds
  constexpr int no_connection = 255, killed = 137;  // as ssh and capture_process say
  const Captured said = capture_process(
      {{"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host, "true"}, {}}, patience);
  return said.code != no_connection && said.code != killed;
}

}  // namespace

std::vector<Host> hosts_in(const std::vector<std::string>& options) {
  std::vector<Host> listed = listed_hosts(argument_of(kHostOptions, options));
  return listed.empty() ? hosts_of_file(argument_of(kFileOptions, options)) : listed;
}

std::vector<std::string> with_hosts(const std::vector<std::string>& options,
                                    const std::string& list) {
  std::vector<std::string> words{"--host", list};
  for (std::size_t i = 0; i < options.size(); ++i) {
    if (is_in(kHostOptions, options[i]) || is_in(kFileOptions, options[i]))
      ++i;  // and what follows
    else
      words.push_back(options[i]);
  }
  return words;
}

bool same_machine(const std::string& a, const std::string& b) {
  const auto is_address = [](const std::string& name) {
    return name.find_first_not_of("0123456789.") == std::string::npos;
  };
  if (a == b || is_address(a) || is_address(b)) return a == b;
  return a.substr(0, a.find('.')) == b.substr(0, b.find('.'));
}

Hosts::Hosts(std::filesystem::path run_dir, std::vector<Host> hosts, int tensor_parallel)
    : run_dir_(std::move(run_dir)),
      hosts_(std::move(hosts)),
      tensor_(tensor_parallel),
      suspicion_(run_dir_) {}

Crew Hosts::next(int ranks) const {
  Crew crew;
  crew.ranks = crew.ranks_per_node = ranks;
  const std::vector<std::string> bad = read_bad_nodes(run_dir_);
  std::vector<Host> good;
  std::ranges::copy_if(hosts_, std::back_inserter(good), [&](const Host& host) {
    return std::ranges::none_of(bad,
                                [&](const auto& name) { return same_machine(name, host.name); });
  });
  if (good.size() == hosts_.size()) return crew;
  if (good.empty()) {
    log::warning("every host is in bad-nodes; all of them have another chance");
    return crew;
  }
  crew.hosts = list_of(good);
  const int left = slots_of(good) / tensor_ * tensor_;
  if (slots_of(hosts_) >= ranks && left > 0) crew.ranks = std::min(ranks, left);
  crew.ranks_per_node = crew.ranks;
  return crew;
}

void Hosts::ended(int code, const std::string& accused, bool explained) {
  if (code == 0 || code == static_cast<int>(ExitCode::requeue)) return suspicion_.after_attempt("");
  std::map<std::string, std::future<bool>> asked;
  for (const Host& host : hosts_)
    if (accused.empty() ? !explained : same_machine(accused, host.name))
      asked.emplace(host.name, std::async(std::launch::async, answers, host.name));
  for (auto& [name, answer] : asked)
    if (!answer.get()) add_bad_node(run_dir_, name, "it does not answer ssh");
  const bool is_ours = std::ranges::any_of(
      hosts_, [&](const Host& host) { return same_machine(accused, host.name); });
  suspicion_.after_attempt(is_ours ? accused : "");
}

}  // namespace demist
