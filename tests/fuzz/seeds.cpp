// Writes <folder>/<target>/...: inputs to begin with, made by the project's own writers, and
// <folder>/<target>.dict, the words of a format.
// SPDX-License-Identifier: Apache-2.0
#include <fstream>

#include "configs/recipe.pb.h"
#include "core/file.hpp"
#include "data/manifest.hpp"
#include "orchestrator/config_text.hpp"
#include "orchestrator/control_wire.hpp"
#include "orchestrator/machine_wire.hpp"
#include "tests/support/compressed.hpp"
#include "worker/checkpoint/manifest.hpp"

namespace demist {
namespace {

class Folder {
 public:
  explicit Folder(fs::path path) : path_(std::move(path)) { fs::create_directories(path_); }
  void add(std::string_view content) {
    std::ofstream(path_ / std::to_string(count_++), std::ios::binary) << content;
  }
  // A libFuzzer dictionary.
  void words(const std::vector<std::string>& words) {
    std::ofstream dictionary(path_.string() + ".dict");
    for (const std::string& word : words) dictionary << '"' << word << "\"\n";
  }

 private:
  fs::path path_;
  int count_ = 0;
};

void add_names(const google::protobuf::Descriptor* type, std::vector<std::string>& words) {
  for (const std::string& name : config::names(type)) words.push_back(name + ": ");
  for (int i = 0; i < type->enum_type_count(); ++i)
    for (const std::string& name : config::names(type->enum_type(i))) words.push_back(name);
  for (int i = 0; i < type->field_count(); ++i)
    if (type->field(i)->message_type() != nullptr) add_names(type->field(i)->message_type(), words);
}

void recipes(Folder folder) {
  const fs::path configs = fs::path(DEMIST_SOURCE_DIR) / "configs";
  for (const char* name : {"tiny", "quickstart"}) {
    const std::string text = read_file(configs / (std::string(name) + ".textproto"));
    folder.add(text);
    folder.add(text +
               "#set stages.pretrain.steps=7\n#set tokenizer.inputs=a,b\n#set model.norm=PRE\n");
  }
  folder.add("name: '" + std::string(5000, 'a') + "'");
  std::vector<std::string> words{"#set ", "{run}", "\\\"", "scratch", "{prompt}",
                                 "0",     "-1",    "1e9",  "nan"};
  add_names(recipe::Recipe::descriptor(), words);
  folder.words(words);
}

void checkpoints(Folder folder) {
  using namespace checkpoint;
  Manifest manifest;
  manifest.meta = {.step = 7,
                   .stage = "pretrain",
                   .model_json = "{}",
                   .recipe_hash = "a",
                   .tokenizer_hash = "b",
                   .data_hash = "c",
                   .state_json = "{}",
                   .held_out_loss = 1.5};
  manifest.tensors = {{"a", 4, 6}, {"b", 1, 3}};
  manifest.files = {{"rank-0.h5", 4096}, {"rank-1.h5", 4096}};
  for (const Kind kind : kKinds)
    for (const std::size_t file : {0u, 1u})
      manifest.blocks.push_back(
          {file, 0, kind, 1024, 12, {{std::int64_t(file) * 3, 3, 6, 4}}, {1}});
  for (const Kind kind : kKinds)
    manifest.blocks.push_back({0, 1, kind, 2048, 3, {{0, 1, 0, 1}, {1, 2, 0, 1}}, {2}});
  const std::string text = to_text(manifest);
  folder.add(text.substr(0, text.rfind(",\"xxh3\"")));  // without its seal
  folder.add(text);
  folder.add(to_text(Part{manifest.files[0], {manifest.blocks[0], manifest.blocks[2]}}));
  folder.words({"\\\"file\\\":", "\\\"kind\\\":", "\\\"adam_m\\\"", "[0,1,0,1]", "[[[[[[[[", "null",
                "true", "{}", "-1", "1125899906842624", "9223372036854775807",
                "18446744073709551615", "1e99", "\\\"0000000000000001\\\"",
                "\\\"held_out_loss\\\":"});
}

void corpora(Folder folder) {
  using namespace data;
  Manifest manifest{.name = "notes",
                    .tokenizer_hash = "a",
                    .vocab_size = 302,
                    .languages = {"de", "en"},
                    .inputs = {{"a.txt", "en", "plain", 70, 3, {}}},
                    .shards = {{"shard-000000-0000.h5", 4096, 5, 1, "b"},
                               {"shard-000000-0001.h5", 4096, 9, 2, "c"}}};
  const std::string text = to_json(manifest);
  folder.add(text.substr(0, text.rfind(",\"xxh3\"")));  // without its seal
  manifest.inputs.push_back({"b.jsonl", "de", "jsonl", 90, 0, {1, 2, 3, 4, ""}});
  manifest.shards.pop_back();
  const std::string other = to_json(manifest);
  folder.add(other.substr(0, other.rfind(",\"xxh3\"")));
  folder.add(text);
  folder.add(to_json(RangeResult{"id", 1, 0, 70, {1, 0, 1, 0, "a.txt: first"}, manifest.shards}));
  folder.words({"\\\"file\\\":", "\\\"too_long\\\":", "\\\"n_tokens\\\":", "\\\"../x\\\"",
                "\\\"\\\"", "\\\"a\\\\u0000b\\\"", "[[[[[[[[", "null", "true", "{}", "-1", "1e99",
                "0.5", "1125899906842624", "18446744073709551615"});
}

// metrics.jsonl, a zero byte, events.jsonl.
void journals(Folder folder) {
  const std::string step =
      R"({"event":"step","stage":"mlm","step":1,"time":1764531200.25,"loss":5.125,"grad_norm":1.5,)"
      R"("lr":0.0001,"tokens":8192,"seconds":0.25,"tokens_per_second":32768.0,"load_seconds":1e-05,)"
      R"("control_seconds":0.0001,"rescaled":false)";
  const std::string start =
      R"({"event":"start","stage":"mlm","step":0,"time":1764531199,"ranks":4,"tensor":2,)"
      R"("device":"cpu avx512","seconds":0.5})";
  const std::string rest =
      R"({"event":"held_out","stage":"mlm","step":1,"time":1764531202,"loss":4.5,"seconds":1.5})"
      "\n"
      R"({"event":"save","stage":"mlm","step":1,"time":1764531203,"ranks":4,"seconds":0.125})";
  const std::string supervisor = R"("host":"node1","process":7)";
  const std::string events =
      R"({"time":1764531000,"event":"submitted"})"
      "\n"
      R"({"time":1764531100,"event":"job_start","job":"12"})"
      "\n"
      R"({"time":1764531150,"event":"run_start",)" +
      supervisor + ",\"srun\":true}\n" + R"({"time":1764531190,"event":"attempt","ranks":4})" +
      "\n" +
      R"({"time":1764531300,"event":"attempt_ended","code":76,"again":true,"rank":3,"host":"n2",)"
      R"("cause":"a \"word\""})"
      "\n"
      R"({"time":1764531400,"event":"run_end",)" +
      supervisor + ",\"code\":5,\"problem\":\"gone\"}\n" +
      R"({"time":1764531401,"event":"job_end","code":75,"reason":"cancelled"})" + "\n" +
      R"({"time":1764531402,"event":"job_signal","signal":"USR2"})" + "\n";
  using namespace std::string_literals;
  folder.add(start + "\n" + step + "}\n" + rest + "\n\0"s + events);
  folder.add(step + R"(,"skipped":"loss_spike","rollbacks":2})" + "\n" + step + "}\n\0"s + events);
  folder.add(step + "}\n" + step.substr(0, step.size() / 2));
  folder.add("\0"s + events);
  folder.words({"\\\"step\\\":", "\\\"time\\\":", "\\\"seconds\\\":", "\\\"code\\\":",
                "\\\"stage\\\":\\\"mlm\\\"", "\\\"event\\\":\\\"step\\\"",
                "\\\"event\\\":\\\"run_end\\\"", "\\x00", "\\x0a", "null", "true", "-1", "7.5",
                "1e300", "-1e300", "9223372036854775807", "-9223372036854775808",
                "18446744073709551615", "[[[[[[[["});
}

