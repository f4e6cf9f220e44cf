// Numbers worked on LANES at a time: as many as fill a register. GCC keeps vectors of more in memory.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr float LOG2_E = 1.44269504f;
constexpr float LEAST = -126.0f;

typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

inline float *floats(void *tensor) { return static_cast<float *>(tensor); }
inline Lanes load(const float *from) { return *reinterpret_cast<const Lanes *>(from); }
inline void store(float *to, Lanes x) { *reinterpret_cast<Lanes *>(to) = x; }

// Of the first `count`; the others are 0.
inline Lanes load(const float *from, int64_t count) {
  if (count >= LANES) return load(from);
  Lanes x = {};
  std::memcpy(&x, from, 4 * count);
  return x;
}

inline void store(float *to, Lanes x, int64_t count) {
  if (count >= LANES)
    store(to, x);
  else
    std::memcpy(to, &x, 4 * count);
}

inline Lanes all(float x) { return Lanes{} + x; }

// By halves: one after the other would take as long as what is summed.
inline float sum(Lanes x) {
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[half + i];
  return x[0];
}

inline float largest(Lanes x) {
  float most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
}

inline Lanes root(Lanes x) {
  for (int i = 0; i < LANES; i++) x[i] = std::sqrt(x[i]);
  return x;
}

// 2 to the power of x to within 2e-7 of it; what is below LEAST has to be `clamped`. The coefficients make the largest
// relative error of such a polynomial on [-1/2, 1/2] least.
template <bool clamped>
inline Lanes exp2(Lanes x) {
  if (clamped) x = x < LEAST ? all(LEAST) : x;
  // Adding 1.5 * 2**23 rounds to a whole number, which fills the low bits; with 127 these are the exponent of a float.
  const Lanes magic = all(12582912.0f + 127);
  const Lanes shifted = x + magic;
  const Lanes rest = x - (shifted - magic);
  Lanes power = all(1.326472718e-3f);
  power = power * rest + 9.671512641e-3f;
  power = power * rest + 5.550733743e-2f;
  power = power * rest + 2.402224209e-1f;
  power = power * rest + 6.931469776e-1f;
  power = power * rest + 1.0f;
  // A product, since of a sum of whole numbers NaN would not come out as NaN.
  return power * reinterpret_cast<Lanes>(reinterpret_cast<Whole>(shifted) << 23);
}

}  // namespace
