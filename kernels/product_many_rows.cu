// A linear layer of many rows on Hopper, where the tensor cores are what takes time (wgmma, TMA; PTX ISA 8.0).
//
// - A block computes tiles of 128 rows: two warpgroups, each 64 rows by all of the tile's columns, and three warps that copy: the
//   weights for both, and each one's own rows of x. Blocks of a cluster share what they read: those beside each other in rows the
//   weights, those beside each other in columns the rows.
// - Blocks stay, and go through runs of tiles that lie below each other, so the weights of a run repeat with each tile. The second
//   warpgroup begins every tile `lag` chunks of k after the first, with the chunk that the first is at, and ends with those it began
//   without: so both use the same weights at the same time, and while one of them finishes its tile the other multiplies.
// - Weights are put into shared memory in such an order that a thread ends up with 8 columns side by side: the residual comes and the
//   output goes 16 bytes at a time, straight from registers.
#include <algorithm>

#include "hopper.cuh"
#include "numbers.cuh"
#include "product.h"

#ifdef PROFILE
__device__ long long profile_data[264 * 8];
__device__ __forceinline__ long long cycles_now() {
    long long x;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(x)::"memory");
    return x;
}
__device__ __forceinline__ long long ns_now() {
    long long x;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(x)::"memory");
    return x;
}
#define P(...) __VA_ARGS__
#else
#define P(...)
#endif

