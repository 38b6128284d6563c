#include "padding.h"

#include "launch.h"

namespace bert {
namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;

std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

// A block a sequence. Each counts the tokens of all before its own, since to wait for one another would take longer: B² · S / 2 numbers
// are read from L2, 13 MB of 128 × 384.
__global__ void __launch_bounds__(THREADS) pack_kernel(PaddedBatch batch, int32_t* ids, int32_t* segments, int32_t* cu_seqlens) {
    __shared__ int before_of[WARPS], own;
    const int sequence = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    release_next();
    await_previous();

    int before = 0;
    bool gap = false;
    for (int row = warp; row <= sequence; row += WARPS) {
        const int32_t* mask = batch.mask + std::size_t(row) * batch.length;
        int count = 0, end = 0;
#pragma unroll 4
        for (int i = lane; i < batch.length; i += 32)
            if (mask[i]) count++, end = i + 1;
        count = __reduce_add_sync(~0u, count);
        end = __reduce_max_sync(~0u, end);
        gap |= count != end;
        count = max(count, 1);
        if (row < sequence) {
            before += count;
        } else if (lane == 0) {
            own = count;
        }
    }
    if (lane == 0) before_of[warp] = before;
    gap = __syncthreads_or(gap);
    before = 0;
    for (int i = 0; i < WARPS; i++) before += before_of[i];

    if (threadIdx.x == 0) {
        if (sequence == 0) cu_seqlens[0] = 0;
        cu_seqlens[sequence + 1] = gap ? -1 : before + own;
    }
    const std::size_t from = std::size_t(sequence) * batch.length;
    for (int i = threadIdx.x; i < own; i += THREADS) {
        ids[before + i] = batch.ids[from + i];
        segments[before + i] = batch.segments[from + i];
    }
}

// Blocks along y for the numbers of a sequence, along x for sequences.
__global__ void __launch_bounds__(THREADS)
    unpack_kernel(Outputs outputs, const int32_t* cu_seqlens, int length, int width, float* padded) {
    release_next();
    await_previous();
    const int sequence = blockIdx.x, i = blockIdx.y * THREADS + threadIdx.x;
    if (i >= length * width) return;
    float value = __int_as_float(0x7fffffff);
    if (*outputs.status == status_ok) {
        const int begin = cu_seqlens[sequence], tokens = cu_seqlens[sequence + 1] - begin;
        value = i < tokens * width ? outputs.logits[std::size_t(begin) * width + i] : 0;
    }
    padded[std::size_t(sequence) * length * width + i] = value;
}

__global__ void __launch_bounds__(THREADS) transpose_kernel(Outputs outputs, const int32_t* tokens, int max_tokens, int width, float* planes) {
    release_next();
    await_previous();
    const int token = blockIdx.x * THREADS + threadIdx.x;
    if (token >= max_tokens) return;
    const bool there = *outputs.status != status_ok || token < *tokens;  // else nobody wrote any
    for (int i = 0; i < width; i++)
        planes[std::size_t(i) * max_tokens + token] = there ? outputs.logits[std::size_t(token) * width + i] : 0;
}

unsigned blocks_of(long long threads) { return unsigned((threads + THREADS - 1) / THREADS); }

}  // namespace

std::size_t packed_bytes(int sequences, int length) {
    const std::size_t tokens = std::size_t(sequences) * length;
    return 2 * rounded(tokens * sizeof(int32_t)) + rounded((std::size_t(sequences) + 1) * sizeof(int32_t));
}

Batch pack(cudaStream_t stream, const PaddedBatch& batch, void* memory) {
    const int tokens = batch.sequences * batch.length;
    auto* bytes = static_cast<unsigned char*>(memory);
    auto* ids = reinterpret_cast<int32_t*>(bytes);
    auto* segments = reinterpret_cast<int32_t*>(bytes + rounded(tokens * sizeof(int32_t)));
    auto* cu_seqlens = reinterpret_cast<int32_t*>(bytes + 2 * rounded(tokens * sizeof(int32_t)));
    launch(stream, {unsigned(batch.sequences), THREADS}, pack_kernel, batch, ids, segments, cu_seqlens);
    return {ids, segments, cu_seqlens, tokens, batch.sequences};
}

void unpack(cudaStream_t stream, const Outputs& outputs, const Batch& batch, int length, int width, float* padded) {
    const dim3 blocks(unsigned(batch.sequences), blocks_of(1ll * length * width));
    launch(stream, {blocks, THREADS}, unpack_kernel, outputs, batch.cu_seqlens, length, width, padded);
}

void transpose(cudaStream_t stream, const Outputs& outputs, const Batch& batch, int width, float* planes) {
    launch(stream, {blocks_of(batch.max_tokens), THREADS}, transpose_kernel, outputs, batch.cu_seqlens + batch.sequences,
           batch.max_tokens, width, planes);
}

}  // namespace bert
