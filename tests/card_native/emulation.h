// A thread block on a CPU: threads are fibers, a warp's instructions meet their lanes, copies stay asynchronous.
//
// emulate(grid, threads, shared bytes, kernel) runs the kernel's source as it is. Two settings make races show:
//  - order: in which order the threads of a block run between two meetings (0 forward, 1 backward, n > 1 shuffled);
//  - late: whether an asynchronous copy writes when it is issued or only when a wait demands it.
// A missing barrier, wait or lane then changes integers in at least one of the settings, or ends in "stuck".
//
// With -fsanitize=thread every thread of every block is a thread to ThreadSanitizer, which orders two of them where the
// card does and nowhere else: barriers, waits, fences, the end of a launch (`races.h`).
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define AQD_GLOBAL
#define AQD_DEVICE static inline
#define AQD_MEMBER inline
#define AQD_PARAM const
#define AQD_SHARED(name) unsigned char *name = aqd::block->shared
#define __launch_bounds__(...)
#define __syncthreads() aqd::meet(aqd::block->all)

#include "races.h"

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) int2 { int x, y; };

namespace aqd {
struct Meeting { int size = 0, arrived = 0; long round = 0; bool orders = true; char places[2]; };  // threads that wait for each other
struct Copy { void *to; const void *from; int bytes, filled; };
struct Thread {
  ucontext_t context;
  Fiber fiber;
  std::vector<char> stack;
  int index = 0;
  bool done = false;
  Meeting *waits = nullptr;
  struct Barrier *barrier = nullptr;
  int parity = 0;
  long round = 0, exchanges = 0;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
  std::vector<std::vector<std::function<void()>>> products;  // wgmma groups, the last one still open
};
struct Barrier { int16_t pending, count; int bytes : 31; unsigned phase : 1; };  // an mbarrier, in its 8 bytes
struct Block {
  unsigned char *shared;
  Meeting all, first;
  std::vector<Meeting> warps, products;
  std::vector<std::function<void()>> pending;  // late: what happens only once no thread can go on
  std::vector<unsigned char> lanes;  // what lanes show each other: [warp][parity][lane][32 bytes]
};
struct Settings { int order = 0; bool late = false; };

inline Block *block;
inline Thread *self;
inline Settings settings;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline dim3 thread_index, block_index, block_dim, grid_dim;

inline void leave() {  // until the thread is ready again
  Fiber::to_scheduler();
  swapcontext(&self->context, &scheduler);
}
inline void meet(Meeting &m) {
  char *place = &m.places[m.round % 2];  // nobody is two rounds ahead
  if (m.orders) happens_before(place);
  bool last;
  {
    Quiet quiet;
    self->round = m.round;
    last = ++m.arrived == m.size;
    if (last) { m.arrived = 0; m.round++; } else self->waits = &m;
  }
  if (!last) leave();
  if (m.orders) happens_after(place);
}
// What the other lanes hold: every lane shows `bytes` of `mine`; the result is the warp's 32 entries of 32 bytes.
inline const unsigned char *exchange(const void *mine, int bytes) {
  Quiet::begin();
  int warp = self->index / 32, lane = self->index % 32, parity = self->exchanges++ % 2;
  Quiet::end();
  unsigned char *all = &block->lanes[(warp * 2 + parity) * 1024];
  {
    Quiet quiet;
    memcpy(all + lane * 32, mine, bytes);
  }
  meet(block->warps[warp]);
  return all;
}
inline void copy(const Copy &c) { memcpy(c.to, c.from, c.filled); memset((char *)c.to + c.filled, 0, c.bytes - c.filled); }
AQD_UNWATCHED inline void enter() {  // what is entered and never left would fill ThreadSanitizer's stack
  happens_after(&scheduler);
  body();
  happens_before(&body);
  self->done = true;
  Fiber::to_scheduler();
  swapcontext(&self->context, &scheduler);
}
inline bool ready(const Thread &t) {
  return !t.done && (!t.waits || t.waits->round != t.round) && (!t.barrier || (int)t.barrier->phase != t.parity);
}
inline void turn(Barrier &b) {  // to the next phase once nothing is outstanding
  if (b.pending == 0 && b.bytes == 0) { b.phase ^= 1; b.pending = b.count; }
}

inline bool run_block(int threads, size_t shared_bytes) {
  Quiet quiet;
  std::vector<uint64_t> memory(shared_bytes / 8 + 130, 0xCDCDCDCDCDCDCDCDull);
  // Not on the stack: what orders the threads of a block must not lie where it lay for the block before.
  const auto owned = std::make_unique<Block>();
  Block &b = *owned;
  b.shared = (unsigned char *)(((uintptr_t)memory.data() + 1023) & ~(uintptr_t)1023);
  b.all.size = threads;
  b.warps.resize((threads + 31) / 32);
  b.products.resize(b.warps.size());
  for (size_t i = 0; i < b.warps.size(); i++) {
    b.products[i].size = b.warps[i].size = std::min(32, threads - 32 * (int)i);
    b.warps[i].orders = false;  // lanes exchange registers; of memory that says nothing
  }
  b.lanes.resize(b.warps.size() * 2048);
  block = &b;
  static std::vector<Thread> sets[Fiber::SETS];
  static int turn = 0;
  std::vector<Thread> &all = sets[turn++ % Fiber::SETS];
  if ((int)all.size() < threads) all.resize(threads);
  std::vector<int> order(threads);
  for (int i = 0; i < threads; i++) order[i] = settings.order == 1 ? threads - 1 - i : i;
  if (settings.order > 1) std::shuffle(order.begin(), order.end(), std::mt19937(settings.order));
  for (int i = 0; i < threads; i++) {
    Thread &t = all[i];
    t.stack.resize(Fiber::STACK);
    t.fiber.begin();
    t.index = i; t.done = false; t.waits = nullptr; t.exchanges = 0; t.groups.clear(); t.open.clear(); t.products.assign(1, {}); t.barrier = nullptr;
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.data();
    t.context.uc_stack.ss_size = t.stack.size();
    t.context.uc_link = nullptr;
    makecontext(&t.context, enter, 0);
  }
  for (int left = threads; left;) {
    bool moved = false;
    for (int i : order) {
      Thread &t = all[i];
      if (!ready(t)) continue;
      t.waits = nullptr;
      t.barrier = nullptr;
      self = &t;
      thread_index.x = i;
      t.fiber.go();
      swapcontext(&scheduler, &t.context);
      moved = true;
      left -= t.done;
    }
    if (!moved && !b.pending.empty()) {
      auto happens = std::move(b.pending.front());
      b.pending.erase(b.pending.begin());
      happens();
      continue;
    }
    if (!moved) { fprintf(stderr, "stuck: a barrier that not all threads reach\n"); return false; }
  }
  return true;
}
inline bool emulate(dim3 grid, int threads, size_t shared_bytes, std::function<void()> kernel) {
  Quiet quiet;
  body = std::move(kernel);
  happens_before(&scheduler);
  grid_dim = grid;
  block_dim.x = threads;
  for (block_index.z = 0; block_index.z < grid.z; block_index.z++)
    for (block_index.y = 0; block_index.y < grid.y; block_index.y++)
      for (block_index.x = 0; block_index.x < grid.x; block_index.x++)
        if (!run_block(threads, shared_bytes)) return false;
  happens_after(&body);
  return true;
}
}  // namespace aqd