namespace bert {
namespace {

using namespace hopper;

constexpr int ROWS = 64, CHUNK = 64;  // a warpgroup's rows; the numbers along k that one copy takes: 128 bytes
constexpr int ROWS_BYTES = ROWS * CHUNK * 2;
constexpr int GROUP = 32;  // columns that four threads share, 8 each
constexpr int THREADS = 384;

// A tile's shape: `columns`, and the blocks of a cluster, below and beside each other.
template <int columns_, int below_, int beside_, int groups_ = columns_ / below_ / GROUP>
struct Shape {
    static constexpr int groups = groups_;  // that one copy takes
    static constexpr int columns = columns_, below = below_, beside = beside_, cluster = below * beside;
    static constexpr int weight_bytes = columns * CHUNK * 2;
    static constexpr int room = 224 * 1024;
    static constexpr int row_slots = columns == 256 ? 4 : columns == 192 ? 5 : columns == 128 ? 7 : 9;
    static constexpr int weight_slots = std::min((room - 2 * row_slots * ROWS_BYTES) / weight_bytes, 12);
    struct Memory {
        alignas(1024) unsigned char weights[weight_slots][weight_bytes];
        alignas(1024) unsigned char rows[2][row_slots][ROWS_BYTES];
        uint64_t weights_full[weight_slots], weights_empty[weight_slots];
        uint64_t rows_full[2][row_slots], rows_empty[2][row_slots];
    };
};

struct Many {
    const float* bias;
    const void* residual;
    void* out;
    const int32_t* tokens;
    int max_tokens, n, k;
    int lag;  // chunks, less than a tile's and than there are slots: a barrier's parity tells no more phases apart
    int run;  // rows of tiles of a run; 0: all there are
};

template <int slots>
struct Ring {
    int slot = 0;
    uint32_t parity = 0;
    __device__ void next() {
        if (++slot == slots) slot = 0, parity ^= 1;
    }
    __device__ void skip(int n) {
        for (; n; n--) next();
    }
};

// Which tiles a cluster computes, in order. Runs are numbered by rows first, then by columns, so that clusters that work at the same
// time read the same rows; each takes one at a time, and what is left when there are too few for all is cut evenly.
struct Run {
    int first, end;  // rows of tiles
    int column;  // of tiles
};
struct Runs {
    unsigned rows, columns, run, cluster, clusters, waves, wave = 0, from = 0, to = 0;
    __device__ Runs(int rows, int columns, int run, int cluster, int clusters)
        : rows(rows), columns(columns), run(run ? run : max(rows, 1)), cluster(cluster), clusters(clusters) {
        waves = run ? count() / clusters : 0;
    }
    __device__ unsigned count() const { return (rows + run - 1) / run * columns; }
    __device__ bool next(Run& r) {
        for (;;) {
            if (from == to) {
                if (wave > waves) return false;
                if (wave < waves) {
                    from = (wave * clusters + cluster) * run, to = from + run;
                } else {
                    const unsigned done = waves * clusters;
                    const unsigned long long left = (unsigned long long)(count() - done) * run;
                    from = done * run + unsigned(left * cluster / clusters);
                    to = done * run + unsigned(left * (cluster + 1) / clusters);
                }
                wave++;
                continue;
            }
            const unsigned at = from / run, begin = from % run, end = min(to - at * run, run);
            r.first = at / columns * run + begin, r.end = min(at / columns * run + end, rows), r.column = at % columns;
            from = at * run + end;
            if (r.first < r.end) return true;
        }
    }
    // The first run's column, whatever the rows are, where a run is all of them.
    __device__ static int first_column(int columns, int cluster, int clusters) { return columns * cluster / clusters; }
};

// d [64, columns] (+)= a [64, 16] · b [columns, 16]ᵀ, both in shared memory. d[4i + j] of a thread is row lane / 4 + 8 (j / 2) of its
// warp's 16, column 8i + 2 (lane % 4) + j % 2 of b's rows as they lie there (PTX ISA, wgmma.mma_async).
#define D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D32(i) D8(i), D8(i + 8), D8(i + 16), D8(i + 24)
#define R0 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, " \
    "%27, %28, %29, %30, %31"
#define R1 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, " \
    "%57, %58, %59, %60, %61, %62, %63"
#define R2 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, " \
    "%89, %90, %91, %92, %93, %94, %95"
#define R3 \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, " \
    "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA(N, TYPE, REGISTERS, A, B, ADD, ...)                                                                          \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE \
                 " {" REGISTERS "}, " A ", " B ", p, 1, 1, 0, 0; }"                                                        \
                 : __VA_ARGS__                                                                                             \
                 : "l"(a), "l"(b), "r"(int(add)))
#define EITHER(N, REGISTERS, A, B, ADD, ...)                        \
    if constexpr (columns == N) {                                   \
        if constexpr (std::is_same_v<T, __half>)                    \
            WGMMA(N, "f16", REGISTERS, A, B, ADD, __VA_ARGS__);     \
        else                                                        \
            WGMMA(N, "bf16", REGISTERS, A, B, ADD, __VA_ARGS__);    \
    }
template <typename T, int columns>
__device__ __forceinline__ void mma(float (&d)[columns / 2], uint64_t a, uint64_t b, bool add) {
    EITHER(64, R0, "%32", "%33", "%34", D32(0))
    EITHER(128, R0 ", " R1, "%64", "%65", "%66", D32(0), D32(32))
    EITHER(192, R0 ", " R1 ", " R2, "%96", "%97", "%98", D32(0), D32(32), D32(64))
    EITHER(256, R0 ", " R1 ", " R2 ", " R3, "%128", "%129", "%130", D32(0), D32(32), D32(64), D32(96))
}

// Weights as a tensor of [n / 32, 4, 4, 2, k]: the row 8c + 2b + a of 32 comes to lie at 8b + 2c + a, where wgmma gives it to the
// thread c of four.
CUtensorMap encode_weights(Type type, const void* weight, int n, int k, int groups) {
    const cuuint64_t row = cuuint64_t(k) * 2;
    return encode({weight, type, 5, {cuuint64_t(k), 2, 4, 4, cuuint64_t(n / GROUP)}, {row, 8 * row, 2 * row, 32 * row},
                   {CHUNK, 2, 4, 4, cuuint32_t(groups)}});
}
template <bool shared_by_blocks>
__device__ __forceinline__ void load_weights(void* to, const CUtensorMap* map, uint64_t* barrier, int k, int group, uint16_t blocks) {
    if constexpr (shared_by_blocks)
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %5, %5, "
            "%5, %4}], [%2], %6;" ::"r"(shared(to)),
            "l"(map), "r"(shared(barrier)), "r"(k), "r"(group), "r"(0), "h"(blocks)
            : "memory");
    else
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %5, %5, %5, %4}], [%2];" ::"r"(
                shared(to)),
            "l"(map), "r"(shared(barrier)), "r"(k), "r"(group), "r"(0)
            : "memory");
}

