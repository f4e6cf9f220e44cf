// Softmax attention of one position over frames, in heads of few channels. Every position attends to itself alone, so LANES
// neighbouring ones are worked on at once.

#pragma once

#include <algorithm>

#include "lanes.h"

namespace {

// Keys and values (batch, count, heads, D, positions) of frames in two parts: first those of a past, then `own`.
template <typename Float>
struct Seen {
  Float *keys[2], *values[2];
  int64_t count[2];

  int64_t frames() const { return count[0] + count[1]; }
  // The part that holds frame t, and where in it that of game b begins.
  int part(int64_t t) const { return t >= count[0]; }
  int64_t place(int64_t b, int64_t t) const { return b * count[part(t)] + t - (part(t) ? count[0] : 0); }
};

// Neighbouring positions of one head, from the `first`: LANES, or what the `count` of them that are left allows.
struct Spot {
  int64_t head, first, step, count;

  template <int D>
  void read(const float *frame, Lanes (&channels)[D], float scale = 1) const {
    for (int d = 0; d < D; d++) channels[d] = scale * load(at<D>(frame, d), count);
  }

  template <int D>
  void write(float *frame, const Lanes (&channels)[D]) const {
    for (int d = 0; d < D; d++) store(at<D>(frame, d), channels[d], count);
  }

  template <int D, typename Float>
  Float *at(Float *frame, int d) const {
    return frame + (head * D + d) * step + first;
  }
};

template <int D>
inline Lanes dot(const Lanes (&a)[D], const Lanes (&b)[D]) {
  Lanes total = a[0] * b[0];
  for (int d = 1; d < D; d++) total += a[d] * b[d];
  return total;
}

// How much of each visible frame a query, scaled for exponents of 2, takes.
template <int D>
void weigh(const Lanes (&query)[D], const Seen<const float> &seen, const bool *visible, int64_t b, int64_t size,
           const Spot &spot, Lanes *weights) {
  Lanes most = all(-INFINITY), total = all(0);
  for (int64_t t = 0; t < seen.frames(); t++) {
    if (!visible[t]) continue;
    Lanes key[D];
    spot.read(seen.keys[seen.part(t)] + seen.place(b, t) * size, key);
    weights[t] = dot(query, key);
    most = weights[t] > most ? weights[t] : most;
  }
  for (int64_t t = 0; t < seen.frames(); t++)
    if (visible[t]) total += weights[t] = exp2<true>(weights[t] - most);
  for (int64_t t = 0; t < seen.frames(); t++)
    if (visible[t]) weights[t] /= total;
}

// What such a query reads; `weights` is room for one of each frame.
template <int D>
void look_back(const Lanes (&query)[D], const Seen<const float> &seen, const bool *visible, int64_t b, int64_t size,
               const Spot &spot, Lanes *weights, Lanes (&read)[D]) {
  weigh(query, seen, visible, b, size, spot, weights);
  for (int d = 0; d < D; d++) read[d] = all(0);
  for (int64_t t = 0; t < seen.frames(); t++) {
    if (!visible[t]) continue;
    Lanes value[D];
    spot.read(seen.values[seen.part(t)] + seen.place(b, t) * size, value);
    for (int d = 0; d < D; d++) read[d] += weights[t] * value[d];
  }
}

}  // namespace
