// A linear layer of few rows on Hopper. What takes time is the weights' way from memory and what kernels wait for each other, so:
//
// - A block keeps a slice of the weights, [columns, k / cluster], in shared memory, fetches it before it waits for the previous
//   kernel, and lets all rows pass by it: 64 rows at a time for each of two warpgroups. About as many blocks as multiprocessors.
// - The blocks of a cluster share the columns and split k. Each sums up its own part of the columns: the others write theirs into its
//   shared memory (st.async), where a barrier counts the bytes; it adds them in order of the blocks, so that a result is the same
//   from run to run.
// - Two kernels fit a multiprocessor together, so the next one's weights arrive while this one computes.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <type_traits>

#include "hopper.cuh"
#include "numbers.cuh"
#include "product.h"

#ifndef MARK
#define MARK(i)
#endif

namespace bert {
namespace {

using namespace hopper;

constexpr int ROWS = 64, CHUNK = 64;  // a warpgroup's rows at a time; the numbers along k that one copy takes: 128 bytes
constexpr int X_BYTES = ROWS * CHUNK * 2;
constexpr int CONSUMERS = 256, THREADS = CONSUMERS + 32;  // two warpgroups multiply, one warp copies
constexpr int MOST_SLOTS = 16;

// Layer norms folded into products. Where `sums` is there, x [T, k] still has to be put through one: then weight is gamma · W, bias is
// W · beta + b, sums [n] are those of weight's rows, and
//     norm(x) · Wᵀ + b = (x · weightᵀ - mean · sums) / deviation + bias.
// Where residual_statistics is there, it is the residual that has to be put through one.
struct Folded {
    const float* sums = nullptr;
    float eps = 0;
    float2* statistics = nullptr;  // [T], written: x's mean and 1 / deviation
    const float2* residual_statistics = nullptr;
    const float* residual_gamma = nullptr;
    const float* residual_beta = nullptr;
};

struct Few {
    const float* bias;
    const void* residual;
    void* out;
    const int32_t* tokens;
    int max_tokens, n, k;
    Activation activation;
    int weight_slots, x_slots;  // of each ring; x has one for each warpgroup
    int release, prefetch;
    Folded folded;
};

struct Barriers {
    uint64_t weight_full[MOST_SLOTS], weight_empty[MOST_SLOTS];
    uint64_t x_full[2][MOST_SLOTS], x_empty[2][MOST_SLOTS];
    uint64_t arrived[2];  // the other blocks' sums, for each warpgroup
    uint64_t taken[2];  // this block's sums, by all the others: they may be written over
    float bias[128], sums[128], gamma[128], beta[128];
};
constexpr int HEADER = 3072;
static_assert(sizeof(Barriers) <= HEADER);

template <int columns, int cluster>
constexpr int sums_bytes() {  // that a block receives
    return 2 * (cluster - 1) * ROWS * (columns / cluster * 4 + 8);
}

struct Ring {
    int slot = 0;
    uint32_t parity = 0;
    __device__ void next(int slots) {
        if (++slot == slots) slot = 0, parity ^= 1;
    }
};

// d [64, columns] += a [64, 16] · b [columns, 16]ᵀ, both in shared memory (PTX ISA, wgmma.mma_async); d[4i + j] of a thread is row
// 16 · warp + lane / 4 + 8 · (j / 2), column 8i + 2 · (lane % 4) + j % 2.
#define D4(i) "+f"(d[4 * i]), "+f"(d[4 * i + 1]), "+f"(d[4 * i + 2]), "+f"(d[4 * i + 3])
#define WGMMA(N, TYPE, REGISTERS, A, B, ...)                                                                                      \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" REGISTERS "}, " A ", " B ", 1, 1, 1, 0, 0;" \
                 : __VA_ARGS__                                                                                                    \
                 : "l"(a), "l"(b))
#define R16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define R24 R16 ", %8, %9, %10, %11"
#define R32 R24 ", %12, %13, %14, %15"
#define R48 R32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define R64 R48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define R72 R64 ", %32, %33, %34, %35"
#define R96 R72 ", %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define R128 R96 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define O16 D4(0), D4(1)
#define O24 O16, D4(2)
#define O32 O24, D4(3)
#define O48 O32, D4(4), D4(5)
#define O64 O48, D4(6), D4(7)
#define O72 O64, D4(8)
#define O96 O72, D4(9), D4(10), D4(11)
#define O128 O96, D4(12), D4(13), D4(14), D4(15)
#define EITHER(N, A, B)                            \
    if constexpr (columns == N) {                  \
        if constexpr (std::is_same_v<T, __half>)   \
            WGMMA(N, "f16", R##N, A, B, O##N);     \
        else                                       \
            WGMMA(N, "bf16", R##N, A, B, O##N);    \
    }
template <typename T, int columns>
__device__ __forceinline__ void mma(float (&d)[columns / 2], uint64_t a, uint64_t b) {
    EITHER(16, "%8", "%9")
    EITHER(24, "%12", "%13")
    EITHER(32, "%16", "%17")
    EITHER(48, "%24", "%25")
    EITHER(64, "%32", "%33")
    EITHER(72, "%36", "%37")
    EITHER(96, "%48", "%49")
    EITHER(128, "%64", "%65")
}

__device__ __forceinline__ void prefetch(const CUtensorMap* map, int x, int y) {  // into the L2
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ uint32_t address_in(uint32_t block, const void* pointer) {
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared(pointer)), "r"(block));
    return there;
}
__device__ __forceinline__ void store_async(uint32_t to, uint32_t barrier, float a, float b, float c, float d) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%2, %3, %4, %5}, [%1];" ::"r"(to), "r"(barrier),
                 "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
}
__device__ __forceinline__ void store_async(uint32_t to, uint32_t barrier, float a, float b) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%2, %3}, [%1];" ::"r"(to), "r"(barrier), "f"(a),
                 "f"(b)
                 : "memory");
}
__device__ __forceinline__ void wait_cluster(uint64_t* barrier, uint32_t parity) {  // for what other blocks did
    uint32_t done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(shared(barrier)), "r"(parity)
                     : "memory");
    } while (!done);
}

