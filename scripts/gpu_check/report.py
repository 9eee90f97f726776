# SPDX-License-Identifier: Apache-2.0
"""results.json as the Markdown section of docs/benchmarks.md. Every number comes from a measurement."""

# Dense bf16 FLOP/s and bytes/s of NVIDIA's data sheets, by the name that the device gives itself. For other
# devices the report shows no share of a limit.
DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA H100 PCIe": (756e12, 2.04e12),
    "NVIDIA H100 NVL": (835e12, 3.94e12),
    "NVIDIA H200": (989e12, 4.8e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.04e12),
}
NONE = "–"
# Row kernels and attention: their cost grows with a model's width.
WIDE = {"embed_forward", "embed_backward", "bias_gelu_forward", "bias_gelu_backward", "add_layernorm_forward",
        "add_layernorm_backward", "dropout", "gather_rows", "scatter_rows", "column_sum", "add", "attention_forward",
        "attention_backward"}
ATTENTION_FORMULA = "`4 n T h e` forward and `10 n T h e` backward"
FLOPS_FORMULA = "`6 n (L (4 d^2 + 2 d f + 2 d T)) + 6 m (d V + d^2)`"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) if rows else "not measured"


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def percent(share):
    return NONE if share is None else f"{100 * share:.1f} %"


def gigabytes(count):
    return f"{count / 1e9:.2f}"


class Measured:
    """The measurements of one run of gpu-check, and the limits of its device."""

    def __init__(self, results):
        self.results, self.all = results, results["measurements"]
        devices = self.of("device")
        self.device = devices[0] if devices else None
        self.limits = DATA_SHEETS.get(self.device["name"]) if self.device else None

    def of(self, kind, **tags):
        return [m for m in self.all if m["kind"] == kind and all(m.get(tag) == value for tag, value in tags.items())]

    def limit_seconds(self, operation):
        """The least time for its bytes and FLOPs, whichever takes longer."""
        if self.limits is None or operation["bytes"] + operation["flops"] == 0:
            return None
        return max(operation["flops"] / self.limits[0], operation["bytes"] / self.limits[1])

    def share_of_peak(self, flops, seconds):
        return None if self.limits is None else flops / seconds / self.limits[0]


def machine(measured):
    device, results = measured.device, measured.results
    if device is None:
        return "The device did not answer."
    text = (f"{device['name']} ({device['multiprocessors']} multiprocessors, {device['bytes'] / 2**30:.1f} GiB), "
            f"driver {results['host']['driver'] or 'unknown'}, CUDA runtime {device['runtime_cuda']}, "
            f"cuBLASLt {device['cublaslt']}, NCCL {device['nccl']}, {results['host']['cpu_cores']} CPU cores; "
            f"{results['date'][:10]}, bundle {results['bundle']}.")
    if measured.limits is None:
        return text + " The data sheet of this device is not known here: no shares of its limits."
    return text + (f" Limits by the data sheet: {measured.limits[0] / 1e12:.0f} TFLOP/s (dense bf16), "
                   f"{measured.limits[1] / 1e12:.2f} TB/s.")


def checks(measured):
    return table(["part", "what", "outcome", "seconds", ""],
                 [[p["name"], p["what"], p["outcome"], f"{p['seconds']:.1f}", p["note"]]
                  for p in measured.results["parts"]])


def step_row(measured, name, seconds, like, layers):
    """`like`: the step whose tokens and shape these are; FLOPs grow with the layers as the time does."""
    flops = scaled(*layers, "model_flops")
    return [name, f"{like['micro_batches']} of {like['rows']} x {like['cols']}", milliseconds(seconds),
            f"{like['tokens'] / seconds:,.0f}", f"{flops / seconds / 1e12:.3g}",
            percent(measured.share_of_peak(flops, seconds))]


def scaled(few, many, key):
    """The value of all layers on the line through two measured numbers of layers; one step stands for itself."""
    if few is many:
        return few[key]
    slope = (many[key] - few[key]) / (many["layers"] - few["layers"])
    return few[key] + slope * (few["all_layers"] - few["layers"])


def step_rows(measured):
    rows = []
    for use in ("base", "large", "xl", "xxl"):
        steps = sorted(measured.of("step", use=use), key=lambda step: step["layers"])
        for step in steps:
            rows.append(step_row(measured, f"{use}, {step['layers']} of {step['all_layers']} layers", step["seconds"],
                                 step, (step, step)))
        if len(steps) == 2 and steps[0]["layers"] < steps[1]["layers"]:
            rows.append(step_row(measured, f"{use}, scaled to {steps[0]['all_layers']}", scaled(*steps, "seconds"),
                                 steps[0], steps))
    return rows


