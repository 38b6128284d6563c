#include "weights.h"

#include <cstdint>

namespace bert {
namespace {

// Hands out a block's memory, tensor by tensor.
class Cursor {
   public:
    explicit Cursor(const void* memory) : begin_(reinterpret_cast<std::uintptr_t>(memory)) {}

    std::size_t bytes() const { return bytes_; }

    const void* matrix(int rows, int columns) { return take(rows, columns, 2); }
    const float* vector(int size) { return static_cast<const float*>(take(1, size, sizeof(float))); }
    Linear linear(int n, int k) {
        const void* weight = matrix(n, k);
        return {weight, vector(n)};
    }
    LayerNorm norm(int size) {
        const float* gamma = vector(size);
        return {gamma, vector(size)};
    }

   private:
    const void* take(int rows, int columns, int size) {
        if (rows < 1 || columns < 1) throw Error("sizes of weights must be positive");
        const std::size_t here = bytes_, tensor = std::size_t(rows) * columns * size;  // below 2 to the 64
        bytes_ = (here + tensor + 255) / 256 * 256;
        if (bytes_ < here || tensor > SIZE_MAX / 2) throw Error("weights of these sizes fit no memory");
        return reinterpret_cast<const void*>(begin_ + here);
    }

    std::uintptr_t begin_;
    std::size_t bytes_ = 0;
};

Weights place(const Form& form, Cursor& at) {
    const Sizes& s = form.sizes;
    const int hidden = s.hidden_size, inner = s.intermediate_size;
    if (form.distinct_layers < 1 || form.layers < form.distinct_layers) throw Error("layers must be as many as distinct ones, or more");
    if (hidden > INT32_MAX / 3) throw Error("weights of these sizes fit no memory");

    Weights weights;
    Embeddings& e = weights.embeddings;
    e.word = at.matrix(s.vocab_size, s.embedding_size);
    e.position = at.matrix(s.max_position_embeddings, s.embedding_size);
    if (form.segment) e.segment = at.matrix(s.type_vocab_size, s.embedding_size);
    e.norm = at.norm(s.embedding_size);
    if (form.projection) e.projection = at.linear(hidden, s.embedding_size);

    std::vector<Layer> distinct(form.distinct_layers);
    for (Layer& layer : distinct) {
        layer.qkv = at.linear(3 * hidden, hidden);
        layer.attention_output = at.linear(hidden, hidden);
        layer.attention_norm = at.norm(hidden);
        layer.intermediate = at.linear(inner, hidden);
        layer.output = at.linear(hidden, inner);
        layer.output_norm = at.norm(hidden);
    }
    for (std::int64_t i = 0; i < form.layers; i++) weights.layers.push_back(distinct[i * form.distinct_layers / form.layers]);

    if (form.dense) weights.head.dense = at.linear(hidden, hidden);
    if (form.out) weights.head.out = at.linear(s.width, hidden);
    weights.head.activation = form.head_activation;
    weights.head.pooled = form.pooled;
    return weights;
}

}  // namespace

std::size_t weights_bytes(const Form& form) {
    Cursor cursor(nullptr);
    place(form, cursor);
    return cursor.bytes();
}

Weights place_weights(const Form& form, const void* memory) {
    Cursor cursor(memory);
    return place(form, cursor);
}

}  // namespace bert
