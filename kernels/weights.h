// Where an encoder's weights lie in one block of memory, be it a file's, a plugin's field or the GPU's: in a fixed order, each
// tensor at a multiple of 256 bytes. helpers/backends/cuda/weights.py writes such blocks.
#pragma once

#include "encoder.h"

namespace bert {

// What tells how large a block is, and what lies where.
struct Form {
    Sizes sizes;
    int layers = 0;
    int distinct_layers = 0;  // whose weights are there: layer i has those of i · distinct_layers / layers
    bool segment = false, projection = false, dense = false, out = false;  // which of Embeddings's and Head's parts are there
    bool pooled = false;
    Activation head_activation = Activation::none;
};

// Calls visit(name, member) for everything that a form is made of, always in the same order.
template <typename Form, typename F>
void each_member(Form& form, F&& visit) {
    auto& s = form.sizes;
    visit("vocab_size", s.vocab_size);
    visit("max_position_embeddings", s.max_position_embeddings);
    visit("type_vocab_size", s.type_vocab_size);
    visit("embedding_size", s.embedding_size);
    visit("hidden_size", s.hidden_size);
    visit("num_attention_heads", s.num_attention_heads);
    visit("intermediate_size", s.intermediate_size);
    visit("width", s.width);
    visit("layer_norm_eps", s.layer_norm_eps);
    visit("activation", s.activation);
    visit("type", s.type);
    visit("layers", form.layers);
    visit("distinct_layers", form.distinct_layers);
    visit("segment", form.segment);
    visit("projection", form.projection);
    visit("dense", form.dense);
    visit("out", form.out);
    visit("pooled", form.pooled);
    visit("head_activation", form.head_activation);
}

// Both raise Error where a form cannot be.
std::size_t weights_bytes(const Form&);
Weights place_weights(const Form&, const void* memory);

}  // namespace bert
