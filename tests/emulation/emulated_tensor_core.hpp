// Tensor-core products, ldmatrix and asynchronous copies of the emulated device. Included by
// emulated_device.hpp only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace demist::emu {

struct Mma {
  const unsigned *a, *b;
  const float* c;
};

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
DEMIST_EMULATION_HIDDEN inline void run_mma(void* const in[32], void* const out[32],
                                            unsigned mask) {
  if (mask != ~0u) fail("mma.sync: the warp has fewer than 32 threads");
  const auto low = [](unsigned pair) { return std::bit_cast<float>(pair << 16); };
  const auto high = [](unsigned pair) { return std::bit_cast<float>(pair & 0xffff0000u); };
  float a[16][16], b[8][16];  // b transposed: both run along k
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& mma = *static_cast<const Mma*>(in[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* element = &a[group + i % 2 * 8][pair + i / 2 * 8];
      element[0] = low(mma.a[i]);
      element[1] = high(mma.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[group][pair + i * 8] = low(mma.b[i]);
      b[group][pair + i * 8 + 1] = high(mma.b[i]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const float* c = static_cast<const Mma*>(in[lane])->c;
    float* d = static_cast<float*>(out[lane]);
    for (int i = 0; i < 4; ++i) {
      const float* row = a[lane / 4 + i / 2 * 8];
      const float* column = b[lane % 4 * 2 + i % 2];
      float sums[4] = {};
      for (int k = 0; k < 16; ++k) sums[k % 4] += row[k] * column[k];
      d[i] = c[i] + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
  }
}

template <int matrices, bool transposed>
DEMIST_EMULATION_HIDDEN void run_ldmatrix(void* const in[32], void* const out[32], unsigned mask) {
  if (mask != ~0u) fail("ldmatrix: the warp has fewer than 32 threads");
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < matrices; ++i)
      for (int half = 0; half < 2; ++half) {
        const int along = lane % 4 * 2 + half;
        const int row = transposed ? along : lane / 4, column = transposed ? lane / 4 : along;
        static_cast<std::uint16_t*>(out[lane])[i * 2 + half] =
            static_cast<const std::uint16_t*>(in[i * 8 + row])[column];
      }
}

template <int matrices, bool transposed>
void ldmatrix(unsigned (&r)[matrices], const void* row, Location where) {
  const bool used = lane() < matrices * 8;  // the other lanes' addresses are ignored
  if (used && reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
    fail("ldmatrix " + place_of(where) + ": row address is no multiple of 16");
  std::uint16_t copy[8] = {};  // each lane reads its own row, visibly to the sanitizers
  if (used)
    for (int i = 0; i < 8; ++i) copy[i] = static_cast<const std::uint16_t*>(row)[i];
  collective({transposed ? "ldmatrix.trans" : "ldmatrix", ~0u, run_ldmatrix<matrices, transposed>,
              Memory::unordered, where},
             copy, r);
}

}  // namespace demist::emu

namespace demist::cuda {

template <class T, class Tag>
T& shared() {
  static emu::SharedObject<T> object;
  emu::use_shared(object.id);
  return *object.data;
}
template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emu::dynamic_shared());
}

inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                              const float (&c)[4], DEMIST_EMULATION_HERE) {
  emu::Mma in{a, b, c};
  float out[4];  // d may be c
  emu::collective({"mma.sync", ~0u, emu::run_mma, emu::Memory::unordered, where}, &in, out);
  std::memcpy(d, out, sizeof out);
}
inline void ldmatrix_x2(unsigned (&r)[2], const void* row, DEMIST_EMULATION_HERE) {
  emu::ldmatrix<2, false>(r, row, where);
}
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* row, DEMIST_EMULATION_HERE) {
  emu::ldmatrix<2, true>(r, row, where);
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* row, DEMIST_EMULATION_HERE) {
  emu::ldmatrix<4, false>(r, row, where);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, DEMIST_EMULATION_HERE) {
  emu::ldmatrix<4, true>(r, row, where);
}

inline void copy_async_16(void* to, const void* from, bool valid = true, DEMIST_EMULATION_HERE) {
  emu::copy_async(to, from, 16, valid, where);
}
inline void copy_async_commit() { emu::copy_commit(); }
template <int groups_left>
void copy_async_wait() {
  emu::copy_wait(groups_left);
}

inline float fast_exp2(float x) { return std::exp2(x); }
inline unsigned opaque(unsigned x) { return x; }
inline void store_global_16(void* p, uint4 bits) { *static_cast<uint4*>(p) = bits; }

}  // namespace demist::cuda
