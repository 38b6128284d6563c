// The parts that an encoder's run is made of, each a file of its own. All read how many tokens there are from the GPU's memory
// (`Plan`), compute nothing for rows beyond, and are launched so that one begins while the one before it ends (launch.h).
#pragma once

#include "encoder.h"

namespace bert {

// Multiprocessors and compute capability (90 for 9.0) of the current GPU. Raises Error below 8.0.
struct Device {
    int multiprocessors;
    int capability;
};
Device current_device();

// How a batch lies, worked out once a run by plan.cu, in the GPU's memory.
constexpr int ATTENTION_ROWS = 384;  // queries of a tile, at most: the last of a sequence may have fewer
struct Tile {
    int32_t sequence;
    int32_t first;  // its first query, counted from the sequence's begin
};
struct Plan {
    int32_t* tokens = nullptr;  // T; 0 where the batch is not what it should be
    int32_t* tiles = nullptr;  // how many
    int32_t* cu_seqlens = nullptr;  // [B + 1], the batch's, checked: all 0 where they were wrong
    Tile* tile = nullptr;  // those with most queries times keys first: they take longest
    int max_tokens = 0;
    int max_tiles = 0;  // max_tokens / ATTENTION_ROWS + B: what the grid is made for
    int sequences = 0;
};
std::size_t plan_bytes(int max_tokens, int sequences);
Plan place_plan(void* memory, int max_tokens, int sequences);
void make_plan(cudaStream_t, const Batch&, const Sizes&, const Plan&, int32_t* status);

// x [T, embedding_size] = layer norm of the sum of a token's rows of the tables (eps inside the root, as in the paper's code).
// An id out of range sets the status and reads row 0. To be enqueued right after make_plan, beside which it works.
void embeddings(cudaStream_t, const Batch&, const Sizes&, const Embeddings&, const Plan&, void* x, int32_t* status);

// out [T, columns] = layer norm of x [T, columns]; sums in float32, two passes over registers. out may be x.
void layer_norm(cudaStream_t, Type, const void* x, const LayerNorm&, float eps, int columns, const Plan&, void* out);

// A linear layer and what follows it, with the product in a tile's registers:
//   out [T, n] = activation(x · weightᵀ + bias) + residual
// x [T, k] and residual [T, n] (or null) of `type`; activation and residual are never both asked for. n and k are multiples
// of 64. Sums, bias, activation and residual are added in float32, rounded once.
class Product {
   public:
    Product() = default;
    Product(Type, const Linear&, int n, int k, Activation);
    void run(cudaStream_t, const void* x, const void* residual, const Plan&, void* out) const;

   private:
    Type type_ = Type::float16;
    Linear linear_;
    int n_ = 0, k_ = 0;
    Activation activation_ = Activation::none;
    alignas(64) unsigned char maps_[4][128] = {};  // CUtensorMap of the weights, as each kind of tile reads them (product.h)
};

// context [T, E] of qkv [T, 3E] (rows as in Layer::qkv): softmax(q · kᵀ / √D) · v, of each sequence alone, online
// (Milakov & Gimelshein, 2018, arXiv:1805.02867). Nothing of other sequences, nor of rows beyond T, changes a result, not even
// an infinity or a NaN.
void attention(cudaStream_t, Type, const void* qkv, int heads, int head_size, const Plan&, void* context);

// first [B, columns] of x [T, columns], 16-bit: each sequence's first token. `sequences`, in the GPU's memory, becomes what
// Plan::tokens is for x: B, or 0 where the batch is not what it should be.
void first_tokens(cudaStream_t, const void* x, int columns, const Plan&, void* first, int32_t* sequences);

// logits [T, width] float32 = x [T, E] · weightᵀ + bias, or x itself where `out` is absent; max_tokens rows of NaN where the
// status is not 0.
void head(cudaStream_t, const Sizes&, const Linear& out, const void* x, const Plan&, const Outputs&);

}  // namespace bert