template <typename F>
__device__ __forceinline__ void with_activation(Activation form, F&& f) {  // the choice outside of f's loops
    switch (form) {
        case Activation::gelu_erf:
            return f([](float x) { return activate(x, Activation::gelu_erf); });
        case Activation::gelu_tanh:
            return f([](float x) { return activate(x, Activation::gelu_tanh); });
        case Activation::relu:
            return f([](float x) { return activate(x, Activation::relu); });
        case Activation::tanh:
            return f([](float x) { return activate(x, Activation::tanh); });
        default:
            return f([](float x) { return x; });
    }
}

template <typename T, int columns, int cluster, bool norm>
__global__ void __launch_bounds__(THREADS, 2)
    few_rows(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap weight_map, const Few p) {
    constexpr int own = columns / cluster;  // columns that a block finishes
    constexpr int weight_bytes = columns * CHUNK * 2;
    constexpr int expected = (cluster - 1) * ROWS * (own * 4 + norm * 8);  // bytes of sums, and of statistics
    static_assert(own % 8 == 0);
    extern __shared__ __align__(1024) unsigned char memory[];
    auto& barriers = *reinterpret_cast<Barriers*>(memory);
    unsigned char* const weights = memory + HEADER;
    unsigned char* const xs = weights + p.weight_slots * weight_bytes;
    auto* const sums = reinterpret_cast<float4*>(xs + 2 * p.x_slots * X_BYTES);  // [warpgroup][from][own / 8][128]
    auto* const partial = reinterpret_cast<float2*>(sums + 2 * (cluster - 1) * (own / 8) * 128);  // [warpgroup][from][64]: mean, squares

    const int rank = cluster > 1 ? block_of_cluster() : 0;
    const int column = blockIdx.x / cluster * columns;
    const int chunks = p.k / CHUNK, first_chunk = chunks * rank / cluster, count = chunks * (rank + 1) / cluster - first_chunk;
    const bool resident = (chunks + cluster - 1) / cluster <= p.weight_slots;  // or the weights pass by again for each 128 rows
    MARK(0);

    if (threadIdx.x == 0) {
        for (int i = 0; i < p.weight_slots; i++) barrier_init(&barriers.weight_full[i], 1), barrier_init(&barriers.weight_empty[i], 8);
        for (int w = 0; w < 2; w++) {
            for (int i = 0; i < p.x_slots; i++) barrier_init(&barriers.x_full[w][i], 1), barrier_init(&barriers.x_empty[w][i], 4);
            barrier_init(&barriers.arrived[w], 1);
            barrier_init(&barriers.taken[w], cluster > 1 ? cluster - 1 : 1);
        }
        barriers_visible();
        for (int w = 0; w < 2; w++) arrive_expecting(&barriers.arrived[w], expected);
    }
    __syncthreads();
    if constexpr (cluster > 1) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");

    // Rows of the first pass are read before it is known how many there are: tokens bounds only what is stored. Where weights are not
    // resident, both warpgroups take part as long as one has rows.
    auto exists = [&](int row, int tokens) {
        return (resident ? row : row / (2 * ROWS) * (2 * ROWS)) < (row < 2 * ROWS ? p.max_tokens : tokens);
    };

    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS) {
            hopper::prefetch(&weight_map), hopper::prefetch(&x_map);
            Ring weight, x[2];
            auto fetch_weights = [&](int i) {
                wait(&barriers.weight_empty[weight.slot], weight.parity ^ 1);
                uint64_t* full = &barriers.weight_full[weight.slot];
                arrive_expecting(full, weight_bytes);
                load(weights + weight.slot * weight_bytes, &weight_map, full, (first_chunk + i) * CHUNK, column);
                weight.next(p.weight_slots);
            };
            const int ahead = min(count, p.weight_slots);
            for (int i = 0; i < ahead; i++) fetch_weights(i);
            if (p.prefetch)
                for (int i = ahead; i < count; i++) prefetch(&weight_map, (first_chunk + i) * CHUNK, column);
            if (p.release == 0) release_next();
            await_previous();
            MARK(1);
            if (p.release == 1) release_next();
            const int tokens = min(*p.tokens, p.max_tokens);
            for (int row = 0; row == 0 || row < tokens; row += 2 * ROWS)
                for (int i = 0; i < count; i++) {
                    if (row == 0 ? i >= ahead : !resident) fetch_weights(i);
#pragma unroll
                    for (int w = 0; w < 2; w++) {
                        if (!exists(row + w * ROWS, tokens)) continue;
                        wait(&barriers.x_empty[w][x[w].slot], x[w].parity ^ 1);
                        uint64_t* full = &barriers.x_full[w][x[w].slot];
                        arrive_expecting(full, X_BYTES);
                        load(xs + (w * p.x_slots + x[w].slot) * X_BYTES, &x_map, full, (first_chunk + i) * CHUNK, row + w * ROWS);
                        x[w].next(p.x_slots);
                    }
                }
        } else {
            await_previous();
        }
        __syncwarp();
        if constexpr (cluster > 1) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
        return;
    }

    auto numbers = [&](int from) {  // that the block `from` of the others saw of each row; the last is this one
        const int there = from == cluster - 1 ? rank : from + (from >= rank);
        return float((chunks * (there + 1) / cluster - chunks * there / cluster) * CHUNK);
    };
    const int w = threadIdx.x / 128, t = threadIdx.x % 128, lane = t % 32;
    const int own_column = column + rank * own + 2 * (lane % 4);
    if (const int c = column + rank * own + threadIdx.x; int(threadIdx.x) < own && c < p.n) {
        barriers.bias[threadIdx.x] = p.bias[c];
        if (norm) barriers.sums[threadIdx.x] = p.folded.sums[c];
        if (p.folded.residual_statistics)
            barriers.gamma[threadIdx.x] = p.folded.residual_gamma[c], barriers.beta[threadIdx.x] = p.folded.residual_beta[c];
    }
    meet(3, CONSUMERS);
    if constexpr (cluster > 1) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");  // all blocks' barriers are ready
    await_previous();
    const int tokens = min(*p.tokens, p.max_tokens);

    Ring weight, x;
    uint32_t pass = 0;
    for (int row = w * ROWS; exists(row, tokens); row += 2 * ROWS, pass ^= 1) {
        float d[columns / 2];
#pragma unroll
        for (int i = 0; i < columns / 2; i++) d[i] = 0;
        if (resident) weight = {};
        float shift = 0, sum = 0, squares = 0;  // of half a row: thread t's is t / 2
        for (int i = 0; i < count; i++) {
            wait(&barriers.weight_full[weight.slot], weight.parity);
            wait(&barriers.x_full[w][x.slot], x.parity);
            if (i == 0) { MARK(2); }
            const uint64_t a = matrix(xs + (w * p.x_slots + x.slot) * X_BYTES), b = matrix(weights + weight.slot * weight_bytes);
            mma_fence();
#pragma unroll
            for (int j = 0; j < 4; j++) mma<T, columns>(d, a + 2 * j, b + 2 * j);
            mma_commit();
            if constexpr (norm) {
                const unsigned char* half_row = xs + (w * p.x_slots + x.slot) * X_BYTES + t * 64;
                if (i == 0) shift = float(*reinterpret_cast<const T*>(half_row));
#pragma unroll
                for (int j = 0; j < 4; j++) {  // in an order without bank conflicts
                    const uint4 eight = *reinterpret_cast<const uint4*>(half_row + (j + t / 2) % 4 * 16);
                    const unsigned pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
                    for (unsigned pair : pairs) {
                        const float2 v = unpack(*reinterpret_cast<const typename Pair<T>::type*>(&pair));
                        const float a = v.x - shift, b = v.y - shift;
                        sum += a, squares += a * a, sum += b, squares += b * b;
                    }
                }
            }
            mma_wait<0>();
            if (lane == 0) {
                arrive(&barriers.x_empty[w][x.slot]);
                if (!resident) arrive(&barriers.weight_empty[weight.slot]);
            }
            x.next(p.x_slots), weight.next(p.weight_slots);
        }
        MARK(3);

        const int r = row + t / 32 * 16 + lane / 4;
        typename Pair<T>::type residual[own / 8][2];
        if (p.residual) {
#pragma unroll
            for (int i = 0; i < own / 8; i++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    if (r + 8 * j < tokens && own_column + 8 * i < p.n)
                        residual[i][j] = *reinterpret_cast<const typename Pair<T>::type*>(
                            static_cast<const T*>(p.residual) + std::size_t(r + 8 * j) * p.n + own_column + 8 * i);
        }
        const float half = count * (CHUNK / 2);  // numbers that a thread has seen
        float mean = 0, rest = 0;  // of this block's part of the row; the squares' sum around that mean (Chan et al., 1979)
        if constexpr (norm) {
            if (count) mean = shift + sum / half, rest = squares - sum * sum / half;
            const float other = __shfl_xor_sync(~0u, mean, 1), rest_there = __shfl_xor_sync(~0u, rest, 1);
            const float delta = mean - other;
            rest += rest_there + delta * delta * half * 0.5f, mean = 0.5f * (mean + other);
        }
        float2 residual_statistics[2] = {{0, 1}, {0, 1}};
        if (p.folded.residual_statistics)
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (r + 8 * j < tokens) residual_statistics[j] = p.folded.residual_statistics[r + 8 * j];
        float* const y = d;  // this block's own part moves to the front, once what was there is sent
        float2 theirs[cluster][2];
        if constexpr (cluster > 1) {
            if (row >= 2 * ROWS) wait_cluster(&barriers.taken[w], pass ^ 1);
#pragma unroll
            for (int to = 0; to < cluster; to++) {
                if (to == rank) {
#pragma unroll
                    for (int i = 0; i < own / 2; i++) y[i] = d[to * (own / 2) + i];
                } else {
                    const uint32_t there =
                        address_in(to, sums + ((w * (cluster - 1) + rank - (rank > to)) * (own / 8)) * 128 + t);
                    const uint32_t barrier = address_in(to, &barriers.arrived[w]);
#pragma unroll
                    for (int i = 0; i < own / 8; i++) {
                        const float* s = d + to * (own / 2) + 4 * i;
                        store_async(there + i * 128 * 16, barrier, s[0], s[1], s[2], s[3]);
                    }
                    if (norm && to % 2 == lane % 2)
                        store_async(address_in(to, partial + (w * (cluster - 1) + rank - (rank > to)) * ROWS + t / 2), barrier, mean, rest);
                }
            }
            wait_cluster(&barriers.arrived[w], pass);
            MARK(4);
#pragma unroll
            for (int from = 0; from < cluster - 1; from++)
#pragma unroll
                for (int i = 0; i < own / 8; i++) {
                    const float4 s = sums[((w * (cluster - 1) + from) * (own / 8) + i) * 128 + t];
                    y[4 * i] += s.x, y[4 * i + 1] += s.y, y[4 * i + 2] += s.z, y[4 * i + 3] += s.w;
                }
            if constexpr (norm) {
#pragma unroll
                for (int from = 0; from < cluster - 1; from++)
#pragma unroll
                    for (int j = 0; j < 2; j++) theirs[from][j] = partial[(w * (cluster - 1) + from) * ROWS + t / 32 * 16 + lane / 4 + 8 * j];
            }
            if (exists(row + 2 * ROWS, tokens)) {
                if (t == 0) arrive_expecting(&barriers.arrived[w], expected);
                w ? meet(1, 128) : meet(2, 128);
                if (t < cluster && t != rank) arrive_at(&barriers.taken[w], t);
            }
        }
        if constexpr (norm) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int from_lane = 2 * (lane / 4 + 8 * j);
                theirs[cluster - 1][j] = {__shfl_sync(~0u, mean, from_lane), __shfl_sync(~0u, rest, from_lane)};
                float all = 0, around = 0;
#pragma unroll
                for (int from = 0; from < cluster; from++) all += theirs[from][j].x * numbers(from);
                all /= p.k;
#pragma unroll
                for (int from = 0; from < cluster; from++) {
                    const float delta = theirs[from][j].x - all;
                    around += theirs[from][j].y + numbers(from) * delta * delta;
                }
                const float scale = rsqrtf(around / p.k + p.folded.eps);
                if (p.folded.statistics && int(blockIdx.x) < cluster && rank == 0 && lane % 4 == 0 && r + 8 * j < tokens)
                    p.folded.statistics[r + 8 * j] = {all, scale};
#pragma unroll
                for (int i = 0; i < own / 8; i++) {
                    const float2 sums = *reinterpret_cast<const float2*>(&barriers.sums[8 * i + 2 * (lane % 4)]);
                    y[4 * i + 2 * j] = (y[4 * i + 2 * j] - all * sums.x) * scale;
                    y[4 * i + 2 * j + 1] = (y[4 * i + 2 * j + 1] - all * sums.y) * scale;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < own / 8; i++) {
            const float2 bias = *reinterpret_cast<const float2*>(&barriers.bias[8 * i + 2 * (lane % 4)]);
            y[4 * i] += bias.x, y[4 * i + 1] += bias.y, y[4 * i + 2] += bias.x, y[4 * i + 3] += bias.y;
            if (p.residual) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float2 s = unpack(residual[i][j]);
                    if (p.folded.residual_statistics) {
                        const float2 gamma = *reinterpret_cast<const float2*>(&barriers.gamma[8 * i + 2 * (lane % 4)]);
                        const float2 beta = *reinterpret_cast<const float2*>(&barriers.beta[8 * i + 2 * (lane % 4)]);
                        s.x = (s.x - residual_statistics[j].x) * residual_statistics[j].y * gamma.x + beta.x;
                        s.y = (s.y - residual_statistics[j].x) * residual_statistics[j].y * gamma.y + beta.y;
                    }
                    y[4 * i + 2 * j] += s.x, y[4 * i + 2 * j + 1] += s.y;
                }
            }
        }
        if (p.activation != Activation::none)
            with_activation(p.activation, [&](auto f) {
#pragma unroll
                for (int i = 0; i < own / 2; i++) y[i] = f(y[i]);
            });