void control(Folder folder) {
  folder.add(encode(StepPlan{5, {0, 0, 1, 300}, true}));
  folder.add(encode(Save{6}));
  folder.add(encode(Evaluate{7}));
  folder.add(encode(Rollback{8, 2}));
  folder.add(encode(Settle{}));
  folder.add(encode(Stop{Stop::Reason::not_finite, 9}));
  Report report;
  report.step = 5;
  report.stop_requested = report.exhausted = true;
  report.speeds = {{0, 0.5f}, {3, 0.25f}};
  folder.add(encode(report));
  Pulse pulse;
  pulse.rank = 3;
  pulse.call = "all_reduce";
  pulse.slowest_step = 0.5;
  folder.add(encode(MachineLetter{"token", 1, "node1", {pulse, pulse}, false}));
}

// Settings (rows_fuzz.cpp), then rows.
void rows(Folder folder) {
  folder.add(
      "\x04"
      "a\tb\r\nc\td\n\ne\n");
  folder.add(
      "\x0e"
      "a\tb\ttrain\nc\td\ttest\ne\tf\ttrain\n");
  folder.add("\x05{\"inputs\": \"a\", \"targets\": \"\\u00e9\\n\"}\n{\"inputs\": 1}\n");
  folder.add("\x03{\"inputs\": \"a\", \"targets\": \"b\", \"split\": \"train\"}\n");
  folder.words({"\\\"inputs\\\": ", "\\\"targets\\\": ", "\\\"split\\\": ", "\\\"train\\\"",
                "{prompt}", "\\x09", "\\x0d\\x0a"});
}

