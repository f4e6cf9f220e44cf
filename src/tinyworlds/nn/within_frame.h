// Softmax attention of one head of few channels among the tokens of a frame, LANES queries at once. Scores never leave the
// registers.

#pragma once

#include <cmath>

#include "lanes.h"

namespace {

constexpr float SAFE = 24.0f;  // exponents of 2 so near to 0 lose nothing, whatever is subtracted from them

// Keys or values: channel d of token t is at[d * stride + t].
struct Channels {
  const float *at;
  int64_t stride;
};

template <int D>
inline Lanes score(const Lanes (&query)[D], const Channels &keys, int64_t token, Lanes start) {
  for (int d = 0; d < D; d++) start += query[d] * keys.at[d * keys.stride + token];
  return start;
}

// The length of the longest of the keys.
template <int D>
inline float longest(const Channels &keys, int64_t tokens) {
  Lanes most = all(0);
  for (int64_t t = 0; t < tokens; t += LANES) {
    Lanes square = all(0);
    for (int d = 0; d < D; d++) {
      const Lanes channel = load(keys.at + d * keys.stride + t, tokens - t);
      square += channel * channel;
    }
    most = square > most ? square : most;
  }
  return std::sqrt(largest(most));
}

// What is read, and the sum of the weights by which it is to be divided; `top` is subtracted from scores.
template <int D, bool clamped>
inline Lanes read(const Lanes (&query)[D], const Channels &keys, const Channels &values, int64_t tokens, Lanes top,
                  Lanes (&out)[D]) {
  Lanes total = all(0);
  for (int d = 0; d < D; d++) out[d] = all(0);
  for (int64_t t = 0; t < tokens; t++) {
    const Lanes weight = exp2<clamped>(score(query, keys, t, -top));
    total += weight;
    for (int d = 0; d < D; d++) out[d] += weight * values.at[d * values.stride + t];
  }
  return total;
}

// What queries, scaled for exponents of 2, read of the tokens, none of whose keys is longer than `reach`. Returns the
// logarithm, base 2, of the sum of their weights.
template <int D>
inline Lanes look(const Lanes (&query)[D], const Channels &keys, const Channels &values, float reach, int64_t tokens,
                  Lanes (&out)[D]) {
  Lanes square = all(0);
  for (int d = 0; d < D; d++) square += query[d] * query[d];
  Lanes top = root(square) * reach, total;  // no score is larger
  if (largest(top) < SAFE) {
    total = read<D, false>(query, keys, values, tokens, top, out);
  } else {
    top = all(-INFINITY);
    for (int64_t t = 0; t < tokens; t++) {
      const Lanes here = score(query, keys, t, all(0));
      top = here > top ? here : top;
    }
    total = read<D, true>(query, keys, values, tokens, top, out);
  }
  for (int d = 0; d < D; d++) out[d] /= total;
  for (int i = 0; i < LANES; i++) total[i] = std::log2(total[i]);
  return top + total;
}

}  // namespace
