// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/goodput_line.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "orchestrator/json_lines.hpp"

namespace demist {
namespace {

using Event = GoodputLine::Event;

Event event_of(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, Event>, 9> known = {{
      {"step", Event::step},
      {"start", Event::start},
      {"held_out", Event::held_out},
      {"save", Event::save},
      {"attempt", Event::attempt},
      {"attempt_ended", Event::attempt_ended},
      {"submitted", Event::submitted},
      {"job_start", Event::job_start},
      {"run_start", Event::run_start},
  }};
  const auto found = std::ranges::find(known, name, &std::pair<std::string_view, Event>::first);
  return found == known.end() ? Event::none : found->second;
}

double part_of(double whole, double part) { return std::max(0.0, std::min(whole, part)); }

// Reads one object without blanks, nesting and escapes. Every function is false, or empty, for what
// it does not know.
class PlainObject {
 public:
  explicit PlainObject(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  // Calls take(name) before each value; it reads the value.
  template <class Take>
  bool read(const Take& take) {
    if (!eat('{')) return false;
    do {
      const auto name = string();
      if (!name || !eat(':') || !take(*name)) return false;
    } while (eat(','));
    return eat('}') && at_ == end_;
  }

  std::optional<std::string_view> string() {
    if (!eat('"')) return std::nullopt;
    const char* begin = at_;
    while (at_ < end_ && *at_ >= ' ' && *at_ <= '~' && *at_ != '"' && *at_ != '\\') ++at_;
    const std::string_view text(begin, static_cast<std::size_t>(at_ - begin));
    if (!eat('"')) return std::nullopt;
    return text;
  }

  bool real(double& value) {
    std::int64_t whole = 0;
    const auto text = number();
    if (text.empty()) return false;
    if (!is_whole_) return convert(text, value);
    if (!convert(text, whole)) return false;
    value = static_cast<double>(whole);
    return true;
  }
  template <class T>
  bool integer(T& value) {
    const auto text = number();
    return !text.empty() && is_whole_ && convert(text, value);
  }
  bool boolean(bool& value) {
    value = at_ < end_ && *at_ == 't';
    return word(value ? "true" : "false");
  }
  bool anything() {
    if (at_ == end_) return false;
    if (*at_ == '"') return string().has_value();
    if (*at_ == 't') return word("true");
    if (*at_ == 'f') return word("false");
    if (*at_ == 'n') return word("null");
    return !number().empty();
  }

 private:
  bool eat(char c) {
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  bool word(std::string_view text) {
    if (!std::string_view(at_, static_cast<std::size_t>(end_ - at_)).starts_with(text))
      return false;
    at_ += text.size();
    return true;
  }
  std::size_t digits() {
    const char* begin = at_;
    while (at_ < end_ && *at_ >= '0' && *at_ <= '9') ++at_;
    return static_cast<std::size_t>(at_ - begin);
  }
  // As JSON has them. Long ones, which may be too large for a double, are left to a full parser.
  std::string_view number() {
    const char* begin = at_;
    eat('-');
    const bool zero = at_ < end_ && *at_ == '0';
    const std::size_t before = digits();
    if (before == 0 || (zero && before > 1)) return {};
    is_whole_ = true;
    if (eat('.')) {
      is_whole_ = false;
      if (digits() == 0) return {};
    }
    if (eat('e') || eat('E')) {
      is_whole_ = false;
      if (!eat('-')) eat('+');
      const std::size_t exponent = digits();
      if (exponent == 0 || exponent > 2) return {};
    }
    const auto size = static_cast<std::size_t>(at_ - begin);
    constexpr std::size_t most = 40;
    return size <= most ? std::string_view(begin, size) : std::string_view();
  }
  template <class T>
  static bool convert(std::string_view text, T& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
  }

  const char* at_;
  const char* end_;
  bool is_whole_ = false;  // the number that was read last
};

}  // namespace

std::uint32_t GoodputLines::stage_of(std::string_view name) {
  const auto found = std::ranges::find(stages_, name);
  const auto place = static_cast<std::uint32_t>(found - stages_.begin());
  if (found == stages_.end()) stages_.emplace_back(name);
  return place;
}

std::optional<GoodputLine> GoodputLines::read_plain(std::string_view text) {
  PlainObject object(text);
  GoodputLine line;
  std::string_view stage;
  const bool plain = object.read([&](std::string_view name) {
    if (name == "time") return object.real(line.time);
    if (name == "seconds") return object.real(line.seconds);
    if (name == "load_seconds") return object.real(line.load_seconds);
    if (name == "step") return object.integer(line.step);
    if (name == "code") return object.integer(line.code);
    if (name == "again") return object.boolean(line.again);
    if (name == "skipped") line.counts = false;
    if (name != "event" && name != "stage") return object.anything();
    const auto value = object.string();
    if (!value) return false;
    if (name == "event")
      line.event = event_of(*value);
    else
      stage = *value;
    return true;
  });
  if (!plain) return std::nullopt;
  if (line.event == Event::none) return GoodputLine();
  line.stage = stage_of(stage);
  line.load_seconds = part_of(line.seconds, line.load_seconds);
  return line;
}

GoodputLine GoodputLines::read_any(std::string_view text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return {};
  try {
    GoodputLine line;
    line.event = event_of(json.value("event", ""));
    if (line.event == Event::none) return {};
    line.time = json.value("time", 0.0);
    line.step = whole_number(json, "step", std::int64_t{0});
    line.seconds = json.value("seconds", 0.0);
    line.load_seconds = part_of(line.seconds, json.value("load_seconds", 0.0));
    line.counts = !json.contains("skipped");
    line.code = whole_number(json, "code", 0);
    line.again = json.value("again", false);
    line.stage = stage_of(json.value("stage", ""));
    return line;
  } catch (const nlohmann::json::type_error&) {  // a word where a number should be
    return {};
  }
}

void GoodputLines::read(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto plain = read_plain(line);
    const GoodputLine found = plain ? *plain : read_any(line);
    if (found.event != Event::none) lines_.push_back(found);
  }
}

std::vector<GoodputLine> GoodputLines::with(std::string_view text) {
  const std::size_t kept = lines_.size();
  read(text);
  std::vector<GoodputLine> all = lines_;
  lines_.resize(kept);
  return all;
}

}  // namespace demist
