// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/background_save.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/h5.hpp"
#include "core/mpi_mail.hpp"
#include "core/parallel_for.hpp"
#include "worker/checkpoint/save_work.hpp"

namespace demist::checkpoint {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

// Training threads are served first; the writer mostly waits for the disk anyhow.
void give_way_to_training() {
  unpin_this_thread();
  constexpr int weaker = 10;  // the weakest, 19, would not end before the next save is due
  (void)::setpriority(PRIO_PROCESS, 0, weaker);  // of this thread, on Linux; speed only
}

// What a rank's phase came to; also the letter in which it says so.
struct Result {
  mpi::Outcome outcome;
  Written written;
};

std::string to_text(const Result& result) {
  return json{{"code", static_cast<int>(result.outcome.code)},
              {"message", result.outcome.message},
              {"part", result.written.part},
              {"bytes", result.written.bytes},
              {"identity", result.written.identity}}
      .dump(-1, ' ', false, json::error_handler_t::replace);  // a path may be no UTF-8
}

Result result_from(const std::string& text) {
  const json value = json::parse(text);
  Result result;
  result.outcome.code = static_cast<ExitCode>(value.at("code").get<int>());
  result.outcome.message = value.at("message");
  result.written = {value.at("part"), value.at("identity"), value.at("bytes")};
  return result;
}

bool failed(const Result& result) { return result.outcome.code != ExitCode::done; }

// The failure of the first rank that failed; in its own words when all say the same.
mpi::Outcome common_outcome(const std::vector<Result>& results, const char* phase) {
  const auto first = std::ranges::find_if(results, failed);
  if (first == results.end()) return {};
  mpi::Outcome outcome = first->outcome;
  const bool alike = std::ranges::all_of(
      results, [&](const Result& r) { return r.outcome.message == outcome.message; });
  if (!alike)
    outcome.message = std::string(phase) + ": rank " + std::to_string(first - results.begin()) +
                      ": " + outcome.message;
  return outcome;
}

}  // namespace

struct BackgroundSave::Impl {
  // What this rank waits for. Rank 0: preparing -> writing -> gathering -> publishing -> idle; with
  // a failure, gathering -> idle. Others: preparing (for rank 0's word) -> writing -> gathering
  // (for its verdict) -> idle.
  enum class State { idle, preparing, writing, gathering, publishing };

  Impl(const mpi::Comm& world, fs::path folder, const Retention& retention, Hook before_phase)
      : comm(world),
        mail(world),
        root(std::move(folder)),
        keep(retention),
        hook(std::move(before_phase)) {}
  ~Impl() {
    if (state != State::idle) mail.abandon();
    stop.request_stop();  // and then `job` waits for its thread
  }

  bool is_first() const { return comm.rank() == 0; }
  SavePaths paths() const { return {root, snapshot.meta.step}; }

