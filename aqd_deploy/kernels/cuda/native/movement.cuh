// What stands between convolutions: a thread has 16 bytes, or four channels of a pixel.
// T is uint8_t, int8_t or int; pitches are counted in elements.
#pragma once
#include "epilogue.cuh"

template <class T> struct alignas(4 * sizeof(T)) Four { T v[4]; };
template <class T> AQD_DEVICE Four<T> aqd_four(const void *p, long long at) { return *(const Four<T> *)((const T *)p + at); }
template <class T> AQD_DEVICE void aqd_put(void *p, long long at, const Four<T> &f) { *(Four<T> *)((T *)p + at) = f; }
AQD_DEVICE int aqd_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

template <int TENSORS> struct PointwiseArgs {
  const void *x;
  const int4 *words;
  void *tensors[TENSORS];
  int channels, out_pitch;
  Level level;
};
template <class T, class E> AQD_DEVICE void pointwise(const PointwiseArgs<E::TENSORS> &p) {
  const int quads = p.out_pitch / 4, m = aqd_index() / quads, channel = aqd_index() % quads * 4;
  if (m >= p.level.rows) return;
  const Four<T> f = aqd_four<T>(p.x, (long long)m * p.out_pitch + channel);
  int v[4] = {f.v[0], f.v[1], f.v[2], f.v[3]};
  const Spot s = {p.level, 0, m, channel, p.channels, p.out_pitch};
  aqd_finish<E>(p.words, p.tensors, s, v);
}

