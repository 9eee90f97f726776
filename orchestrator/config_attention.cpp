// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/config_recipe.hpp"
#include "worker/attention_rules.hpp"

namespace demist::config {

using recipe::Recipe;
using recipe::Stage;

void check_attention(ParsedRecipe& recipe) {
  const Recipe& r = recipe.message();
  const recipe::Attention wish = r.parallel().attention();
  const std::string field = "parallel.attention";
  recipe.require(
      r.parallel().device() != recipe::Parallel::CPU || wish == recipe::AUTO || wish == recipe::OWN,
      field, "is " + recipe::Attention_Name(wish) + ", and device is CPU, which has one way",
      "remove one of them");
  if (wish != recipe::CUDNN) return;
  for (const Stage& stage : r.stages()) {
    if (stage.kind() != Stage::PRETRAIN && stage.kind() != Stage::ADAPT) continue;
    const bool whole_rows = stage.kind() == Stage::PRETRAIN && !stage.document_mask();
    const Refusal refusal =
        cudnn_refusal({kAnyGoodCudnn, whole_rows ? stage.batch().sequence_length() : 0,
                       r.model().hidden() / r.model().heads(), stage.attention_dropout(),
                       r.precision() == recipe::FP32 ? DType::f32 : DType::bf16});
    recipe.require(!refusal, field,
                   "CUDNN cannot compute stage " + stage.name() + ": " + refusal.why,
                   refusal.remedy + "; AUTO takes cuDNN for the stages that it can compute");
  }
}

}  // namespace demist::config
