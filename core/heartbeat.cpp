// SPDX-License-Identifier: Apache-2.0
#include "core/heartbeat.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/error.hpp"

namespace demist {

// A sequence lock: odd while the writer changes what it guards. Every field is an atomic of its
// own, so a reader that comes in between sees old and new values mixed, never a torn one.
struct HeartbeatPage {
  using Word = std::atomic<std::uint64_t>;
  static constexpr std::uint64_t kMagic = 0x3374616562747364;  // "dstbeat3": the layout's version
  static constexpr std::size_t kCallWords = 4;                 // 31 characters and the end
  static constexpr std::size_t kHostWords = 8;                 // 63

  Word magic;  // written last: a file without it is not whole
  Word rank, process, process_began;
  std::array<Word, kHostWords> host;
  Word claimed, ended, ticks, last_tick;
  Word sequence;
  Word phase, step, beats, slowest_step;
  std::array<Word, kPhases> slowest;
  std::array<Word, kCallWords> call;
};
static_assert(HeartbeatPage::Word::is_always_lock_free, "atomics must work between processes");

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::uint64_t bits(double value) {
  std::uint64_t word = 0;
  std::memcpy(&word, &value, sizeof word);
  return word;
}
double number(std::uint64_t word) {
  double value = 0;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

template <std::size_t words>
void store_text(std::string_view text, std::array<HeartbeatPage::Word, words>& page) {
  std::array<std::uint64_t, words> bytes{};
  text.copy(reinterpret_cast<char*>(bytes.data()), sizeof bytes - 1);
  for (std::size_t i = 0; i < words; ++i) page[i].store(bytes[i], kRelaxed);
}
template <std::size_t words>
std::string load_text(const std::array<HeartbeatPage::Word, words>& page) {
  std::array<std::uint64_t, words> bytes{};
  for (std::size_t i = 0; i < words; ++i) bytes[i] = page[i].load(kRelaxed);
  std::array<char, sizeof bytes> text{};
  std::memcpy(text.data(), bytes.data(), text.size() - 1);
  return text.data();
}

HeartbeatPage* map(const std::filesystem::path& path, int flags) {
  const int file = ::open(path.c_str(), flags | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
  const auto size = static_cast<::off_t>(sizeof(HeartbeatPage));
  // Space that is only promised would end the process with SIGBUS when memory is short.
  bool sized = file >= 0;
  if (sized && (flags & O_CREAT) != 0) sized = ::posix_fallocate(file, 0, size) == 0;
  if (sized && (flags & O_CREAT) == 0) sized = ::lseek(file, 0, SEEK_END) == size;
  void* address = MAP_FAILED;
  if (sized)
    address = ::mmap(nullptr, sizeof(HeartbeatPage), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int reason = errno;
  if (file >= 0) ::close(file);
  if (address == MAP_FAILED)
    throw EnvironmentError(path.string() + ": cannot share a heartbeat: " + std::strerror(reason));
  return static_cast<HeartbeatPage*>(address);
}

void unmap(HeartbeatPage* page) { ::munmap(page, sizeof(HeartbeatPage)); }

}  // namespace

// Fields of /proc/<id>/stat: the 1st after the name in parentheses, and the 20th.
ProcessState state_of(int process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(file, text);
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream fields(text.substr(name_end + 1));
  ProcessState state;
  std::string field;
  fields >> state.letter;
  for (int i = 1; i < 19; ++i) fields >> field;
  fields >> state.began;
  return state;
}

const char* name_of(Phase phase) {
  static constexpr std::array<const char*, kPhases> names = {
      "start", "control", "load", "forward", "backward", "reduce", "optimizer", "save", "evaluate"};
  return names.at(static_cast<std::size_t>(phase));
}

double Heartbeat::Recent::add(double seconds) {
  last_.at(next_) = seconds;
  next_ = (next_ + 1) % last_.size();
  return *std::max_element(last_.begin(), last_.end());
}

Heartbeat::Heartbeat(const std::filesystem::path& file, int rank, std::string_view host)
    : file_(file), phase_began_(now_seconds()) {
  ::unlink(file.c_str());  // whoever still reads the old one keeps it
  page_ = map(file, O_CREAT | O_EXCL);
  page_->rank.store(static_cast<std::uint64_t>(rank), kRelaxed);
  page_->process.store(static_cast<std::uint64_t>(::getpid()), kRelaxed);
  page_->process_began.store(state_of(::getpid()).began, kRelaxed);
  store_text(host, page_->host);
  publish();
  page_->magic.store(HeartbeatPage::kMagic, std::memory_order_release);
}

Heartbeat::~Heartbeat() {
  leave();
  unmap(page_);
}

int Heartbeat::rank() const { return static_cast<int>(page_->rank.load(kRelaxed)); }

void Heartbeat::leave() {
  page_->ended.store(1, std::memory_order_release);
  ::unlink(file_.c_str());
}

void Heartbeat::publish() {
  while (condemned_.load()) ::pause();
  HeartbeatPage& page = *page_;
  const std::uint64_t sequence = page.sequence.load(kRelaxed);
  page.sequence.store(sequence + 1, kRelaxed);
  std::atomic_thread_fence(std::memory_order_release);
  page.phase.store(static_cast<std::uint64_t>(phase_), kRelaxed);
  page.step.store(static_cast<std::uint64_t>(step_), kRelaxed);
  page.beats.store(page.beats.load(kRelaxed) + 1, kRelaxed);
  page.slowest_step.store(bits(slowest_step_), kRelaxed);
  for (std::size_t i = 0; i < kPhases; ++i) page.slowest[i].store(bits(slowest_[i]), kRelaxed);
  store_text(call_ != nullptr ? call_ : "", page.call);
  page.sequence.store(sequence + 2, std::memory_order_release);
}

void Heartbeat::enter(Phase phase) {
  const double now = now_seconds();
  const auto left = static_cast<std::size_t>(phase_);
  if (phase != phase_) {
    slowest_[left] = phases_[left].add(now - phase_began_);
    phase_began_ = now;
  }
  phase_ = phase;
  publish();
}

void Heartbeat::begin_step(std::int64_t step) {
  step_ = step;
  step_began_ = now_seconds();
  enter(Phase::load);
}

void Heartbeat::end_step() {
  slowest_step_ = steps_.add(now_seconds() - step_began_);
  enter(Phase::control);
}

void Heartbeat::begin_call(const char* name) {
  if (depth_++ > 0) return;
  call_ = name;
  publish();
}

void Heartbeat::end_call() {
  if (--depth_ > 0) return;
  call_ = nullptr;
  publish();
}

void Heartbeat::tick() {
  page_->ticks.fetch_add(1, kRelaxed);
  page_->last_tick.store(bits(now_seconds()), kRelaxed);
}

HeartbeatReader::HeartbeatReader(const std::filesystem::path& file) : page_(map(file, 0), unmap) {
  if (page_->magic.load(std::memory_order_acquire) != HeartbeatPage::kMagic)
    throw EnvironmentError(file.string() + ": no heartbeat of this version of the program");
  const auto process = static_cast<int>(page_->process.load(kRelaxed));
  const ProcessState now = state_of(process);
  gone_ = now.letter == 'Z' || now.began != page_->process_began.load(kRelaxed);
}

Pulse HeartbeatReader::read() const {
  const HeartbeatPage& page = *page_;
  Pulse pulse;
  pulse.rank = static_cast<int>(page.rank.load(kRelaxed));
  pulse.process = static_cast<int>(page.process.load(kRelaxed));
  pulse.host = load_text(page.host);
  pulse.ended = page.ended.load(std::memory_order_acquire) != 0;
  // A process that waits to be reaped still has its id: whoever started it reaps it at once.
  pulse.alive = !gone_ && (::kill(pulse.process, 0) == 0 || errno == EPERM);
  pulse.ticks = page.ticks.load(kRelaxed);
  pulse.last_tick = number(page.last_tick.load(kRelaxed));
  // A writer that was stopped in the middle of a change leaves the lock odd for ever.
  constexpr int kTries = 100;
  for (int i = 0; i < kTries && !pulse.whole; ++i) {
    const std::uint64_t before = page.sequence.load(std::memory_order_acquire);
    pulse.phase =
        static_cast<Phase>(std::min<std::uint64_t>(page.phase.load(kRelaxed), kPhases - 1));
    pulse.step = static_cast<std::int64_t>(page.step.load(kRelaxed));
    pulse.beats = page.beats.load(kRelaxed);
    pulse.slowest_step = number(page.slowest_step.load(kRelaxed));
    for (std::size_t k = 0; k < kPhases; ++k)
      pulse.slowest[k] = number(page.slowest[k].load(kRelaxed));
    pulse.call = load_text(page.call);
    std::atomic_thread_fence(std::memory_order_acquire);
    pulse.whole = before % 2 == 0 && page.sequence.load(kRelaxed) == before;
  }
  return pulse;
}

bool HeartbeatReader::claim() const { return page_->claimed.exchange(1) == 0; }

}  // namespace demist
