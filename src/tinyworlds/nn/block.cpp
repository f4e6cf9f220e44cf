// A transformer block where no gradient is asked for, on CPUs: see inference.py, which compiles and calls this.
//
// Tokens lie channel by channel, x (batch, frames, E, positions), so that LANES neighbouring positions of a frame fill a
// register. All but attention within a frame works on these alone, from one product to the next without leaving the cache.

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "over_frames.h"
#include "within_frame.h"

namespace {

constexpr float EPS = 1e-5f;

// One channel, or the like, at LANES positions.
struct alignas(4 * LANES) Row {
  Lanes lanes;
};
using Tile = std::vector<Row>;

struct Sizes {
  int64_t batch, frames, positions, embed, heads, units, actions, past;
  bool norm_first, temporal, only_remember, turned;

  explicit Sizes(const int64_t *s)
      : batch(s[0]), frames(s[1]), positions(s[2]), embed(s[3]), heads(s[4]), units(s[5]), actions(s[6]), past(s[7]),
        norm_first(s[8]), temporal(s[9]), only_remember(s[10]), turned(s[11]) {}
  int64_t groups() const { return (positions + LANES - 1) / LANES; }
};

// The tensors of a call, in their order.
struct Tensors {
  void *const *next;

  float *take() { return floats(*next++); }
};

struct Linear {
  const float *weight, *bias;

  explicit Linear(Tensors &tensors) : weight(tensors.take()), bias(tensors.take()) {}

  void operator()(const Tile &x, int64_t in, Row *y, int64_t out, int64_t row = 0) const {
    for (; row + 8 <= out; row += 8) some<8>(x, in, y, row);  // so many sums hide how long each addition takes
    for (; row < out; row++) some<1>(x, in, y, row);
  }

 private:
  template <int N>
  void some(const Tile &x, int64_t in, Row *y, int64_t row) const {
    Lanes total[N];
    for (int r = 0; r < N; r++) total[r] = all(bias[row + r]);
    const float *weights = weight + row * in;
    for (int64_t i = 0; i < in; i++)
      for (int r = 0; r < N; r++) total[r] += weights[r * in + i] * x[i].lanes;
    for (int r = 0; r < N; r++) y[row + r].lanes = total[r];
  }
};

inline Lanes silu(Lanes x) {
  const Lanes exponent = -LOG2_E * x;
  return x / (1 + exp2<true>(exponent > -LEAST ? all(-LEAST) : exponent));
}

// Layer norm, modulated by the action that led to a frame (FiLM), or RMS norm where there are no actions.
class Norm {
 public:
  Norm(Tensors &tensors, const Sizes &sizes, const float *latents, const bool *given)
      : embed(sizes.embed), actions(sizes.actions), gains(tensors.take()) {
    if (!actions) return;
    const float *bias = tensors.take();
    modulation.resize(2 * embed * sizes.batch * sizes.frames, 0.0f);
    for (int64_t n = 0; n < sizes.batch * sizes.frames; n++)
      if (given[n % sizes.frames]) {
        float *to = &modulation[2 * embed * n];
        std::copy(bias, bias + 2 * embed, to);
        for (int64_t a = 0; a < actions; a++) {
          const float latent = latents[n * actions + a], activated = latent / (1 + std::exp(-latent));  // SiLU
          for (int64_t row = 0; row < 2 * embed; row++) to[row] += gains[row * actions + a] * activated;
        }
      }
  }

  // The tokens of frame n.
  void operator()(Tile &x, int64_t n) const {
    const Lanes mean = actions ? sum(x, [](Lanes x) { return x; }) : all(0);
    const Lanes inverse = 1 / root(sum(x, [mean](Lanes x) { return (x - mean) * (x - mean); }) + EPS);
    const float *scale = actions ? &modulation[2 * embed * n] : gains, *shift = scale + embed;
    for (int64_t e = 0; e < embed; e++) {
      const Lanes normed = (x[e].lanes - mean) * inverse;
      x[e].lanes = actions ? normed * (1 + scale[e]) + shift[e] : normed * scale[e];
    }
  }

 private:
  int64_t embed, actions;
  const float *gains;  // of FiLM the weights
  std::vector<float> modulation;

