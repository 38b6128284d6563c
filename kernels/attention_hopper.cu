// Attention on Hopper.
#include "attention.h"
#include "hopper.cuh"
#include "numbers.cuh"

namespace bert {
namespace {

using namespace hopper;

constexpr int UNIT = 64;  // queries that a warpgroup holds at a time: the rows of a wgmma

// ---- wgmma: d [64, n] float32, in registers: d[4i + j] of a thread is row lane / 4 + 8 (j / 2) of its warp's 16, and column
// 8i + 2 (lane % 4) + j % 2 (PTX ISA, "Register fragments and shared memory matrix layouts").

#define R0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define R1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define R3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define R4 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define R5 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D16(i) D8(i), D8(i + 8)
#define D32(i) D16(i), D16(i + 16)

template <int n>
struct Wgmma;

#define WGMMA_SS(n, type, list, i0, i1, i2, ...)                                                                                \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" i2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
                 " {" list "}, %" i0 ", %" i1 ", p, 1, 1, 0, 0; }"                                                              \
                 : __VA_ARGS__                                                                                                  \
                 : "l"(a), "l"(b), "r"(int(add)))
#define WGMMA_RS(n, type, list, i0, i1, i2, i3, i4, i5, ...)                                                                    \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" i5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
                 " {" list "}, {%" i0 ", %" i1 ", %" i2 ", %" i3 "}, %" i4 ", p, 1, 1, 1; }"                                    \
                 : __VA_ARGS__                                                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)))
#define WGMMA(n, list, i0, i1, i2, i3, i4, i5, ...)                                                     \
    template <>                                                                                         \
    struct Wgmma<n> {                                                                                   \
        template <typename T>                                                                           \
        static __device__ __forceinline__ void run(float* d, uint64_t a, uint64_t b, bool add) {        \
            if constexpr (std::is_same_v<T, __half>)                                                    \
                WGMMA_SS(n, "f16", list, i0, i1, i2, __VA_ARGS__);                                      \
            else                                                                                        \
                WGMMA_SS(n, "bf16", list, i0, i1, i2, __VA_ARGS__);                                     \
        }                                                                                               \
        template <typename T>                                                                           \
        static __device__ __forceinline__ void run(float* d, const uint32_t* a, uint64_t b, bool add) { \
            if constexpr (std::is_same_v<T, __half>)                                                    \
                WGMMA_RS(n, "f16", list, i0, i1, i2, i3, i4, i5, __VA_ARGS__);                          \
            else                                                                                        \
                WGMMA_RS(n, "bf16", list, i0, i1, i2, i3, i4, i5, __VA_ARGS__);                         \
        }                                                                                               \
    };
WGMMA(32, R0, "16", "17", "18", "19", "20", "21", D16(0))
WGMMA(64, R0 ", " R1, "32", "33", "34", "35", "36", "37", D32(0))
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
WGMMA(72, R0 ", " R1 ", %32, %33, %34, %35", "36", "37", "38", "39", "40", "41", D32(0), D4(32))
WGMMA(96, R0 ", " R1 ", " R2, "48", "49", "50", "51", "52", "53", D32(0), D16(32))
WGMMA(128, R0 ", " R1 ", " R2 ", " R3, "64", "65", "66", "67", "68", "69", D32(0), D32(32))
WGMMA(192, R0 ", " R1 ", " R2 ", " R3 ", " R4 ", " R5, "96", "97", "98", "99", "100", "101", D32(0), D32(32), D32(64))

// What the tensor cores write is not read before here, whatever the compiler would like.
template <int n>
__device__ __forceinline__ void settle(float* x) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(x[i])::"memory");
}
template <int n>
__device__ __forceinline__ void settle(uint32_t* x) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+r"(x[i])::"memory");
}

// b, K by N, N innermost (that is, "transposed"): rows of 64 numbers, swizzled by 128 bytes; `wide` bytes to the next 64 columns.
__device__ __forceinline__ uint64_t matrix_rows(const void* pointer, uint32_t wide) {
    return uint64_t((shared(pointer) & 0x3ffff) >> 4) | uint64_t(wide >> 4) << 16 | uint64_t(64) << 32 | uint64_t(1) << 62;
}