__device__ __forceinline__ uint4 load16(const void* from) {  // where it stands, neither before nor after
    uint4 x;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from) : "memory");
    return x;
}

template <typename T, typename S, Activation form, bool has_residual>
__global__ void __launch_bounds__(THREADS, 1)
    many_rows(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap weight_map, const Many p) {
    constexpr int columns = S::columns, below = S::below, beside = S::beside, weight_slots = S::weight_slots, row_slots = S::row_slots;
    extern __shared__ __align__(1024) unsigned char memory[];
    auto& m = *reinterpret_cast<typename S::Memory*>(memory);

    P(const long long entry = cycles_now(), entry_ns = ns_now();)
    const int rank = S::cluster > 1 ? block_of_cluster() : 0, row_rank = rank % below, column_rank = rank / below;
    const int cluster = blockIdx.x / S::cluster, clusters = gridDim.x / S::cluster;
    const int chunks = p.k / CHUNK;
    const int tile_columns = (p.n + columns * beside - 1) / (columns * beside);
    auto row_of = [&](int tile, int w) { return ((tile * below + row_rank) * 2 + w) * ROWS; };
    auto column_of = [&](int tile) { return (tile * beside + column_rank) * columns; };
    auto runs_of = [&](int tokens) {
        return Runs((tokens + 2 * ROWS * below - 1) / (2 * ROWS * below), tile_columns, p.run, cluster, clusters);
    };

    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        prefetch(&x_map), prefetch(&weight_map);
        for (int i = 0; i < weight_slots; i++)
            barrier_init(&m.weights_full[i], 1), barrier_init(&m.weights_empty[i], 8 * below);
        for (int w = 0; w < 2; w++)
            for (int i = 0; i < row_slots; i++)
                barrier_init(&m.rows_full[w][i], 1), barrier_init(&m.rows_empty[w][i], 4 * beside);
        barriers_visible();
    }
    if constexpr (S::cluster > 1)
        meet_cluster();
    else
        __syncthreads();

    if (warp < 4) {
        give_registers<40>();
        if (warp == 0 && lane == 0) {
            Ring<weight_slots> ring;
            // Chunk j of a run of `total`, which the second warpgroup begins later and the first ends earlier: there, the slot is
            // given back for them here.
            auto fetch = [&](int column, int j, int total) {
                wait(&m.weights_empty[ring.slot], ring.parity ^ 1);
                uint64_t* full = &m.weights_full[ring.slot];
                arrive_expecting(full, S::weight_bytes);
                constexpr int part = columns / below;
#pragma unroll
                for (int i = row_rank * part; i < (row_rank + 1) * part; i += S::groups * GROUP)
                    load_weights<(below > 1)>(m.weights[ring.slot] + i * CHUNK * 2, &weight_map, full, j % chunks * CHUNK,
                                              (column_of(column) + i) / GROUP, ((1 << below) - 1) << column_rank * below);
                if (j < p.lag || j >= total) arrive(&m.weights_empty[ring.slot], 4 * below);
                ring.next();
            };
            const int ahead = p.run ? 0 : min(chunks, weight_slots);
            for (int j = 0; j < ahead; j++) fetch(Runs::first_column(tile_columns, cluster, clusters), j, chunks);
            await_previous();
            release_next();
            Runs runs = runs_of(min(*p.tokens, p.max_tokens));
            int j = ahead;
            for (Run r; runs.next(r); j = 0)
                for (const int total = (r.end - r.first) * chunks; j < total + p.lag; j++) fetch(r.column, j, total);
            if (j)  // there was no run
                for (int i = 0; i < ahead; i++) wait(&m.weights_full[i], 0);
        } else if (warp <= 2 && lane == 0 && warp > 0) {
            const int w = warp - 1;
            await_previous();
            const int tokens = min(*p.tokens, p.max_tokens);
            Runs runs = runs_of(tokens);
            Ring<row_slots> ring;
            for (Run r; runs.next(r);)
                for (int tile = r.first; tile < r.end && row_of(tile, w) < tokens; tile++) {
                    int chunk = w ? p.lag : 0;
                    for (int i = 0; i < chunks; i++) {
                        wait(&m.rows_empty[w][ring.slot], ring.parity ^ 1);
                        uint64_t* full = &m.rows_full[w][ring.slot];
                        arrive_expecting(full, ROWS_BYTES);
                        constexpr int part = ROWS / beside;
                        unsigned char* to = m.rows[w][ring.slot] + column_rank * part * CHUNK * 2;
                        const int row = row_of(tile, w) + column_rank * part;
                        if constexpr (beside > 1) {
                            constexpr int blocks = beside == 2 ? 1 | 1 << below : 1 | 1 << below | 1 << 2 * below | 1 << 3 * below;
                            load_multicast(to, &x_map, full, chunk * CHUNK, row, blocks << row_rank);
                        } else {
                            load(to, &x_map, full, chunk * CHUNK, row);
                        }
                        ring.next();
                        if (++chunk == chunks) chunk = 0;
                    }
                }
        } else {
            await_previous();
        }
        __syncwarp();
    } else {
        take_registers<232>();
        const int w = warp / 4 - 1;
        await_previous();
        const int tokens = min(*p.tokens, p.max_tokens);
        Runs runs = runs_of(tokens);
        Ring<weight_slots> weights;
        Ring<row_slots> rows;
        auto release_weights = [&](int slot) {
            if constexpr (below > 1) {
                if (lane < below) release_at(&m.weights_empty[slot], column_rank * below + lane);
            } else {
                if (lane == 0) arrive(&m.weights_empty[slot]);
            }
        };
        auto release_rows = [&](int slot) {
            if constexpr (beside > 1) {
                if (lane < beside) release_at(&m.rows_empty[w][slot], row_rank + lane * below);
            } else {
                if (lane == 0) arrive(&m.rows_empty[w][slot]);
            }
        };
        P(long long first = 0, spent_main = 0, spent_end = 0, spent_weights = 0, spent_rows = 0, tiles = 0;)
        for (Run r; runs.next(r);) {
            if (w) weights.skip(p.lag);
            for (int tile = r.first; tile < r.end; tile++) {
                if (row_of(tile, w) >= tokens) {  // the other warpgroups' tile
                    for (int i = 0; i < chunks; i++, weights.next()) {
                        wait(&m.weights_full[weights.slot], weights.parity);
                        release_weights(weights.slot);
                    }
                    continue;
                }
                const int row = row_of(tile, w) + warp % 4 * 16 + lane / 4;  // of this thread, and the one 8 further
                const int column = column_of(r.column) + lane % 4 * 8;
                float d[columns / 2];
                uint4 residual[columns / GROUP][2];
                int weights_used = 0, rows_used = 0;
                P(const long long begin = cycles_now(); if (!tiles) first = begin - entry; tiles++;)
                for (int i = 0; i < chunks; i++) {
                    if (has_residual && i == max(chunks - 2, 0)) {
#pragma unroll
                        for (int g = 0; g < columns / GROUP; g++)
#pragma unroll
                            for (int h = 0; h < 2; h++)
                                if (row + 8 * h < tokens && column + g * GROUP < p.n)
                                    residual[g][h] = load16(static_cast<const T*>(p.residual) + std::size_t(row + 8 * h) * p.n + column +
                                                            g * GROUP);
                    }
                    P(const long long t0 = cycles_now();)
                    wait(&m.weights_full[weights.slot], weights.parity);
                    P(const long long t1 = cycles_now();)
                    wait(&m.rows_full[w][rows.slot], rows.parity);
                    P(spent_weights += t1 - t0, spent_rows += cycles_now() - t1;)
                    const uint64_t a = matrix(m.rows[w][rows.slot]), b = matrix(m.weights[weights.slot]);
                    mma_fence();
#pragma unroll
                    for (int j = 0; j < 4; j++) mma<T, columns>(d, a + 2 * j, b + 2 * j, i > 0 || j > 0);
                    mma_commit();
                    mma_wait<1>();
                    if (i) release_weights(weights_used), release_rows(rows_used);
                    weights_used = weights.slot, rows_used = rows.slot;
                    weights.next(), rows.next();
                }
                mma_wait<0>();
                release_weights(weights_used), release_rows(rows_used);
                P(const long long middle = cycles_now(); spent_main += middle - begin;)

#pragma unroll
                for (int g = 0; g < columns / GROUP; g++) {
                    const bool inside = column + g * GROUP < p.n;
                    const auto* bias = reinterpret_cast<const float4*>(p.bias + (inside ? column + g * GROUP : 0));
                    const float4 low = __ldg(bias), high = __ldg(bias + 1);
                    const float biases[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        uint4 out;
                        auto* pairs = reinterpret_cast<typename Pair<T>::type*>(&out);
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            float y[2];
#pragma unroll
                            for (int e = 0; e < 2; e++) y[e] = activate(d[16 * g + 4 * i + 2 * h + e] + biases[2 * i + e], form);
                            if (has_residual) {
                                const float2 z = unpack(reinterpret_cast<typename Pair<T>::type*>(&residual[g][h])[i]);
                                y[0] += z.x, y[1] += z.y;
                            }
                            pairs[i] = pack<T>(y[0], y[1]);
                        }
                        if (inside && row + 8 * h < tokens)
                            *reinterpret_cast<uint4*>(static_cast<T*>(p.out) + std::size_t(row + 8 * h) * p.n + column + g * GROUP) = out;
                    }
                }
                P(spent_end += cycles_now() - middle;)
            }
            if (!w) weights.skip(p.lag);
        }
        P(if (threadIdx.x % 128 == 0) {
            const long long all[8] = {first, spent_main, spent_end, spent_weights, spent_rows, cycles_now() - entry, ns_now() - entry_ns, tiles};
            for (int i = 0; i < 8; i++) profile_data[(blockIdx.x * 2 + w) * 8 + i] = all[i];
        })
    }
    if constexpr (S::cluster > 1) meet_cluster();  // until nobody writes into this block's memory any more
}

