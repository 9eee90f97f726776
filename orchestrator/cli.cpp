// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/cli.hpp"

#include <boost/program_options.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <sstream>

#include "core/error.hpp"
#include "orchestrator/nearest.hpp"

namespace demist::cli {

namespace po = boost::program_options;

struct Options::Impl {
  std::string usage, about;
  std::vector<std::string> wanted;  // positional arguments that must be there
  bool takes_more = false;
  po::options_description page{"Options", 100, 60};
  std::vector<std::string> names;
  std::map<std::string, std::vector<std::string>> values;
  std::vector<std::string> positionals;
};

Options::Options(std::string usage, std::string about) : impl_(std::make_unique<Impl>()) {
  impl_->usage = std::move(usage);
  impl_->about = std::move(about);
  flag("help", "show this page");
}
Options::~Options() = default;

Options& Options::flag(const std::string& name, const std::string& help) {
  impl_->page.add_options()(name.c_str(), help.c_str());
  impl_->names.push_back(name);
  return *this;
}

Options& Options::value(const std::string& name, const std::string& placeholder,
                        const std::string& help) {
  auto* semantic = po::value<std::string>()->value_name(placeholder);
  impl_->page.add_options()(name.c_str(), semantic, help.c_str());
  impl_->names.push_back(name);
  return *this;
}

Options& Options::list(const std::string& name, const std::string& placeholder,
                       const std::string& help) {
  auto* semantic = po::value<std::vector<std::string>>()->composing()->value_name(placeholder);
  impl_->page.add_options()(name.c_str(), semantic, help.c_str());
  impl_->names.push_back(name);
  return *this;
}

Options& Options::positional(const std::string& what) {
  impl_->wanted.push_back(what);
  return *this;
}

Options& Options::rest(const std::string& what, std::size_t least) {
  impl_->wanted.insert(impl_->wanted.end(), least, what);
  impl_->takes_more = true;
  return *this;
}

void Options::refuse(const std::string& problem) const {
  throw ConfigError(problem + " (usage: " + impl_->usage + ")");
}

bool Options::parse(const Arguments& arguments) {
  std::vector<po::option> found;
  try {
    // Whole names only: an abbreviation that works today is ambiguous tomorrow.
    const int style =
        po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::command_line_parser parser(arguments);
    found = parser.options(impl_->page).style(style).run().options;
  } catch (const po::unknown_option& error) {
    const std::string name = error.get_option_name();
    const std::string bare = name.substr(
        name.find_first_not_of('-') == std::string::npos ? 0 : name.find_first_not_of('-'));
    const std::string near = nearest(bare, impl_->names);
    refuse("unknown option " + name + (near.empty() ? "" : "; did you mean --" + near + "?"));
  } catch (const po::error& error) {
    refuse(error.what());
  }
  for (const po::option& option : found) {
    if (option.position_key >= 0)
      impl_->positionals.insert(impl_->positionals.end(), option.value.begin(), option.value.end());
    else {
      if (std::ranges::find(option.value, "") != option.value.end())
        refuse("--" + option.string_key + " is empty; give it a value, or leave it out");
      auto& values = impl_->values[option.string_key];
      values.insert(values.end(), option.value.begin(), option.value.end());
    }
  }
  if (has("help")) {
    std::ostringstream page;
    page << "usage: " << impl_->usage << "\n\n" << impl_->about << "\n\n" << impl_->page;
    std::fputs(page.str().c_str(), stdout);
    return false;
  }
  const std::size_t given = impl_->positionals.size(), wanted = impl_->wanted.size();
  if (given < wanted) refuse(impl_->wanted[given] + " is missing");
  if (given > wanted && !impl_->takes_more)
    refuse("unexpected argument '" + impl_->positionals[wanted] + "'");
  return true;
}

bool Options::has(const std::string& name) const { return impl_->values.contains(name); }

std::optional<std::string> Options::find(const std::string& name) const {
  const auto found = impl_->values.find(name);
  if (found == impl_->values.end() || found->second.empty()) return std::nullopt;
  return found->second.back();
}

std::string Options::get(const std::string& name, const std::string& otherwise) const {
  return find(name).value_or(otherwise);
}

std::int64_t Options::whole(const std::string& name, std::int64_t otherwise, std::int64_t least,
                            std::int64_t most) const {
  const auto text = find(name);
  if (!text) return otherwise;
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  const bool too_large = error == std::errc::result_out_of_range || number > most;
  if (too_large && text->front() != '-')
    refuse("--" + name + " " + *text + ": expected a whole number of at most " +
           std::to_string(most));
  if (error != std::errc() || end != text->data() + text->size() || number < least)
    refuse("--" + name + " " + *text + ": expected a whole number of at least " +
           std::to_string(least));
  return number;
}

double Options::real(const std::string& name, double otherwise, double least, double most) const {
  const auto text = find(name);
  if (!text) return otherwise;
  double number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || end != text->data() + text->size() || !(number >= least) ||
      !(number <= most)) {
    std::ostringstream range;
    range << "at least " << least;
    if (std::isfinite(most)) range << " and at most " << most;
    refuse("--" + name + " " + *text + ": expected a number of " + range.str());
  }
  return number;
}

std::string Options::choice(const std::string& name,
                            const std::vector<std::string>& choices) const {
  const std::string text = get(name, choices.front());
  for (const std::string& choice : choices)
    if (choice == text) return text;
  refuse("--" + name + " " + text + ": use one of " + join(choices, ", ") +
         did_you_mean(text, choices));
}

const std::vector<std::string>& Options::all(const std::string& name) const {
  static const std::vector<std::string> none;
  const auto found = impl_->values.find(name);
  return found == impl_->values.end() ? none : found->second;
}

const std::vector<std::string>& Options::positionals() const { return impl_->positionals; }

int run_action(const std::string& command,
               const std::vector<std::pair<std::string, Action>>& actions,
               const Arguments& arguments, const mpi::Comm& world) {
  std::vector<std::string> known;
  for (const auto& [name, action] : actions) {
    if (!arguments.empty() && arguments.front() == name)
      return action(Arguments(arguments.begin() + 1, arguments.end()), world);
    known.push_back(name);
  }
  const std::string usage = "demist " + command + " " + join(known, "|") + " ...";
  if (arguments.empty()) throw ConfigError("what to do is missing (usage: " + usage + ")");
  if (arguments.front() != "--help")
    throw ConfigError("demist " + command + " has no action '" + arguments.front() + "'" +
                      did_you_mean(arguments.front(), known) + " (usage: " + usage + ")");
  std::printf("usage: %s\n\n", usage.c_str());
  for (const auto& [name, action] : actions) {
    action({"--help"}, world);
    std::printf("\n");
  }
  return 0;
}

}  // namespace demist::cli
