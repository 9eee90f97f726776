// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/slurm/profile.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "configs/cluster.pb.h"
#include "core/error.hpp"
#include "core/file.hpp"
#include "orchestrator/config_text.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::slurm {
namespace {

namespace pb = google::protobuf;
using cluster::Cluster;

// The forms of values. Not with std::regex: it recurses once a character, and a long value would
// end the program.
constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kSpaces = " \t\n\v\f\r";

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of(kDigits) == std::string_view::npos;
}

// -x... or --x..., on one line.
bool is_option(std::string_view text) {
  if (!text.starts_with('-')) return false;
  text.remove_prefix(text.starts_with("--") ? 2 : 1);
  return !text.empty() && kLetters.find(text.front()) != std::string_view::npos &&
         text.find('\n') == std::string_view::npos;
}

bool is_option_without_spaces(std::string_view text) {
  return is_option(text) && text.find_first_of(kSpaces) == std::string_view::npos;
}

bool is_one_word(std::string_view text) {
  return !text.empty() && text.find_first_of(kSpaces) == std::string_view::npos;
}

bool names_a_module(std::string_view text) {
  return !text.empty() && text.find_first_of(kSpaces) == std::string_view::npos &&
         text.find_first_of(";&|$`'\"") == std::string_view::npos;
}

// NAME=value, on one line.
bool is_assignment(std::string_view text) {
  const std::string letters = std::string(kLetters) + "_";
  const std::string_view name = text.substr(0, text.find('='));
  return !name.empty() && name.size() < text.size() &&
         letters.find(name.front()) != std::string::npos &&
         name.find_first_not_of(letters + std::string(kDigits)) == std::string_view::npos &&
         text.find('\n') == std::string_view::npos;
}

std::string program_folder() { return fs::read_symlink("/proc/self/exe").parent_path().string(); }

// A value as an error shows it.
std::string shown(const std::string& value) {
  constexpr std::size_t most = 200;
  return "\"" + (value.size() <= most ? value : value.substr(0, most) + "...") + "\"";
}

// A profile while it is still a message, and the way to complain about one of its fields.
class Parsed {
 public:
  Parsed(const std::string& text, std::string file) : file_(std::move(file)) {
    config::parse_text(text, file_, "configs/cluster.proto", message_, &locations_);
  }
  const Cluster& message() const { return message_; }

  void require(bool condition, const char* field, const std::string& problem, const char* remedy,
               int element = -1) const {
    if (condition) return;
    const auto at = locations_.GetLocation(Cluster::descriptor()->FindFieldByName(field), element);
    std::string where = file_;
    if (at.line >= 0)
      where.append(":")
          .append(std::to_string(at.line + 1))
          .append(":")
          .append(std::to_string(at.column + 1));
    throw ConfigError(where + ": " + field + ": " + problem + "; " + remedy);
  }
  void require_each(const pb::RepeatedPtrField<std::string>& list, const char* field,
                    bool (*is_right)(std::string_view), const char* remedy) const {
    for (int i = 0; i < list.size(); ++i)
      require(is_right(list[i]), field, shown(list[i]) + " is not of the right form", remedy, i);
  }

 private:
  std::string file_;
  Cluster message_;
  pb::TextFormat::ParseInfoTree locations_;
};

// Its words too stand in the command line that is split at spaces.
void check_container(const Parsed& parsed) {
  const Cluster::Container& c = parsed.message().container();
  if (!parsed.message().has_container()) return;
  parsed.require(!c.image().empty(), "container", "has no image", "add image: \"...\" to it");
  const char* const remedy = "give one without blanks, a symbolic link perhaps";
  parsed.require(is_one_word(c.image()), "container", "image " + shown(c.image()) + " has blanks",
                 remedy);
  for (const std::string& mount : c.mounts())
    parsed.require(is_one_word(mount), "container",
                   "mount " + shown(mount) + " is empty or has blanks", remedy);
  const std::string program = program_folder();
  parsed.require(is_one_word(program), "container",
                 "the program's folder " + shown(program) + " has blanks, and is mounted as well",
                 "install it elsewhere");
}

void check(const Parsed& parsed) {
  const Cluster& c = parsed.message();
  parsed.require(c.time().empty() || is_time_limit(c.time()), "time",
                 shown(c.time()) + " is no time", R"(write "12:00:00" or "2-00:00:00")");
  parsed.require(!c.has_ntasks_per_node() || c.ntasks_per_node() > 0, "ntasks_per_node",
                 "must be at least 1", "give the number of ranks a node");
  parsed.require(!c.has_cpus_per_task() || c.cpus_per_task() > 0, "cpus_per_task",
                 "must be at least 1", "give the number of cores a rank");
  // Slurm looks at time limits twice a minute.
  constexpr int shortest_warning = 60;
  parsed.require(
      !c.has_stop_seconds() || c.stop_seconds() == 0 || c.stop_seconds() >= shortest_warning,
      "stop_seconds", "must be at least 60, or 0 for no warning",
      "give the seconds that a save takes, and some");
  parsed.require(!c.has_max_requeues() || c.max_requeues() >= 0, "max_requeues", "is negative",
                 "give 0 to never requeue");
  parsed.require_each(c.sbatch(), "sbatch", is_option, "write an option: \"--reservation=friday\"");
  check_container(parsed);
  // The words are joined into one command line and split at spaces.
  parsed.require_each(c.srun(), "srun", is_option_without_spaces,
                      "write one option without spaces: \"--cpu-bind=cores\"");
  parsed.require_each(c.modules(), "modules", names_a_module, "write a module's name");
  parsed.require_each(c.environment(), "environment", is_assignment, "write \"NAME=value\"");
}