// From maps [image][h][w][pitch] to [image][oh][ow][pitch]: windows, steps and paddings mean what each kernel says.
struct MapArgs {
  const void *x;
  void *out;
  const int *values;
  int images, h, w, oh, ow, pitch, size_y, size_x, step_y, step_x, top, left;
};
template <class T> struct alignas(16) Unit { T v[16 / sizeof(T)]; };
struct MapSpot { int n, y, x, channel; bool inside; };
template <class T> AQD_DEVICE MapSpot aqd_map_spot(const MapArgs &p) {
  const int units = p.pitch * (int)sizeof(T) / 16, m = aqd_index() / units, n = m / (p.oh * p.ow), rest = m - n * p.oh * p.ow;
  return {n, rest / p.ow, rest % p.ow, aqd_index() % units * 16 / (int)sizeof(T), n < p.images};
}
template <class T> AQD_DEVICE Unit<T> aqd_unit(const MapArgs &p, const MapSpot &s, int y, int x) {
  return *(const Unit<T> *)((const T *)p.x + ((long long)(s.n * p.h + y) * p.w + x) * p.pitch + s.channel);
}
template <class T> AQD_DEVICE void aqd_put_unit(const MapArgs &p, const Unit<T> &u) { ((Unit<T> *)p.out)[aqd_index()] = u; }
// The larger of each element.
AQD_DEVICE void aqd_keep_largest(Unit<int> &a, const Unit<int> &b) {
  for (int i = 0; i < 4; i++) a.v[i] = aqd_largest(a.v[i], b.v[i]);
}
template <class T> AQD_DEVICE void aqd_keep_largest(Unit<T> &a, const Unit<T> &b) {
  for (int i = 0; i < 4; i++) ((int *)&a)[i] = aqd_largest_bytes<(T)-1 < 0>(((int *)&a)[i], ((const int *)&b)[i]);
}
// The maximum of windows; padding never wins.
template <class T> AQD_DEVICE void max_pool(const MapArgs &p) {
  const MapSpot s = aqd_map_spot<T>(p);
  if (!s.inside) return;
  const int y0 = s.y * p.step_y - p.top, x0 = s.x * p.step_x - p.left;
  const int first_y = aqd_largest(y0, 0), first_x = aqd_largest(x0, 0);
  Unit<T> best = aqd_unit<T>(p, s, first_y, first_x);
  for (int y = first_y; y < aqd_least(y0 + p.size_y, p.h); y++)
    for (int x = first_x; x < aqd_least(x0 + p.size_x, p.w); x++) aqd_keep_largest(best, aqd_unit<T>(p, s, y, x));
  aqd_put_unit(p, best);
}
// Nearest neighbour, by whole factors.
template <class T> AQD_DEVICE void resize(const MapArgs &p) {
  const MapSpot s = aqd_map_spot<T>(p);
  if (s.inside) aqd_put_unit(p, aqd_unit<T>(p, s, s.y / p.step_y, s.x / p.step_x));
}
// A border of one value a channel.
template <class T> AQD_DEVICE void pad(const MapArgs &p) {
  const MapSpot s = aqd_map_spot<T>(p);
  if (!s.inside) return;
  const int y = s.y - p.top, x = s.x - p.left;
  Unit<T> u;
  if (y >= 0 && y < p.h && x >= 0 && x < p.w) u = aqd_unit<T>(p, s, y, x);
  else for (int i = 0; i < 16 / (int)sizeof(T); i++) u.v[i] = (T)p.values[s.channel + i];
  aqd_put_unit(p, u);
}
// Sums of windows of T, int32; what is padded is `values` a channel. A thread has four channels.
template <class T> AQD_DEVICE void sum_pool(const MapArgs &p) {
  const MapSpot s = aqd_map_spot<int>(p);
  if (!s.inside) return;
  const int y0 = s.y * p.step_y - p.top, x0 = s.x * p.step_x - p.left;
  const int first_y = aqd_largest(y0, 0), last_y = aqd_least(y0 + p.size_y, p.h);
  const int first_x = aqd_largest(x0, 0), last_x = aqd_least(x0 + p.size_x, p.w);
  const int inside = aqd_largest(last_y - first_y, 0) * aqd_largest(last_x - first_x, 0);
  Unit<int> sum;
  for (int i = 0; i < 4; i++) sum.v[i] = (p.size_y * p.size_x - inside) * p.values[s.channel + i];
  for (int y = first_y; y < last_y; y++)
    for (int x = first_x; x < last_x; x++) {
      const Four<T> f = aqd_four<T>(p.x, ((long long)(s.n * p.h + y) * p.w + x) * p.pitch + s.channel);
      for (int i = 0; i < 4; i++) sum.v[i] += f.v[i];
    }
  aqd_put_unit(p, sum);
}
// Linear upsampling of T by `step`, times four times that, int32. `top` and `left` are twice the places by which the
// first pixel of the result lies behind the first of the map.
struct Between { int before, after, weight; };
AQD_DEVICE Between aqd_between(int place, int factor, int shift, int size) {
  const int t = 2 * place + shift + 2 * factor, after = t / (2 * factor);  // one pixel further, so that t >= 0
  return {aqd_largest(after - 1, 0), aqd_least(after, size - 1), t - after * 2 * factor};
}
template <class T> AQD_DEVICE void resize_linear(const MapArgs &p) {
  const MapSpot s = aqd_map_spot<int>(p);
  if (!s.inside) return;
  const Between y = aqd_between(s.y, p.step_y, p.top, p.h), x = aqd_between(s.x, p.step_x, p.left, p.w);
  Unit<int> sum = {{0, 0, 0, 0}};
  for (int corner = 0; corner < 4; corner++) {
    const int row = corner / 2 ? y.after : y.before, column = corner % 2 ? x.after : x.before;
    const int weight = (corner / 2 ? y.weight : 2 * p.step_y - y.weight) * (corner % 2 ? x.weight : 2 * p.step_x - x.weight);
    const Four<T> f = aqd_four<T>(p.x, ((long long)(s.n * p.h + row) * p.w + column) * p.pitch + s.channel);
    for (int i = 0; i < 4; i++) sum.v[i] += f.v[i] * weight;
  }
  aqd_put_unit(p, sum);
}

