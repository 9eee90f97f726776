// SPDX-License-Identifier: Apache-2.0
#include "worker/model/device_batch.hpp"

#include <cstring>
#include <tuple>

namespace demist {
namespace {

constexpr std::size_t kArrayAlign = 256;  // vector loads of any width start at every array

Grouping grouping_of(const data::TokenGroups& groups) {
  return {groups.value, groups.begin, groups.order};
}

// Calls body on every span of the batch.
template <class Body>
void for_spans(EncoderInput& encoder, HeadInput& head, Body&& body) {
  const auto each = [&](auto&... spans) { (body(spans), ...); };
  each(encoder.grid.sample, encoder.keys.begin, encoder.keys.end, encoder.ids, encoder.positions);
  for (Grouping* g : {&encoder.id_groups, &encoder.position_groups})
    each(g->value, g->begin, g->order);
  each(head.target_row, head.rows.target, head.rows.weight, head.rows.smooth);
}

std::size_t aligned(std::size_t bytes) {
  return (bytes + kArrayAlign - 1) / kArrayAlign * kArrayAlign;
}

}  // namespace

DeviceBatch::DeviceBatch(Backend& backend, std::int64_t tokens, std::int64_t targets)
    : backend_(backend) {
  if (!backend.on_host())
    device_ = Buffer<std::byte>(most_bytes(tokens, targets), backend.memory());
}

// A sequence has at least one token, and so has a group.
std::size_t DeviceBatch::most_bytes(std::int64_t tokens, std::int64_t targets) {
  const auto n = static_cast<std::size_t>(tokens), m = static_cast<std::size_t>(targets);
  constexpr std::size_t number = 4;
  const std::size_t a_token = aligned(n * number);
  const std::size_t grouping = 2 * a_token + aligned((n + 1) * number);
  const std::size_t encoder = aligned(n * sizeof(std::uint64_t)) + 4 * a_token + 2 * grouping;
  return 2 * (encoder + 4 * aligned(m * number));
}

void DeviceBatch::load(const data::MicroBatch& batch, std::int64_t vocab_size) {
  encoder_ = {{batch.rows, batch.cols, batch.sample},
              {batch.key_begin, batch.key_end},
              batch.ids,
              batch.positions,
              grouping_of(batch.id_groups),
              grouping_of(batch.position_groups)};
  head_ = {batch.target_row, {batch.target_id, batch.weight, batch.smooth, vocab_size}};
  if (!backend_.on_host()) move_to_device();
}

void DeviceBatch::load(const EncoderInput& input, std::span<const std::int32_t> wanted) {
  encoder_ = input;
  head_ = {wanted, {}};
  if (!backend_.on_host()) move_to_device();
}

void DeviceBatch::move_to_device() {
  std::size_t bytes = 0;
  for_spans(encoder_, head_, [&](auto& span) { bytes += aligned(span.size_bytes()); });
  packed_.resize(bytes);
  ensure(bytes <= device_.size() / 2, "a larger batch than planned");
  second_ = !second_;
  std::byte* room = device_.data() + (second_ ? device_.size() / 2 : 0);
  std::size_t at = 0;
  for_spans(encoder_, head_, [&](auto& span) {
    if (!span.empty()) std::memcpy(packed_.data() + at, span.data(), span.size_bytes());
    using Element = typename std::remove_reference_t<decltype(span)>::element_type;
    span = {reinterpret_cast<Element*>(room + at), span.size()};
    at += aligned(span.size_bytes());
  });
  backend_.upload_beside(room, packed_.data(), bytes);
}

}  // namespace demist
