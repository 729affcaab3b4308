// The instructions that the kernels use, by name: inline PTX for CUDA's compilers, emulation.h for one of a CPU.
#pragma once
#ifdef __CUDACC__
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif
#define AQD_GLOBAL extern "C" __global__
#define AQD_DEVICE __device__ __forceinline__
#define AQD_MEMBER __device__ __forceinline__
#define AQD_PARAM const __grid_constant__
#define AQD_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

AQD_DEVICE uint32_t aqd_shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
// Four 8x8 matrices of 16 bits: lane l names row l % 8 of matrix l / 8 and gets word l % 4 of row l / 4 of each.
AQD_DEVICE void aqd_load_matrices(int *r, const void *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(aqd_shared_address(p)) : "memory");
}
// c += a·b, 16 rows by 8 columns by 32 bytes: lane (g, t) = (l / 4, l % 4) holds of a the rows g and g + 8, bytes
// 4t.. and 16 + 4t..; of b column g, the same bytes; of c the columns 2t and 2t + 1 of both rows.
template <bool SIGNED> AQD_DEVICE void aqd_multiply_matrices(int *c, const int *a, const int *b) {
  if (SIGNED)
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same of 64 numbers of 4 bits, of a with a sign or without, two in each byte.
template <bool SIGNED> AQD_DEVICE void aqd_multiply_halves(int *c, const int *a, const int *b) {
  if (SIGNED)
    asm("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k64.row.col.s32.u4.s4.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// 16 bytes to shared memory, `bytes` of them from memory and zeros behind, some time before a wait for their group.
AQD_DEVICE void aqd_copy_async(void *s, const void *g, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(aqd_shared_address(s)), "l"(g), "r"(bytes));
}
AQD_DEVICE void aqd_copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> AQD_DEVICE void aqd_copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
// Bits d … d + 31 of v, 0 <= d < 32.
AQD_DEVICE int aqd_shift_wide(long long v, int d) {
  return (int)__funnelshift_r((uint32_t)v, (uint32_t)((uint64_t)v >> 32), d);
}
// v·c + B in 64 bits. Written in C, the extension of v is moved above the main loop, where it doubles the accumulators.
AQD_DEVICE long long aqd_multiply_add(int v, int c, int low, int high) {
  long long r;
  asm("{\n\t.reg .b64 b;\n\tmov.b64 b, {%3, %4};\n\tmad.wide.s32 %0, %1, %2, b;\n\t}"
      : "=l"(r) : "r"(v), "r"(c), "r"(low), "r"(high));
  return r;
}
// Four bytes, each the value clipped to 0..255 or -128..127.
template <bool SIGNED> AQD_DEVICE int aqd_pack(int a, int b, int c, int d) {
  int r;
  if (SIGNED)
    asm("cvt.pack.sat.s8.s32.b32 %0, %4, %3, 0;\n\tcvt.pack.sat.s8.s32.b32 %0, %2, %1, %0;"
        : "=&r"(r) : "r"(a), "r"(b), "r"(c), "r"(d));
  else
    asm("cvt.pack.sat.u8.s32.b32 %0, %4, %3, 0;\n\tcvt.pack.sat.u8.s32.b32 %0, %2, %1, %0;"
        : "=&r"(r) : "r"(a), "r"(b), "r"(c), "r"(d));
  return r;
}
// sum + the four bytes of a word; the sum over four neighbouring lanes.
template <bool SIGNED> AQD_DEVICE int aqd_add_bytes(int word, int sum) {
  return SIGNED ? __dp4a(word, 0x01010101, sum) : (int)__dp4a((uint32_t)word, 0x01010101u, (uint32_t)sum);
}
AQD_DEVICE int aqd_add_lanes(int v) {
  v += __shfl_xor_sync(0xffffffff, v, 1);
  return v + __shfl_xor_sync(0xffffffff, v, 2);
}
// The larger of each byte.
template <bool SIGNED> AQD_DEVICE int aqd_largest_bytes(int a, int b) { return SIGNED ? __vmaxs4(a, b) : __vmaxu4(a, b); }
// A meeting of the first `THREADS` threads of a block, whole warps.
template <int THREADS> AQD_DEVICE void aqd_meet_first() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }
AQD_DEVICE int aqd_load_fresh(const int *p) { return __ldcg(p); }
#else
#include "emulation.h"
#endif

// Four bytes of two numbers of 4 bits each, from four bytes that hold one.
template <bool SIGNED> AQD_DEVICE int aqd_join_halves(int low, int high) {
  return SIGNED ? (low & 0x0f0f0f0f) | (high << 4 & 0xf0f0f0f0) : low + (high << 4);
}
AQD_DEVICE int aqd_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
AQD_DEVICE int aqd_least(int a, int b) { return a < b ? a : b; }
AQD_DEVICE int aqd_largest(int a, int b) { return a > b ? a : b; }
