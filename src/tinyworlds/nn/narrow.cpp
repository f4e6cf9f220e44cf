// Softmax attention in heads of few channels, forward and backward, on CPUs: see narrow.py, which compiles and calls this.
//
// The tokens of one head are first laid out channel by channel, so that LANES of them fill a register, and ROWS queries
// share what is loaded. Scores never leave the registers: the backward pass computes them again.

#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"

namespace {

constexpr int ROWS = 4;
constexpr float SAFE = 24.0f;  // exponents of 2 so near to 0 lose nothing, whatever is subtracted from them

// One of the tensors of one head, (D, width): `tokens` columns and zeros up to a multiple of LANES.
template <int D>
struct Head {
  int64_t width;
  std::vector<float> values;

  explicit Head(int64_t tokens) : width((tokens + LANES - 1) / LANES * LANES), values(D * width, 0.0f) {}
  float *at(int64_t token) { return values.data() + token; }
  const float *at(int64_t token) const { return values.data() + token; }

  void read(const float *from, int64_t stride, int64_t tokens, float scale = 1) {
    for (int64_t t = 0; t < tokens; t++)
      for (int d = 0; d < D; d++) values[d * width + t] = scale * from[t * stride + d];
  }

  void write(float *to, int64_t stride, int64_t tokens, float scale = 1) const {
    for (int64_t t = 0; t < tokens; t++)
      for (int d = 0; d < D; d++) to[t * stride + d] = scale * values[d * width + t];
  }

