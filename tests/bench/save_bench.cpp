// What a checkpoint costs training, and how near it comes to the disk's own speed: the model of
// configs/cpu_small, a save every 20 steps against none, and plain writes of as many bytes.
// Seconds of the processor stand beside those of the clock: a busy machine changes them less.
// Usage: save_bench [FOLDER [ROUNDS]]
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <string>

#include "core/parallel_for.hpp"
#include "tests/bench/synthetic.hpp"
#include "worker/checkpoint/background_save.hpp"
#include "worker/trainer.hpp"

namespace demist {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kStepsASave = 20;
constexpr int kPairsARound =
    9;  // of a save alone and a plain write: short, and a disk has its moods

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Seconds {
  double wall = 0, processor = 0;  // of all threads
};

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

TrainerConfig cpu_small() {
  TrainerConfig config;
  config.stage = "bench";
  config.model.layers = 3;
  config.model.hidden = 192;
  config.model.ffn = 768;
  config.model.heads = 6;
  config.model.vocab = 8002;
  config.model.positions = 130;
  config.model.hidden_dropout = config.model.attention_dropout = 0;
  config.optimizer.schedule.kind = ScheduleKind::constant;
  return config;
}

// From the first byte until all are synced: what `dd bs=4M conv=fsync` does.
double plain_write_seconds(const fs::path& folder, std::uint64_t bytes) {
  const fs::path path = folder / "plain";
  const std::vector<char> block(std::size_t{4} << 20, 'x');
  const auto start = Clock::now();
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  for (std::uint64_t done = 0; done < bytes;) {
    const auto count = std::min<std::uint64_t>(block.size(), bytes - done);
    if (::write(file, block.data(), count) != static_cast<ssize_t>(count))
      throw EnvironmentError(path.string() + ": cannot write");
    done += count;
  }
  if (::fsync(file) != 0) throw EnvironmentError(path.string() + ": cannot sync");
  ::close(file);
  const double seconds = seconds_since(start);
  fs::remove(path);
  return seconds;
}

class Bench {
 public:
  Bench(const mpi::Comm& world, fs::path folder)
      : folder_(std::move(folder)),
        trainer_(world, cpu_small(), std::make_shared<bench::BenchSource>(8002, 1, 32, 64),
                 make_cpu_device()),
        save_(world, folder_, {.last = 1}, [this](auto phase) { note(phase); }) {
    trainer_.initialize();
    trainer_.announce({0, {0}});
    run_steps(5);
  }

  // Of so many steps, with a save begun before them or not.
  Seconds block(bool saves) {
    const auto start = Clock::now();
    const double worked = processor_seconds();
    if (saves) begin();
    run_steps(kStepsASave);
    if (saves) end();
    return {seconds_since(start), processor_seconds() - worked};
  }
  void save_alone() {
    begin();
    end();
  }
  double plain_write() const { return plain_write_seconds(folder_, bytes_); }

  double pause() const { return pause_; }      // of training, for the copy
  double writing() const { return writing_; }  // of the last save: write, sync and read back
  double whole() const { return whole_; }      // until training knew that it was published
  std::uint64_t bytes() const { return bytes_; }

 private:
  using Phase = checkpoint::BackgroundSave::Phase;

  void run_steps(int count) {
    for (int i = 0; i < count; ++i) {
      trainer_.announce({trainer_.step() + 1, {0}});
      trainer_.run_step();
      if (const auto report = save_.poll()) note(*report);
    }
  }
  void begin() {
    const auto start = Clock::now();
    trainer_.begin_save(save_, std::nullopt);
    pause_ = seconds_since(start);
  }
  void end() {
    if (const auto report = save_.finish()) note(*report);
  }
  void note(const checkpoint::SaveReport& report) {
    if (!report.outcome.message.empty()) throw EnvironmentError(report.outcome.message);
    bytes_ = report.bytes;
    whole_ = report.seconds;
    writing_ = std::chrono::duration<double>(written_ - writing_since_).count();
  }
  // On the writing thread; the save's end orders it before note() above.
  void note(Phase phase) {
    if (phase == Phase::write) writing_since_ = Clock::now();
    if (phase == Phase::publish) written_ = Clock::now();
  }

