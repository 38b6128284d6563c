// Rows of a matrix in registers: of up to 2,048 columns, a multiple of 64, each held by the threads of a warp, or of several. A
// thread has `vectors` times 8 numbers that lie side by side, 16 bytes of memory; vector v of thread t begins at column 8 (v
// threads + t). Many rows: a warp a row, bound by memory. Few: four warps a row, since then the way of a single row is what takes
// time.
#pragma once

#include <algorithm>
#include <type_traits>

#include "launch.h"
#include "numbers.cuh"
#include "parts.h"

namespace bert {

template <typename T>
__device__ __forceinline__ void widen(uint4 packed, float (&x)[8]) {
    const auto* pairs = reinterpret_cast<const typename Pair<T>::type*>(&packed);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack(pairs[i]);
        x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
}
template <typename T>
__device__ __forceinline__ uint4 narrow(const float (&x)[8]) {
    uint4 packed;
    auto* pairs = reinterpret_cast<typename Pair<T>::type*>(&packed);
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = pack<T>(x[2 * i], x[2 * i + 1]);
    return packed;
}
__device__ __forceinline__ void load(const float* from, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) *reinterpret_cast<float4*>(&x[i]) = *reinterpret_cast<const float4*>(from + i);
}

// A thread's part of a row, and which rows of the grid's are its own: row, row + rows_at_a_time, ...
template <int warps, int vectors>
struct RowPart {
    static constexpr int threads = 32 * warps;
    int columns, thread, row, rows_at_a_time;

    __device__ explicit RowPart(int columns)
        : columns(columns),
          thread(threadIdx.x % threads),
          row((blockIdx.x * blockDim.x + threadIdx.x) / threads),
          rows_at_a_time(gridDim.x * blockDim.x / threads) {}

    template <typename F>
    __device__ __forceinline__ void each(F&& f) const {  // f(vector, its first column)
#pragma unroll
        for (int v = 0; v < vectors; v++) {
            const int column = 8 * (v * threads + thread);
            if (column < columns) f(v, column);
        }
    }
    __device__ __forceinline__ void load(const void* matrix, int row, uint4 (&packed)[vectors]) const {  // of 16-bit numbers
        const auto* from = static_cast<const uint4*>(matrix) + std::size_t(row) * (columns / 8);
        each([&](int v, int column) { packed[v] = from[column / 8]; });
    }
    __device__ __forceinline__ float sum(float x, float* shared) const {  // over the row's threads; `shared` of a float a warp
#pragma unroll
        for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
        if constexpr (warps > 1) {
            if (threadIdx.x % 32 == 0) shared[thread / 32] = x;
            __syncthreads();
            x = shared[0];
#pragma unroll
            for (int i = 1; i < warps; i++) x += shared[i];
        }
        return x;
    }
};

// 16 bytes from global to shared memory, both at multiples of 16; in the background until arrived().
__device__ __forceinline__ void copy_async(float* to, const float* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from) : "memory");
}
__device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Layer normalisation (Ba et al., 2016, arXiv:1607.06450): (x - mean) / sqrt(variance + eps) · gamma + beta; the mean first, then
// the squares of what differs from it.
template <int warps, int vectors>
class Normaliser {
    // gamma and beta: in registers where these suffice, else in shared memory, 2 · columns floats
    static constexpr bool in_registers = warps > 1;
    float gamma_[in_registers ? vectors : 1][8], beta_[in_registers ? vectors : 1][8];
    float* shared_;
    const RowPart<warps, vectors> part_;
    const float eps_;

   public:
    // Begins to fetch gamma and beta: weights alone, so this may be done before await_previous().
    __device__ __forceinline__ Normaliser(const RowPart<warps, vectors>& part, const LayerNorm& norm, float eps)
        : part_(part), eps_(eps) {
        extern __shared__ __align__(16) float gamma_and_beta[];
        shared_ = gamma_and_beta;
        if constexpr (in_registers)
            part.each([&](int v, int column) { load(norm.gamma + column, gamma_[v]), load(norm.beta + column, beta_[v]); });
        else
            for (int i = 4 * threadIdx.x; i < part.columns; i += 4 * blockDim.x)
                copy_async(shared_ + i, norm.gamma + i), copy_async(shared_ + part.columns + i, norm.beta + i);
    }
    // Before the first write; by all of a block's threads.
    __device__ __forceinline__ void ready() {
        if constexpr (!in_registers) arrived(), __syncthreads();
    }
    template <typename T>
    __device__ __forceinline__ void write(float (&x)[vectors][8], void* matrix, int row) {
        __shared__ float sums[2][warps];
        float total = 0, squares = 0;
        part_.each([&](int v, int) {
#pragma unroll
            for (int i = 0; i < 8; i++) total += x[v][i];
        });
        const float mean = part_.sum(total, sums[0]) / part_.columns;
        part_.each([&](int v, int) {
#pragma unroll
            for (int i = 0; i < 8; i++) x[v][i] -= mean, squares += x[v][i] * x[v][i];
        });
        const float scale = rsqrtf(part_.sum(squares, sums[1]) / part_.columns + eps_);
        asm volatile("" ::: "memory");  // gamma and beta are read here, a vector at a time: registers do not suffice for more
        auto* to = static_cast<uint4*>(matrix) + std::size_t(row) * (part_.columns / 8);
        part_.each([&](int v, int column) {
            if constexpr (!in_registers) load(shared_ + column, gamma_[0]), load(shared_ + part_.columns + column, beta_[0]);
            float y[8];
#pragma unroll
            for (int i = 0; i < 8; i++) y[i] = x[v][i] * scale * gamma_[in_registers ? v : 0][i] + beta_[in_registers ? v : 0][i];
            to[column / 8] = narrow<T>(y);
        });
    }
};

constexpr int FEW_ROWS = 1024;  // up to which four warps a row are as fast or faster (README.md)

template <int value>
using Constant = std::integral_constant<int, value>;

// Calls f(warps, vectors, grid), the first two Constants: how a kernel with a Normaliser should hold that many rows.
template <typename F>
void for_rows(int rows, int columns, F&& f) {
    if (rows <= FEW_ROWS) {
        const Grid grid{unsigned(rows), 128};
        return columns <= 1024 ? f(Constant<4>{}, Constant<1>{}, grid) : f(Constant<4>{}, Constant<2>{}, grid);
    }
    const int blocks = (rows + 7) / 8, resident = current_device().multiprocessors * (columns <= 1024 ? 3 : 2);
    const int rounds = (blocks + resident - 1) / resident;  // of the same number of rows for all
    const Grid grid{unsigned((blocks + rounds - 1) / rounds), 256, 2 * columns * sizeof(float)};
    switch ((columns + 255) / 256) {
        case 1:
            return f(Constant<1>{}, Constant<1>{}, grid);
        case 2:
            return f(Constant<1>{}, Constant<2>{}, grid);
        case 3:
            return f(Constant<1>{}, Constant<3>{}, grid);
        case 4:
            return f(Constant<1>{}, Constant<4>{}, grid);
        case 5:
        case 6:
            return f(Constant<1>{}, Constant<6>{}, grid);
        default:
            return f(Constant<1>{}, Constant<8>{}, grid);
    }
}

}  // namespace bert
