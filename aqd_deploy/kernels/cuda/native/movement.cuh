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
