// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/tables.hpp"

#include <algorithm>

#include "core/h5.hpp"

namespace demist::checkpoint {

Tables::Tables(const std::filesystem::path& path, const WriterId& id,
               const std::vector<LogicalTensor>& tensors, const std::vector<PlannedBlock>& planned)
    : id_(id), tensors_(tensors) {
  h5::File file = h5::File::create_elsewhere(path, memory_.descriptor());
  file.set_attribute("/", "format", std::string(kFormat));
  file.set_attribute("/", "writer", static_cast<std::uint64_t>(id.rank));
  file.set_attribute("/", "writers", static_cast<std::uint64_t>(id.ranks));
  file.write("/step", std::vector{static_cast<std::uint64_t>(id.step)});
  step_offset_ = file.extent("/step").offset;
  for (const PlannedBlock& plan : planned) {
    const std::string name = dataset_name(tensors[plan.tensor], plan.kind);
    file.allocate(name, h5::Type::f32, static_cast<std::uint64_t>(plan.count));
    file.write(stripe_table_name(name), flat(plan.stripes));  // the file explains itself
    blocks_.push_back({.file = 0,
                       .tensor = plan.tensor,
                       .kind = plan.kind,
                       .offset = file.extent(name).offset,
                       .count = plan.count,
                       .stripes = plan.stripes,
                       .checksums = {}});
  }
  file.close();
}

bool Tables::fit(const WriterId& id, const std::vector<LogicalTensor>& tensors,
                 const std::vector<PlannedBlock>& planned) const {
  const auto alike = [](const Block& block, const PlannedBlock& plan) {
    return block.tensor == plan.tensor && block.kind == plan.kind && block.count == plan.count &&
           block.stripes == plan.stripes;
  };
  return id.rank == id_.rank && id.ranks == id_.ranks && tensors == tensors_ &&
         std::ranges::equal(blocks_, planned, alike);
}

void Tables::write(DataFile& file, std::int64_t step) const {
  memory_.for_each_part([&](std::uint64_t offset, auto bytes) { file.write_at(offset, bytes); });
  const auto stored = static_cast<std::uint64_t>(step);
  file.write_at(step_offset_, std::as_bytes(std::span(&stored, 1)));
}

}  // namespace demist::checkpoint
