// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.hpp"
#include "kernels/cpu/isa/philox_lanes.hpp"
#include "kernels/cpu/isa/vec_math.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

template <class T>
void gelu_forward_rows(const TensorView& out, const ConstTensorView& pre, const float* bias,
                       RowRange rows) {
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const T* x = row<T>(pre, r);
    T* y = row<T>(out, r);
    for_lanes(pre.cols, [&](std::int64_t i, auto count) {
      store(y + i, gelu(load(x + i, count) + load(bias + i, count)), count);
    });
  }
}

template <class T>
void gelu_backward_rows(const TensorView& dpre, float* dbias, const ConstTensorView& dout,
                        const ConstTensorView& pre, const float* bias, RowRange rows) {
  std::memset(dbias, 0, static_cast<std::size_t>(pre.cols) * sizeof(float));
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const T* x = row<T>(pre, r);
    const T* dy = row<T>(dout, r);
    T* dx = row<T>(dpre, r);
    for_lanes(pre.cols, [&](std::int64_t i, auto count) {
      const Vec slope = gelu_derivative(load(x + i, count) + load(bias + i, count));
      const Vec v = load(dy + i, count) * slope;
      store(dx + i, v, count);
      store(dbias + i, load(dbias + i, count) + v, count);
    });
  }
}

template <class T>
void dropout_rows(const TensorView& x, const Dropout& dropout, const TokenGrid& grid,
                  RowRange rows) {
  const DropoutScale scale(dropout);
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    T* v = row<T>(x, r);
    const DropoutRow stream(dropout.key, static_cast<std::uint32_t>(r % grid.cols),
                            grid.sample.data()[r / grid.cols]);
    for (std::int64_t begin = 0; begin < x.cols; begin += kDrawsPerGroup) {
      alignas(64) std::uint16_t draws[kDrawsPerGroup];
      stream.draws(draws, begin / kDrawsPerGroup);
      const std::int64_t left = x.cols - begin;
      for_lanes(left < kDrawsPerGroup ? left : kDrawsPerGroup, [&](std::int64_t i, auto count) {
        store(v + begin + i, load(v + begin + i, count) * scale.factor(draws + i), count);
      });
    }
  }
}

template <class T>
void add_spans(T* out, const T* a, const T* b, std::int64_t n) {
  for_lanes(n, [&](std::int64_t i, auto count) {
    store(out + i, load(a + i, count) + load(b + i, count), count);
  });
}

template <class Out, class In>
void convert_span(Out* out, const In* in, std::int64_t n) {
  for_lanes(n, [&](std::int64_t i, auto count) { store(out + i, load(in + i, count), count); });
}

template <class Out, class In>
void convert_rows(const TensorView& out, const ConstTensorView& in) {
  for (std::int64_t r = 0; r < in.rows; ++r)
    convert_span(row<Out>(out, r), row<In>(in, r), in.cols);
}

}  // namespace

void bias_gelu_forward(TensorView out, ConstTensorView pre, const float* bias, RowRange rows) {
  if (pre.dtype == DType::bf16)
    gelu_forward_rows<bf16>(out, pre, bias, rows);
  else
    gelu_forward_rows<float>(out, pre, bias, rows);
}

void bias_gelu_backward(TensorView dpre, float* dbias, ConstTensorView dout, ConstTensorView pre,
                        const float* bias, RowRange rows) {
  if (pre.dtype == DType::bf16)
    gelu_backward_rows<bf16>(dpre, dbias, dout, pre, bias, rows);
  else
    gelu_backward_rows<float>(dpre, dbias, dout, pre, bias, rows);
}

void dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid, RowRange rows) {
  if (x.dtype == DType::bf16)
    dropout_rows<bf16>(x, dropout, grid, rows);
  else
    dropout_rows<float>(x, dropout, grid, rows);
}

void add(TensorView out, ConstTensorView a, ConstTensorView b) {
  for (std::int64_t r = 0; r < out.rows; ++r) {
    if (out.dtype == DType::bf16)
      add_spans(row<bf16>(out, r), row<bf16>(a, r), row<bf16>(b, r), out.cols);
    else
      add_spans(row<float>(out, r), row<float>(a, r), row<float>(b, r), out.cols);
  }
}

void convert(TensorView out, ConstTensorView in) {
  if (out.dtype == DType::bf16)
    in.dtype == DType::bf16 ? convert_rows<bf16, bf16>(out, in)
                            : convert_rows<bf16, float>(out, in);
  else
    in.dtype == DType::bf16 ? convert_rows<float, bf16>(out, in)
                            : convert_rows<float, float>(out, in);
}

}  // namespace demist::cpu::DEMIST_ISA