#define threadIdx aqd::thread_index
#define blockIdx aqd::block_index
#define blockDim aqd::block_dim
#define gridDim aqd::grid_dim

AQD_DEVICE void aqd_copy_async(void *s, const void *g, int bytes) {
  aqd::Copy c{s, g, 16, bytes};
  if (!aqd::settings.late) return aqd::copy(c);
  aqd::Quiet quiet;
  aqd::self->open.push_back(c);
}
AQD_DEVICE void aqd_copies_commit() { aqd::Quiet quiet; aqd::self->groups.push_back(std::move(aqd::self->open)); aqd::self->open.clear(); }
template <int N> AQD_DEVICE void aqd_copies_wait() {
  auto &groups = aqd::self->groups;
  while ((int)groups.size() > N) {
    for (const auto &c : groups.front()) aqd::copy(c);
    aqd::Quiet quiet;
    groups.erase(groups.begin());
  }
}
AQD_DEVICE void aqd_load_matrices(int *r, const void *p) {
  const unsigned char *all = aqd::exchange(&p, sizeof p);
  int lane = aqd::self->index % 32;
  for (int i = 0; i < 4; i++) {
    const unsigned char *row;
    memcpy(&row, all + (8 * i + lane / 4) * 32, sizeof row);
    memcpy(&r[i], row + lane % 4 * 4, 4);
  }
}
template <class A> static inline int aqd_dot(const A *a, const int8_t *b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
}
template <bool SIGNED> AQD_DEVICE void aqd_multiply_matrices(int *c, const int *a, const int *b) {
  int mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char *all = aqd::exchange(mine, sizeof mine);
  int lane = aqd::self->index % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; i++)
    for (int half = 0; half < 2; half++)
      for (int q = 0; q < 4; q++) {
        const unsigned char *x = all + (g * 4 + q) * 32 + (half * 2 + i / 2) * 4;
        const int8_t *w = (const int8_t *)all + ((2 * t + i % 2) * 4 + q) * 32 + (4 + half) * 4;
        c[i] += SIGNED ? aqd_dot((const int8_t *)x, w) : aqd_dot(x, w);
      }
}
template <bool SIGNED> AQD_DEVICE void aqd_multiply_halves(int *c, const int *a, const int *b) {
  int mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char *all = aqd::exchange(mine, sizeof mine);
  int lane = aqd::self->index % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; i++)
    for (int half = 0; half < 2; half++)
      for (int k = 0; k < 32; k++) {
        const unsigned char x = all[(g * 4 + k / 8) * 32 + (half * 2 + i / 2) * 4 + k % 8 / 2] >> k % 2 * 4 & 15;
        const int w = (all[((2 * t + i % 2) * 4 + k / 8) * 32 + (4 + half) * 4 + k % 8 / 2] >> k % 2 * 4 & 15) ^ 8;
        c[i] += (SIGNED ? (x ^ 8) - 8 : x) * (w - 8);
      }
}
AQD_DEVICE int aqd_shift_wide(long long v, int d) { return (int)(v >> d); }
AQD_DEVICE long long aqd_multiply_add(int v, int c, int low, int high) {
  return (long long)v * c + (long long)((uint64_t)(uint32_t)high << 32 | (uint32_t)low);
}
template <bool SIGNED> AQD_DEVICE int aqd_pack(int a, int b, int c, int d) {
  const int v[4] = {a, b, c, d}, lo = SIGNED ? -128 : 0, hi = SIGNED ? 127 : 255;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) r |= (uint32_t)(uint8_t)std::min(std::max(v[i], lo), hi) << 8 * i;
  return (int)r;
}
template <bool SIGNED> AQD_DEVICE int aqd_add_bytes(int word, int sum) {
  for (int i = 0; i < 4; i++) sum += SIGNED ? (int)(int8_t)(word >> 8 * i) : word >> 8 * i & 255;
  return sum;
}
AQD_DEVICE int aqd_add_lanes(int v) {
  const unsigned char *all = aqd::exchange(&v, sizeof v);
  int sum = 0, first = aqd::self->index % 32 / 4 * 4;
  for (int i = 0; i < 4; i++) sum += *(const int *)(all + (first + i) * 32);
  return sum;
}
template <bool SIGNED> AQD_DEVICE int aqd_largest_bytes(int a, int b) {
  for (int i = 0; i < 4; i++) {
    const unsigned char x = ((unsigned char *)&a)[i], y = ((unsigned char *)&b)[i];
    ((unsigned char *)&a)[i] = (SIGNED ? (int8_t)x > (int8_t)y : x > y) ? x : y;
  }
  return a;
}
template <int THREADS> AQD_DEVICE void aqd_meet_first() {
  {
    aqd::Quiet quiet;
    aqd::block->first.size = THREADS;
  }
  aqd::meet(aqd::block->first);
}
AQD_DEVICE int aqd_load_fresh(const int *p) { return *p; }
AQD_DEVICE int atomicAdd(int *p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
AQD_DEVICE int atomicExch(int *p, int v) { return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); }
AQD_DEVICE void __threadfence() { static char place; aqd::happens_before(&place); aqd::happens_after(&place); }

