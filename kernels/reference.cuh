// The encoder in plain float32, one thread an output or so: what the kernels are measured against. Weights are read as they are
// stored, of 16 bits; activations stay float32, but what float16 cannot hold becomes its largest number, as it does in the
// kernels.
#pragma once

#include "bench.cuh"

namespace bert::reference {

using bench::Buffer;

__device__ inline float stored(float x, Type type) {
    return type == Type::float16 && fabsf(x) > 65504.f ? copysignf(65504.f, x) : x;
}

__device__ inline float exact(float x, Activation form) {
    const double d = x;
    switch (form) {
        case Activation::gelu_erf:
            return float(d * normcdf(d));
        case Activation::gelu_tanh:
            return float(0.5 * d * (1 + tanh(0.79788456080286536 * (d + 0.044715 * d * d * d))));
        case Activation::relu:
            return fmaxf(x, 0.f);
        case Activation::tanh:
            return tanhf(x);
        default:
            return x;
    }
}

// out [rows, n] = activation(x [rows, k] · weightᵀ [k, n] + bias) + residual, tiles of 16 × 16 by way of shared memory.
template <typename T>
__global__ void linear_kernel(const float* x, const T* weight, const float* bias, const float* residual, int rows, int n, int k,
                              Activation activation, Type type, float* out) {
    __shared__ float a[16][17], b[16][17];
    const int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x, other = blockIdx.x * 16 + threadIdx.y;
    float sum = 0;
    for (int i = 0; i < k; i += 16) {
        const int along = i + threadIdx.x;
        a[threadIdx.y][threadIdx.x] = row < rows && along < k ? x[std::size_t(row) * k + along] : 0;
        b[threadIdx.y][threadIdx.x] = other < n && along < k ? float(weight[std::size_t(other) * k + along]) : 0;
        __syncthreads();
        for (int j = 0; j < 16; j++) sum += a[threadIdx.y][j] * b[threadIdx.x][j];
        __syncthreads();
    }
    if (row >= rows || column >= n) return;
    sum = exact(sum + bias[column], activation);
    if (residual) sum += residual[std::size_t(row) * n + column];
    out[std::size_t(row) * n + column] = stored(sum, type);
}
template <typename T>
void linear(const float* x, const Linear& linear, const float* residual, int rows, int n, int k, Activation activation, Type type,
            float* out) {
    linear_kernel<<<dim3((n + 15) / 16, (rows + 15) / 16), dim3(16, 16)>>>(x, static_cast<const T*>(linear.weight), linear.bias,
                                                                           residual, rows, n, k, activation, type, out);
    CHECK(cudaGetLastError());
}

// A warp a row; out may be x.
static __global__ void layer_norm_kernel(const float* x, LayerNorm norm, float eps, int rows, int columns, float* out) {
    const int row = blockIdx.x, lane = threadIdx.x;
    auto sum = [](float each) {
        for (int offset = 16; offset; offset /= 2) each += __shfl_xor_sync(~0u, each, offset);
        return each;
    };
    const float* from = x + std::size_t(row) * columns;
    float total = 0, squares = 0;
    for (int i = lane; i < columns; i += 32) total += from[i];
    const float mean = sum(total) / columns;
    for (int i = lane; i < columns; i += 32) squares += (from[i] - mean) * (from[i] - mean);
    const float deviation = sqrtf(sum(squares) / columns + eps);
    for (int i = lane; i < columns; i += 32)
        out[std::size_t(row) * columns + i] = (from[i] - mean) / deviation * norm.gamma[i] + norm.beta[i];
}
inline void layer_norm(const float* x, const LayerNorm& norm, float eps, int rows, int columns, float* out) {
    layer_norm_kernel<<<rows, 32>>>(x, norm, eps, rows, columns, out);
    CHECK(cudaGetLastError());
}

// The sum of a token's rows of the tables. A block a token.
template <typename T>
__global__ void embeddings_kernel(const int32_t* ids, const int32_t* segments, const int32_t* cu_seqlens, Embeddings tables,
                                  int columns, float* out) {
    const int token = blockIdx.x;
    int sequence = 0;
    while (cu_seqlens[sequence + 1] <= token) sequence++;
    auto row = [&](const void* table, int index) { return static_cast<const T*>(table) + std::size_t(index) * columns; };
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float sum = float(row(tables.word, ids[token])[i]) + float(row(tables.position, token - cu_seqlens[sequence])[i]);
        if (tables.segment) sum += float(row(tables.segment, segments[token])[i]);
        out[std::size_t(token) * columns + i] = sum;
    }
}

