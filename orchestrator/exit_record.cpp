// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/exit_record.hpp"

#include <nlohmann/json.hpp>
#include <vector>

#include "core/file.hpp"

namespace demist {
namespace {

using nlohmann::ordered_json;

constexpr const char* kFolder = "ranks";
constexpr const char* kExtension = ".exit";

// Files of `stage`: its name, a dot, a number, the extension. Names of stages may hold dots.
bool belongs(const fs::path& file, const std::string& stage) {
  const std::string number = file.stem().extension().string();
  return file.extension() == kExtension && file.stem().stem() == stage && number.size() > 1 &&
         number.find_first_not_of("0123456789", 1) == std::string::npos;
}

std::vector<fs::path> records_of(const fs::path& run_dir, const std::string& stage) {
  std::vector<fs::path> files;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run_dir / kFolder, none))
    if (belongs(entry.path(), stage)) files.push_back(entry.path());
  return files;
}

ExitRecord parse(const std::string& text) {
  const auto json = ordered_json::parse(text);
  ExitRecord record;
  record.time = json.at("time");
  record.stage = json.at("stage");
  record.rank = json.at("rank");
  record.host = json.at("host");
  record.code = static_cast<ExitCode>(json.at("code").get<int>());
  record.message = json.at("message");
  record.agreed = json.at("agreed");
  record.machine = json.value("machine", "");
  return record;
}

bool comes_first(const ExitRecord& a, const ExitRecord& b) {
  return std::pair(a.agreed, a.time) < std::pair(b.agreed, b.time);
}

}  // namespace

void write_exit_record(const fs::path& run_dir, const ExitRecord& record) {
  ordered_json json{{"time", record.time},
                    {"stage", record.stage},
                    {"rank", record.rank},
                    {"host", record.host},
                    {"code", static_cast<int>(record.code)},
                    {"message", record.message},
                    {"agreed", record.agreed}};
  if (!record.machine.empty()) json["machine"] = record.machine;
  const std::string name = record.stage + "." + std::to_string(record.rank) + kExtension;
  (void)mpi::attempt([&] {
    fs::create_directories(run_dir / kFolder);
    atomic_write(run_dir / kFolder / name,
                 json.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
  });
}

void clear_exit_records(const fs::path& run_dir, const std::string& stage) {
  for (const fs::path& file : records_of(run_dir, stage)) fs::remove(file);
}

std::optional<ExitRecord> first_cause(const fs::path& run_dir, const std::string& stage) {
  std::optional<ExitRecord> first;
  for (const fs::path& file : records_of(run_dir, stage)) {
    ExitRecord record;
    const mpi::Outcome read = mpi::attempt([&] { record = parse(read_file(file)); });
    if (!read.message.empty()) continue;
    if (!first || comes_first(record, *first)) first = record;
  }
  return first;
}

std::string suspected_node(const std::optional<ExitRecord>& cause) {
  if (!cause) return "";
  if (!cause->machine.empty()) return cause->machine;
  return cause->code == ExitCode::suspect && !cause->agreed ? cause->host : "";
}

}  // namespace demist
