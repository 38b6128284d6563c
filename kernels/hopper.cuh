// Hopper's own instructions, thinly named (PTX ISA 8.0 and later: mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg), and how tensor
// maps are encoded.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "launch.h"

namespace bert::hopper {

// ---- host: tensor maps (CUDA driver API, cuTensorMapEncodeTiled), found in the driver, so that nothing links to it

struct Box {
    const void* data;  // a multiple of 16 bytes
    Type type;
    int rank;
    cuuint64_t sizes[5];  // elements, innermost first
    cuuint64_t strides[4];  // bytes from one to the next, of all dimensions but the innermost; multiples of 16, in any order
    cuuint32_t box[5];  // elements that one copy takes; innermost at most 128 bytes with the swizzle
};

// Swizzled by 128 bytes, what is out of bounds read as zero.
inline CUtensorMap encode(const Box& b, CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
    static const auto function = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result;
        check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
              "cuTensorMapEncodeTiled in the driver");
        if (!found) throw Error("the driver is too old for Hopper's kernels: it has no cuTensorMapEncodeTiled");
        return reinterpret_cast<CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                             const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                             CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill)>(found);
    }();
    CUtensorMap map;
    const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
    const auto type = b.type == Type::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    if (function(&map, type, b.rank, const_cast<void*>(b.data), b.sizes, b.strides, b.box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
                 swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
        throw Error("a tensor that begins at no multiple of 16 bytes, or has rows of none, cannot be read by Hopper's kernels");
    return map;
}

#ifdef __CUDACC__

// ---- barriers of shared memory

__device__ __forceinline__ uint32_t shared(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared(barrier)), "r"(arrivals) : "memory");
}
// After all of a block's barrier_init, before anyone else uses them (and __syncthreads, or a cluster's barrier).
__device__ __forceinline__ void barriers_visible() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared(barrier)) : "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier, int times) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(shared(barrier)), "r"(times) : "memory");
}
// At the barrier at the same place in another block of the cluster.
__device__ __forceinline__ void arrive_at(uint64_t* barrier, uint32_t block) {
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there]; }" ::
            "r"(shared(barrier)), "r"(block)
        : "memory");
}
// The same where what this thread read, not what it wrote, is to be over: without the memory barrier.
__device__ __forceinline__ void release_at(uint64_t* barrier, uint32_t block) {
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(
                     shared(barrier)),
                 "r"(block)
                 : "memory");
}
__device__ __forceinline__ void arrive_expecting(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared(barrier)), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool has_passed(uint64_t* barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared(barrier)), "r"(parity)
                 : "memory");
    return done;
}
// Until the phase of this parity is complete.
__device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity) {
    while (!has_passed(barrier, parity)) {
    }
}

// ---- copies by the tensor memory accelerator; one thread issues them

__device__ __forceinline__ void prefetch(const CUtensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ __forceinline__ void load(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                     shared(to)),
                 "l"(map), "r"(shared(barrier)), "r"(x), "r"(y)
                 : "memory");
}
__device__ __forceinline__ void load(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
                     shared(to)),
                 "l"(map), "r"(shared(barrier)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
// To the same place in every block of the cluster whose bit is set; each one's barrier at that place counts the bytes.
__device__ __forceinline__ void load_multicast(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], "
        "%5;" ::"r"(shared(to)),
        "l"(map), "r"(shared(barrier)), "r"(x), "r"(y), "h"(blocks)
        : "memory");
}
__device__ __forceinline__ void store(const CUtensorMap* map, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared(from)), "r"(x),
                 "r"(y)
                 : "memory");
}
__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int left>
__device__ __forceinline__ void wait_stores_read() {  // shared memory may be written again
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(left) : "memory");
}
// Ordinary writes to shared memory, before the accelerator or wgmma reads them.
__device__ __forceinline__ void writes_visible() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- warpgroups

template <int registers>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
// Barrier `name` (1 to 15; 0 is __syncthreads) of that many threads.
__device__ __forceinline__ void meet(int name, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory"); }

__device__ __forceinline__ uint32_t block_of_cluster() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ---- wgmma's own; the products themselves are where their shapes are known

__device__ __forceinline__ void mma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void mma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int left>
__device__ __forceinline__ void mma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}
// A matrix whose rows of 128 bytes lie swizzled by 128 bytes, K innermost; eight of them are 1,024 bytes. It begins at a multiple of
// 1,024; a step of 16 numbers along K adds 32 bytes.
__device__ __forceinline__ uint64_t matrix(const void* pointer) {
    return uint64_t((shared(pointer) & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(64) << 32 | uint64_t(1) << 62;
}

#endif

}  // namespace bert::hopper
