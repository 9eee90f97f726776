// Changes of a recipe that parses: what libFuzzer does to its bytes is mostly a syntax error.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <random>
#include <sstream>

#include "configs/recipe.pb.h"
#include "orchestrator/config_text.hpp"
#include "tests/fuzz/fuzz.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace demist {
namespace {

namespace pb = google::protobuf;

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}

  void change(pb::Message& message) {
    const pb::FieldDescriptor* field =
        message.GetDescriptor()->field(below(message.GetDescriptor()->field_count()));
    if (field->is_repeated())
      change_list(message, field);
    else if (below(8) == 0)
      message.GetReflection()->ClearField(&message, field);
    else if (field->message_type() != nullptr)
      change(*message.GetReflection()->MutableMessage(&message, field));
    else
      set(message, field);
  }

 private:
  int below(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit)); }
  template <class Value>
  Value one_of(std::initializer_list<Value> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  }

  void change_list(pb::Message& message, const pb::FieldDescriptor* field) {
    const pb::Reflection* reflection = message.GetReflection();
    const int size = reflection->FieldSize(message, field), kind = size == 0 ? 0 : below(8);
    if (kind == 0 && field->message_type() != nullptr)
      change(*reflection->AddMessage(&message, field));
    else if (kind == 0)
      reflection->AddString(&message, field, string());  // the lists of values are strings
    else if (kind == 1)
      reflection->RemoveLast(&message, field);
    else if (kind == 2)
      reflection->SwapElements(&message, field, below(size), below(size));
    else if (field->message_type() == nullptr)
      reflection->SetRepeatedString(&message, field, below(size), string());
    else if (kind == 3)
      reflection->AddMessage(&message, field)
          ->CopyFrom(reflection->GetRepeatedMessage(message, field, below(size)));
    else
      change(*reflection->MutableRepeatedMessage(&message, field, below(size)));
  }

  void set(pb::Message& message, const pb::FieldDescriptor* field) {
    const pb::Reflection* reflection = message.GetReflection();
    switch (field->cpp_type()) {
      case pb::FieldDescriptor::CPPTYPE_INT32:
        return reflection->SetInt32(&message, field, integer<std::int32_t>());
      case pb::FieldDescriptor::CPPTYPE_INT64:
        return reflection->SetInt64(&message, field, integer<std::int64_t>());
      case pb::FieldDescriptor::CPPTYPE_UINT64:
        return reflection->SetUInt64(&message, field, integer<std::uint64_t>());
      case pb::FieldDescriptor::CPPTYPE_FLOAT:
        return reflection->SetFloat(&message, field, static_cast<float>(real()));
      case pb::FieldDescriptor::CPPTYPE_DOUBLE:
        return reflection->SetDouble(&message, field, real());
      case pb::FieldDescriptor::CPPTYPE_BOOL:
        return reflection->SetBool(&message, field, below(2) == 0);
      case pb::FieldDescriptor::CPPTYPE_ENUM:
        return reflection->SetEnumValue(&message, field, below(field->enum_type()->value_count()));
      case pb::FieldDescriptor::CPPTYPE_STRING:
        return reflection->SetString(&message, field, string());
      default:
        fuzz::expect(false, "the mutator knows every type of field that recipes have");
    }
  }

  template <class Integer>
  Integer integer() {
    using Limits = std::numeric_limits<Integer>;
    return one_of<Integer>({0, 1, 2, 3, 4, 5, 8, 50, 64, 512, 4096, static_cast<Integer>(-1),
                            Limits::max(), Limits::min()});
  }
  double real() {
    using Limits = std::numeric_limits<double>;
    return one_of({0.0, 0.1, 0.5, 1.0, 2.0, -1.0, 1e-3, 1e300, Limits::denorm_min(),
                   Limits::infinity(), Limits::quiet_NaN()});
  }
  std::string string() {
    return one_of<const char*>({"",         "a",        "a b",    "a,b",   "0",         "1",
                                "{run}",    "{run}/a",  "{run}a", "../a",  "/a",        "a/",
                                "{prompt}", "scratch",  "train",  "valid", "telegrams", "tokenizer",
                                "corpus",   "pretrain", "adapt",  "score", "logs",      ".",
                                "..",       "\n\"\x01"});
  }

  std::minstd_rand random_;
};

}  // namespace
}  // namespace demist

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  using namespace demist;
  const std::string text(reinterpret_cast<const char*>(data), size);
  recipe::Recipe recipe;
  if (seed % 4 == 0 || !config::merge_text(text, "", recipe).empty())
    return LLVMFuzzerMutate(data, size, most);
  Mutator mutator(seed);
  for (unsigned changes = 1 + seed / 4 % 3; changes > 0; --changes) mutator.change(recipe);
  std::string changed;
  google::protobuf::TextFormat::PrintToString(recipe, &changed);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)  // overrides are comments: keep them
    if (line.starts_with('#')) changed += line + "\n";
  if (changed.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::copy(changed.begin(), changed.end(), data);
  return changed.size();
}