#pragma unroll
        for (int i = 0; i < own / 8; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (r + 8 * j < tokens && own_column + 8 * i < p.n)
                    *reinterpret_cast<typename Pair<T>::type*>(static_cast<T*>(p.out) + std::size_t(r + 8 * j) * p.n + own_column +
                                                               8 * i) = pack<T>(y[4 * i + 2 * j], y[4 * i + 2 * j + 1]);
    }
    MARK(5);
}

CUtensorMap encode_weights(Type type, const void* weight, int n, int k, int columns) {
    return encode({weight, type, 2, {cuuint64_t(k), cuuint64_t(n)}, {cuuint64_t(k) * 2}, {CHUNK, cuuint32_t(columns)}});
}

constexpr int MULTIPROCESSOR = 228 * 1024;  // bytes of shared memory; each block takes 1 KB more than it asks for

struct Way {
    int kernels = 2, least_x = 2, release = 0, prefetch = 1;
};
template <typename T, int columns, int cluster, bool norm>
void run_few(cudaStream_t stream, const ProductCall& c, const CUtensorMap& weights, const Way& way = {},
             const Folded& folded = {}) {
    const int kernels = way.kernels, least_x = way.least_x;
    const int count = (c.k / CHUNK + cluster - 1) / cluster, weight_bytes = columns * CHUNK * 2;
    int room = MULTIPROCESSOR / kernels - 1024 - HEADER - sums_bytes<columns, cluster>();
    const int least = std::min(count, least_x);
    Few p{c.linear.bias, c.residual, c.out, c.plan.tokens, c.plan.max_tokens, c.n, c.k, c.activation, 0, 0, way.release, way.prefetch, folded};
    p.weight_slots = std::clamp((room - 2 * least * X_BYTES) / weight_bytes, 1, std::min(count, MOST_SLOTS));
    room -= p.weight_slots * weight_bytes;
    p.x_slots = std::clamp(room / (2 * X_BYTES), 1, std::min(count, MOST_SLOTS));
    room -= p.x_slots * 2 * X_BYTES;
    Grid grid{(c.n + columns - 1) / columns * cluster, THREADS, std::size_t(MULTIPROCESSOR / kernels - 1024 - room), cluster};
    const CUtensorMap x = encode({c.x, c.type, 2, {cuuint64_t(c.k), cuuint64_t(c.plan.max_tokens)}, {cuuint64_t(c.k) * 2}, {CHUNK, ROWS}});
    launch(stream, grid, few_rows<T, columns, cluster, norm>, x, weights, p);
}

