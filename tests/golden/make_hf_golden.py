#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the Hugging Face parity files: xlmr_post/ (XLM-R) and xlmr_pre/ (XLM-R-XL).

Each folder is a checkpoint that `from_pretrained` loads (config.json, model.safetensors: fp32,
Hugging Face names) plus expected.safetensors: one padded batch and what the model makes of it.
The weights are exact in fp32; everything expected is computed in float64 and stored in float64,
gradients in fp32. Contents of expected.safetensors (R rows, C columns, K targets, V ids):

  ids [R,C], positions [R,C], length [R]          right-padded batch, pad id 1
  target_row [K], target_id [K]                   token index r * C + c, increasing
  logits [K,V], cross_entropy [K], loss.mean [1]  loss.mean = sum(cross_entropy) / K
  gradient/NAME                                   of loss.mean, for every parameter
  weight [K], smooth [K]                          per-target weights of the second loss
  loss.weighted [1]      = sum_k weight_k * cross_entropy_k + smooth_k * mean_v(-log p_kv)
  gradient.weighted/NAME                          of loss.weighted, for a few parameters

Needs torch, transformers, safetensors. Usage: make_hf_golden.py [FOLDER]
"""
import os
import pathlib
import sys

import numpy
import torch
import transformers
from safetensors.torch import save_file

SIZES = dict(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=64, max_position_embeddings=40, type_vocab_size=1,
             layer_norm_eps=1e-5, hidden_act="gelu", hidden_dropout_prob=0.0,
             attention_probs_dropout_prob=0.0, pad_token_id=1, bos_token_id=0, eos_token_id=2)
LENGTHS, COLUMNS = [11, 7, 4], 11
MASK_ID = SIZES["vocab_size"] - 1
TARGETS = {0: [1, 2, 5, 8, 10], 1: [3, 4], 2: [1, 3]}  # row: columns
WEIGHTED_GRADIENTS = ["roberta.embeddings.word_embeddings.weight", "lm_head.bias",
                      "lm_head.dense.weight", "roberta.encoder.layer.0.attention.self.key.weight"]


def parameters(model):
    """Every parameter once; the tied matrix under the name that is in the file."""
    tied = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"}
    return sorted((tied.get(name, name), p) for name, p in model.named_parameters())


def randomize(model, rng):
    """Weights far from their initial values, so that every term of every formula shows."""
    for name, parameter in parameters(model):
        noise = rng.standard_normal(tuple(parameter.shape))
        is_norm = "LayerNorm" in name or "layer_norm" in name
        value = 1 + 0.2 * noise if is_norm and name.endswith("weight") else 0.15 * noise
        parameter.data.copy_(torch.from_numpy(value.astype(numpy.float32)))
    with torch.no_grad():  # the padding rows are zero in every XLM-R checkpoint
        model.roberta.embeddings.word_embeddings.weight[1] = 0
        model.roberta.embeddings.position_embeddings.weight[1] = 0


def make_batch(rng):
    ids = numpy.full((len(LENGTHS), COLUMNS), SIZES["pad_token_id"], dtype=numpy.int64)
    rows, targets = [], []
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = rng.integers(4, MASK_ID, length)
        ids[row, 0], ids[row, length - 1] = 0, 2
        for place, column in enumerate(TARGETS[row]):
            rows.append(row * COLUMNS + column)
            targets.append(int(ids[row, column]))
            if place != 1:  # the second target of a row stays visible, as MLM's "kept" tokens do
                ids[row, column] = MASK_ID
    return torch.from_numpy(ids), torch.tensor(rows), torch.tensor(targets)


def gradients(model, loss):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name: p.grad.detach().float().clone() for name, p in parameters(model)}


def make_case(folder, config, model_class, seed):
    rng = numpy.random.default_rng(seed)
    config._attn_implementation = "eager"
    model = model_class(config)
    randomize(model, rng)
    model.save_pretrained(folder)
    model = model.double().train()  # dropout is 0

    ids, rows, targets = make_batch(rng)
    mask = (ids != SIZES["pad_token_id"]).long()
    logits = model(input_ids=ids, attention_mask=mask).logits.reshape(-1, SIZES["vocab_size"])[rows]
    log_p = torch.log_softmax(logits, dim=-1)
    cross_entropy = -log_p[torch.arange(len(rows)), targets]
    weight = torch.from_numpy(rng.uniform(0.1, 2, len(rows)).astype(numpy.float32))
    smooth = torch.from_numpy(rng.uniform(0, 0.3, len(rows)).astype(numpy.float32))
    mean = cross_entropy.mean()
    weighted = (weight.double() * cross_entropy - smooth.double() * log_p.mean(dim=-1)).sum()

    expected = {
        "ids": ids.int(), "positions": (torch.cumsum(mask, 1) * mask + 1).int(),
        "length": torch.tensor(LENGTHS).int(), "target_row": rows.int(), "target_id": targets.int(),
        "logits": logits.detach().clone(), "cross_entropy": cross_entropy.detach().clone(),
        "weight": weight, "smooth": smooth,
        "loss.mean": mean.detach().reshape(1).clone(),
        "loss.weighted": weighted.detach().reshape(1).clone(),
    }
    for name, gradient in gradients(model, mean).items():
        expected["gradient/" + name] = gradient
    second = gradients(model, weighted)
    for name in WEIGHTED_GRADIENTS:
        expected["gradient.weighted/" + name] = second[name]
    save_file(expected, os.path.join(folder, "expected.safetensors"))


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    root = root if root.is_dir() else root.parent
    torch.set_num_threads(1)
    make_case(root / "xlmr_post", transformers.XLMRobertaConfig(**SIZES),
              transformers.XLMRobertaForMaskedLM, seed=20240501)
    make_case(root / "xlmr_pre", transformers.XLMRobertaXLConfig(**SIZES),
              transformers.XLMRobertaXLForMaskedLM, seed=20240502)


if __name__ == "__main__":
    main()
