// How a batch lies, worked out by one block before anything else runs. Costs of tiles fall into 32 classes; tiles are put in
// order of their class by counting, so that what takes longest begins first.
#include <algorithm>

#include "launch.h"
#include "parts.h"

namespace bert {
namespace {

constexpr int CLASSES = 32, MOST_THREADS = 1024;

__device__ __forceinline__ int warp_inclusive_sum(int x) {
    for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(~0u, x, offset);
        if (threadIdx.x % 32 >= offset) x += other;
    }
    return x;
}

// Calls f(sequence, first query, class), of all lanes together, for the tiles of a warp's sequences, always in the same order;
// the class is CLASSES where a lane has no tile.
template <typename F>
__device__ __forceinline__ void for_tiles(const int32_t* cu_seqlens, int sequences, int longest, F&& f) {
    const int most = min(longest, ATTENTION_ROWS) * longest;
    const float classes_of_cost = CLASSES / float(most);
    for (int base = threadIdx.x / 32 * 32; base < sequences; base += blockDim.x) {
        const int i = base + threadIdx.x % 32;
        const int length = i < sequences ? cu_seqlens[i + 1] - cu_seqlens[i] : 0;
        for (int first = 0; first < longest; first += ATTENTION_ROWS) {
            const int cost = min(length - first, ATTENTION_ROWS) * length;
            const int its_class = min(int((most - cost) * classes_of_cost), CLASSES - 1);
            f(i, first, first < length ? its_class : CLASSES);
        }
    }
}

__global__ void __launch_bounds__(MOST_THREADS)
    make_plan_kernel(const int32_t* cu_seqlens, int max_position_embeddings, Plan plan, int32_t* status) {
    // A counter a class and warp, those of a class side by side: as many as threads. First of tiles, then where the next one
    // goes.
    __shared__ int counters[MOST_THREADS];
    __shared__ int of_warp[32], of_warp_too[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;

    // Whatever was enqueued before this run is done when the next kernel begins: it may read its ids and write its memory.
    await_previous();
    release_next();

    bool wrong = false;
    int longest = 0;
    for (int i = threadIdx.x; i < plan.sequences; i += blockDim.x) {
        const int begin = cu_seqlens[i], end = cu_seqlens[i + 1];
        const long long length = static_cast<long long>(end) - begin;
        wrong |= length < 1 || length > max_position_embeddings || (i == 0 && begin != 0) || end > plan.max_tokens;
        longest = max(longest, wrong ? 0 : int(length));
        plan.cu_seqlens[i] = begin;
        if (i == plan.sequences - 1) plan.cu_seqlens[i + 1] = end;
    }
    longest = __reduce_max_sync(~0u, longest);
    if (lane == 0) of_warp[warp] = longest;
    counters[threadIdx.x] = 0;
    if (__syncthreads_or(wrong)) {
        for (int i = threadIdx.x; i <= plan.sequences; i += blockDim.x) plan.cu_seqlens[i] = 0;
        if (threadIdx.x == 0) *plan.tokens = *plan.tiles = 0, *status = status_cu_seqlens;
        return;
    }
    longest = __reduce_max_sync(~0u, lane < warps ? of_warp[lane] : 0);

    for_tiles(plan.cu_seqlens, plan.sequences, longest, [&](int, int, int its_class) {
        if (its_class < CLASSES) atomicAdd(&counters[its_class * warps + warp], 1);
    });
    __syncthreads();
    const int count = counters[threadIdx.x];
    int before = warp_inclusive_sum(count);
    if (lane == 31) of_warp_too[warp] = before;
    __syncthreads();
    const int whole_warps = warp_inclusive_sum(lane < warps ? of_warp_too[lane] : 0);
    before += warp ? __shfl_sync(~0u, whole_warps, warp - 1) : 0;
    counters[threadIdx.x] = before - count;
    if (threadIdx.x == blockDim.x - 1) *plan.tokens = plan.cu_seqlens[plan.sequences], *plan.tiles = before, *status = status_ok;
    __syncthreads();

    for_tiles(plan.cu_seqlens, plan.sequences, longest, [&](int sequence, int first, int its_class) {
        const unsigned peers = __match_any_sync(~0u, its_class);
        const int rank = __popc(peers & ((1u << lane) - 1));
        int* counter = &counters[min(its_class, CLASSES - 1) * warps + warp];
        const int at = *counter + rank;
        __syncwarp();
        if (its_class < CLASSES) {
            if (rank == 0) *counter += __popc(peers);
            plan.tile[at] = {sequence, first};
        }
        __syncwarp();
    });
}

std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }
std::size_t bytes_of_bounds(int sequences) { return rounded((std::size_t(sequences) + 1) * sizeof(int32_t)); }
int most_tiles(int max_tokens, int sequences) { return max_tokens / ATTENTION_ROWS + sequences; }

}  // namespace

std::size_t plan_bytes(int max_tokens, int sequences) {
    return 256 + bytes_of_bounds(sequences) + rounded(most_tiles(max_tokens, sequences) * sizeof(Tile));
}

Plan place_plan(void* memory, int max_tokens, int sequences) {
    auto* bytes = static_cast<unsigned char*>(memory);
    auto* counts = reinterpret_cast<int32_t*>(bytes);
    auto* bounds = reinterpret_cast<int32_t*>(bytes + 256);
    auto* tile = reinterpret_cast<Tile*>(bytes + 256 + bytes_of_bounds(sequences));
    return {counts, counts + 1, bounds, tile, max_tokens, most_tiles(max_tokens, sequences), sequences};
}

void make_plan(cudaStream_t stream, const Batch& batch, const Sizes& sizes, const Plan& plan, int32_t* status) {
    const unsigned threads = std::min((plan.sequences + 31) / 32 * 32, MOST_THREADS);
    launch(stream, {1, threads}, make_plan_kernel, batch.cu_seqlens, sizes.max_position_embeddings, plan, status);
}

}  // namespace bert