__device__ __forceinline__ float exp2_mufu(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// The same on the FMA units, for x <= 0: 2^x = 2^n · 2^f, |f| <= 1/2 (Cody and Waite), a cubic for 2^f (7.5e-5, relative).
__device__ __forceinline__ float exp2_fma(float x) {
    x = fmaxf(x, -126.f);
    float shifted = x + 12582912.f;  // 1.5 · 2^23: the sum's last bits are n
    float f = x - (shifted - 12582912.f);
    float y = fmaf(fmaf(fmaf(0.0551716685f, f, 0.242611125f), f, 0.693260968f), f, 0.999928057f);
    return __int_as_float(__float_as_int(y) + (__float_as_int(shifted) << 23));
}

template <typename T>
__device__ __forceinline__ uint32_t pack_bits(float x, float y) {  // of numbers that surely fit
    uint32_t bits;
    if constexpr (std::is_same_v<T, __half>)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(y), "f"(x));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(y), "f"(x));
    return bits;
}

struct Job {
    int begin;    // row of the sequence's first token
    int length;   // of the sequence
    int first;    // the job's first query, counted from the sequence's begin
    int queries;  // 0: there are no more jobs
    int head;
};

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

enum Flags { DOUBLE = 1, LAZY = 2, NARROW = 4, ONES = 8, NOEXP = 16, STREAM = 32, POLY8 = 64, POLY4 = 128, POLY2 = 256 };

template <typename T_, int HEAD_, int KEYS_, int GROUPS_, int STAGES_, int FLAGS>
struct Shape {
    using T = T_;
    static constexpr int HEAD = HEAD_, KEYS = KEYS_, GROUPS = GROUPS_, STAGES = STAGES_;
    static constexpr bool DOUBLE = FLAGS & bert::DOUBLE, LAZY = FLAGS & bert::LAZY, NARROW = FLAGS & bert::NARROW,
                          ONES = FLAGS & bert::ONES, NOEXP = FLAGS & bert::NOEXP;
    static constexpr int RESIDENT = FLAGS & STREAM ? 0 : STAGES;  // blocks of a sequence that stay in shared memory
    static constexpr int POLY = FLAGS & POLY8 ? 4 : FLAGS & POLY4 ? 2 : FLAGS & POLY2 ? 1 : 0;
    static constexpr int OUT = HEAD + (ONES ? 8 : 0);
    static constexpr int BOXES = ceil_div(HEAD, 64);
    static constexpr int BOX_ROWS = KEYS % 64 ? 32 : 64;
    static constexpr int THREADS = (GROUPS + 1) * 128;
    static constexpr int CONSUMER_REGISTERS = GROUPS == 2 ? 240 : GROUPS == 3 ? 160 : 112, PRODUCER_REGISTERS = GROUPS == 2 ? 24 : 32;
    static constexpr int QUERY_SLOTS = GROUPS * (HEAD > 64 ? 1 : 2);
    static constexpr int QUERY_BYTES = UNIT * 128 * BOXES, KEY_BYTES = KEYS * 128 * BOXES;
    struct Shared {
        alignas(1024) unsigned char key[STAGES][KEY_BYTES];
        alignas(1024) unsigned char value[STAGES][KEY_BYTES];
        alignas(1024) unsigned char query[QUERY_SLOTS][QUERY_BYTES];
        alignas(1024) unsigned char ones[ONES ? 2048 : 16];
        uint64_t key_full[STAGES], value_full[STAGES], empty[STAGES];
        uint64_t query_full[QUERY_SLOTS], query_empty[QUERY_SLOTS];
        Job job[STAGES];
    };
};

