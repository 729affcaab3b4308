// What follows the accumulators: a chain of stages and stores, each a type, on four neighbouring channels at a time.
//
// The constants of a chain lie [level][64 channels][word][64], int32: `WORDS` words an operation, in the chain's order.
// An operation of the chain takes `TENSORS` addresses: another tensor, a table, or where a store writes.
// Tensors are [image][y][x][pitch]; the pitch is that of the outputs, the channels in whole sixteens.
#pragma once
#include "device.cuh"

// A map of a convolution: sizes, its first pixels in the input and the output, its output pixels, and the tiles of rows
// up to its end.
struct Level { int h, w, oh, ow, in_start, out_start, rows, tiles; };

// Where four values belong: row `m` of the map `level`, which is number `which`; channels from `channel` on.
struct Spot { const Level &level; int which, m, channel, channels, pitch; };

// The place in the constants of the four channels of a spot.
AQD_DEVICE const int4 *aqd_words(const void *words, int size, int which, int channel, int pitch) {
  const int blocks = (pitch + 63) / 64;
  return (const int4 *)words + ((long long)(which * blocks + channel / 64) * size * 64 + channel % 64) / 4;
}
struct Scale {  // c, d, B of (v·c + B) >> d
  int4 c, d, low, high;
  AQD_MEMBER void load(const int4 *at) { c = at[0]; d = at[16]; low = at[32]; high = at[48]; }
};

// How (v·c + B) >> d is taken, for all channels of one operation: WIDE where d < 32 and the result is an int32, HIGH
// where d is 32 more than is stored, CLAMPED where 2 <= d < 32 and results beyond ±2^30 may be any beyond, GENERAL for
// any d, which is at most 62.
enum Form { GENERAL, WIDE, HIGH, CLAMPED };
template <Form FORM> AQD_DEVICE int aqd_scaled(int v, int c, int d, int low, int high) {
  const long long r = aqd_multiply_add(v, c, low, high);
  if (FORM == CLAMPED) {
    const int most = (1 << (d - 1)) - 1, top = aqd_least(aqd_largest((int)(r >> 32), -most - 1), most);
    return aqd_shift_wide((long long)((uint64_t)(uint32_t)top << 32 | (uint32_t)r), d);
  }
  return FORM == WIDE ? aqd_shift_wide(r, d) : FORM == HIGH ? (int)(r >> 32) >> d : (int)(r >> d);
}
template <Form FORM> AQD_DEVICE void aqd_scale(int (&v)[4], const Scale &s) {
  v[0] = aqd_scaled<FORM>(v[0], s.c.x, s.d.x, s.low.x, s.high.x);
  v[1] = aqd_scaled<FORM>(v[1], s.c.y, s.d.y, s.low.y, s.high.y);
  v[2] = aqd_scaled<FORM>(v[2], s.c.z, s.d.z, s.low.z, s.high.z);
  v[3] = aqd_scaled<FORM>(v[3], s.c.w, s.d.w, s.low.w, s.high.w);
}