// Columns and blocks of a cluster: which take the least time by this count of cycles, for 128 rows.
struct Shape {
    int columns, cluster;
};
constexpr Shape SHAPES[] = {{32, 4}, {48, 2}, {64, 2}, {64, 4}, {64, 8}, {72, 3}, {96, 4}, {128, 4}};

Shape choose(int n, int k, int multiprocessors) {
    Shape best{};
    float least = INFINITY;
    for (const Shape& s : SHAPES) {
        const int blocks = (n + s.columns - 1) / s.columns * s.cluster, count = (k / CHUNK + s.cluster - 1) / s.cluster;
        const float multiply = count * 8 * std::max(s.columns / 2, 16 + s.columns / 4);  // tensor cores; shared memory's 128 bytes a cycle
        const float read = count * 2 * X_BYTES / 64;  // what a multiprocessor takes from the L2 in a cycle
        const float exchange = 2 * ROWS * s.columns / s.cluster * (s.cluster - 1) * 4 / 64;
        const float cycles = (blocks + multiprocessors - 1) / multiprocessors * (std::max(multiply, read) + exchange);
        if (cycles < least) least = cycles, best = s;
    }
    return best;
}

// Calls f(columns, cluster), of SHAPES, as integral constants.
template <std::size_t i = 0, typename F>
void with_shape(const Shape& shape, F&& f) {
    if constexpr (i < std::size(SHAPES)) {
        if (shape.columns == SHAPES[i].columns && shape.cluster == SHAPES[i].cluster)
            return f(std::integral_constant<int, SHAPES[i].columns>{}, std::integral_constant<int, SHAPES[i].cluster>{});
        with_shape<i + 1>(shape, f);
    }
}

}  // namespace

void encode_few_rows(Type type, const void* weight, int n, int k, CUtensorMap* weights) {
    const Shape shape = choose(n, k, current_device().multiprocessors);
    *weights = encode_weights(type, weight, n, k, shape.columns);
    dispatch(type, [&](auto zero) {
        with_shape(shape, [&](auto columns, auto cluster) {
            check(cudaFuncSetAttribute(few_rows<decltype(zero), columns(), cluster(), false>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       MULTIPROCESSOR / 2 - 1024),
                  "a product's shared memory");
        });
    });
}

void product_few_rows(cudaStream_t stream, const ProductCall& call) {
    dispatch(call.type, [&](auto zero) {
        with_shape(choose(call.n, call.k, current_device().multiprocessors), [&](auto columns, auto cluster) {
            run_few<decltype(zero), columns(), cluster(), false>(stream, call, *call.weights);
        });
    });
}

}  // namespace bert
