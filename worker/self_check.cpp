// SPDX-License-Identifier: Apache-2.0
#include "worker/self_check.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/checksum.hpp"

namespace demist {
namespace {

using nlohmann::json;

// Collective: whether two computations are the same on every rank.
bool agree(const mpi::Comm& world, const StepDigest& a, const StepDigest& b) {
  const bool same = a.shard == b.shard && a.totals == b.totals;
  return world.all_reduce_max(same ? 0 : 1) == 0;
}

std::string to_text(const std::vector<StepDigest>& digests) {
  json text = json::array();
  for (const StepDigest& digest : digests) {
    json parts = json::array();
    for (const StepDigest::Part& part : digest.parts)
      parts.push_back({part.micro_batch, part.gradient});
    text.push_back({digest.turn, digest.shard, digest.totals, parts});
  }
  return text.dump();
}

std::vector<StepDigest> from_text(const std::string& text) {
  std::vector<StepDigest> digests;
  for (const json& entry : json::parse(text)) {
    StepDigest digest{
        entry[0].get<int>(), entry[1].get<std::uint64_t>(), entry[2].get<std::uint64_t>(), {}};
    for (const json& part : entry[3])
      digest.parts.push_back({part[0].get<std::int32_t>(), part[1].get<std::uint64_t>()});
    digests.push_back(std::move(digest));
  }
  return digests;
}

// Rank 0 compares, all know.
Corruption find_fault_together(const mpi::Comm& world, const ParallelLayout& layout,
                               std::span<const std::int32_t> owner,
                               const std::vector<StepDigest>& mine) {
  std::vector<std::vector<StepDigest>> all;
  for (const std::string& text : world.gather(to_text(mine), 0)) all.push_back(from_text(text));
  std::string found;
  if (world.rank() == 0) {
    const Corruption fault = find_fault(layout, owner, all);
    found = json{fault.ranks, fault.where}.dump();
  }
  const json fault = json::parse(world.broadcast(found, 0));
  return {false, fault[0].get<std::vector<int>>(), fault[1].get<std::string>()};
}

// What a group's ranks made of one micro-batch in one computation.
struct Vote {
  int group = 0;
  std::vector<std::uint64_t> gradient;  // of each tensor-parallel rank's part
};

std::vector<Vote> votes_on(std::int32_t micro_batch, std::int32_t owner,
                           const ParallelLayout& layout,
                           const std::vector<std::vector<StepDigest>>& digests) {
  std::vector<Vote> votes;
  for (std::size_t k = 0; k < digests.front().size(); ++k) {
    Vote vote{group_of_turn(owner, digests.front()[k].turn, layout.data_size), {}};
    const auto tensor_size = static_cast<std::size_t>(layout.tensor_size);
    const std::size_t first = static_cast<std::size_t>(vote.group) * tensor_size;
    for (std::size_t rank = first; rank < first + tensor_size; ++rank)
      for (const StepDigest::Part& part : digests[rank][k].parts)
        if (part.micro_batch == micro_batch) vote.gradient.push_back(part.gradient);
    votes.push_back(std::move(vote));
  }
  return votes;
}

// Groups of those who were outvoted; all of them, when no two agree who would have to.
std::set<int> outvoted(const std::vector<Vote>& votes, int groups) {
  const Vote* right = nullptr;
  for (const Vote& a : votes)
    for (const Vote& b : votes)
      if (&a != &b && a.gradient == b.gradient && (a.group != b.group || groups == 1)) right = &a;
  std::set<int> wrong;
  for (const Vote& vote : votes)
    if (right == nullptr || vote.gradient != right->gradient) wrong.insert(vote.group);
  return wrong;
}

bool differ(const std::vector<Vote>& votes) {
  return std::ranges::any_of(
      votes, [&](const Vote& vote) { return vote.gradient != votes.front().gradient; });
}

std::string name_of(const std::vector<std::int32_t>& micro_batches) {
  std::string text = micro_batches.size() == 1 ? "the gradient of micro-batch "
                                               : "the gradients of micro-batches ";
  for (std::size_t i = 0; i < micro_batches.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(micro_batches[i]);
  return text;
}

}  // namespace

std::optional<Corruption> self_check(const mpi::Comm& world, const ParallelLayout& layout,
                                     std::span<const std::int32_t> owner,
                                     const std::function<StepDigest(int turn)>& compute) {
  std::vector<StepDigest> found{compute(0)};
  found.push_back(compute(1));
  if (agree(world, found[0], found[1])) return std::nullopt;
  found.push_back(compute(2));
  const bool second_was_wrong = agree(world, found[0], found[2]);
  const bool first_was_wrong = !second_was_wrong && agree(world, found[1], found[2]);
  bool passing = false;
  if (first_was_wrong || second_was_wrong) {
    found.push_back(compute(first_was_wrong ? 0 : 1));
    passing = agree(world, found[2], found[3]);
  }
  Corruption corruption = find_fault_together(world, layout, owner, found);
  corruption.passing = passing;
  return corruption;
}

Corruption find_fault(const ParallelLayout& layout, std::span<const std::int32_t> owner,
                      const std::vector<std::vector<StepDigest>>& digests) {
  std::vector<std::int32_t> micro_batches;
  std::set<int> groups, ranks;
  for (std::size_t i = 0; i < owner.size(); ++i) {
    const auto micro_batch = static_cast<std::int32_t>(i);
    const std::vector<Vote> votes = votes_on(micro_batch, owner[i], layout, digests);
    if (!differ(votes)) continue;
    micro_batches.push_back(micro_batch);
    groups.merge(outvoted(votes, layout.data_size));
  }
  if (!micro_batches.empty()) {
    for (const int group : groups)
      for (int t = 0; t < layout.tensor_size; ++t) ranks.insert(group * layout.tensor_size + t);
    return {false, {ranks.begin(), ranks.end()}, name_of(micro_batches)};
  }
  // All gradients alike, but not what they add up to: whoever holds the sum, or a link to it.
  for (std::size_t r = 0; r < digests.size(); ++r)
    for (const StepDigest& digest : digests[r])
      if (digest.shard != digests[r].front().shard) ranks.insert(static_cast<int>(r));
  if (!ranks.empty()) return {false, {ranks.begin(), ranks.end()}, "the sum of the gradients"};
  for (std::size_t r = 0; r < digests.size(); ++r) ranks.insert(static_cast<int>(r));
  return {false, {ranks.begin(), ranks.end()}, "the loss or the gradient norm"};
}

std::uint64_t digest_of(Backend& backend, std::span<const float> values) {
  constexpr std::size_t kChunk = std::size_t{1} << 20;  // values that pass through host memory
  std::vector<float> host(backend.on_host() ? 0 : std::min(kChunk, values.size()));
  std::vector<std::uint64_t> chunks;
  for (std::size_t at = 0; at < values.size(); at += kChunk) {
    auto part = values.subspan(at, std::min(kChunk, values.size() - at));
    if (!backend.on_host()) {
      backend.download(host.data(), part.data(), part.size_bytes());
      part = std::span<const float>(host).first(part.size());
    }
    chunks.push_back(xxh3_64(std::as_bytes(part)));
  }
  return xxh3_64(std::as_bytes(std::span<const std::uint64_t>(chunks)));
}

}  // namespace demist