  const fs::path folder_;
  Trainer trainer_;
  Clock::time_point writing_since_, written_;
  double pause_ = 0, writing_ = 0, whole_ = 0;
  std::uint64_t bytes_ = 0;
  checkpoint::BackgroundSave save_;
};

// A state of a gigabyte, without training: the disk's part alone.
void measure_large(const mpi::Comm& world, const fs::path& folder, int rounds) {
  Buffer<float> values(std::size_t{85} << 20);
  std::ranges::fill(values.span(), 0.5f);
  Clock::time_point since, until;
  checkpoint::BackgroundSave save(world, folder, {.last = 1}, [&](auto phase) {
    if (phase == checkpoint::BackgroundSave::Phase::write) since = Clock::now();
    if (phase == checkpoint::BackgroundSave::Phase::publish) until = Clock::now();
  });
  std::vector<double> plain, saves;
  std::uint64_t bytes = values.bytes() * std::size(checkpoint::kKinds);
  for (int round = 0; round < rounds; ++round) {
    save.begin([&](checkpoint::Snapshot& snapshot) {
      snapshot.tensors = {{"large", 1, static_cast<std::int64_t>(values.size())}};
      snapshot.pieces.clear();
      for (const checkpoint::Kind kind : checkpoint::kKinds)
        snapshot.pieces.push_back({0, kind, 0, values.span()});
      snapshot.meta.step = round + 1;
    });
    bytes = save.finish()->bytes;
    saves.push_back(std::chrono::duration<double>(until - since).count());
    plain.push_back(plain_write_seconds(folder, bytes));
  }
  const double megabytes = static_cast<double>(bytes) * 1e-6;
  std::printf("%.0f MB: plain write %.0f MB/s, save %.0f MB/s (%.0f %%)\n", megabytes,
              megabytes / median(plain), megabytes / median(saves),
              100 * median(plain) / median(saves));
}

void compare(const char* what, double Seconds::*part, const std::vector<Seconds>& without,
             const std::vector<Seconds>& with) {
  const auto typical = [part](const std::vector<Seconds>& all) {
    std::vector<double> values;
    for (const Seconds& one : all) values.push_back(one.*part);
    return median(values) * 1e3;
  };
  std::printf("%d steps, %s: %.1f ms without a save, %.1f ms with one: %+.2f %%\n", kStepsASave,
              what, typical(without), typical(with), 100 * (typical(with) / typical(without) - 1));
}

int run(int argc, char** argv) {
  const mpi::Session session(&argc, &argv);
  use_threads(2, 0, 1);
  const fs::path folder = fs::path(argc > 1 ? argv[1] : ".") / "save_bench.tmp";
  const int rounds = argc > 2 ? std::stoi(argv[2]) : 5;
  std::vector<Seconds> without, with;
  std::vector<double> pause, alone, plain, beside;
  {
    Bench bench(session.world(), folder);
    bench.save_alone();
    for (int round = 0; round < rounds; ++round) {
      without.push_back(bench.block(false));
      with.push_back(bench.block(true));
      pause.push_back(bench.pause());
      beside.push_back(bench.whole());
    }
    for (int i = 0; i < kPairsARound * rounds; ++i) {
      plain.push_back(bench.plain_write());
      bench.save_alone();
      alone.push_back(bench.writing());
    }
    const double megabytes = static_cast<double>(bench.bytes()) * 1e-6;
    compare("clock", &Seconds::wall, without, with);
    compare("processor", &Seconds::processor, without, with);
    std::printf("pause for the copy %.2f ms\n", median(pause) * 1e3);
    std::printf(
        "%.1f MB: plain write %.0f MB/s, save %.0f MB/s (%.0f %%); beside training %.0f ms\n",
        megabytes, megabytes / median(plain), megabytes / median(alone),
        100 * median(plain) / median(alone), median(beside) * 1e3);
  }
  measure_large(session.world(), folder, rounds);
  fs::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) {
  try {
    return demist::run(argc, argv);
  } catch (const demist::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