// Into how many parts a tile is cut, so that all multiprocessors have work; called by a whole warp.
__device__ __forceinline__ int choose_parts(int tiles, int tokens, int heads) {
    constexpr int UNITS = ATTENTION_ROWS / UNIT;
    const int lane = threadIdx.x % 32;
    const int parts = lane == 0 ? 1 : lane == 1 ? 2 : lane == 2 ? 3 : 6;
    const int tile_units = min(UNITS, ceil_div(tokens, UNIT * max(tiles, 1)));
    const int part_units = min(tile_units, UNITS / parts);
    const int jobs = tiles * heads * ceil_div(tile_units, UNITS / parts);
    const unsigned cost = unsigned(ceil_div(jobs, gridDim.x)) * (part_units + 1);
    const unsigned best = __reduce_min_sync(~0u, lane < 4 ? cost * 4 + lane : ~0u) % 4;
    return best == 0 ? 1 : best == 1 ? 2 : best == 2 ? 3 : 6;
}

template <typename S>
__device__ __forceinline__ void produce(typename S::Shared& shared, const CUtensorMap* map, const Plan& plan, int heads) {
    constexpr int STAGES = S::STAGES, GROUPS = S::GROUPS;
    const int tiles = *plan.tiles;
    const int parts = choose_parts(tiles, *plan.tokens, heads);
    if (threadIdx.x % 32) return;
    const int rows_of_part = ATTENTION_ROWS / parts, jobs = tiles * heads * parts;
    int pair = 0, unit = 0;
    for (int round = 0; round * int(gridDim.x) < jobs; round++) {
        const int index = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        if (index >= jobs) continue;
        const Tile tile = plan.tile[index / (parts * heads)];
        Job job;
        job.head = index / parts % heads;
        job.first = tile.first + index % parts * rows_of_part;
        job.begin = plan.cu_seqlens[tile.sequence];
        job.length = plan.cu_seqlens[tile.sequence + 1] - job.begin;
        job.queries = min(rows_of_part, job.length - job.first);
        if (job.queries <= 0) continue;
        const int units = ceil_div(job.queries, UNIT), blocks = ceil_div(job.length, S::KEYS);
        const bool resident = blocks <= S::RESIDENT;
        auto load_queries = [&](int from, int to) {
            for (int u = from; u < to; u++) {
                const int slot = (unit + u) % S::QUERY_SLOTS;
                wait(&shared.query_empty[slot], ((unit + u) / S::QUERY_SLOTS & 1) ^ 1);
                const int rows = ceil_div(min(UNIT, job.queries - u * UNIT), S::BOX_ROWS) * S::BOX_ROWS;
                arrive_expecting(&shared.query_full[slot], rows * 128 * S::BOXES);
                for (int box = 0; box < S::BOXES; box++)
                    for (int row = 0; row < rows; row += S::BOX_ROWS)
                        load(shared.query[slot] + (box * UNIT + row) * 128, map, &shared.query_full[slot], box * 64, job.head,
                             job.begin + job.first + u * UNIT + row);
            }
        };
        for (int from = 0; from < units; from += GROUPS) {
            const int to = min(units, from + GROUPS);
            for (int block = 0; block < blocks; block++, pair++) {
                const int slot = pair % STAGES, key = block * S::KEYS;
                wait(&shared.empty[slot], (pair / STAGES & 1) ^ 1);
                if (from == 0 && block == 0) shared.job[slot] = job;
                const int rows = ceil_div(min(S::KEYS, job.length - key), S::BOX_ROWS) * S::BOX_ROWS;
                auto load_block = [&](unsigned char* to, uint64_t* full, int section) {
                    arrive_expecting(full, rows * 128 * S::BOXES);
                    for (int box = 0; box < S::BOXES; box++)
                        for (int row = 0; row < rows; row += S::BOX_ROWS)
                            load(to + (box * S::KEYS + row) * 128, map, full, box * 64, section * heads + job.head,
                                 job.begin + key + row);
                };
                load_block(shared.key[slot], &shared.key_full[slot], 1);
                if (block == 0 && blocks == 1) load_queries(from, to);
                load_block(shared.value[slot], &shared.value_full[slot], 2);
                if (block == 0 && blocks > 1) load_queries(from, to);
            }
            if (resident) {
                load_queries(to, units);
                break;
            }
        }
        unit += units;
    }
    const int slot = pair % STAGES;
    wait(&shared.empty[slot], (pair / STAGES & 1) ^ 1);
    shared.job[slot].queries = 0;
    arrive(&shared.key_full[slot]);
    release_next();
}