  void start(std::function<void(Result&)> body) {
    job = std::async(std::launch::async, [body = std::move(body)] {
      give_way_to_training();
      Result result;
      result.outcome = mpi::attempt([&] { as_save_error([&] { body(result); }); });
      return result;
    });
  }
  void enter(Phase phase) const {
    if (hook) hook(phase);
  }
  bool job_is_done() const {
    return job.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

  void begin();
  bool advance();
  bool leave_preparing();
  bool leave_writing();
  bool leave_gathering();
  bool leave_publishing();
  void start_writing();
  void start_publishing();
  Result tell_all(const Result& word);
  std::optional<Result> word_of_first();
  bool end(const mpi::Outcome& outcome);

  mpi::Comm comm;
  mpi::Mail mail;
  const fs::path root;
  const Retention keep;
  const Hook hook;
  Snapshot snapshot;
  PartWriter writer;
  State state = State::idle;
  Clock::time_point begun;
  std::vector<std::optional<Result>> reports;  // on rank 0, by rank
  std::uint64_t bytes = 0;                     // on rank 0
  std::optional<SaveReport> ended;
  std::stop_source stop;
  std::future<Result> job;  // last: it uses all of the above
};

void BackgroundSave::Impl::begin() {
  begun = Clock::now();
  bytes = 0;
  reports.assign(is_first() ? static_cast<std::size_t>(comm.size()) : 0, std::nullopt);
  const auto needed = static_cast<std::uint64_t>(
      comm.all_reduce_sum(static_cast<std::int64_t>(bytes_needed(snapshot))));
  state = State::preparing;
  if (!is_first()) return;
  start([this, needed](Result&) {
    enter(Phase::prepare);
    prepare_folder(paths(), needed);
  });
}

// Goes on by one state when what this rank waits for has come.
bool BackgroundSave::Impl::advance() {
  switch (state) {
    case State::idle:
      return false;
    case State::preparing:
      return leave_preparing();
    case State::writing:
      return leave_writing();
    case State::gathering:
      return leave_gathering();
    case State::publishing:
      return leave_publishing();
  }
  throw InternalError("background save: unknown state");
}

bool BackgroundSave::Impl::leave_preparing() {
  if (snapshot.arrived && !snapshot.arrived()) return false;
  std::optional<Result> word;
  if (!is_first())
    word = word_of_first();
  else if (job_is_done()) {
    word = tell_all(job.get());
  }
  if (!word) return false;
  if (failed(*word)) return end(word->outcome);
  start_writing();
  return true;
}

void BackgroundSave::Impl::start_writing() {
  state = State::writing;
  start([this](Result& result) {
    enter(Phase::write);
    result.written =
        write_pieces(writer, paths(), snapshot, comm.rank(), comm.size(), stop.get_token());
  });
}

bool BackgroundSave::Impl::leave_writing() {
  if (!job_is_done()) return false;
  mail.post(to_text(job.get()), 0);
  state = State::gathering;
  return true;
}

bool BackgroundSave::Impl::leave_gathering() {
  if (!is_first()) {
    const std::optional<Result> verdict = word_of_first();
    return verdict && end(verdict->outcome);
  }
  for (mpi::Letter& letter : mail.collect())
    reports[static_cast<std::size_t>(letter.from)] = result_from(letter.text);
  if (!std::ranges::all_of(reports, [](const auto& r) { return r.has_value(); })) return false;
  start_publishing();
  return true;
}

// Publishes what all have written, or removes what is left when one could not.
void BackgroundSave::Impl::start_publishing() {
  std::vector<Result> results;
  for (auto& report : reports) results.push_back(std::move(*report));
  state = State::publishing;
  start([this, results = std::move(results)](Result& verdict) {
    try {
      enter(Phase::publish);
      const mpi::Outcome outcome = common_outcome(results, "write checkpoint");
      if (outcome.code != ExitCode::done) throw Error(outcome.code, outcome.message);
      std::vector<Written> written;
      for (const Result& result : results) written.push_back(result.written);
      publish_parts(paths(), snapshot, written);
      for (const Written& rank : written) verdict.written.bytes += rank.bytes;
    } catch (...) {
      discard(paths());
      throw;
    }
    enter(Phase::tidy);
    tidy(paths(), keep);
  });
}

bool BackgroundSave::Impl::leave_publishing() {
  if (!job_is_done()) return false;
  const Result verdict = tell_all(job.get());
  bytes = verdict.written.bytes;
  return end(verdict.outcome);
}

// Returns what the others will read.
Result BackgroundSave::Impl::tell_all(const Result& word) {
  const std::string text = to_text(word);
  for (int rank = 1; rank < comm.size(); ++rank) mail.post(text, rank);
  return result_from(text);
}

std::optional<Result> BackgroundSave::Impl::word_of_first() {
  // One at a time: rank 0 says the next word only after this rank's report.
  const std::vector<mpi::Letter> letters = mail.collect();
  if (letters.empty()) return {};
  ensure(letters.size() == 1, "background save: a word of rank 0 out of turn");
  return result_from(letters.front().text);
}

bool BackgroundSave::Impl::end(const mpi::Outcome& outcome) {
  const std::chrono::duration<double> seconds = Clock::now() - begun;
  ended = SaveReport{snapshot.meta.step, outcome, bytes, seconds.count()};
  state = State::idle;
  return true;
}

BackgroundSave::BackgroundSave(const mpi::Comm& world, const fs::path& root, const Retention& keep,
                               Hook before_phase)
    : impl_(std::make_unique<Impl>(world, root, keep, std::move(before_phase))) {
  h5::start();
}
BackgroundSave::~BackgroundSave() = default;

bool BackgroundSave::in_flight() const { return impl_->state != Impl::State::idle; }

void BackgroundSave::begin(const std::function<void(Snapshot&)>& fill) {
  Impl& s = *impl_;
  ensure(!in_flight() && !s.ended, "a save begins before the last one's end was seen");
  mpi::together(s.comm, "copy the state", [&] { fill(s.snapshot); });
  s.begin();
}

std::optional<SaveReport> BackgroundSave::poll() {
  while (impl_->advance()) {
  }
  return std::exchange(impl_->ended, std::nullopt);
}

std::optional<SaveReport> BackgroundSave::finish() {
  constexpr auto pause = std::chrono::milliseconds(1);
  std::optional<SaveReport> report = poll();
  while (!report && in_flight()) {
    std::this_thread::sleep_for(pause);
    report = poll();
  }
  return report;
}

void throw_if_failed(const mpi::Comm& world, const SaveReport& report) {
  const mpi::Outcome& outcome = report.outcome;
  if (outcome.code == ExitCode::done) return;
  if (world.size() == 1) throw Error(outcome.code, outcome.message);
  throw AgreedError(outcome.code, outcome.message);
}

void save(const mpi::Comm& comm, const fs::path& root, const std::vector<LogicalTensor>& tensors,
          std::span<const Piece> pieces, const Meta& meta, int keep_last) {
  BackgroundSave saver(comm, root, {.last = keep_last});
  saver.begin([&](Snapshot& snapshot) {
    snapshot = {tensors, {pieces.begin(), pieces.end()}, meta, {}};
  });
  throw_if_failed(comm, *saver.finish());
}

}  // namespace demist::checkpoint
