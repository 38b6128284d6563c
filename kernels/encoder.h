// A BERT encoder (Devlin et al., 2018, arXiv:1810.04805) over ragged batches, on one GPU of compute capability 8.0 or later.
// Knows neither TensorRT nor Python. All pointers are of the GPU's memory, but those of this header's own structures.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

namespace bert {

// What a caller did wrong, or what the GPU cannot: one sentence.
class Error : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

enum class Type { float16, bfloat16 };  // of weights and activations in memory; sums are float32

// GELU (Hendrycks & Gimpel, 2016, arXiv:1606.08415) by the error function or by tanh.
enum class Activation { none, gelu_erf, gelu_tanh, relu, tanh };

// y = x · weightᵀ + bias: weight [n, k], row after row, bias [n] float32. Weights begin at multiples of 16 bytes.
struct Linear {
    const void* weight = nullptr;
    const float* bias = nullptr;
};

struct LayerNorm {
    const float* gamma = nullptr;
    const float* beta = nullptr;
};

struct Layer {
    Linear qkv;  // [3E, E]: rows of all queries, then all keys, then all values, each [N, D]
    Linear attention_output;  // [E, E]
    LayerNorm attention_norm;
    Linear intermediate;  // [F, E]
    Linear output;  // [E, F]
    LayerNorm output_norm;
};

// Tables [rows, embedding_size]. That of positions begins with the row of a sequence's first token, whatever the family's
// offset is; that of segments may be absent.
struct Embeddings {
    const void* word = nullptr;
    const void* position = nullptr;
    const void* segment = nullptr;
    LayerNorm norm;
    Linear projection;  // [E, embedding_size], where embeddings are narrower than layers; else absent
};

// What makes outputs of the encoder's: of every token, or, where pooled, of each sequence's first one.
struct Head {
    Linear dense;  // [E, E], then `activation`; or absent
    Activation activation = Activation::none;
    Linear out;  // [width, E]; or absent, and the width is E
    bool pooled = false;
};

struct Weights {
    Embeddings embeddings;
    std::vector<Layer> layers;  // several may be the same (Lan et al., 2019, arXiv:1909.11942)
    Head head;
};

struct Sizes {
    int vocab_size = 0;
    int max_position_embeddings = 0;  // tokens of the longest sequence
    int type_vocab_size = 0;
    int embedding_size = 0;  // hidden_size in most families; both multiples of 64, up to 2048
    int hidden_size = 0;  // E
    int num_attention_heads = 0;  // N, of head_size D = E / N: a multiple of 8, up to 128
    int intermediate_size = 0;  // F, a multiple of 64
    int width = 2;  // outputs of a token, or of a sequence
    float layer_norm_eps = 1e-12f;
    Activation activation = Activation::gelu_erf;
    Type type = Type::float16;
};

// B sequences end to end, int32: ids and segments [T], cu_seqlens [B + 1], from 0 to T. T stands in the GPU's memory alone:
// the same launches, and a CUDA graph of them, serve any batch within these bounds. Rows beyond T cost nothing.
struct Batch {
    const int32_t* ids = nullptr;
    const int32_t* segments = nullptr;
    const int32_t* cu_seqlens = nullptr;
    int max_tokens = 0;
    int sequences = 0;
};

// What `status` becomes where a batch is not what it should be; its outputs are NaN then, and nothing beyond it was read.
enum Status : int32_t { status_ok = 0, status_cu_seqlens = 1, status_ids = 2, status_segments = 3 };

struct Outputs {
    float* logits = nullptr;  // [T, width]; pooled [B, width]. All max_tokens rows, or B, are NaN where the batch was wrong
    int32_t* status = nullptr;  // one Status
};

class Encoder {
   public:
    // Raises Error where sizes, pointers or the current GPU do not fit. The weights stay where they are: they must be there, and
    // on that GPU, as long as the encoder runs.
    Encoder(const Sizes& sizes, const Weights& weights);

    // The memory that a run needs, for batches within these bounds; it begins at a multiple of 256 bytes.
    std::size_t workspace_bytes(int max_tokens, int sequences) const;

    // Enqueues a run. Neither allocates nor waits, so a stream under capture will do. Several threads may call it at a time, each
    // with a workspace of its own.
    void run(cudaStream_t stream, const Batch& batch, void* workspace, const Outputs& outputs) const;

   private:
    struct Network;
    std::shared_ptr<const Network> network_;
};

}  // namespace bert
