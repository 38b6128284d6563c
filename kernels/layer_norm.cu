#include "rows.cuh"

namespace bert {
namespace {

template <typename T, int warps, int vectors>
__global__ void __launch_bounds__(warps == 1 ? 256 : 128)
    layer_norm_kernel(const void* x, LayerNorm norm, float eps, int columns, const int32_t* tokens, int max_tokens, void* out) {
    const RowPart<warps, vectors> part(columns);
    release_next();
    Normaliser<warps, vectors> normaliser(part, norm, eps);
    await_previous();

    // The first row arrives together with how many rows there are.
    uint4 packed[vectors];
    int row = part.row;
    if (row < max_tokens) part.load(x, row, packed);
    const int rows = min(*tokens, max_tokens);
    normaliser.ready();
    while (row < rows) {
        float value[vectors][8];
        part.each([&](int v, int) { widen<T>(packed[v], value[v]); });
        const int next = row + part.rows_at_a_time;
        if (next < rows) part.load(x, next, packed);
        normaliser.template write<T>(value, out, row);
        row = next;
    }
}

}  // namespace

void layer_norm(cudaStream_t stream, Type type, const void* x, const LayerNorm& norm, float eps, int columns, const Plan& plan,
                void* out) {
    dispatch(type, [&](auto zero) {
        for_rows(plan.max_tokens, columns, [&](auto warps, auto vectors, const Grid& grid) {
            launch(stream, grid, layer_norm_kernel<decltype(zero), warps(), vectors()>, x, norm, eps, columns, plan.tokens,
                   plan.max_tokens, out);
        });
    });
}

}  // namespace bert