struct Nothing { AQD_MEMBER void load(const int4 *) {} };
// A stage changes the values. It asks for nothing before it runs, and holds nothing back for `flush`.
struct Stage {
  typedef Nothing Words;
  struct Asked {};
  template <int RUN> struct Held {};
  enum { WORDS = 0, TENSORS = 0, ASKS = 0 };
  static AQD_MEMBER void ask(Asked &, void *const *, const Spot &) {}
  template <int RUN> static AQD_MEMBER void flush(const Held<RUN> &, void *const *, const Spot &) {}
};
struct Word { int4 v; AQD_MEMBER void load(const int4 *at) { v = at[0]; } };
struct AddBias : Stage {
  enum { WORDS = 1 };
  typedef Word Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    v[0] += w.v.x; v[1] += w.v.y; v[2] += w.v.z; v[3] += w.v.w;
  }
};
struct Row { const int4 *at; AQD_MEMBER void load(const int4 *from) { at = from; } };
// What padding with other values than zeros adds: the first TOP and last BOTTOM rows, LEFT and RIGHT columns have sums of
// their own, all between one.
AQD_DEVICE int aqd_edge(int place, int size, int first, int last) {
  return place < first ? place : place < size - last ? first : first + 1 + place - (size - last);
}
template <int TOP, int LEFT, int BOTTOM, int RIGHT> struct AddBorder : Stage {
  enum { WORDS = (TOP + 1 + BOTTOM) * (LEFT + 1 + RIGHT) };
  typedef Row Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &, int, void *const *, const Spot &s, int (&v)[4]) {
    const int rest = s.m % (s.level.oh * s.level.ow), y = rest / s.level.ow, x = rest - y * s.level.ow;
    const int kind = aqd_edge(y, s.level.oh, TOP, BOTTOM) * (LEFT + 1 + RIGHT) + aqd_edge(x, s.level.ow, LEFT, RIGHT);
    const int4 b = w.at[kind * 16];
    v[0] += b.x; v[1] += b.y; v[2] += b.z; v[3] += b.w;
  }
};
template <bool UPPER> struct Bound : Stage {
  enum { WORDS = 1 };
  typedef Word Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    const int b[4] = {w.v.x, w.v.y, w.v.z, w.v.w};
    for (int i = 0; i < 4; i++) v[i] = UPPER ? aqd_least(v[i], b[i]) : aqd_largest(v[i], b[i]);
  }
};
struct Relu : Stage {
  template <int RUN> static AQD_MEMBER void run(const Words &, const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    for (int i = 0; i < 4; i++) v[i] = aqd_largest(v[i], 0);
  }
};
template <Form FORM> struct MultiplyShift : Stage {
  enum { WORDS = 4 };
  typedef Scale Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    aqd_scale<FORM>(v, w);
  }
};
// Four neighbouring values of a tensor of T, as they come from memory.
template <class T> struct Packed {
  typedef int Raw;
  static AQD_MEMBER void open(int raw, int (&v)[4]) {
    for (int i = 0; i < 4; i++) v[i] = (T)(raw >> 8 * i);
  }
};
template <> struct Packed<int> {
  typedef int4 Raw;
  static AQD_MEMBER void open(const int4 &raw, int (&v)[4]) { v[0] = raw.x; v[1] = raw.y; v[2] = raw.z; v[3] = raw.w; }
};
// Another tensor, which is `UP` times smaller each way, or with UP = 0 a pixel an image: asked for early, for memory is
// far.
template <class T, int UP> struct Other : Stage {
  enum { TENSORS = 1, ASKS = 1 };
  typedef typename Packed<T>::Raw Asked;
  static AQD_MEMBER void ask(Asked &o, void *const *tensors, const Spot &s) {
    long long pixel = s.level.out_start + s.m;
    if (UP != 1) {
      const int n = s.m / (s.level.oh * s.level.ow), rest = s.m - n * s.level.oh * s.level.ow, y = rest / s.level.ow;
      constexpr int BY = UP ? UP : 1;
      pixel = UP ? (n * (s.level.oh / BY) + y / BY) * (s.level.ow / BY) + (rest - y * s.level.ow) / BY : n;
    }
    o = *(const Asked *)((const T *)tensors[0] + pixel * s.pitch + s.channel);
  }
};
// v plus the other tensor.
template <class T, int UP> struct Add : Other<T, UP> {
  template <int RUN>
  static AQD_MEMBER void run(const Nothing &, const typename Packed<T>::Raw &o, Stage::Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    int u[4];
    Packed<T>::open(o, u);
    for (int i = 0; i < 4; i++) v[i] += u[i];
  }
};
// v plus the other tensor multiply-shifted.
template <class T, int UP, Form FORM> struct AddScaled : Other<T, UP> {
  enum { WORDS = 4 };
  typedef Scale Words;
  template <int RUN>
  static AQD_MEMBER void run(const Words &w, const typename Packed<T>::Raw &o, Stage::Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    int u[4];
    Packed<T>::open(o, u);
    aqd_scale<FORM>(u, w);
    for (int i = 0; i < 4; i++) v[i] += u[i];
  }
};
// (v - ZERO) times (the other tensor - OTHER_ZERO).
template <class T, int UP, int ZERO, int OTHER_ZERO> struct Multiply : Other<T, UP> {
  template <int RUN>
  static AQD_MEMBER void run(const Nothing &, const typename Packed<T>::Raw &o, Stage::Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    int u[4];
    Packed<T>::open(o, u);
    for (int i = 0; i < 4; i++) v[i] = (v[i] - ZERO) * (u[i] - OTHER_ZERO);
  }
};
// (v times the other stream + B) >> d.
struct Shift {
  int4 d, low, high;
  AQD_MEMBER void load(const int4 *at) { d = at[0]; low = at[16]; high = at[32]; }
};
template <int UP> struct StreamMultiply : Other<int, UP> {
  enum { WORDS = 3 };
  typedef Shift Words;
  template <int RUN>
  static AQD_MEMBER void run(const Words &w, const int4 &o, Stage::Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    aqd_scale<GENERAL>(v, Scale{o, w.d, w.low, w.high});
  }
};
// The codes of quantizers: clip((v·c + B) >> d, LO, HI), where what follows clips by itself without AT_LO or AT_HI; and
// LO + the number of thresholds that sign·v reaches.
template <int LO, int HI, bool AT_LO, bool AT_HI, Form FORM> AQD_DEVICE void aqd_requantize(int (&v)[4], const Scale &s) {
  if (FORM == GENERAL) {  // the shifted value may leave int32
    const int c[4] = {s.c.x, s.c.y, s.c.z, s.c.w}, d[4] = {s.d.x, s.d.y, s.d.z, s.d.w};
    const int low[4] = {s.low.x, s.low.y, s.low.z, s.low.w}, high[4] = {s.high.x, s.high.y, s.high.z, s.high.w};
    for (int i = 0; i < 4; i++) {
      const long long r = aqd_multiply_add(v[i], c[i], low[i], high[i]) >> d[i];
      v[i] = r < LO ? LO : r > HI ? HI : (int)r;
    }
    return;
  }
  aqd_scale<FORM>(v, s);
  for (int i = 0; i < 4; i++) {
    if (AT_LO) v[i] = aqd_largest(v[i], LO);
    if (AT_HI) v[i] = aqd_least(v[i], HI);
  }
}
template <int LO, int STEPS> AQD_DEVICE void aqd_threshold(int (&v)[4], const Row &w) {
  const int4 sign = w.at[0];
  const int x = v[0] * sign.x, y = v[1] * sign.y, z = v[2] * sign.z, u = v[3] * sign.w;
  v[0] = v[1] = v[2] = v[3] = LO;
  for (int k = 0; k < STEPS; k++) {
    const int4 t = w.at[(1 + k) * 16];
    v[0] += x >= t.x; v[1] += y >= t.y; v[2] += z >= t.z; v[3] += u >= t.w;
  }
}
template <int LO, int HI, Form FORM> struct Requantize : Stage {
  enum { WORDS = 4 };
  typedef Scale Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    aqd_requantize<LO, HI, true, true, FORM>(v, w);
  }
};
struct Scales {
  Scale a, b;
  AQD_MEMBER void load(const int4 *at) { a.load(at); b.load(at + 64); }
};
template <int LO, int HI, Form A, Form B> struct RequantizeMax : Stage {
  enum { WORDS = 8 };
  typedef Scales Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    int r[4] = {v[0], v[1], v[2], v[3]};
    aqd_requantize<LO, HI, true, true, A>(v, w.a);
    aqd_requantize<LO, HI, true, true, B>(r, w.b);
    for (int i = 0; i < 4; i++) v[i] = aqd_largest(v[i], r[i]);
  }
};
template <int LO, int STEPS> struct Threshold : Stage {
  enum { WORDS = 1 + STEPS };
  typedef Row Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&v)[4]) {
    aqd_threshold<LO, STEPS>(v, w);
  }
};
// Tables are tensors that the program stores: 256 codes, and the cells of `contract.cells`.
template <class T> struct Lookup : Stage {
  enum { TENSORS = 1 };
  template <int RUN> static AQD_MEMBER void run(const Nothing &, const Asked &, Held<RUN> &, int, void *const *t, const Spot &, int (&v)[4]) {
    for (int i = 0; i < 4; i++) v[i] = ((const T *)t[0])[v[i] & 255];
  }
};
template <int CELLS, int MOST> struct Steps : Stage {
  enum { TENSORS = 1 };
  template <int RUN> static AQD_MEMBER void run(const Nothing &, const Asked &, Held<RUN> &, int, void *const *t, const Spot &, int (&v)[4]) {
    const int *thresholds = (const int *)t[0] + 4, *codes = thresholds + CELLS * MOST;
    const int4 head = *(const int4 *)t[0];  // the clip, the shift, the first cell
    for (int i = 0; i < 4; i++) {
      const int x = aqd_least(aqd_largest(v[i], head.x), head.y), cell = (x >> head.z) - head.w;
      int reached = 0;
      for (int k = 0; k < MOST; k++) reached += x >= thresholds[cell * MOST + k];
      v[i] = codes[cell * (MOST + 1) + reached];
    }
  }
};
// Straight pieces: a search for the one that v lies in, by 2^BITS - 1 thresholds, then its (v·c + B) >> d.
template <int BITS, int COUNT> struct Pieces : Stage {
  enum { TENSORS = 1 };
  template <int RUN> static AQD_MEMBER void run(const Nothing &, const Asked &, Held<RUN> &, int, void *const *t, const Spot &, int (&v)[4]) {
    const int *thresholds = (const int *)t[0], *constants = thresholds + (1 << BITS) - 1;
    for (int i = 0; i < 4; i++) {
      int piece = 0;
      for (int bit = BITS - 1; bit >= 0; bit--) piece += v[i] >= thresholds[piece + (1 << bit) - 1] ? 1 << bit : 0;
      // The largest int32 reaches those behind the last one.
      const int *at = constants + aqd_least(piece, COUNT - 1);
      v[i] = aqd_scaled<GENERAL>(v[i], at[0], at[COUNT], at[2 * COUNT], at[3 * COUNT]);
    }
  }
};