// How many clusters the current GPU holds at a time.
template <typename Kernel>
int resident_clusters(Kernel* kernel, int cluster, std::size_t bytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "a product's shared memory");
    if (cluster == 1) return current_device().multiprocessors;
    cudaLaunchConfig_t config{};
    config.gridDim = cluster, config.blockDim = THREADS, config.dynamicSmemBytes = bytes;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {unsigned(cluster), 1, 1};
    config.attrs = &attribute, config.numAttrs = 1;
    int found;
    check(cudaOccupancyMaxActiveClusters(&found, kernel, &config), "a product's clusters");
    return found;
}

template <typename T, typename S, Activation form, bool has_residual>
void run_many(cudaStream_t stream, const ProductCall& c, const CUtensorMap& weights, int lag, int run) {
    auto* kernel = many_rows<T, S, form, has_residual>;
    constexpr std::size_t bytes = sizeof(typename S::Memory);
    thread_local const int resident = resident_clusters(kernel, S::cluster, bytes);
    const int rows = 2 * ROWS * S::below, columns = S::columns * S::beside;
    const int tiles = (c.plan.max_tokens + rows - 1) / rows * ((c.n + columns - 1) / columns);
    const CUtensorMap x = encode({c.x, c.type, 2, {cuuint64_t(c.k), cuuint64_t(c.plan.max_tokens)}, {cuuint64_t(c.k) * 2},
                                  {CHUNK, ROWS / S::beside}});
    const Many p{c.linear.bias, c.residual, c.out, c.plan.tokens, c.plan.max_tokens, c.n, c.k, std::min({lag, c.k / CHUNK - 1, S::weight_slots - 1}), run};
    launch(stream, {unsigned(std::min(tiles, resident) * S::cluster), THREADS, bytes, S::cluster}, kernel, x, weights, p);
}

}  // namespace
}  // namespace bert
