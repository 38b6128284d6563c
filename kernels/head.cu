#include "rows.cuh"

namespace bert {
namespace {

// logits [rows, width] = x [rows, columns] · weightᵀ + bias, or x itself where there are no weights. A warp a row.
template <typename T, int vectors>
__global__ void __launch_bounds__(256)
    head_kernel(const void* x, Linear out, int width, int columns, const int32_t* tokens, int max_tokens, Outputs outputs) {
    const RowPart<1, vectors> part(columns);
    release_next();
    if (out.weight)
        for (int i = 64 * threadIdx.x; i < min(width, 8) * columns;
             i += 64 * blockDim.x)  // from memory, while the previous kernel ends
            asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const T*>(out.weight) + i));
    await_previous();

    uint4 packed[vectors];
    if (part.row < max_tokens) part.load(x, part.row, packed);  // the first row arrives together with what follows
    const int rows = min(*tokens, max_tokens);
    if (*outputs.status != status_ok) {
        for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < std::size_t(max_tokens) * width;
             i += gridDim.x * blockDim.x)
            outputs.logits[i] = __int_as_float(0x7fffffff);
        return;
    }
    for (int row = part.row; row < rows; row += part.rows_at_a_time) {
        float value[vectors][8];
        if (row != part.row) part.load(x, row, packed);
        part.each([&](int v, int) { widen<T>(packed[v], value[v]); });
        float* logits = outputs.logits + std::size_t(row) * width;
        if (!out.weight) {
            part.each([&](int v, int column) {
#pragma unroll
                for (int i = 0; i < 8; i++) logits[column + i] = value[v][i];
            });
            continue;
        }
#pragma unroll 2
        for (int i = 0; i < width; i++) {
            float sum = 0;
            const float bias = out.bias[i];
            part.load(out.weight, i, packed);
            part.each([&](int v, int) {
                float weight[8];
                widen<T>(packed[v], weight);
#pragma unroll
                for (int j = 0; j < 8; j++) sum += value[v][j] * weight[j];
            });
            sum = part.sum(sum, nullptr);
            if (part.thread == 0) logits[i] = sum + bias;
        }
    }
}

// first [B, columns] of x [T, columns], and how many there are: none where the batch is not what it should be. A block a
// sequence.
__global__ void __launch_bounds__(128)
    first_tokens_kernel(const uint4* x, int vectors, Plan plan, uint4* first, int32_t* sequences) {
    release_next();
    await_previous();
    if (blockIdx.x == 0 && threadIdx.x == 0) *sequences = *plan.tokens ? plan.sequences : 0;
    const uint4* from = x + std::size_t(plan.cu_seqlens[blockIdx.x]) * vectors;
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) first[std::size_t(blockIdx.x) * vectors + i] = from[i];
}

}  // namespace

void head(cudaStream_t stream, const Sizes& sizes, const Linear& out, const void* x, const Plan& plan, const Outputs& outputs) {
    const Grid grid{unsigned(std::min((plan.max_tokens + 7) / 8, 4 * current_device().multiprocessors)), 256};
    dispatch(sizes.type, [&](auto zero) {
        using T = decltype(zero);
        auto* kernel = sizes.hidden_size <= 512    ? head_kernel<T, 2>
                       : sizes.hidden_size <= 1024 ? head_kernel<T, 4>
                                                   : head_kernel<T, 8>;
        launch(stream, grid, kernel, x, out, sizes.width, sizes.hidden_size, plan.tokens, plan.max_tokens, outputs);
    });
}

void first_tokens(cudaStream_t stream, const void* x, int columns, const Plan& plan, void* first, int32_t* sequences) {
    launch(stream, {unsigned(plan.sequences), 128}, first_tokens_kernel, static_cast<const uint4*>(x), columns / 8, plan,
           static_cast<uint4*>(first), sequences);
}

}  // namespace bert
