#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "launch.h"
#include "parts.h"

namespace bert {
namespace {

void require(bool condition, const std::string& otherwise) {
    if (!condition) throw Error(otherwise);
}

void check_pointer(const void* pointer, const char* name, std::size_t alignment = 16) {
    if (!pointer) throw Error(std::string(name) + " is absent");
    if (reinterpret_cast<std::uintptr_t>(pointer) % alignment)
        throw Error(std::string(name) + " must begin at a multiple of " + std::to_string(alignment) + " bytes");
}
void check_pointers(const Linear& linear, const std::string& name) {
    check_pointer(linear.weight, (name + "'s weight").c_str());
    check_pointer(linear.bias, (name + "'s bias").c_str());
}
void check_pointers(const LayerNorm& norm, const std::string& name) {
    check_pointer(norm.gamma, (name + "'s gamma").c_str());
    check_pointer(norm.beta, (name + "'s beta").c_str());
}

void check_sizes(const Sizes& s) {
    auto is = [](const char* name, int value, const char* what) {
        return std::string(name) + " must be " + what + ", not " + std::to_string(value);
    };
    auto check_columns = [&](const char* name, int value, int most) {
        require(value > 0 && value % 64 == 0 && value <= most,
                is(name, value, most < INT32_MAX ? "a multiple of 64 up to 2048" : "a multiple of 64"));
    };
    check_columns("embedding_size", s.embedding_size, 2048);
    check_columns("hidden_size", s.hidden_size, 2048);
    check_columns("intermediate_size", s.intermediate_size, INT32_MAX);
    require(s.num_attention_heads > 0 && s.hidden_size % s.num_attention_heads == 0,
            is("num_attention_heads", s.num_attention_heads, "a divisor of hidden_size"));
    const int head_size = s.hidden_size / s.num_attention_heads;
    require(head_size % 8 == 0 && head_size <= 128, is("the size of a head", head_size, "a multiple of 8 up to 128"));
    require(s.vocab_size > 0, is("vocab_size", s.vocab_size, "at least 1"));
    require(s.max_position_embeddings > 0, is("max_position_embeddings", s.max_position_embeddings, "at least 1"));
    require(s.width > 0, is("width", s.width, "at least 1"));
    require(s.layer_norm_eps >= 0 && std::isfinite(s.layer_norm_eps), "layer_norm_eps must be a finite number from 0");
}

void check_weights(const Sizes& s, const Weights& w) {
    check_pointer(w.embeddings.word, "the table of words");
    check_pointer(w.embeddings.position, "the table of positions");
    if (w.embeddings.segment) {
        check_pointer(w.embeddings.segment, "the table of segments");
        require(s.type_vocab_size > 0,
                "a table of segments has at least one row: type_vocab_size must not be " + std::to_string(s.type_vocab_size));
    }
    check_pointers(w.embeddings.norm, "the embeddings' layer norm");
    if (w.embeddings.projection.weight)
        check_pointers(w.embeddings.projection, "the embeddings' projection");
    else
        require(s.embedding_size == s.hidden_size, "embeddings of " + std::to_string(s.embedding_size) +
                                                       " need a projection to a hidden_size of " + std::to_string(s.hidden_size));
    require(!w.layers.empty(), "an encoder has at least one layer");
    for (std::size_t i = 0; i < w.layers.size(); i++) {
        const std::string name = "layer " + std::to_string(i) + "'s ";
        const Layer& layer = w.layers[i];
        check_pointers(layer.qkv, name + "qkv");
        check_pointers(layer.attention_output, name + "attention output");
        check_pointers(layer.attention_norm, name + "attention's layer norm");
        check_pointers(layer.intermediate, name + "intermediate");
        check_pointers(layer.output, name + "output");
        check_pointers(layer.output_norm, name + "output's layer norm");
    }
    if (w.head.dense.weight) check_pointers(w.head.dense, "the head's dense");
    if (w.head.out.weight) {
        check_pointer(w.head.out.weight, "the head's weight");
        check_pointer(w.head.out.bias, "the head's bias", 4);
    } else {
        require(s.width == s.hidden_size, "without weights, the head's width must be the hidden_size");
    }
}

std::size_t whole_tiles(int rows) { return (std::size_t(rows) + 127) / 128 * 128; }

// Where a run's intermediate results lie, in rows of whole tiles, so that tiles are read and written whole. [qkv, context] and
// the intermediate layer's output are never needed at the same time; nor are they while the embeddings, or the head, are
// computed.
struct Workspace {
    Plan plan, pooled;
    void *x, *sum, *qkv, *context, *inner;
    void *embedded, *first, *dense;
    std::size_t bytes;