def rate_of(operation):
    if operation["flops"] > 0:
        return f"{operation['flops'] / operation['seconds'] / 1e12:.3g} TFLOP/s"
    return f"{operation['bytes'] / operation['seconds'] / 1e12:.3g} TB/s" if operation["bytes"] > 0 else NONE


def limit_share(measured, operation):
    limit = measured.limit_seconds(operation)
    return percent(None if limit is None else limit / operation["seconds"])


def operation_rows(measured):
    """Those of a step of base, longest first; then what only other steps call."""
    base = sorted(measured.of("operation", use="base"), key=lambda o: -o["seconds"])
    seen = {(o["name"], o["shape"]) for o in base}
    other = []
    for o in measured.of("operation", use="price"):
        if (o["name"], o["shape"]) not in seen and o["name"] != "gemm":
            seen.add((o["name"], o["shape"]))
            other.append(o)
    total = sum(o["seconds"] for o in base if o["calls"] > 0)
    rows = []
    for o in base + other:
        in_step = o["calls"] > 0 and o in base
        rows.append([o["name"], o["shape"], f"{o['calls']:g}" if in_step else NONE, milliseconds(o["seconds"]),
                     percent(o["seconds"] / total) if in_step else NONE, rate_of(o),
                     limit_share(measured, o)])
    return rows


def wide_rows(measured):
    """Kernels over rows as wide as the large models'; products have a table, vectors are as long anywhere."""
    return [[use, o["name"], o["shape"], milliseconds(o["seconds"] / o["calls"]), rate_of(o), limit_share(measured, o)]
            for use in ("xl", "xxl") for o in measured.of("operation", use=use)
            if o["name"] in WIDE and o["calls"] > 0]


def single_rows(measured):
    return [[o["name"], o["shape"], milliseconds(o["seconds"]), rate_of(o), limit_share(measured, o)]
            for o in measured.of("operation", use="single")]


def operation_sum(measured):
    operations, steps = measured.of("operation", use="base"), measured.of("step", use="base")
    if not operations or not steps:
        return ""
    total = sum(o["seconds"] for o in operations if o["calls"] > 0)
    groups = {"products": ("gemm",), "attention": ("attention_forward", "attention_backward"),
              "copies from and to the host": ("upload", "download")}
    named = {name for names in groups.values() for name in names}
    sums = {group: sum(o["seconds"] for o in operations if o["name"] in names and o["calls"] > 0)
            for group, names in groups.items()}
    sums["all other kernels"] = sum(o["seconds"] for o in operations if o["name"] not in named and o["calls"] > 0)
    parts = ", ".join(f"{group} {milliseconds(seconds)} ms" for group, seconds in sums.items())
    return (f"Together {milliseconds(total)} ms ({parts}); the step without events between its operations takes "
            f"{milliseconds(steps[0]['seconds'])} ms.")


def price_rows(measured):
    rows = []
    for micro_batches in sorted({s["micro_batches"] for s in measured.of("step", use="price")}):
        exact, fast = (measured.of("step", use="price", micro_batches=micro_batches, reduction=reduction)
                       for reduction in ("EXACT", "FAST"))
        if exact and fast:
            rows.append([micro_batches, milliseconds(exact[0]["seconds"]), milliseconds(fast[0]["seconds"]),
                         percent(exact[0]["seconds"] / fast[0]["seconds"] - 1)])
    return rows


def memory_rows(measured):
    return [[f"{s['use']}, {s['layers']} layers", s["reduction"], f"{s['micro_batches']} of {s['rows']} x {s['cols']}",
             gigabytes(s["planned_bytes"]), gigabytes(s["measured_bytes"]),
             f"{s['measured_bytes'] / s['planned_bytes']:.3f}"] for s in measured.of("step")]


def start_rows(measured):
    phases = ("process", "device", "plan", "initialize", "first_step")
    return [[f"{s['use']}, {s['layers']} layers", *(f"{s['start'][phase]:.2f}" for phase in phases),
             f"{sum(s['start'][phase] for phase in phases):.2f}"]
            for s in measured.of("step") if s["use"] != "price"]


def product_rows(measured):
    return [[p["name"], f"{p['m']} x {p['n']} x {p['k']}", milliseconds(p["seconds"]),
             f"{p['flops'] / p['seconds'] / 1e12:.3g}", percent(measured.share_of_peak(p["flops"], p["seconds"]))]
            for p in measured.of("product")]