// Barriers in shared memory. Late: copies and their arrivals happen when no thread can go on without them.
AQD_DEVICE aqd::Barrier &aqd_as_barrier(uint64_t *b) { return *(aqd::Barrier *)b; }
AQD_DEVICE void aqd_barrier_init(uint64_t *b, int count) { aqd::Quiet quiet; aqd_as_barrier(b) = {(int16_t)count, (int16_t)count, 0, 0}; }
// What is before an arrival is before the end of the phase that it counts for.
AQD_DEVICE void aqd_barrier_counts(uint64_t *b) { aqd::Quiet quiet; aqd::happens_before((char *)b + 4 * aqd_as_barrier(b).phase); }
AQD_DEVICE void aqd_barrier_arrive(uint64_t *b) {
  aqd_barrier_counts(b);
  aqd::Quiet quiet;
  aqd_as_barrier(b).pending--;
  aqd::turn(aqd_as_barrier(b));
}
AQD_DEVICE void aqd_barrier_expect(uint64_t *b, int bytes) {
  {
    aqd::Quiet quiet;
    aqd_as_barrier(b).bytes += bytes;
  }
  aqd_barrier_arrive(b);
}
AQD_DEVICE void aqd_happen(std::function<void()> f) {
  if (!aqd::settings.late) return f();
  aqd::Quiet quiet;
  aqd::block->pending.push_back(aqd::Fiber::engine(std::move(f)));
}
AQD_DEVICE void aqd_barrier_arrive_copies(uint64_t *b) {
  aqd_happen([b, copies = std::move(aqd::self->open)] { for (const auto &c : copies) aqd::copy(c); aqd_barrier_arrive(b); });
  aqd::Quiet quiet;
  aqd::self->open.clear();
}
AQD_DEVICE void aqd_bulk_copy(void *s, const void *g, int bytes, uint64_t *b) {
  aqd_happen([=] {
    memcpy(s, g, bytes);
    aqd_barrier_counts(b);
    aqd::Quiet quiet;
    aqd_as_barrier(b).bytes -= bytes;
    aqd::turn(aqd_as_barrier(b));
  });
}
AQD_DEVICE void aqd_barrier_wait(uint64_t *b, int parity) {
  aqd::Quiet::begin();
  const bool waits = (int)aqd_as_barrier(b).phase == parity;
  if (waits) { aqd::self->barrier = &aqd_as_barrier(b); aqd::self->parity = parity; }
  aqd::Quiet::end();
  if (waits) aqd::leave();
  aqd::happens_after((char *)b + 4 * parity);
}
AQD_DEVICE void aqd_fence_barriers() {}
template <int N> AQD_DEVICE void aqd_registers_less() {}
template <int N> AQD_DEVICE void aqd_registers_more() {}
// wgmma m64nNk32 with rows in registers (a warp has 16 of them, as for mma) and swizzled columns in shared memory.
template <int BK> AQD_DEVICE uint64_t aqd_columns(const void *b) {
  return (uint64_t)((unsigned char *)b - aqd::block->shared) / 16 | (uint64_t)BK << 32;
}
AQD_DEVICE void aqd_wgmma_fence() {}
AQD_DEVICE void aqd_wgmma_commit() { aqd::Quiet quiet; aqd::self->products.emplace_back(); }
template <int N> AQD_DEVICE void aqd_wgmma_wait() {
  auto &groups = aqd::self->products;
  while ((int)groups.size() > N + 1) {
    for (auto &f : groups.front()) f();
    aqd::Quiet quiet;
    groups.erase(groups.begin());
  }
  // Products are the warp's: none is done before all lanes have read what they multiply.
  if (aqd::Fiber::WATCHED) aqd::meet(aqd::block->products[aqd::self->index / 32]);
}
template <bool SIGNED, int NT> AQD_DEVICE void aqd_wgmma(int (&c)[NT][4], const int *a, uint64_t b) {
  const unsigned char *all = aqd::exchange(a, 16);
  int lane = aqd::self->index % 32, g = lane / 4, t = lane % 4, bk = (int)(b >> 32);
  std::vector<uint8_t> x(64);  // rows g and g + 8
  for (int i = 0; i < 4; i++)
    for (int q = 0; q < 4; q++) memcpy(&x[i % 2 * 32 + i / 2 * 16 + q * 4], all + (g * 4 + q) * 32 + i * 4, 4);
  auto product = [&c, x, b, bk, t, shared = aqd::block->shared] {
    for (int j = 0; j < NT; j++)
      for (int col = 0; col < 2; col++)
        for (int k = 0; k < 32; k++) {
          size_t at = (uint32_t)b * 16 + (8 * j + 2 * t + col) * bk + k;
          at ^= (at >> 7 & (bk / 16 - 1)) << 4;
          const int w = (int8_t)shared[at];
          c[j][col] += (SIGNED ? (int)(int8_t)x[k] : (int)x[k]) * w;
          c[j][2 + col] += (SIGNED ? (int)(int8_t)x[32 + k] : (int)x[32 + k]) * w;
        }
  };
  if (!aqd::settings.late) return product();
  aqd::Quiet quiet;
  aqd::self->products.back().push_back(product);
}