// Values of a map at other places: rows and columns from `top` and `left` on, `step` apart; each becomes a square of
// `block`·`block` pixels, whose channels are those of the input that `channels` [place in the square][out_pitch] names.
struct PickArgs {
  const void *x;
  void *out;
  const int *channels;
  int images, h, w, oh, ow, pitch, out_pitch, block, step_y, step_x, top, left;
};
template <class T> AQD_DEVICE void pick(const PickArgs &p) {
  constexpr int LANES = 16 / (int)sizeof(T);
  const int units = p.out_pitch / LANES, m = aqd_index() / units, channel = aqd_index() % units * LANES;
  const int n = m / (p.oh * p.ow), rest = m - n * p.oh * p.ow, y = rest / p.ow, x = rest % p.ow;
  if (n >= p.images) return;
  const int row = y / p.block * p.step_y + p.top, column = x / p.block * p.step_x + p.left;
  const T *pixel = (const T *)p.x + ((long long)(n * p.h + row) * p.w + column) * p.pitch;
  const int *from = p.channels + (y % p.block * p.block + x % p.block) * p.out_pitch + channel;
  Unit<T> u;
  for (int i = 0; i < LANES; i++) u.v[i] = pixel[from[i]];
  ((Unit<T> *)p.out)[aqd_index()] = u;
}
// [image][channel][y][x] → [image][oh][ow][pitch] of bytes: what a row of `size_x` pixels, `step_y` apart, reads from
// column ow·step_x − left on, in the order [pixel][channel]; `size_y` channels. A thread has a pixel of the result.
AQD_DEVICE void patches(const MapArgs &p) {
  const int m = aqd_index(), n = m / (p.oh * p.ow), rest = m - n * p.oh * p.ow, y = rest / p.ow - p.top;
  if (n >= p.images) return;
  const uint8_t *image = (const uint8_t *)p.x + (long long)n * p.size_y * p.h * p.w;
  int x = rest % p.ow * p.step_x - p.left, c = 0, taps = 0;
  for (int unit = 0; unit < p.pitch / 16; unit++) {
    Unit<uint8_t> u;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const bool inside = y >= 0 && y < p.h && x >= 0 && x < p.w;
      u.v[i] = taps == p.size_x ? 0 : inside ? image[(c * p.h + y) * p.w + x] : (uint8_t)p.values[c];
      if (++c == p.size_y && taps < p.size_x) { c = 0; x += p.step_y; taps++; }
    }
    ((Unit<uint8_t> *)p.out)[(long long)m * (p.pitch / 16) + unit] = u;
  }
}

// Elements of a map in any order: element k of an image, counted with the pitch, is its element `indices`[k].
struct RearrangeArgs {
  const void *x;
  void *out;
  const int *indices;
  int count, elements, out_elements, unused;
};
template <class T> AQD_DEVICE void rearrange(const RearrangeArgs &p) {
  if (aqd_index() >= p.count) return;
  const int n = aqd_index() / p.out_elements, k = aqd_index() - n * p.out_elements;
  ((T *)p.out)[aqd_index()] = ((const T *)p.x)[(long long)n * p.elements + p.indices[k]];
}

struct CopyArgs {
  const void *x;
  void *out;
  int count, images, channels, pixels, pitch, out_pitch, first, unused;
};
// `count` times 16 bytes.
AQD_DEVICE void copy(const CopyArgs &p) {
  if (aqd_index() < p.count) ((int4 *)p.out)[aqd_index()] = ((const int4 *)p.x)[aqd_index()];
}
// `count` pixels to channels from `first` on.
template <class T> AQD_DEVICE void concat(const CopyArgs &p) {
  const int pixel = aqd_index() / p.channels, c = aqd_index() % p.channels;
  if (pixel < p.count) ((T *)p.out)[(long long)pixel * p.out_pitch + p.first + c] = ((const T *)p.x)[(long long)pixel * p.pitch + c];
}
// [image][channel][pixel] → [image][pixel][pitch], zeros behind the channels; neighbouring threads have one channel's pixels.
template <class T> AQD_DEVICE void to_channels_last(const CopyArgs &p) {
  const int pixel = aqd_index() % p.pixels, rest = aqd_index() / p.pixels, n = rest / (p.out_pitch / 4), channel = rest % (p.out_pitch / 4) * 4;
  if (n >= p.images) return;
  Four<T> f;
  for (int i = 0; i < 4; i++)
    f.v[i] = channel + i < p.channels ? ((const T *)p.x)[((long long)n * p.channels + channel + i) * p.pixels + pixel] : (T)0;
  aqd_put<T>(p.out, ((long long)n * p.pixels + pixel) * p.out_pitch + channel, f);
}
// [image][pixel][pitch] → [image][channel][pixel].
template <class T> AQD_DEVICE void to_channels_first(const CopyArgs &p) {
  const int quads = (p.channels + 3) / 4, pixel = aqd_index() % p.pixels, rest = aqd_index() / p.pixels, n = rest / quads, channel = rest % quads * 4;
  if (n >= p.images) return;
  const Four<T> f = aqd_four<T>(p.x, ((long long)n * p.pixels + pixel) * p.pitch + channel);
  for (int i = 0; i < 4; i++)
    if (channel + i < p.channels) ((T *)p.out)[((long long)n * p.channels + channel + i) * p.pixels + pixel] = f.v[i];
}
