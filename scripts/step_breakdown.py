#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes on one GPU, computed from FLOPs and bytes: nothing is measured.

usage: step_breakdown.py               prints the tables of docs/gpu-performance.md
       step_breakdown.py --check FILE  fails when FILE does not hold them

Every operation of a micro-batch is counted as the code queues it (worker/model, worker/optimizer): its
FLOPs, the bytes that the comment of its kernel (kernels/cuda) says it must move, its launches. A product
or an attention kernel takes the longer of its FLOPs and its bytes; a row kernel takes its bytes, and no
kernel less than LEAST. Two sets of rates, because neither is known yet for this code:

  limit   what the hardware or the best public code reaches; no kernel of ours can be faster
  likely  what kernels of their kind reach at these shapes
"""
import sys
from dataclasses import dataclass, field

PEAK = 989e12  # H100 SXM, bf16, dense
LENGTH = 512  # tokens of a sequence
BF16, FP32, INT64 = 2, 4, 8
LEAST = 2.5e-6  # seconds that the smallest kernel keeps a stream busy
HOST = 4e-6  # seconds of the host to queue a kernel
LOGITS_CHUNK = 2048  # rows: worker/model/logits_chunk.hpp


@dataclass
class Rates:
    name: str
    products: dict  # FLOP/s by hidden width: larger products run better
    attention: float  # executed FLOP/s of mma.sync kernels
    memory: float  # bytes/s
    gap: float  # seconds between two kernels of a full queue


LIMIT = Rates("limit", {0: 0.80 * PEAK}, 0.42 * PEAK, 3.35e12, 0.5e-6)
LIKELY = Rates("likely", {0: 0.61 * PEAK, 1024: 0.64 * PEAK, 2560: 0.69 * PEAK, 4096: 0.71 * PEAK},
               0.30 * PEAK, 2.9e12, 1e-6)


@dataclass
class Model:
    name: str
    layers: int
    d: int
    heads: int
    vocab: int
    post: bool
    sequences: int  # of a micro-batch
    goal: float
    masked: float = 0.15
    micro_batches: int = 16  # a step: the optimizer's share
    tokens: int = field(init=False)
    targets: int = field(init=False)

    def __post_init__(self):
        self.tokens = self.sequences * LENGTH
        self.targets = int(self.tokens * self.masked)

    @property
    def parameters(self):
        d = self.d
        return self.vocab * (d + 1) + 514 * d + self.layers * (12 * d * d + 13 * d) + d * d + 8 * d

    def flops(self):
        """Model FLOPs of a micro-batch: docs/benchmarks.md."""
        d = self.d
        layer = 4 * d * d + 8 * d * d + 2 * d * LENGTH
        return 6 * (self.tokens * self.layers * layer + self.targets * (d * self.vocab + d * d))


MODELS = [
    Model("base", 12, 768, 12, 250002, True, 64, 0.45),
    Model("large", 24, 1024, 16, 250002, True, 64, 0.55),
    Model("XL", 36, 2560, 32, 250880, False, 32, 0.62),
    Model("XXL", 48, 4096, 32, 250880, False, 16, 0.65),
]
# What one GPU of 80 GB holds of the wide ones: layers taken away, everything else as it is.
SLICES = [
    Model("XL width, 8 layers", 8, 2560, 32, 250880, False, 64, 0.62),
    Model("XXL width, 4 layers", 4, 4096, 32, 250880, False, 32, 0.65),
]

PARTS = ["body products", "attention", "row kernels", "head products", "loss on logits", "EXACT sums", "optimizer"]


class Step:
    """The kernels of one micro-batch, by part: seconds, and how many."""

    def __init__(self, model, rates):
        self.m, self.rates = model, rates
        self.rate = rates.products[max(w for w in rates.products if w <= model.d)]
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.launches = 0
        self.gaps = 0.0
        for _ in range(model.layers):
            self.layer()
        self.embedding()
        self.head()
        self.exact()
        self.optimizer()

    def kernel(self, part, seconds, count=1, share=1.0):
        self.seconds[part] += max(seconds, LEAST) * count * share
        self.launches += count * share
        self.gaps += self.rates.gap * count * share

    def rows(self, part, bytes_, count=1, share=1.0):
        self.kernel(part, bytes_ / self.rates.memory, count, share)

    def product(self, part, m, n, k, out=BF16, accumulate=False):
        moved = BF16 * (m * k + k * n) + out * m * n * (2 if accumulate else 1)
        self.kernel(part, max(2 * m * n * k / self.rate, moved / self.rates.memory))

    def linear(self, part, n, outputs, inputs):
        """Forward, input gradient and weight gradient of a matrix [outputs, inputs]."""
        self.product(part, n, outputs, inputs)
        self.product(part, n, inputs, outputs)
        self.product(part, outputs, inputs, n, out=FP32)

    def layer(self):
        m, n, d = self.m, self.m.tokens, self.m.d
        for outputs, inputs in [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)]:
            self.linear("body products", n, outputs, inputs)
        # Executed, in units of columns^2 x head_dim of each head: 4 forward; 6 and 8 backward.
        unit = m.sequences * m.d * LENGTH**2
        dropout_bytes = m.sequences * m.heads * LENGTH**2 / 8
        for flops, moved in [(4, 8 * n * d), (6, 12 * n * d + dropout_bytes), (8, 12 * n * d + dropout_bytes)]:
            self.kernel("attention", max(flops * unit / self.rates.attention, moved / self.rates.memory))
        half = 4 * BF16 * n * d  # forward: x, residual; sum, y
        back = (4 if m.post else 5) * BF16 * n * d  # dy, sum (, extra); dsum, dx
        for _ in range(2):
            self.rows("row kernels", half)
            self.rows("row kernels", back)
            self.rows("row kernels", 0)  # partial sums of dgamma, dbeta, dbias
            if m.post:
                self.rows("row kernels", 3 * BF16 * n * d)  # both gradients meet before the norm
        self.rows("row kernels", 2 * BF16 * n * 4 * d)  # GELU
        self.rows("row kernels", 3 * BF16 * n * 4 * d)
        self.rows("row kernels", BF16 * n * 3 * d)  # bias of q, k, v
        self.rows("row kernels", 0, count=3)  # partial sums of both biases; a bias in bf16

    def embedding(self):
        n, d = self.m.tokens, self.m.d
        self.rows("row kernels", 2 * BF16 * n * d)
        self.rows("row kernels", 3 * BF16 * n * d)
        self.rows("row kernels", (4 if self.m.post else 5) * BF16 * n * d)
        if self.m.post:  # dropout, forward and backward; both gradients meet
            self.rows("row kernels", 2 * BF16 * n * d, count=2)
            self.rows("row kernels", 3 * BF16 * n * d)
        touched = min(n, self.m.vocab) / 4  # rows of the table that differ; read and written in fp32
        self.rows("row kernels", BF16 * n * d + 2 * FP32 * touched * d)
        self.rows("row kernels", BF16 * n * d, count=2)  # positions, type
        self.rows("row kernels", 0, count=6)

    def head(self):
        m, d, vocab = self.m, self.m.d, self.m.vocab
        self.linear("head products", m.targets, d, d)
        chunks = -(-m.targets // LOGITS_CHUNK)
        rows = m.targets / chunks
        for chunk in range(chunks):
            self.product("head products", rows, vocab, d, out=FP32)
            self.product("head products", vocab, d, rows, out=FP32, accumulate=chunk > 0)
            self.product("head products", rows, d, vocab)
            self.rows("loss on logits", FP32 * rows * vocab)  # statistics
            self.rows("loss on logits", (FP32 + BF16) * rows * vocab)  # logits to their gradients
            self.rows("loss on logits", 0, count=8)  # strips of the latter; losses; bias
        self.rows("row kernels", 16 * BF16 * m.targets * d)  # gather, GELU, norm, both ways
        self.rows("row kernels", BF16 * m.tokens * d)  # zeros that the gradients are scattered into
        self.rows("row kernels", 0, count=8)

    def exact(self):
        """The largest value and the sum in one pass over each bucket: a gradient read, a sum read and written."""
        buckets = self.m.layers + 2
        for _ in range(buckets):
            self.rows("EXACT sums", (FP32 + 2 * INT64) * self.m.parameters / buckets)

    def optimizer(self):
        """Once a step, on one GPU: sums to zero and to fp32, squares, AdamW."""
        m = self.m
        tensors, buckets = 16 * m.layers + 11, m.layers + 2
        for bytes_, count in [(INT64, 1), (12, 1), (4, tensors), (28 + BF16, buckets)]:
            size = m.parameters / count
            self.rows("optimizer", bytes_ * size, count, 1 / m.micro_batches)

    def total(self):
        return sum(self.seconds.values()) + self.gaps

    def mfu(self):
        return self.m.flops() / self.total() / PEAK


def milliseconds(seconds):
    return f"{seconds * 1e3:.1f}"


def cells(*values):
    return "| " + " | ".join(str(value) for value in values) + " |\n"


def breakdown(models):
    names = [f"{m.name}, {rates.name}" for m in models for rates in (LIMIT, LIKELY)]
    steps = [Step(m, rates) for m in models for rates in (LIMIT, LIKELY)]
    text = cells("ms a micro-batch", *names) + "|---" * (len(names) + 1) + "|\n"
    for part in PARTS:
        text += cells(part, *(milliseconds(s.seconds[part]) for s in steps))
    text += cells("gaps between kernels", *(milliseconds(s.gaps) for s in steps))
    text += cells("**total**", *(f"**{milliseconds(s.total())}**" for s in steps))
    text += cells("kernels", *(f"{s.launches:,.0f}" for s in steps))
    text += cells("host to queue them, hidden", *(milliseconds(s.launches * HOST) for s in steps))
    text += cells("tokens/s", *(f"{s.m.tokens / s.total():,.0f}" for s in steps))
    text += cells("**MFU**", *(f"**{s.mfu():.0%}**" for s in steps))
    return text + cells("goal", *(f"{s.m.goal:.0%}" for s in steps))


def needs(model):
    """The share of peak that products must reach for the goal, all else as in `likely` or `limit`."""
    row = []
    for rates in (LIMIT, LIKELY):
        step = Step(model, rates)
        products = step.seconds["body products"] + step.seconds["head products"]
        left = model.flops() / (model.goal * PEAK) - (step.total() - products)
        share = step.rate / PEAK * products / left if left > 0 else float("inf")
        row.append(f"{share:.0%}" if share < 1 else "more than there is")
    return row


def overview(models):
    text = cells("", "tokens a micro-batch", "targets", "model TFLOP", "goal", "MFU at the limits", "MFU, likely",
                 "products must reach, rest at its limits", "rest as likely")
    text += "|---" * 9 + "|\n"
    for m in models:
        text += cells(m.name, f"{m.tokens:,}", f"{m.targets:,}", f"{m.flops() * 1e-12:,.1f}", f"{m.goal:.0%}",
                      f"{Step(m, LIMIT).mfu():.0%}", f"{Step(m, LIKELY).mfu():.0%}", *needs(m))
    return text


def recompute(models):
    """What computing activations again adds to a micro-batch, at the likely rates."""
    text = cells("", *(m.name for m in models)) + "|---" * (len(models) + 1) + "|\n"
    added = {"GELU": [], "LAYER": []}
    for m in models:
        n, d, step = m.tokens, m.d, Step(m, LIKELY)
        before = step.total()
        for _ in range(m.layers - 1):  # the last layer's are still there
            step.rows("row kernels", 2 * BF16 * n * 4 * d)
        added["GELU"].append(step.total() / before - 1)
        for _ in range(m.layers - 1):
            for outputs in [3 * d, d, 4 * d]:
                step.product("body products", n, outputs, d)
            step.kernel("attention", 4 * m.sequences * d * LENGTH**2 / LIKELY.attention)
            step.rows("row kernels", 4 * BF16 * n * d)
            step.rows("row kernels", 2 * BF16 * n * d)
        added["LAYER"].append(step.total() / before - 1)
    for mode, shares in added.items():
        text += cells(f"`{mode}`, more time", *(f"{share:.1%}" for share in shares))
    return text


def savings(models):
    """What known changes to the kernels would take off a micro-batch, at the likely rates."""
    memory = LIKELY.memory
    text = cells("ms a micro-batch", *(m.name for m in models)) + "|---" * (len(models) + 1) + "|\n"
    changes = [
        ("both gradients of a post-LN residual meet inside the norm's kernel",
         lambda m: 2 * m.layers * 2 * BF16 * m.tokens * m.d / memory if m.post else 0),
        ("logits in bf16", lambda m: 3 * BF16 * m.targets * m.vocab / memory),
        ("attention at its limit",
         lambda m: Step(m, LIKELY).seconds["attention"] * (1 - LIKELY.attention / LIMIT.attention)),
    ]
    for name, saved in changes:
        text += cells(name, *(milliseconds(saved(m)) for m in models))
    left = [Step(m, LIKELY).total() - sum(saved(m) for _, saved in changes) for m in models]
    return text + cells("MFU with all of it", *(f"{m.flops() / PEAK / s:.0%}" for m, s in zip(models, left)))


def tables():
    return {
        "overview": overview(MODELS + SLICES),
        "base and large": breakdown(MODELS[:2]),
        "XL and XXL": breakdown(MODELS[2:]),
        "slices": breakdown(SLICES),
        "diffusion": overview([Model(f"{m.name}, half masked", m.layers, m.d, m.heads, m.vocab, m.post, m.sequences,
                                     m.goal, masked=0.5) for m in MODELS]),
        "recompute": recompute(MODELS),
        "savings": savings(MODELS),
    }


def main():
    if sys.argv[1:2] == ["--check"]:
        with open(sys.argv[2], encoding="utf-8") as page:
            text = page.read()
        missing = [name for name, table in tables().items() if table not in text]
        if missing:
            sys.exit(f"{sys.argv[2]} does not hold what {sys.argv[0]} computes: {', '.join(missing)}; run it and paste")
        return
    for name, table in tables().items():
        print(f"### {name}\n\n{table}")


if __name__ == "__main__":
    main()
