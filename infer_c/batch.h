// A batch: the arrays that an engine takes, each by its name, which also tells what kind of batch it is.
//
// A padded batch has input_ids, segment_ids and input_mask, all [B, S]. A packed one has input_ids and segment_ids [T],
// the sequences one behind the other; cu_seqlens [B + 1], where each begins, and the end; and max_seqlen [longest], of
// which only the length is read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace bert {

using Shape = std::vector<std::int64_t>;
using Shapes = std::map<std::string, Shape>;

// An array of the caller's, contiguous.
struct Array {
    const std::int32_t* data = nullptr;
    Shape shape;
};

using Batch = std::map<std::string, Array>;

template <class Value>
bool is_packed(const std::map<std::string, Value>& inputs) {
    return inputs.count("cu_seqlens") != 0;
}

// In the order in which callers give them.
inline const std::vector<std::string>& input_names(bool packed) {
    static const std::vector<std::string> of_padded{"input_ids", "segment_ids", "input_mask"};
    static const std::vector<std::string> of_packed{"input_ids", "segment_ids", "cu_seqlens", "max_seqlen"};
    return packed ? of_packed : of_padded;
}

inline std::size_t axes(bool packed) { return packed ? 1 : 2; }  // of each input

inline std::int64_t volume(const Shape& shape) {
    std::int64_t product = 1;
    for (const std::int64_t size : shape) {
        product *= size;
    }
    return product;
}

inline std::int64_t tokens(const Shapes& shapes) { return volume(shapes.at("input_ids")); }

inline std::int64_t sequences(const Shapes& shapes) {
    return is_packed(shapes) ? shapes.at("cu_seqlens")[0] - 1 : shapes.at("input_ids")[0];
}

inline Shapes shapes_of(const Batch& batch) {
    Shapes shapes;
    for (const auto& [name, array] : batch) {
        shapes[name] = array.shape;
    }
    return shapes;
}

// The shapes of a batch whose sequences are all full.
inline Shapes full_shapes(bool packed, std::int64_t batch_size, std::int64_t sequence_length) {
    if (packed) {
        const Shape tokens{batch_size * sequence_length};
        const Shape bounds{batch_size + 1}, longest{sequence_length};
        return {{"input_ids", tokens}, {"segment_ids", tokens}, {"cu_seqlens", bounds}, {"max_seqlen", longest}};
    }
    const Shape tokens{batch_size, sequence_length};
    return {{"input_ids", tokens}, {"segment_ids", tokens}, {"input_mask", tokens}};
}

// For messages.
inline std::string describe(const Shapes& shapes) {
    const std::string size = "a batch of " + std::to_string(sequences(shapes));
    if (is_packed(shapes)) {
        return size + " sequences, " + std::to_string(tokens(shapes)) + " tokens, the longest of " +
               std::to_string(shapes.at("max_seqlen")[0]);
    }
    return size + " × " + std::to_string(shapes.at("input_ids")[1]) + " tokens";
}

// The attention over packed sequences trusts its bounds.
inline void check_bounds(const Array& cu_seqlens, std::int64_t tokens, std::int64_t longest) {
    const std::int32_t* const bounds = cu_seqlens.data;
    const std::int64_t count = cu_seqlens.shape[0];
    bool rising = count >= 2 && bounds[0] == 0 && bounds[count - 1] == tokens;
    for (std::int64_t i = 1; rising && i < count; ++i) {
        rising = bounds[i] > bounds[i - 1];
    }
    if (!rising) {
        throw std::invalid_argument("cu_seqlens must rise from 0 to the number of tokens, " + std::to_string(tokens) +
                                    ", by at least 1 a sequence");
    }
    for (std::int64_t i = 1; i < count; ++i) {
        if (bounds[i] - bounds[i - 1] > longest) {
            throw std::invalid_argument("a sequence of " + std::to_string(bounds[i] - bounds[i - 1]) +
                                        " tokens is longer than max_seqlen, " + std::to_string(longest));
        }
    }
}

// Refuses a batch whose arrays do not belong together.
inline void check(const Batch& batch) {
    const bool packed = is_packed(batch);
    const Shape& ids = batch.at("input_ids").shape;
    for (const std::string& name : input_names(packed)) {
        const Shape& shape = batch.at(name).shape;
        if (shape.size() != axes(packed)) {
            throw std::invalid_argument(name + " must have " + (packed ? "one axis" : "two axes, [B, S]") + ", not " +
                                        std::to_string(shape.size()));
        }
        if ((!packed || name == "segment_ids") && shape != ids) {
            throw std::invalid_argument(name + " must have the shape of input_ids");
        }
    }
    if (packed) {
        check_bounds(batch.at("cu_seqlens"), ids[0], batch.at("max_seqlen").shape[0]);
    }
}

// A batch with numbers of its own: full sequences of zeros, over which others may be written.
struct FullBatch {
    FullBatch(bool packed, std::int64_t batch_size, std::int64_t sequence_length)
        : shapes(full_shapes(packed, batch_size, sequence_length)) {
        for (const auto& [name, shape] : shapes) {
            values[name].resize(static_cast<std::size_t>(volume(shape)));
        }
        if (packed) {
            std::int64_t begin = 0;
            for (std::int32_t& bound : values["cu_seqlens"]) {
                bound = static_cast<std::int32_t>(begin);
                begin += sequence_length;
            }
        } else {
            std::fill(values["input_mask"].begin(), values["input_mask"].end(), 1);
        }
    }

    Batch batch() const {
        Batch arrays;
        for (const auto& [name, shape] : shapes) {
            arrays[name] = {values.at(name).data(), shape};
        }
        return arrays;
    }

    Shapes shapes;
    std::map<std::string, std::vector<std::int32_t>> values;
};

}  // namespace bert
