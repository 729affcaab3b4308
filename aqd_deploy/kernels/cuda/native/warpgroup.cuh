// The instructions of sm_90a that a warpgroup needs: barriers that count bytes, bulk copies, asynchronous products.
#pragma once
#include "device.cuh"
#ifdef __CUDACC__
// Barriers in shared memory, which count arrivals and bytes of a phase.
AQD_DEVICE void aqd_barrier_init(uint64_t *b, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(aqd_shared_address(b)), "r"(count) : "memory");
}
AQD_DEVICE void aqd_barrier_arrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(aqd_shared_address(b)) : "memory");
}
AQD_DEVICE void aqd_barrier_expect(uint64_t *b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(aqd_shared_address(b)), "r"(bytes) : "memory");
}
// Arrives once the copies that this thread asked for have.
AQD_DEVICE void aqd_barrier_arrive_copies(uint64_t *b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(aqd_shared_address(b)) : "memory");
}
AQD_DEVICE void aqd_barrier_wait(uint64_t *b, int parity) {
  asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(
                   aqd_shared_address(b)), "r"(parity) : "memory");
}
AQD_DEVICE void aqd_fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
AQD_DEVICE void aqd_bulk_copy(void *s, const void *g, int bytes, uint64_t *b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   aqd_shared_address(s)), "l"(g), "r"(bytes), "r"(aqd_shared_address(b)) : "memory");
}
template <int N> AQD_DEVICE void aqd_registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> AQD_DEVICE void aqd_registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
AQD_DEVICE void aqd_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
AQD_DEVICE void aqd_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> AQD_DEVICE void aqd_wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// The descriptor of columns at `b`: rows of BK bytes, swizzled.
template <int BK> AQD_DEVICE uint64_t aqd_columns(const void *b) {
  return (uint64_t)((aqd_shared_address(b) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(8 * BK >> 4) << 32 |
         (uint64_t)(BK == 128 ? 1 : 2) << 62;
}
#include "wgmma.cuh"
#endif