    Workspace(void* memory, const Sizes& s, int max_tokens, int sequences) {
        auto* next = static_cast<unsigned char*>(memory);
        auto take = [&](std::size_t bytes) {
            auto* here = next;
            next += bytes;
            return here;
        };
        const std::size_t row = 2 * whole_tiles(max_tokens), hidden = row * s.hidden_size;
        plan = place_plan(take(plan_bytes(max_tokens, sequences)), max_tokens, sequences);
        pooled = plan;
        pooled.tokens = reinterpret_cast<int32_t*>(take(256));
        pooled.max_tokens = sequences;
        x = take(hidden);
        sum = take(hidden);
        auto* shared = take(std::max({4 * hidden, row * s.intermediate_size, row * s.embedding_size}));
        qkv = inner = embedded = first = shared;
        context = shared + 3 * hidden;
        dense = shared + hidden;
        bytes = next - static_cast<unsigned char*>(memory);
    }
};

void check_bounds(int max_tokens, int sequences) {
    if (sequences < 1 || max_tokens < sequences)
        throw Error("a batch has at least one sequence, and at least one token for each: not " + std::to_string(sequences) +
                    " sequences within " + std::to_string(max_tokens) + " tokens");
}

}  // namespace

struct Encoder::Network {
    struct Layer {
        Product qkv, attention_output, intermediate, output;
        LayerNorm attention_norm, output_norm;
    };
    Sizes sizes;
    Embeddings embeddings;
    Product projection;
    std::vector<Layer> layers;
    Head head;
    Product dense;
};

Encoder::Encoder(const Sizes& sizes, const Weights& weights) {
    current_device();
    check_sizes(sizes);
    check_weights(sizes, weights);
    const int hidden = sizes.hidden_size, inner = sizes.intermediate_size;
    auto product = [&](const Linear& linear, int n, int k, Activation activation = Activation::none) {
        return Product(sizes.type, linear, n, k, activation);
    };
    auto network = std::make_shared<Network>();
    network->sizes = sizes, network->embeddings = weights.embeddings, network->head = weights.head;
    if (weights.embeddings.projection.weight)
        network->projection = product(weights.embeddings.projection, hidden, sizes.embedding_size);
    for (const Layer& layer : weights.layers)
        network->layers.push_back({product(layer.qkv, 3 * hidden, hidden), product(layer.attention_output, hidden, hidden),
                                   product(layer.intermediate, inner, hidden, sizes.activation),
                                   product(layer.output, hidden, inner), layer.attention_norm, layer.output_norm});
    if (weights.head.dense.weight) network->dense = product(weights.head.dense, hidden, hidden, weights.head.activation);
    network_ = std::move(network);
}

std::size_t Encoder::workspace_bytes(int max_tokens, int sequences) const {
    check_bounds(max_tokens, sequences);
    return Workspace(nullptr, network_->sizes, max_tokens, sequences).bytes;
}

void Encoder::run(cudaStream_t stream, const Batch& batch, void* workspace, const Outputs& outputs) const {
    const Network& net = *network_;
    const Sizes& s = net.sizes;
    check_bounds(batch.max_tokens, batch.sequences);
    check_pointer(workspace, "the workspace", 256);
    check_pointer(batch.ids, "ids", 4);
    if (net.embeddings.segment) check_pointer(batch.segments, "segments", 4);
    check_pointer(batch.cu_seqlens, "cu_seqlens", 4);
    check_pointer(outputs.logits, "logits", 4);
    check_pointer(outputs.status, "status", 4);

    const Workspace w(workspace, s, batch.max_tokens, batch.sequences);
    auto normalise = [&](void* x, const LayerNorm& norm) {
        layer_norm(stream, s.type, x, norm, s.layer_norm_eps, s.hidden_size, w.plan, x);
    };

    make_plan(stream, batch, s, w.plan, outputs.status);
    const bool projected = net.embeddings.projection.weight;
    embeddings(stream, batch, s, net.embeddings, w.plan, projected ? w.embedded : w.x, outputs.status);
    if (projected) net.projection.run(stream, w.embedded, nullptr, w.plan, w.x);

    for (const Network::Layer& layer : net.layers) {
        layer.qkv.run(stream, w.x, nullptr, w.plan, w.qkv);
        attention(stream, s.type, w.qkv, s.num_attention_heads, s.hidden_size / s.num_attention_heads, w.plan, w.context);
        layer.attention_output.run(stream, w.context, w.x, w.plan, w.sum);
        normalise(w.sum, layer.attention_norm);
        layer.intermediate.run(stream, w.sum, nullptr, w.plan, w.inner);
        layer.output.run(stream, w.inner, w.sum, w.plan, w.x);
        normalise(w.x, layer.output_norm);
    }

    const void* x = w.x;
    const Plan& plan = net.head.pooled ? w.pooled : w.plan;
    if (net.head.pooled) {
        first_tokens(stream, x, s.hidden_size, w.plan, w.first, w.pooled.tokens);
        x = w.first;
    }
    if (net.head.dense.weight) {
        net.dense.run(stream, x, nullptr, plan, w.dense);
        x = w.dense;
    }
    head(stream, s, net.head.out, x, plan, outputs);
}

}  // namespace bert
