// Softmax attention over frames in heads of few channels, forward and backward, on CPUs: see narrow.py, which compiles and
// calls this. Every position attends to itself alone, so LANES neighbouring ones are worked on at once.

#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"

namespace {

struct Sizes {
  int64_t batch, frames, heads, positions;

  int64_t frame(int channels) const { return heads * channels * positions; }
};

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

// Up to LANES neighbouring positions of one head.
struct Spot {
  int64_t head, first, step, count;

  template <int D>
  void read(const float *frame, Lanes (&channels)[D], float scale = 1) const {
    for (int d = 0; d < D; d++) {
      channels[d] = all(0);
      if (count == LANES)
        channels[d] = load(at<D>(frame, d));
      else
        std::memcpy(&channels[d], at<D>(frame, d), 4 * count);
      channels[d] *= scale;
    }
  }

  template <int D>
  void write(float *frame, const Lanes (&channels)[D]) const {
    for (int d = 0; d < D; d++)
      if (count == LANES)
        store(at<D>(frame, d), channels[d]);
      else
        std::memcpy(at<D>(frame, d), &channels[d], 4 * count);
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

// q and out (batch, frames, heads, D, positions); visible (frames, frames of `seen`).
template <int D>
void forward(const float *q, const Seen<const float> &seen, const bool *visible, float *out, const Sizes &sizes,
             int threads) {
  const int64_t size = sizes.frame(D), rows = sizes.frames * sizes.heads;
  const float scale = LOG2_E / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> room(seen.frames() * LANES);
    Lanes *weights = reinterpret_cast<Lanes *>(room.data());
#pragma omp for schedule(static)
    for (int64_t job = 0; job < sizes.batch * rows; job++) {
      const int64_t b = job / rows, now = job % rows / sizes.heads, own = (b * sizes.frames + now) * size;
      const bool *sees = visible + now * seen.frames();
      for (int64_t first = 0; first < sizes.positions; first += LANES) {
        const Spot spot{job % sizes.heads, first, sizes.positions, std::min<int64_t>(LANES, sizes.positions - first)};
        Lanes query[D], read[D] = {};
        spot.read(q + own, query, scale);
        weigh(query, seen, sees, b, size, spot, weights);
        for (int64_t t = 0; t < seen.frames(); t++) {
          if (!sees[t]) continue;
          Lanes value[D];
          spot.read(seen.values[seen.part(t)] + seen.place(b, t) * size, value);
          for (int d = 0; d < D; d++) read[d] += weights[t] * value[d];
        }
        spot.write(out + own, read);
      }
    }
  }
}

// What one frame's query adds to the gradients, where the lanes of `wanted` are that of its output.
template <int D>
void backward_query(const Lanes (&query)[D], const Lanes (&wanted)[D], const Seen<const float> &seen,
                    const Seen<float> &gradients, const bool *visible, int64_t b, int64_t size, const Spot &spot,
                    Lanes *weights, Lanes *scores, Lanes (&dq)[D]) {
  weigh(query, seen, visible, b, size, spot, weights);
  Lanes mean = all(0);
  for (int64_t t = 0; t < seen.frames(); t++) {
    if (!visible[t]) continue;
    Lanes value[D];
    spot.read(seen.values[seen.part(t)] + seen.place(b, t) * size, value);
    scores[t] = dot(wanted, value);
    mean += weights[t] * scores[t];
  }
  for (int64_t t = 0; t < seen.frames(); t++) {
    if (!visible[t]) continue;
    const int part = seen.part(t);
    const int64_t from = seen.place(b, t) * size;
    const Lanes score = weights[t] * (scores[t] - mean);
    Lanes key[D], dk[D], dv[D];
    spot.read(seen.keys[part] + from, key);
    spot.read(gradients.keys[part] + from, dk);
    spot.read(gradients.values[part] + from, dv);
    for (int d = 0; d < D; d++) {
      dq[d] += score * key[d];
      dk[d] += score * query[d] * (1 / LOG2_E);
      dv[d] += weights[t] * wanted[d];
    }
    spot.write(gradients.keys[part] + from, dk);
    spot.write(gradients.values[part] + from, dv);
  }
}

template <int D>
void backward(const float *q, const Seen<const float> &seen, const bool *visible, const float *grad, float *dq,
              const Seen<float> &gradients, const Sizes &sizes, int threads) {
  const int64_t size = sizes.frame(D);
  const float scale = 1 / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> room(2 * seen.frames() * LANES);
    Lanes *weights = reinterpret_cast<Lanes *>(room.data()), *scores = weights + seen.frames();
#pragma omp for schedule(static)
    for (int64_t job = 0; job < sizes.batch * sizes.heads; job++) {
      const int64_t b = job / sizes.heads;
      for (int64_t now = 0; now < sizes.frames; now++) {
        const int64_t own = (b * sizes.frames + now) * size;
        for (int64_t first = 0; first < sizes.positions; first += LANES) {
          const Spot spot{job % sizes.heads, first, sizes.positions, std::min<int64_t>(LANES, sizes.positions - first)};
          Lanes query[D], wanted[D], update[D] = {};
          spot.read(q + own, query, scale * LOG2_E);
          spot.read(grad + own, wanted);
          backward_query(query, wanted, seen, gradients, visible + now * seen.frames(), b, size, spot, weights,
                         scores, update);
          for (int d = 0; d < D; d++) update[d] *= scale;
          spot.write(dq + own, update);
        }
      }
    }
  }
}

}  // namespace

#define FOR_HEADS_OF(D)                                                                                              \
  extern "C" void forward_##D(const float *past_keys, const float *past_values, const float *keys,                   \
                              const float *values, const float *q, const bool *visible, float *out, int64_t past,    \
                              int64_t own, int64_t batch, int64_t frames, int64_t heads, int64_t positions,          \
                              int threads) {                                                                         \
    forward<D>(q, {{past_keys, keys}, {past_values, values}, {past, own}}, visible, out,                             \
               {batch, frames, heads, positions}, threads);                                                          \
  }                                                                                                                  \
  extern "C" void backward_##D(const float *past_keys, const float *past_values, const float *keys,                  \
                               const float *values, const float *q, const bool *visible, const float *grad,          \
                               float *dq, float *dpast_keys, float *dpast_values, float *dkeys, float *dvalues,      \
                               int64_t past, int64_t own, int64_t batch, int64_t frames, int64_t heads,              \
                               int64_t positions, int threads) {                                                     \
    backward<D>(q, {{past_keys, keys}, {past_values, values}, {past, own}}, visible, grad, dq,                       \
                {{dpast_keys, dkeys}, {dpast_values, dvalues}, {past, own}}, {batch, frames, heads, positions},      \
                threads);                                                                                            \
  }

FOR_HEADS_OF(2)
FOR_HEADS_OF(4)
FOR_HEADS_OF(8)