// Format and cut (text_fuzz.cpp), then a file.
void texts(Folder folder) {
  const std::string plain = "one\ntwo\n\nthree\r\n\r\n\n\xc3\xa9\xff\n\n";
  const std::string json =
      "{\"text\": \"one\"}\n\n{\"text\": \"\\ud83d\\ude00\"}\n{\"text\": 1}\n[\n";
  const std::string as_plain("\x00\x03", 2), as_json("\x01\x05", 2);
  folder.add(as_plain + plain);
  folder.add(as_plain + "\xef\xbb\xbf" + plain);
  folder.add(as_json + json);
  folder.add("\x0e\x03" + plain);  // no document of more than 3 bytes
  folder.add("\x53\x07" + json);   // no line of more than 20
  folder.add(as_plain + test::gzipped(plain));
  folder.add(as_json + test::gzipped(json) + test::gzipped(json));
  folder.add(as_json + test::zstandard(json));
  folder.add(as_plain + test::zstandard(plain) + test::zstandard(plain));
  folder.words({"\\xef\\xbb\\xbf", "\\x0d\\x0a\\x0d\\x0a", "\\x0a\\x0a",
                "\\\"text\\\": ", "\\x1f\\x8b", "\\x28\\xb5\\x2f\\xfd", "\\x50\\x2a\\x4d\\x18",
                "\\xed\\xa0\\x80", "\\xf4\\x90\\x80\\x80", "\\xe0\\x80\\x80"});
}

// Kind, documents, edits (shard_fuzz.cpp and shard_file.cpp).
void shards(Folder folder) {
  using namespace std::string_literals;
  folder.add("\x00\x05\x00"s);                                          // as it should be
  folder.add("\x01\x05\x00"s);                                          // wide ids
  folder.add("\x00\x05\x01\x00\x00\x01\x00\x07"s);                      // another token
  folder.add("\x00\x05\x01\x05\x08\xff\xff\xff\xff\xff\xff\xff\xff"s);  // n_tokens
  folder.add("\x00\x05\x02\x03\x01\x03\x07\x01\x03"s);                  // shapes
  folder.add("\x02\x05\x00\x02\x00\x10\x01\x07\x00\x04\x00"s);          // damaged afterwards
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) {
  using namespace demist;
  if (argc != 2) return std::fputs("usage: fuzz_seeds FOLDER\n", stderr), 2;
  const fs::path root = argv[1];
  recipes(Folder(root / "recipe"));
  checkpoints(Folder(root / "checkpoint"));
  control(Folder(root / "control"));
  corpora(Folder(root / "corpus"));
  journals(Folder(root / "journal"));
  rows(Folder(root / "rows"));
  texts(Folder(root / "text"));
  shards(Folder(root / "shard"));
}