  template <typename Of>
  Lanes sum(const Tile &x, Of of) const {
    Lanes total = all(0);
    for (int64_t e = 0; e < embed; e++) total += of(x[e].lanes);
    return total / static_cast<float>(embed);
  }
};

// `rows` channels of a frame, from position `first`; those beyond the last position are 0.
void read(const float *frame, int64_t rows, int64_t first, int64_t positions, Row *to) {
  for (int64_t r = 0; r < rows; r++) to[r].lanes = load(frame + r * positions + first, positions - first);
}

void write(float *frame, int64_t rows, int64_t first, int64_t positions, const Row *from) {
  for (int64_t r = 0; r < rows; r++) store(frame + r * positions + first, from[r].lanes, positions - first);
}

// Attention, which projects to queries, keys and values, or a feed-forward, which does to gates and values.
struct Part {
  Linear in, out;
  Norm norm;

  Part(Tensors &tensors, const Sizes &sizes, const float *latents, const bool *given)
      : in(tensors), out(tensors), norm(tensors, sizes, latents, given) {}
};

// What one thread works in.
struct Room {
  Tile x, other, update, wide;
  std::vector<Row> weights;

  explicit Room(const Sizes &s)
      : x(s.embed), other(s.embed), update(s.embed), wide(std::max(3 * s.embed, 2 * s.units)),
        weights(s.past + s.frames) {}
};

// Its methods share their loops among the threads that call them.
template <int D>
class Block {
 public:
  Block(Tensors tensors, const Sizes &sizes) : s(sizes) {
    x = tensors.take(), projected = tensors.take();
    keys = tensors.take(), values = tensors.take();
    const float *past_keys = tensors.take(), *past_values = tensors.take();
    seen = {{past_keys, keys}, {past_values, values}, {s.past, s.frames}};
    const float *latents = tensors.take();
    const bool *given = reinterpret_cast<bool *>(tensors.take());
    visible = reinterpret_cast<bool *>(tensors.take());
    if (s.turned) in_space = tensors.take(), in_time = tensors.take();
    spatial.emplace(tensors, s, latents, given);
    if (s.temporal) temporal.emplace(tensors, s, latents, given);
    feed_forward.emplace(tensors, s, latents, given);
  }

  void project(Room &room) const {
#pragma omp for schedule(static)
    for (int64_t job = 0; job < s.batch * s.frames * s.groups(); job++) {
      const int64_t n = job / s.groups(), first = job % s.groups() * LANES;
      read(frame(n), s.embed, first, s.positions, room.x.data());
      spatial->in(before(spatial->norm, room.x, n, room.other), s.embed, room.wide.data(), 3 * s.embed);
      if (s.turned) turn_in_space(first, room.wide.data(), 2 * s.heads);
      write(qkv(n), 3 * s.embed, first, s.positions, room.wide.data());
    }
  }

  void follow(Room &room) const {
#pragma omp for schedule(static)
    for (int64_t job = 0; job < s.batch * s.groups(); job++) {
      const int64_t b = job / s.groups(), first = job % s.groups() * LANES;
      for (int64_t t = 0; t < s.frames; t++) end_spatial(b * s.frames + t, first, room);
      if (s.only_remember) continue;
      for (int64_t t = 0; t < s.frames; t++) {
        const int64_t n = b * s.frames + t;
        read(frame(n), s.embed, first, s.positions, room.x.data());
        if (temporal) attend_over_frames(b, t, first, room);
        feed(n, room);
        write(frame(n), s.embed, first, s.positions, room.x.data());
      }
    }
  }

 private:
  const Sizes s;
  float *x, *projected, *keys, *values;
  Seen<const float> seen;
  const bool *visible;
  const float *in_space, *in_time;  // cosines, then sines: (D / 2, positions) of places, (frames, D / 2) of times
  std::optional<Part> spatial, temporal, feed_forward;
  const float scale = LOG2_E / std::sqrt(static_cast<float>(D));

  int64_t size() const { return s.embed * s.positions; }
  float *frame(int64_t n) const { return x + n * size(); }
  float *qkv(int64_t n) const { return projected + 3 * n * size(); }
  Spot spot(int64_t head, int64_t first) const { return {head, first, s.positions, s.positions - first}; }

  // What a part is given of x.
  const Tile &before(const Norm &norm, const Tile &x, int64_t n, Tile &room) const {
    if (!s.norm_first) return x;
    std::copy(x.begin(), x.end(), room.begin());
    norm(room, n);
    return room;
  }

  // What a part ends with.
  void add(const Part &part, const Tile &given, int64_t in, int64_t n, Room &room) const {
    part.out(given, in, room.update.data(), s.embed);
    for (int64_t e = 0; e < s.embed; e++) room.x[e].lanes += room.update[e].lanes;
    if (!s.norm_first) part.norm(room.x, n);
  }

