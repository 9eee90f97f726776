// SPDX-License-Identifier: Apache-2.0
#include "worker/device_plan.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/checksum.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/support/temporary_folder.hpp"

namespace demist {
namespace {

DevicePlan plan() {
  return {{"NVIDIA H200", 132, "cuBLASLt 130100"},
          {AttentionPath::cudnn, "cuDNN 9.19.0"},
          true,
          {{"bf16 NT 64 32 16, rows 16 16 32, to bf16", "00ff"}, {"second", "01"}}};
}

TEST(DevicePlan, ReadsWhatItWrote) {
  const DevicePlan read = device_plan_from_json(to_json(plan()));
  EXPECT_EQ(read.device, plan().device);
  EXPECT_EQ(read.attention, plan().attention);
  EXPECT_EQ(read.measured, true);
  EXPECT_EQ(read.products, plan().products);
}

// A stage that began before there was a choice goes on with what there was.
TEST(DevicePlan, WithoutAttentionItIsOwn) {
  auto json = nlohmann::ordered_json::parse(to_json(plan()));
  for (const char* key : {"attention", "attention_library", "sha256"}) json.erase(key);
  json["sha256"] = sha256_hex(json.dump());
  EXPECT_EQ(device_plan_from_json(json.dump()).attention, PlannedAttention{});
  json.erase("sha256");
  json["attention"] = "FASTEST";
  json["sha256"] = sha256_hex(json.dump());
  EXPECT_THROW(device_plan_from_json(json.dump()), DataError);
}

TEST(DevicePlan, NoFileIsNoPlan) {
  const test::TemporaryFolder folder;
  EXPECT_FALSE(read_device_plan(folder.path() / "device_plan.json").has_value());
}

// Each byte in turn becomes another one.
TEST(DevicePlan, ADamagedFileIsRefused) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "device_plan.json";
  const std::string whole = to_json(plan());
  std::size_t refused = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = whole[i] == '7' ? '8' : '7';
    atomic_write(file, damaged);
    try {
      (void)read_device_plan(file);
      ADD_FAILURE() << "byte " << i << " went unnoticed";
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(file.string()), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("or delete it"), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_EQ(refused, whole.size());
  atomic_write(file, whole.substr(0, whole.size() / 2));
  EXPECT_THROW(read_device_plan(file), DataError);
}

TEST(DevicePlan, ANewerFormatIsRefusedByItsName) {
  std::string other = to_json(plan());
  other.replace(other.find("plan/1"), 6, "plan/2");
  try {
    (void)device_plan_from_json(other);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("demist.device-plan/2"), std::string::npos);
  }
}

}  // namespace
}  // namespace demist
