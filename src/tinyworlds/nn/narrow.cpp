// Softmax attention in heads of few channels, forward and backward, on CPUs: see narrow.py, which compiles and calls this.
//
// The tokens of one head are first laid out channel by channel. The backward pass computes scores again; LANES keys fill a
// register there, and ROWS queries share what is loaded.

#include <algorithm>
#include <cmath>
#include <vector>

#include "within_frame.h"

namespace {

constexpr int ROWS = 4;

// One of the tensors of one head, (D, width): `tokens` columns and zeros up to a multiple of LANES.
template <int D>
struct Head {
  int64_t width;
  std::vector<float> values;

  explicit Head(int64_t tokens) : width((tokens + LANES - 1) / LANES * LANES), values(D * width, 0.0f) {}
  float *at(int64_t token) { return values.data() + token; }
  const float *at(int64_t token) const { return values.data() + token; }

  // From a tensor in which tokens lie `stride` apart.
  void read(const float *from, int64_t stride, int64_t tokens, float scale = 1) {
    for (int64_t t = 0; t < tokens; t++)
      for (int d = 0; d < D; d++) values[d * width + t] = scale * from[t * stride + d];
  }

  void write(float *to, int64_t stride, int64_t tokens, float scale = 1) const {
    for (int64_t t = 0; t < tokens; t++)
      for (int d = 0; d < D; d++) to[t * stride + d] = scale * values[d * width + t];
  }

  // Let the columns beyond be the last of the `tokens` again: no score is then one that there isn't.
  void repeat_last(int64_t tokens) {
    for (int d = 0; d < D; d++)
      for (int64_t t = tokens; t < width; t++) values[d * width + t] = values[d * width + tokens - 1];
  }

  Channels channels() const { return {values.data(), width}; }
};

// 1 for the tokens at `first` and after it, 0 for the columns beyond `tokens`.
inline Lanes real(int64_t first, int64_t tokens) {
  Lanes mask = all(0);
  for (int i = 0; i < LANES && first + i < tokens; i++) mask[i] = 1;
  return mask;
}

template <int D>
inline Lanes dot(const float (&a)[D], const float *b, int64_t width, Lanes start) {
  for (int d = 0; d < D; d++) start += a[d] * load(b + d * width);
  return start;
}

// qkv (frames, tokens, 3 * heads * D) to out (frames, tokens, heads * D) and log_sums (frames, heads, tokens); sizes:
// frames, tokens, heads.
template <int D>
void forward(void *const *tensors, const int64_t *sizes, int threads) {
  const float *qkv = floats(tensors[0]);
  float *out = floats(tensors[1]), *log_sums = floats(tensors[2]);
  const int64_t frames = sizes[0], tokens = sizes[1], heads = sizes[2];
  const int64_t embed = heads * D, stride = 3 * embed;
  const float scale = LOG2_E / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(std::min<int64_t>(threads, frames * heads))
  {
    Head<D> q(tokens), k(tokens), v(tokens);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < frames * heads; job++) {
      const float *from = qkv + job / heads * tokens * stride + job % heads * D;
      float *to = out + job / heads * tokens * embed + job % heads * D;
      q.read(from, stride, tokens, scale);
      k.read(from + embed, stride, tokens);
      v.read(from + 2 * embed, stride, tokens);
      const float reach = longest<D>(k.channels(), tokens);
      for (int64_t first = 0; first < tokens; first += LANES) {
        Lanes query[D], read[D];
        for (int d = 0; d < D; d++) query[d] = load(q.at(first) + d * q.width);
        const Lanes log_sum = look(query, k.channels(), v.channels(), reach, tokens, read);
        store(log_sums + job * tokens + first, log_sum, tokens - first);
        for (int i = 0; i < LANES && first + i < tokens; i++)
          for (int d = 0; d < D; d++) to[(first + i) * embed + d] = read[d][i];
      }
    }
  }
}

