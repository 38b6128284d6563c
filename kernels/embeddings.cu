// Works while the plan is made: it reads the batch itself, bounds all that it reads by the sizes, and does not wait for the plan
// before the end. What it makes of wrong cu_seqlens is not looked at: the plan has no tokens then.
#include "rows.cuh"

namespace bert {
namespace {

struct Tables {
    const void *word, *position, *segment;  // segment may be null
    int vocab_size, max_position_embeddings, type_vocab_size;
};

// The last sequence that begins at `row` or before it; by all lanes of a warp, 32 bounds at a time.
__device__ __forceinline__ int sequence_of(const int32_t* cu_seqlens, int sequences, int row) {
    int first = 0, count = sequences;
    while (count > 1) {
        const int step = (count + 31) / 32, at = first + int(threadIdx.x % 32) * step;
        const unsigned begun = __ballot_sync(~0u, at < first + count && cu_seqlens[at] <= row);
        first += max(__popc(begun) - 1, 0) * step;
        count = min(step, sequences - first);
    }
    return first;
}

template <typename T, int warps, int vectors>
__global__ void __launch_bounds__(warps == 1 ? 256 : 128)
    embeddings_kernel(Batch batch, Tables tables, LayerNorm norm, float eps, int columns, const int32_t* tokens, void* x,
                      int32_t* status) {
    const RowPart<warps, vectors> part(columns);
    release_next();
    Normaliser<warps, vectors> normaliser(part, norm, eps);

    const int rows = min(batch.cu_seqlens[batch.sequences], batch.max_tokens);
    normaliser.ready();
    int32_t wrong = status_ok;
    auto checked = [&](int32_t id, int size, Status otherwise) {
        if (id >= 0 && id < size) return id;
        wrong = max(wrong, otherwise);
        return 0;
    };
    for (int row = part.row; row < rows; row += part.rows_at_a_time) {
        const int id = checked(batch.ids[row], tables.vocab_size, status_ids);
        const int segment = tables.segment ? checked(batch.segments[row], tables.type_vocab_size, status_segments) : 0;
        const int begin = batch.cu_seqlens[sequence_of(batch.cu_seqlens, batch.sequences, row)];
        const int position = min(unsigned(row) - unsigned(begin), unsigned(tables.max_position_embeddings - 1));
        uint4 word[vectors], place[vectors], kind[vectors];
        part.load(tables.word, id, word);
        part.load(tables.position, position, place);
        if (tables.segment) part.load(tables.segment, segment, kind);
        float value[vectors][8];
        part.each([&](int v, int) {
            float other[8];
            widen<T>(word[v], value[v]);
            widen<T>(place[v], other);
#pragma unroll
            for (int i = 0; i < 8; i++) value[v][i] += other[i];
            if (!tables.segment) return;
            widen<T>(kind[v], other);
#pragma unroll
            for (int i = 0; i < 8; i++) value[v][i] += other[i];
        });
        normaliser.template write<T>(value, x, row);
    }

    await_previous();
    if (wrong && *tokens) atomicMax(status, wrong);
}

}  // namespace

void embeddings(cudaStream_t stream, const Batch& batch, const Sizes& sizes, const Embeddings& weights, const Plan& plan, void* x,
                int32_t* status) {
    const Tables tables{weights.word,         weights.position, weights.segment, sizes.vocab_size, sizes.max_position_embeddings,
                        sizes.type_vocab_size};
    dispatch(sizes.type, [&](auto zero) {
        for_rows(plan.max_tokens, sizes.embedding_size, [&](auto warps, auto vectors, const Grid& grid) {
            launch(stream, grid, embeddings_kernel<decltype(zero), warps(), vectors()>, batch, tables, weights.norm,
                   sizes.layer_norm_eps, sizes.embedding_size, plan.tokens, x, status);
        });
    });
}

}  // namespace bert