template <typename S>
__global__ void __launch_bounds__(S::THREADS, 1)
    attend(const __grid_constant__ CUtensorMap map, const Plan plan, int heads, int head_size, float scale, typename S::T* context) {
    using T = typename S::T;
    constexpr int HEAD = S::HEAD, KEYS = S::KEYS, STAGES = S::STAGES, GROUPS = S::GROUPS;
    extern __shared__ __align__(1024) unsigned char memory[];
    auto& shared = *reinterpret_cast<typename S::Shared*>(memory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        prefetch(&map);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&shared.key_full[i], 1);
            barrier_init(&shared.value_full[i], 1);
            barrier_init(&shared.empty[i], GROUPS * 4);
        }
        for (int i = 0; i < S::QUERY_SLOTS; i++) {
            barrier_init(&shared.query_full[i], 1);
            barrier_init(&shared.query_empty[i], 4);
        }
        barriers_visible();
    }
    if constexpr (S::ONES) {
        const T one = T(1.f);
        for (int i = threadIdx.x; i < 1024; i += S::THREADS) reinterpret_cast<T*>(shared.ones)[i] = one;
        writes_visible();
    }
    __syncthreads();
    await_previous();
    if (warp >= GROUPS * 4) {
        give_registers<S::PRODUCER_REGISTERS>();
        if (warp == GROUPS * 4) produce<S>(shared, &map, plan, heads);
        return;
    }
    take_registers<S::CONSUMER_REGISTERS>();

    const int group = __shfl_sync(~0u, warp / 4, 0);  // the same in all lanes, and the compiler knows
    int pair = 0, unit = 0;
    for (;;) {
        wait(&shared.key_full[pair % STAGES], pair / STAGES & 1);
        Job job = shared.job[pair % STAGES];
        job.queries = __shfl_sync(~0u, job.queries, 0);
        job.length = __shfl_sync(~0u, job.length, 0);
        if (!job.queries) break;
        const int units = ceil_div(job.queries, UNIT), blocks = ceil_div(job.length, KEYS);
        const bool resident = blocks <= S::RESIDENT;
        const int end = resident ? units : ceil_div(units, GROUPS) * GROUPS;
        int mine = (group + GROUPS - unit % GROUPS) % GROUPS;
        do {
            const bool release = !resident || mine + GROUPS >= units;
            if (mine >= units) {  // others' queries: see the keys and values pass
                for (int block = 0; block < blocks; block++) {
                    const int slot = (pair + block) % STAGES;
                    wait(&shared.key_full[slot], (pair + block) / STAGES & 1);
                    if (lane == 0) arrive(&shared.empty[slot]);
                }
            } else {
                const int query_slot = (unit + mine) % S::QUERY_SLOTS;
                const unsigned char* query = shared.query[query_slot];
                float o[S::OUT / 2];
                float m[2], l[2];
                uint32_t p[KEYS / 4];

                auto scores = [&](auto width, float* s, int block) {  // s = queries · keysᵀ, begun
                    const int slot = (pair + block) % STAGES;
                    wait(&shared.key_full[slot], (pair + block) / STAGES & 1);
                    const uint64_t a = matrix(query), b = matrix(shared.key[slot]);
                    mma_fence();
#pragma unroll
                    for (int k = 0; k < HEAD / 16; k++)
                        Wgmma<width.value>::template run<T>(s, a + (k / 4 * UNIT * 128 + k % 4 * 32) / 16,
                                                            b + (k / 4 * KEYS * 128 + k % 4 * 32) / 16, k > 0);
                    mma_commit();
                };
                auto peak = [&](auto width, float* s, int block) {  // o = o · 2^(old m − m)
                    constexpr int N = width.value;
                    const int valid = job.length - block * KEYS;
                    if (valid < N) {
#pragma unroll
                        for (int i = 0; i < N / 2; i++)
                            if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= valid) s[i] = -INFINITY;
                    }
                    float top[2] = {fmaxf(s[0], s[1]), fmaxf(s[2], s[3])};
#pragma unroll
                    for (int i = 4; i < N / 2; i += 4) {
                        top[0] = fmaxf(top[0], fmaxf(s[i], s[i + 1]));
                        top[1] = fmaxf(top[1], fmaxf(s[i + 2], s[i + 3]));
                    }
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        top[i] = fmaxf(top[i], __shfl_xor_sync(~0u, top[i], 1));
                        top[i] = fmaxf(top[i], __shfl_xor_sync(~0u, top[i], 2));
                    }
                    if (block == 0) {
                        m[0] = top[0], m[1] = top[1], l[0] = l[1] = 0;
                    } else {
                        bool grow = true;
                        if (S::LAZY) grow = __any_sync(~0u, (top[0] - m[0]) * scale > 8.f || (top[1] - m[1]) * scale > 8.f);
                        if (grow) {
#pragma unroll
                            for (int i = 0; i < 2; i++) {
                                const float old = m[i];
                                m[i] = fmaxf(m[i], top[i]);
                                const float fade = exp2_mufu((old - m[i]) * scale);
                                l[i] *= fade;
#pragma unroll
                                for (int j = 0; j < S::OUT / 2; j += 4) o[j + 2 * i] *= fade, o[j + 2 * i + 1] *= fade;
                            }
                        }
                    }
                };
                auto weigh = [&](auto width, float* s, int block) {  // o += 2^(s − m) · values, begun
                    constexpr int N = width.value;
                    const int slot = (pair + block) % STAGES;
                    const int valid = job.length - block * KEYS;
                    wait(&shared.value_full[slot], (pair + block) / STAGES & 1);
                    if (valid < N) {  // 0 · NaN would be NaN
                        for (int box = 0; box < S::BOXES; box++)
                            for (int i = threadIdx.x % 128; i < (N - valid) * 8; i += 128)
                                reinterpret_cast<uint4*>(shared.value[slot] + (box * KEYS + valid) * 128)[i] = make_uint4(0, 0, 0, 0);
                        writes_visible();
                        meet(1 + group, 128);
                    }
                    const float shift[2] = {m[0] * scale, m[1] * scale};
                    const uint64_t v = matrix_rows(shared.value[slot], S::ONES ? shared.ones - shared.value[slot] : KEYS * 128);
#pragma unroll
                    for (int k = 0; k < N / 16; k++) {
#pragma unroll
                        for (int i = 8 * k; i < 8 * k + 8; i += 2) {
                            const float x = fmaf(s[i], scale, -shift[i / 2 % 2]), y = fmaf(s[i + 1], scale, -shift[i / 2 % 2]);
                            constexpr int POLY = S::POLY ? S::POLY : 1;
                            const float a = S::NOEXP ? x : exp2_mufu(x);
                            const float b = S::NOEXP ? y : S::POLY && (i / 2) % POLY == 0 ? exp2_fma(y) : exp2_mufu(y);
                            if (!S::ONES) l[i / 2 % 2] += a + b;
                            p[i / 2] = pack_bits<T>(a, b);
                        }
                        if (k % 2 == 0 && k + 1 < N / 16) continue;
                        mma_fence();
#pragma unroll
                        for (int kk = k - k % 2; kk <= k; kk++) {
                            uint64_t b = v + kk * 128;
                            if (S::ONES) b -= uint64_t(kk * 128) << 16;
                            Wgmma<S::OUT>::template run<T>(o, p + 4 * kk, b, block > 0 || kk > 0);
                        }
                    }
                    mma_commit();
                };
                auto finish = [&](auto width, int block) {
                    mma_wait<0>();
                    settle<S::OUT / 2>(o);
                    settle<width.value / 4>(p);
                    if (release && lane == 0) arrive(&shared.empty[(pair + block) % STAGES]);
                };
                using Full = std::integral_constant<int, KEYS>;
                using Half = std::integral_constant<int, KEYS / 2>;

                wait(&shared.query_full[query_slot], (unit + mine) / S::QUERY_SLOTS & 1);
                if constexpr (!S::DOUBLE) {
                    float s[KEYS / 2];
                    auto step = [&](auto width, int block) {
                        scores(width, s, block);
                        mma_wait<0>();
                        settle<width.value / 2>(s);
                        if (block + 1 == blocks && lane == 0) arrive(&shared.query_empty[query_slot]);
                        peak(width, s, block);
                        weigh(width, s, block);
                        finish(width, block);
                    };
                    if constexpr (S::NARROW) {
                        int block = 0;
                        for (; job.length - block * KEYS > KEYS / 2; block++) step(Full{}, block);
                        if (block < blocks) step(Half{}, block);
                    } else {
                        for (int block = 0; block < blocks; block++) step(Full{}, block);
                    }
                } else {
                    float s[KEYS / 2], t[KEYS / 2];
                    const Full width;
                    scores(width, s, 0);
                    mma_wait<0>();
                    settle<KEYS / 2>(s);
                    for (int block = 0;;) {
                        auto half = [&](float* s, float* t) {
                            const bool last = block + 1 == blocks;
                            peak(width, s, block);
                            if (last) {
                                if (lane == 0) arrive(&shared.query_empty[query_slot]);
                            } else {
                                scores(width, t, block + 1);
                            }
                            weigh(width, s, block);
                            finish(width, block);
                            settle<KEYS / 2>(t);
                            block++;
                            return last;
                        };
                        if (half(s, t) || half(t, s)) break;
                    }
                }
                if constexpr (S::ONES) l[0] = o[HEAD / 2], l[1] = o[HEAD / 2 + 2];

                // o / l, each row's 16 bytes gathered in one of the four threads that share it.
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    if (!S::ONES) {
                        l[i] += __shfl_xor_sync(~0u, l[i], 1);
                        l[i] += __shfl_xor_sync(~0u, l[i], 2);
                    }
                    const float inverse = __fdividef(1.f, l[i]);
                    const int row = mine * UNIT + warp % 4 * 16 + lane / 4 + 8 * i;
                    T* out = context + (std::size_t(job.begin + job.first + row) * heads + job.head) * head_size;
#pragma unroll
                    for (int j = 0; j < HEAD / 8; j += 4) {
                        uint32_t v[4];
#pragma unroll
                        for (int k = 0; k < 4; k++) {
                            auto both = pack<T>(o[4 * (j + k) + 2 * i] * inverse, o[4 * (j + k) + 2 * i + 1] * inverse);
                            v[k] = reinterpret_cast<uint32_t&>(both);
                        }
#pragma unroll
                        for (int step = 1; step < 4; step *= 2) {
                            const bool upper = lane & step;
#pragma unroll
                            for (int k = 0; k < 4; k++) {
                                if (k & step) continue;
                                const uint32_t other = __shfl_xor_sync(~0u, upper ? v[k] : v[k + step], step);
                                (upper ? v[k] : v[k + step]) = other;
                            }
                        }
                        const int column = (j + lane % 4) * 8;
                        if (row < job.queries && column < head_size)
                            *reinterpret_cast<uint4*>(out + column) = make_uint4(v[0], v[1], v[2], v[3]);
                    }
                }
            }
            if (release) pair += blocks;
            mine += GROUPS;
        } while (mine < end);
        unit += units;
    }
}

template <typename S>
void run(cudaStream_t stream, Type type, const void* qkv, int heads, int head_size, const Plan& plan, void* context) {
    const cuuint64_t row = head_size * 2, rows = heads * 3;
    const CUtensorMap map = encode({qkv, type, 3, {cuuint64_t(head_size), rows, cuuint64_t(plan.max_tokens)}, {row, row * rows},
                                    {64, 1, S::BOX_ROWS}});
    auto* kernel = attend<S>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(typename S::Shared)), "attention");
    const int blocks = std::min(current_device().multiprocessors, plan.max_tiles * heads * 6);
    launch(stream, {dim3(blocks), dim3(S::THREADS), sizeof(typename S::Shared)}, kernel, map, plan, heads, head_size,
           1.4426950408889634f / std::sqrt(float(head_size)), static_cast<typename S::T*>(context));
}

}  // namespace
}  // namespace bert
