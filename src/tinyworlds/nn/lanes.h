// Numbers worked on LANES at a time.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int LANES = 16;
constexpr float LOG2_E = 1.44269504f;
constexpr float LEAST = -126.0f;

typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

inline Lanes load(const float *from) { return *reinterpret_cast<const Lanes *>(from); }
inline void store(float *to, Lanes x) { *reinterpret_cast<Lanes *>(to) = x; }
inline Lanes all(float x) { return Lanes{} + x; }

// By halves: one after the other would take as long as what is summed.
inline float sum(Lanes x) {
  typedef float Half __attribute__((vector_size(2 * LANES)));
  typedef float Quarter __attribute__((vector_size(LANES)));
  Half halves[2];
  std::memcpy(halves, &x, sizeof x);
  halves[0] += halves[1];
  Quarter quarters[2];
  std::memcpy(quarters, halves, sizeof quarters);
  const Quarter four = quarters[0] + quarters[1];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float largest(Lanes x) {
  float most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// 2 to the power of x to within 1e-7 of it (with the coefficients of Cephes); what is below LEAST has to be `clamped`.
template <bool clamped>
inline Lanes exp2(Lanes x) {
  if (clamped) x = x < LEAST ? all(LEAST) : x;
  const Lanes magic = all(12582912.0f);  // 1.5 * 2**23: adding it rounds to a whole number, which fills the low bits
  const Lanes shifted = x + magic;
  const Lanes rest = x - (shifted - magic);
  Lanes power = all(1.535336188e-4f);
  power = power * rest + 1.339887440e-3f;
  power = power * rest + 9.618437357e-3f;
  power = power * rest + 5.550332471e-2f;
  power = power * rest + 2.402264791e-1f;
  power = power * rest + 6.931472028e-1f;
  power = power * rest + 1.0f;
  // A product, since of a sum of whole numbers NaN would not come out as NaN.
  return power * reinterpret_cast<Lanes>((reinterpret_cast<Whole>(shifted) << 23) + 0x3f800000);
}

}  // namespace