  void end_spatial(int64_t n, int64_t first, Room &room) const {
    read(frame(n), s.embed, first, s.positions, room.x.data());
    attend_within_frame(n, first, room);
    add(*spatial, room.other, s.embed, n, room);
    write(frame(n), s.embed, first, s.positions, room.x.data());
    if (!temporal) return;
    Row *wide = room.wide.data();
    const int64_t row = s.only_remember ? s.embed : 0;  // no queries
    temporal->in(before(temporal->norm, room.x, n, room.other), s.embed, wide, 3 * s.embed, row);
    if (s.turned) turn_in_time(n % s.frames, wide + row, row ? s.heads : 2 * s.heads);
    write(qkv(n), s.embed, first, s.positions, wide);
    write(keys + n * size(), s.embed, first, s.positions, wide + s.embed);
    write(values + n * size(), s.embed, first, s.positions, wide + 2 * s.embed);
  }

  // Rotary positions of so many heads, those of queries and then those of keys: pairs of channels i, i + D / 2.
  void turn_in_space(int64_t first, Row *channels, int64_t heads) const {
    const float *sines = in_space + D / 2 * s.positions;
    for (int64_t i = 0; i < D / 2; i++) {
      const int64_t at = i * s.positions + first;
      turn(channels + i, heads, load(in_space + at, s.positions - first), load(sines + at, s.positions - first));
    }
  }

  void turn_in_time(int64_t t, Row *channels, int64_t heads) const {
    const float *cosines = in_time + t * (D / 2), *sines = cosines + s.frames * (D / 2);
    for (int64_t i = 0; i < D / 2; i++) turn(channels + i, heads, all(cosines[i]), all(sines[i]));
  }

  void turn(Row *channels, int64_t heads, Lanes cosine, Lanes sine) const {
    for (int64_t head = 0; head < heads; head++) {
      Lanes &one = channels[head * D].lanes, &other = channels[head * D + D / 2].lanes;
      const Lanes turned = one * cosine - other * sine;
      other = one * sine + other * cosine;
      one = turned;
    }
  }

  void attend_within_frame(int64_t n, int64_t first, Room &room) const {
    for (int64_t head = 0; head < s.heads; head++) {
      const float *from = qkv(n) + head * D * s.positions;
      const Channels keys{from + size(), s.positions}, values{from + 2 * size(), s.positions};
      Lanes query[D], out[D];
      spot(head, first).read(qkv(n), query, scale);
      look(query, keys, values, longest<D>(keys, s.positions), s.positions, out);
      for (int d = 0; d < D; d++) room.other[head * D + d].lanes = out[d];
    }
  }

  void attend_over_frames(int64_t b, int64_t t, int64_t first, Room &room) const {
    const int64_t n = b * s.frames + t;
    for (int64_t head = 0; head < s.heads; head++) {
      const Spot here = spot(head, first);
      Lanes query[D], out[D];
      here.read(qkv(n), query, scale);
      look_back(query, seen, visible + t * seen.frames(), b, size(), here, &room.weights[0].lanes, out);
      for (int d = 0; d < D; d++) room.other[head * D + d].lanes = out[d];
    }
    add(*temporal, room.other, s.embed, n, room);
  }

  void feed(int64_t n, Room &room) const {
    Row *wide = room.wide.data();
    feed_forward->in(before(feed_forward->norm, room.x, n, room.other), s.embed, wide, 2 * s.units);
    for (int64_t u = 0; u < s.units; u++) wide[u].lanes = silu(wide[u].lanes) * wide[s.units + u].lanes;
    add(*feed_forward, room.wide, s.units, n, room);
  }
};

template <int D>
void block(void *const *tensors, const Sizes &sizes, int threads) {
  const Block<D> block(Tensors{tensors}, sizes);
#pragma omp parallel num_threads(std::min<int64_t>(threads, sizes.batch * sizes.frames * sizes.groups()))
  {
    Room room(sizes);
    block.project(room);
    block.follow(room);
  }
}

}  // namespace

#define FOR_HEADS_OF(D)                                                                                     \
  extern "C" void block_##D(void *const *tensors, const int64_t *sizes, int threads) {                      \
    block<D>(tensors, Sizes(sizes), threads);                                                               \
  }

FOR_HEADS_OF(2)
FOR_HEADS_OF(4)
FOR_HEADS_OF(8)
FOR_HEADS_OF(16)
FOR_HEADS_OF(32)