// Stores. Those of bytes hold `RUN` runs of four channels back and write them at once.
struct StoreStream : Stage {
  enum { TENSORS = 1 };
  template <int RUN> static AQD_MEMBER void run(const Nothing &, const Asked &, Held<RUN> &, int, void *const *t, const Spot &s, int (&v)[4]) {
    int *to = (int *)t[0] + (long long)(s.level.out_start + s.m) * s.pitch + s.channel;
    *(int4 *)to = int4{v[0], v[1], v[2], v[3]};
  }
};
struct Bytes : Stage {
  enum { TENSORS = 1 };
  template <int RUN> struct Held { int packed[RUN]; };
  template <int RUN> static AQD_MEMBER void flush(const Held<RUN> &h, void *const *t, const Spot &s) {
    uint8_t *to = (uint8_t *)t[0] + (long long)(s.level.out_start + s.m) * s.pitch + s.channel;
    if (RUN == 4) *(int4 *)to = int4{h.packed[0], h.packed[RUN > 1], h.packed[RUN > 2 ? 2 : 0], h.packed[RUN - 1]};
    else if (RUN == 2) *(int2 *)to = int2{h.packed[0], h.packed[RUN - 1]};
    else *(int *)to = h.packed[0];
  }
};
// What stores codes keeps the values for what stores after it; packing clips at the type's ends.
template <bool SIGNED> struct StoreCodes : Bytes {
  template <int RUN> static AQD_MEMBER void run(const Nothing &, const Asked &, Held<RUN> &h, int q, void *const *, const Spot &, const int (&v)[4]) {
    h.packed[q] = aqd_pack<SIGNED>(v[0], v[1], v[2], v[3]);
  }
};
template <bool SIGNED, int LO, int HI, Form FORM> struct StoreRequantize : Bytes {
  enum { WORDS = 4 };
  typedef Scale Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &h, int q, void *const *, const Spot &, const int (&v)[4]) {
    int r[4] = {v[0], v[1], v[2], v[3]};
    aqd_requantize<LO, HI, (SIGNED ? LO > -128 : LO > 0), (SIGNED ? HI < 127 : HI < 255), FORM>(r, w);
    h.packed[q] = aqd_pack<SIGNED>(r[0], r[1], r[2], r[3]);
  }
};
template <bool SIGNED, int LO, int STEPS> struct StoreThreshold : Bytes {
  enum { WORDS = 1 + STEPS };
  typedef Row Words;
  template <int RUN> static AQD_MEMBER void run(const Words &w, const Asked &, Held<RUN> &h, int q, void *const *, const Spot &, const int (&v)[4]) {
    int r[4] = {v[0], v[1], v[2], v[3]};
    aqd_threshold<LO, STEPS>(r, w);
    h.packed[q] = aqd_pack<SIGNED>(r[0], r[1], r[2], r[3]);
  }
};
// int32 [image][channel][y][x], one address a map: the only operation that writes channels one by one.
template <int LEVELS> struct StoreBorder : Stage {
  enum { TENSORS = LEVELS };
  template <int RUN> static AQD_MEMBER void run(const Nothing &, const Asked &, Held<RUN> &, int, void *const *t, const Spot &s, int (&v)[4]) {
    const int pixels = s.level.oh * s.level.ow, n = s.m / pixels, pixel = s.m - n * pixels;
    int *to = (int *)t[LEVELS == 1 ? 0 : s.which] + ((long long)n * s.channels + s.channel) * pixels + pixel;
    for (int i = 0; i < 4; i++)
      if (s.channel + i < s.channels) to[(long long)i * pixels] = v[i];
  }
};