def attention_costs(a):
    """(name of its seconds, bytes, FLOPs) of both passes: the least that any engine must move and multiply."""
    tokens, width = a["rows"] * a["cols"], a["heads"] * a["head_dim"]
    product = 2 * tokens * a["cols"] * width
    statistics = 4 * tokens * a["heads"]
    return (("forward_seconds", 2 * tokens * 4 * width + statistics, 2 * product),
            ("backward_seconds", 2 * tokens * 8 * width + statistics, 5 * product))


def attention_cells(measured, a):
    cells = []
    for key, moved, flops in attention_costs(a):
        if key not in a:
            cells += [NONE] * 3
            continue
        one = {"seconds": a[key], "bytes": moved, "flops": flops}
        cells += [milliseconds(a[key]), f"{flops / a[key] / 1e12:.3g}", limit_share(measured, one)]
    return cells


def attention_rows(measured):
    rows = []
    for a in measured.of("attention"):
        agrees = a["problem"] or "yes"
        if "kept_bytes" in a:
            agrees += f"; keeps {gigabytes(a['kept_bytes'])} GB, planned {gigabytes(a['planned_bytes'])}"
        rows.append([a["path"], f"{a['model']}, {a['rows']} x {a['cols']}, {a['heads']} heads of {a['head_dim']}",
                     *attention_cells(measured, a), agrees])
    return rows


def markdown(results):
    measured = Measured(results)
    title = "## On a GPU"
    if results["rehearsal"]:
        title = "## Rehearsal on an emulated device: times mean nothing"
    operation_head = ["operation", "shape", "calls", "ms a step", "share", "reached", "of its limit"]
    step_head = ["model", "micro-batches", "ms", "tokens/s", "model TFLOP/s", "MFU"]
    price_head = ["micro-batches", "EXACT ms", "FAST ms", "price"]
    memory_head = ["step", "reduction", "micro-batches", "planned GB", "measured GB", "ratio"]
    start_head = ["seconds", "to `main` and MPI", "device", "plan", "weights", "first step", "sum"]
    attention_head = ["engine", "shape", "forward ms", "TFLOP/s", "of its limit", "backward ms", "TFLOP/s", "of its limit",
                      "as UNFUSED"]
    wide_head = ["width of", "operation", "shape", "ms a call", "reached", "of its limit"]
    single_head = ["kernel", "shape", "ms", "reached", "of its limit"]
    product_head = ["product", "m x n x k", "ms", "TFLOP/s", "of the peak"]
    return "\n\n".join(part for part in [
        title, machine(measured), "Repeat with `./gpu-check` (docs/gpu-check.md).", checks(measured),
        "### Training step",
        f"bf16, dropout 0.1, 512 tokens a row, 15 % targets, `reduction: EXACT`, median of the steps. MFU is model FLOPs "
        f"over seconds over the peak; model FLOPs are {FLOPS_FORMULA} for n tokens in rows of T and m targets, "
        "recomputation not counted. `scaled`: t(L) = t(a) + (t(b) - t(a)) (L - a) / (b - a) from measured steps of a "
        "and b layers, and the FLOPs alike; the optimizer's share grows with them.",
        table(step_head, step_rows(measured)),
        "### Operations of a step",
        "XLM-R base, all calls of a kind and shape together, timed by events on the device. The limit is the longer of "
        "bytes over bandwidth and FLOPs over the peak; bytes and FLOPs are those of the kernels' comments.",
        table(operation_head, operation_rows(measured)), operation_sum(measured),
        "### Operations at the widths of XL and XXL",
        "A call on the average, of the steps with the fewest layers.", table(wide_head, wide_rows(measured)),
        "### Price of EXACT on the device", table(price_head, price_rows(measured)),
        "### Memory", "Measured: what cudaMemGetInfo lost between the start of the backend (context, 32 MiB of cuBLASLt "
        "workspace) and the last step.", table(memory_head, memory_rows(measured)),
        "### Start", table(start_head, start_rows(measured)),
        "### Attention",
        f"bf16, no dropout, whole rows, median of 10. FLOPs are {ATTENTION_FORMULA} for n tokens in rows of T and h heads "
        "of e, the fewest that give the result (2 and 5 products; OWN makes 7 backward), and bytes each operand's once: "
        "all engines are compared with the same limit.", table(attention_head, attention_rows(measured)),
        "### Kernels that a step shows together, or not on one device",
        "Median of 20. The fused attention's with dropout 0.1, and FLOPs as they are executed (2, 3 and 4 products); sums of "
        "what the ranks of a group sent, as the owner of a slice adds one pass.",
        table(single_head, single_rows(measured)),
        "### Products", "bf16 in, random numbers, median of 20; weight gradients and logits to fp32.",
        table(product_head, product_rows(measured))] if part) + "\n"