// A block a head and query; its scores, of the sequence's keys, lie in shared memory.
static __global__ void attention_kernel(const float* qkv, const int32_t* cu_seqlens, int heads, int head_size, float* context) {
    extern __shared__ float score[];
    __shared__ float total;
    const int token = blockIdx.x, head = blockIdx.y, hidden = heads * head_size;
    int sequence = 0;
    while (cu_seqlens[sequence + 1] <= token) sequence++;
    const int begin = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - begin;
    auto part = [&](int row, int which) { return qkv + (std::size_t(row) * 3 + which) * hidden + head * head_size; };
    for (int j = threadIdx.x; j < length; j += blockDim.x) {
        float sum = 0;
        for (int i = 0; i < head_size; i++) sum += part(token, 0)[i] * part(begin + j, 1)[i];
        score[j] = sum / sqrtf(float(head_size));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float highest = -INFINITY, sum = 0;
        for (int j = 0; j < length; j++) highest = fmaxf(highest, score[j]);
        for (int j = 0; j < length; j++) sum += score[j] = expf(score[j] - highest);
        total = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < head_size; i += blockDim.x) {
        float sum = 0;
        for (int j = 0; j < length; j++) sum += score[j] * part(begin + j, 2)[i];
        context[std::size_t(token) * hidden + head * head_size + i] = sum / total;
    }
}
inline void attention(const float* qkv, const int32_t* cu_seqlens, int tokens, int longest, int heads, int head_size,
                      float* context) {
    attention_kernel<<<dim3(tokens, heads), 128, longest * sizeof(float)>>>(qkv, cu_seqlens, heads, head_size, context);
    CHECK(cudaGetLastError());
}

static __global__ void first_tokens_kernel(const float* x, const int32_t* cu_seqlens, int columns, float* first) {
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        first[std::size_t(blockIdx.x) * columns + i] = x[std::size_t(cu_seqlens[blockIdx.x]) * columns + i];
}

// Logits of sequences of these lengths: [T, width], pooled [B, width].
template <typename T>
std::vector<float> network(const Sizes& s, const Weights& w, const std::vector<int>& lengths, const int32_t* ids,
                           const int32_t* segments) {
    std::vector<int32_t> bounds{0};
    for (int length : lengths) bounds.push_back(bounds.back() + length);
    const Buffer<int32_t> cu_seqlens(bounds);
    const int tokens = bounds.back(), E = s.hidden_size, F = s.intermediate_size,
              rows = w.head.pooled ? int(lengths.size()) : tokens;
    const int longest = *std::max_element(lengths.begin(), lengths.end());
    const auto none = Activation::none;
    Buffer<float> embedded(std::size_t(tokens) * s.embedding_size), x(std::size_t(tokens) * E), qkv(3 * x.size), context(x.size);
    Buffer<float> sum(x.size), inner(std::size_t(tokens) * F), first(std::size_t(rows) * E), dense(first.size);
    Buffer<float> logits(std::size_t(rows) * s.width);

    embeddings_kernel<T><<<tokens, 128>>>(ids, segments, cu_seqlens.data, w.embeddings, s.embedding_size, embedded.data);
    CHECK(cudaGetLastError());
    layer_norm(embedded.data, w.embeddings.norm, s.layer_norm_eps, tokens, s.embedding_size, embedded.data);
    if (w.embeddings.projection.weight)
        linear<T>(embedded.data, w.embeddings.projection, nullptr, tokens, E, s.embedding_size, none, s.type, x.data);
    else
        std::swap(x, embedded);
    for (const Layer& layer : w.layers) {
        linear<T>(x.data, layer.qkv, nullptr, tokens, 3 * E, E, none, s.type, qkv.data);
        attention(qkv.data, cu_seqlens.data, tokens, longest, s.num_attention_heads, E / s.num_attention_heads, context.data);
        linear<T>(context.data, layer.attention_output, x.data, tokens, E, E, none, s.type, sum.data);
        layer_norm(sum.data, layer.attention_norm, s.layer_norm_eps, tokens, E, sum.data);
        linear<T>(sum.data, layer.intermediate, nullptr, tokens, F, E, s.activation, s.type, inner.data);
        linear<T>(inner.data, layer.output, sum.data, tokens, E, F, none, s.type, x.data);
        layer_norm(x.data, layer.output_norm, s.layer_norm_eps, tokens, E, x.data);
    }
    if (w.head.pooled) {
        first_tokens_kernel<<<rows, 128>>>(x.data, cu_seqlens.data, E, first.data);
        CHECK(cudaGetLastError());
    } else {
        std::swap(first, x);
    }
    if (w.head.dense.weight) {
        linear<T>(first.data, w.head.dense, nullptr, rows, E, E, w.head.activation, s.type, dense.data);
        std::swap(first, dense);
    }
    if (!w.head.out.weight) return first.get();
    linear<T>(first.data, w.head.out, nullptr, rows, s.width, E, none, Type::bfloat16, logits.data);
    return logits.get();
}

}  // namespace bert::reference
