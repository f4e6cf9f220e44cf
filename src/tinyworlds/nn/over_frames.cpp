// Softmax attention over frames in heads of few channels, forward and backward, on CPUs: see narrow.py, which compiles and
// calls this. Its tensors: past keys and values, keys, values, queries, what is visible, and then those of each function.

#include <algorithm>
#include <cmath>
#include <vector>

#include "over_frames.h"

namespace {

struct Sizes {
  int64_t past, own, batch, frames, heads, positions;

  explicit Sizes(const int64_t *s) : past(s[0]), own(s[1]), batch(s[2]), frames(s[3]), heads(s[4]), positions(s[5]) {}
  int64_t frame(int channels) const { return heads * channels * positions; }

  template <typename Float>
  Seen<Float> seen(void *const *tensors) const {
    return {{floats(tensors[0]), floats(tensors[2])}, {floats(tensors[1]), floats(tensors[3])}, {past, own}};
  }
};

// q and out (batch, frames, heads, D, positions); visible (frames, past + own).
template <int D>
void forward(void *const *tensors, const Sizes &sizes, int threads) {
  const auto seen = sizes.seen<const float>(tensors);
  const float *q = floats(tensors[4]);
  const bool *visible = static_cast<bool *>(tensors[5]);
  float *out = floats(tensors[6]);
  const int64_t size = sizes.frame(D), rows = sizes.frames * sizes.heads;
  const float scale = LOG2_E / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(std::min<int64_t>(threads, sizes.batch * rows))
  {
    std::vector<float> room(seen.frames() * LANES);
    Lanes *weights = reinterpret_cast<Lanes *>(room.data());
#pragma omp for schedule(static)
    for (int64_t job = 0; job < sizes.batch * rows; job++) {
      const int64_t b = job / rows, now = job % rows / sizes.heads, own = (b * sizes.frames + now) * size;
      for (int64_t first = 0; first < sizes.positions; first += LANES) {
        const Spot spot{job % sizes.heads, first, sizes.positions, sizes.positions - first};
        Lanes query[D], read[D];
        spot.read(q + own, query, scale);
        look_back(query, seen, visible + now * seen.frames(), b, size, spot, weights, read);
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
void backward(void *const *tensors, const Sizes &sizes, int threads) {
  const auto seen = sizes.seen<const float>(tensors);
  const float *q = floats(tensors[4]), *grad = floats(tensors[6]);
  const bool *visible = static_cast<bool *>(tensors[5]);
  const auto gradients = sizes.seen<float>(tensors + 7);
  float *dq = floats(tensors[11]);
  const int64_t size = sizes.frame(D);
  const float scale = 1 / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(std::min<int64_t>(threads, sizes.batch * sizes.heads))
  {
    std::vector<float> room(2 * seen.frames() * LANES);
    Lanes *weights = reinterpret_cast<Lanes *>(room.data()), *scores = weights + seen.frames();
#pragma omp for schedule(static)
    for (int64_t job = 0; job < sizes.batch * sizes.heads; job++) {
      const int64_t b = job / sizes.heads;
      for (int64_t now = 0; now < sizes.frames; now++) {
        const int64_t own = (b * sizes.frames + now) * size;
        for (int64_t first = 0; first < sizes.positions; first += LANES) {
          const Spot spot{job % sizes.heads, first, sizes.positions, sizes.positions - first};
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

#define FOR_HEADS_OF(D)                                                                                     \
  extern "C" void forward_##D(void *const *tensors, const int64_t *sizes, int threads) {                    \
    forward<D>(tensors, Sizes(sizes), threads);                                                             \
  }                                                                                                         \
  extern "C" void backward_##D(void *const *tensors, const int64_t *sizes, int threads) {                   \
    backward<D>(tensors, Sizes(sizes), threads);                                                            \
  }

FOR_HEADS_OF(2)
FOR_HEADS_OF(4)
FOR_HEADS_OF(8)