  float longest() const {
    Lanes most = all(0);
    for (int64_t t = 0; t < width; t += LANES) {
      Lanes square = all(0);
      for (int d = 0; d < D; d++) square += load(at(t) + d * width) * load(at(t) + d * width);
      most = square > most ? square : most;
    }
    return std::sqrt(largest(most));
  }
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

// What ROWS queries read, and the logarithm (base 2) of the sum of their weights; `top` is subtracted from scores.
template <int D, bool clamped>
inline void attend(const float (&q)[ROWS][D], const float (&top)[ROWS], const Head<D> &k, const Head<D> &v,
                   int64_t tokens, float (&out)[ROWS][D], float (&log_sum)[ROWS]) {
  Lanes total[ROWS], read[ROWS][D];
  for (int r = 0; r < ROWS; r++) {
    total[r] = all(0);
    for (int d = 0; d < D; d++) read[r][d] = all(0);
  }
  for (int64_t t = 0; t < k.width; t += LANES)
    for (int r = 0; r < ROWS; r++) {
      Lanes weight = exp2<clamped>(dot<D>(q[r], k.at(t), k.width, all(-top[r])));
      if (t + LANES > tokens) weight *= real(t, tokens);
      total[r] += weight;
      for (int d = 0; d < D; d++) read[r][d] += weight * load(v.at(t) + d * v.width);
    }
  for (int r = 0; r < ROWS; r++) {
    const float weights = sum(total[r]);
    log_sum[r] = top[r] + std::log2(weights);
    for (int d = 0; d < D; d++) out[r][d] = sum(read[r][d]) / weights;
  }
}

// The largest score of each query.
template <int D>
inline void find_top(const float (&q)[ROWS][D], const Head<D> &k, float (&top)[ROWS]) {
  for (int r = 0; r < ROWS; r++) {
    Lanes most = all(-INFINITY);
    for (int64_t t = 0; t < k.width; t += LANES) {
      const Lanes score = dot<D>(q[r], k.at(t), k.width, all(0));
      most = score > most ? score : most;
    }
    top[r] = largest(most);
  }
}

// qkv (frames, tokens, 3 * heads * D) to out (frames, tokens, heads * D) and log_sums (frames, heads, tokens).
template <int D>
void forward(const float *qkv, float *out, float *log_sums, int64_t frames, int64_t tokens, int64_t heads,
             int threads) {
  const int64_t embed = heads * D, stride = 3 * embed;
  const float scale = LOG2_E / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(threads)
  {
    Head<D> k(tokens), v(tokens);
#pragma omp for schedule(static)
    for (int64_t job = 0; job < frames * heads; job++) {
      const float *from = qkv + job / heads * tokens * stride + job % heads * D;
      float *to = out + job / heads * tokens * embed + job % heads * D;
      k.read(from + embed, stride, tokens);
      v.read(from + 2 * embed, stride, tokens);
      const float reach = k.longest();
      for (int64_t first = 0; first < tokens; first += ROWS) {
        float q[ROWS][D] = {}, top[ROWS], read[ROWS][D], log_sum[ROWS], high = 0;
        for (int r = 0; r < ROWS && first + r < tokens; r++) {
          float square = 0;
          for (int d = 0; d < D; d++) {
            q[r][d] = scale * from[(first + r) * stride + d];
            square += q[r][d] * q[r][d];
          }
          top[r] = std::sqrt(square) * reach;  // no score is larger
          high = top[r] > high ? top[r] : high;
        }
        if (high < SAFE) {
          attend<D, false>(q, top, k, v, tokens, read, log_sum);
        } else {
          find_top<D>(q, k, top);
          attend<D, true>(q, top, k, v, tokens, read, log_sum);
        }
        for (int r = 0; r < ROWS && first + r < tokens; r++) {
          log_sums[job * tokens + first + r] = log_sum[r];
          std::memcpy(to + (first + r) * embed, read[r], sizeof read[r]);
        }
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
        const Lanes weight = exp2<clamped>(dot<D>(query[r], k.at(t), k.width, all(-log_sum[r])));
        const Lanes score = weight * dot<D>(wanted[r], v.at(t), k.width, all(-mean[r]));
        for (int d = 0; d < D; d++) {
          dv_here[d] += weight * wanted[r][d];
          dk_here[d] += score * query[r][d];
          update[r][d] += score * load(k.at(t) + d * k.width);  // columns beyond the last token hold zeros
        }
      }
      for (int d = 0; d < D; d++) store(dk.at(t) + d * k.width, dk_here[d]), store(dv.at(t) + d * k.width, dv_here[d]);
    }
    for (int r = 0; r < ROWS; r++)
      for (int d = 0; d < D; d++) dq.at(first + r)[d * q.width] = sum(update[r][d]);
  }
}

template <int D>
void backward(const float *qkv, const float *out, const float *log_sums, const float *grad, float *dqkv, int64_t frames,
              int64_t tokens, int64_t heads, int threads) {
  const int64_t embed = heads * D, stride = 3 * embed;
  const float scale = 1 / std::sqrt(static_cast<float>(D));
#pragma omp parallel num_threads(threads)
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
      auto *head = q.longest() * k.longest() < SAFE ? backward_head<D, false> : backward_head<D, true>;
      head(q, k, v, o, g, log_sums + job * tokens, tokens, dq, dk, dv);
      float *to = dqkv + first * stride + column;
      dq.write(to, stride, tokens, scale);
      dk.write(to + embed, stride, tokens, 1 / LOG2_E);
      dv.write(to + 2 * embed, stride, tokens);
    }
  }
}

}  // namespace

#define FOR_HEADS_OF(D)                                                                                              \
  extern "C" void forward_##D(const float *qkv, float *out, float *log_sums, int64_t frames, int64_t tokens,         \
                              int64_t heads, int threads) {                                                          \
    forward<D>(qkv, out, log_sums, frames, tokens, heads, threads);                                                  \
  }                                                                                                                  \
  extern "C" void backward_##D(const float *qkv, const float *out, const float *log_sums, const float *grad,         \
                               float *dqkv, int64_t frames, int64_t tokens, int64_t heads, int threads) {            \
    backward<D>(qkv, out, log_sums, grad, dqkv, frames, tokens, heads, threads);                                     \
  }

FOR_HEADS_OF(2)
FOR_HEADS_OF(4)
FOR_HEADS_OF(8)