// The operations in order: how many words and tensors come before each is known to the compiler.
template <class... Ops> struct Chain {
  enum { WORDS = 0, TENSORS = 0, ASKS = 0 };
  struct Asked {};
  template <int RUN> struct Held {};
  AQD_MEMBER void load(const int4 *) {}
  static AQD_MEMBER void ask(Asked &, void *const *, const Spot &) {}
  template <int RUN> AQD_MEMBER void run(const Asked &, Held<RUN> &, int, void *const *, const Spot &, int (&)[4]) const {}
  template <int RUN> static AQD_MEMBER void flush(const Held<RUN> &, void *const *, const Spot &) {}
};
template <class Op, class... Rest> struct Chain<Op, Rest...> {
  typedef Chain<Rest...> After;
  enum { WORDS = (int)Op::WORDS + (int)After::WORDS, TENSORS = (int)Op::TENSORS + (int)After::TENSORS };
  enum { ASKS = (int)Op::ASKS + (int)After::ASKS };
  struct Asked { typename Op::Asked own; typename After::Asked rest; };
  template <int RUN> struct Held { typename Op::template Held<RUN> own; typename After::template Held<RUN> rest; };
  typename Op::Words words;
  After after;
  AQD_MEMBER void load(const int4 *at) { words.load(at); after.load(at + Op::WORDS * 16); }
  static AQD_MEMBER void ask(Asked &a, void *const *t, const Spot &s) {
    Op::ask(a.own, t, s);
    After::ask(a.rest, t + Op::TENSORS, s);
  }
  template <int RUN>
  AQD_MEMBER void run(const Asked &a, Held<RUN> &h, int q, void *const *t, const Spot &s, int (&v)[4]) const {
    Op::template run<RUN>(words, a.own, h.own, q, t, s, v);
    after.template run<RUN>(a.rest, h.rest, q, t + Op::TENSORS, s, v);
  }
  template <int RUN> static AQD_MEMBER void flush(const Held<RUN> &h, void *const *t, const Spot &s) {
    Op::template flush<RUN>(h.own, t, s);
    After::template flush<RUN>(h.rest, t + Op::TENSORS, s);
  }
};
// All of it for four values.
template <class E> AQD_DEVICE void aqd_finish(const void *words, void *const *tensors, const Spot &s, int (&v)[4]) {
  E e;
  typename E::Asked asked;
  typename E::template Held<1> held;
  E::ask(asked, tensors, s);
  e.load(aqd_words(words, E::WORDS, s.which, s.channel, s.pitch));
  e.template run<1>(asked, held, 0, tensors, s, v);
  E::template flush<1>(held, tensors, s);
}