// What one head of one frame adds to the gradients; `q` is scaled for exponents of 2, and so is what `dk` gets.
template <int D, bool clamped>
void backward_head(const Head<D> &q, const Head<D> &k, const Head<D> &v, const Head<D> &out, const Head<D> &grad,
                   const float *log_sums, int64_t tokens, Head<D> &dq, Head<D> &dk, Head<D> &dv) {
  std::fill(dk.values.begin(), dk.values.end(), 0.0f);
  std::fill(dv.values.begin(), dv.values.end(), 0.0f);
  for (int64_t first = 0; first < tokens; first += ROWS) {
    float query[ROWS][D], wanted[ROWS][D], mean[ROWS] = {}, log_sum[ROWS];
    Lanes update[ROWS][D];
    for (int r = 0; r < ROWS; r++) {
      // Rows beyond the last token have a gradient of 0 and so add nothing.
      log_sum[r] = first + r < tokens ? log_sums[first + r] : 0;
      for (int d = 0; d < D; d++) {
        query[r][d] = q.at(first + r)[d * q.width];
        wanted[r][d] = grad.at(first + r)[d * q.width];
        mean[r] += wanted[r][d] * out.at(first + r)[d * q.width];
        update[r][d] = all(0);
      }
    }
    for (int64_t t = 0; t < k.width; t += LANES) {
      Lanes dk_here[D], dv_here[D];
      for (int d = 0; d < D; d++) dk_here[d] = load(dk.at(t) + d * k.width), dv_here[d] = load(dv.at(t) + d * k.width);
      for (int r = 0; r < ROWS; r++) {
        Lanes weight = exp2<clamped>(dot<D>(query[r], k.at(t), k.width, all(-log_sum[r])));
        if (t + LANES > tokens) weight *= real(t, tokens);
        const Lanes score = weight * dot<D>(wanted[r], v.at(t), k.width, all(-mean[r]));
        for (int d = 0; d < D; d++) {
          dv_here[d] += weight * wanted[r][d];
          dk_here[d] += score * query[r][d];
          update[r][d] += score * load(k.at(t) + d * k.width);
        }
      }
      for (int d = 0; d < D; d++) store(dk.at(t) + d * k.width, dk_here[d]), store(dv.at(t) + d * k.width, dv_here[d]);
    }
    for (int r = 0; r < ROWS; r++)
      for (int d = 0; d < D; d++) dq.at(first + r)[d * q.width] = sum(update[r][d]);
  }
}

template <int D>
void backward(void *const *tensors, const int64_t *sizes, int threads) {
  const float *qkv = floats(tensors[0]), *out = floats(tensors[1]), *log_sums = floats(tensors[2]);
  const float *grad = floats(tensors[3]);
  float *dqkv = floats(tensors[4]);
  const int64_t frames = sizes[0], tokens = sizes[1], heads = sizes[2];
  const int64_t embed = heads * D, stride = 3 * embed;
  const float scale = 1 / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(std::min<int64_t>(threads, frames * heads))
  {
    Head<D> q(tokens), k(tokens), v(tokens), o(tokens), g(tokens), dq(tokens), dk(tokens), dv(tokens);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < frames * heads; job++) {
      const int64_t first = job / heads * tokens, column = job % heads * D;
      const float *from = qkv + first * stride + column;
      q.read(from, stride, tokens, scale * LOG2_E);
      k.read(from + embed, stride, tokens);
      v.read(from + 2 * embed, stride, tokens);
      o.read(out + first * embed + column, embed, tokens);
      g.read(grad + first * embed + column, embed, tokens);
      k.repeat_last(tokens);
      auto *head = longest<D>(q.channels(), tokens) * longest<D>(k.channels(), tokens) < SAFE ? backward_head<D, false> : backward_head<D, true>;
      head(q, k, v, o, g, log_sums + job * tokens, tokens, dq, dk, dv);
      float *to = dqkv + first * stride + column;
      dq.write(to, stride, tokens, scale);
      dk.write(to + embed, stride, tokens, 1 / LOG2_E);
      dv.write(to + 2 * embed, stride, tokens);
    }
  }
}

}  // namespace

#define FOR_HEADS_OF(D)                                                                                     \
  extern "C" void forward_##D(void *const *tensors, const int64_t *sizes, int threads) {                    \
    forward<D>(tensors, sizes, threads);                                                                    \
  }                                                                                                         \
  extern "C" void backward_##D(void *const *tensors, const int64_t *sizes, int threads) {                   \
    backward<D>(tensors, sizes, threads);                                                                   \
  }

FOR_HEADS_OF(2)
FOR_HEADS_OF(4)
FOR_HEADS_OF(8)