std::vector<std::string> sbatch_options(const Cluster& c) {
  std::vector<std::string> options;
  const auto add = [&options](const char* name, const std::string& value) {
    if (!value.empty()) options.push_back(std::string("--") + name + "=" + value);
  };
  add("partition", c.partition());
  add("account", c.account());
  add("qos", c.qos());
  add("constraint", c.constraint());
  add("mem", c.memory());
  add("gpus-per-node", c.gpus_per_node());
  if (!c.has_exclusive() || c.exclusive()) options.emplace_back("--exclusive");
  options.insert(options.end(), c.sbatch().begin(), c.sbatch().end());
  return options;
}

// What stands between srun and the program; pyxis is told by options of srun.
void add_container(const Cluster& c, Profile& profile) {
  if (!c.has_container()) return;
  const std::string program = program_folder();
  std::vector<std::string> mounts(c.container().mounts().begin(), c.container().mounts().end());
  mounts.push_back(program + ":" + program);
  if (c.container().runtime() == Cluster::Container::PYXIS) {
    profile.srun.push_back("--container-image=" + c.container().image());
    profile.srun.push_back("--container-mounts=" + join(mounts, ","));
    profile.srun.emplace_back("--no-container-mount-home");
    return;
  }
  profile.container = {"apptainer", "exec", "--bind", join(mounts, ",")};
  if (!c.gpus_per_node().empty()) profile.container.emplace_back("--nv");
  profile.container.push_back(c.container().image());
}

std::vector<fs::path> folders() {
  std::vector<fs::path> found;
  const char *config = std::getenv("XDG_CONFIG_HOME"), *home = std::getenv("HOME");
  if (config != nullptr && *config != '\0')
    found.push_back(fs::path(config) / "demist/clusters");
  else if (home != nullptr)
    found.push_back(fs::path(home) / ".config/demist/clusters");
  found.emplace_back("configs/clusters");
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
  found.push_back((program / "../share/demist/configs/clusters").lexically_normal());
  return found;
}

}  // namespace

std::optional<std::string> value_of(const std::string& option, const std::string& name,
                                    const std::string& letter) {
  for (const std::string& form : {name + "=", name + " ", letter})
    if (option.starts_with(form)) {
      const std::string value = option.substr(form.size());
      return value.substr(std::min(value.find_first_not_of(" ="), value.size()));
    }
  return std::nullopt;
}

std::vector<std::string> never_on(const Profile& profile) {
  std::vector<std::string> lists;
  for (const std::string& option : profile.sbatch)
    if (const auto nodes = value_of(option, "--exclude", "-x")) lists.push_back(*nodes);
  return lists;
}

// [days-]a[:b[:c]]
bool is_time_limit(std::string_view text) {
  if (const auto dash = text.find('-'); dash != std::string_view::npos) {
    if (!is_number(text.substr(0, dash))) return false;
    text.remove_prefix(dash + 1);
  }
  for (int part = 0; part < 3; ++part) {
    const auto colon = text.find(':');
    if (!is_number(text.substr(0, colon))) return false;
    if (colon == std::string_view::npos) return true;
    text.remove_prefix(colon + 1);
  }
  return false;
}

Profile parse_profile(const std::string& text, const std::string& file) {
  const Parsed parsed(text, file);
  check(parsed);
  const Cluster& c = parsed.message();
  const auto list = [](const pb::RepeatedPtrField<std::string>& field) {
    return std::vector<std::string>(field.begin(), field.end());
  };
  Profile profile;
  profile.sbatch = sbatch_options(c);
  profile.time = c.time();
  if (c.has_ntasks_per_node()) profile.ntasks_per_node = c.ntasks_per_node();
  profile.cpus_per_task = c.cpus_per_task();
  profile.modules = list(c.modules());
  profile.setup = list(c.setup());
  profile.environment = list(c.environment());
  profile.srun = {"--mpi=" + (c.mpi().empty() ? "pmix" : c.mpi())};
  profile.srun.insert(profile.srun.end(), c.srun().begin(), c.srun().end());
  add_container(c, profile);
  profile.stop_signal = Cluster::StopSignal_Name(c.stop_signal());
  if (c.has_stop_seconds()) profile.stop_seconds = c.stop_seconds();
  if (c.has_max_requeues()) profile.max_requeues = c.max_requeues();
  return profile;
}

Profile find_profile(const std::string& name) {
  const std::string wanted = name.empty() ? "default" : name;
  if (!name.empty() && fs::is_regular_file(name)) return parse_profile(read_file(name), name);
  std::vector<std::string> tried, known;
  std::error_code none;  // a folder that is not there has no profiles
  for (const fs::path& folder : folders()) {
    const fs::path file = folder / (wanted + ".textproto");
    if (fs::is_regular_file(file)) return parse_profile(read_file(file), file.string());
    tried.push_back(file.string());
    for (const auto& entry : fs::directory_iterator(folder, none))
      if (entry.path().extension() == ".textproto") known.push_back(entry.path().stem().string());
  }
  if (name.empty()) return parse_profile("", "(defaults)");
  throw ConfigError("there is no cluster profile '" + name + "'; looked for " + join(tried, ", ") +
                    did_you_mean(name, known));
}

}  // namespace demist::slurm
