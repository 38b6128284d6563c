// What every bench shares: random data, a float32 reference on the same GPU, the comparison, and times of graph replays.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "launch.h"
#include "numbers.cuh"
#include "parts.h"

namespace bert::bench {

#define CHECK(call) ::bert::check(call, #call)

template <typename T>
struct Buffer {  // of the GPU's memory, filled with NaN's bits: what is not written shows
    T* data = nullptr;
    std::size_t size = 0;
    explicit Buffer(std::size_t n) : size(n) {
        CHECK(cudaMalloc(&data, std::max<std::size_t>(n, 1) * sizeof(T)));
        CHECK(cudaMemset(data, 0xff, n * sizeof(T)));
    }
    explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) { set(host); }
    Buffer(const Buffer&) = delete;
    Buffer(Buffer&& other) { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) {
        std::swap(data, other.data), std::swap(size, other.size);
        return *this;
    }
    ~Buffer() { cudaFree(data); }
    void set(const std::vector<T>& host) { CHECK(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    std::vector<T> get() const {
        std::vector<T> host(size);
        CHECK(cudaMemcpy(host.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};

// Normal numbers times `scale`, by counter, on the GPU: Box-Muller over a hash of the index.
template <typename T>
__global__ void fill_normal(T* out, std::size_t n, float scale, unsigned seed) {
    for (std::size_t i = blockIdx.x * std::size_t(blockDim.x) + threadIdx.x; i < n; i += std::size_t(gridDim.x) * blockDim.x) {
        auto hash = [&](unsigned x) {
            x ^= seed * 0x9e3779b9u;
            x = (x ^ (x >> 16)) * 0x7feb352du;
            x = (x ^ (x >> 15)) * 0x846ca68bu;
            return ((x ^ (x >> 16)) >> 8) * 0x1p-24f;
        };
        float u = hash(unsigned(2 * i + 1)), v = hash(unsigned(2 * i + 2));
        const float x = scale * sqrtf(-2.f * logf(u + 0x1p-25f)) * cosf(6.2831853f * v);
        out[i] = T(fminf(fmaxf(x, -65504.f), 65504.f));  // what float16 holds
    }
}
template <typename T>
Buffer<T> normal(std::size_t n, float scale, unsigned seed) {
    Buffer<T> buffer(n);
    fill_normal<<<1024, 256>>>(buffer.data, n, scale, seed);
    CHECK(cudaGetLastError());
    return buffer;
}

// max |a - b| and ‖a − b‖ / ‖b‖ over the first n numbers; NaN counts as infinite.
struct Difference {
    double largest = 0, relative = 0;
    std::size_t where = 0;
};
template <typename A>
Difference difference(const std::vector<A>& a, const std::vector<float>& b, std::size_t n) {
    Difference d;
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < n; i++) {
        double x = float(a[i]), y = b[i], delta = std::isfinite(x) ? std::fabs(x - y) : INFINITY;
        if (delta > d.largest) d.largest = delta, d.where = i;
        error += delta * delta, norm += y * y;
    }
    d.relative = std::sqrt(error / std::max(norm, 1e-300));
    return d;
}

// A plan of sequences of these lengths, made on the host: so that a part can be tried without plan.cu.
struct HostPlan {
    std::vector<int32_t> bounds{0};
    std::vector<Tile> tiles;
    Buffer<int32_t> counts, cu_seqlens;
    Buffer<Tile> tile;
    Plan plan;
    explicit HostPlan(const std::vector<int>& lengths, int room = 0) : counts(2), cu_seqlens(lengths.size() + 1), tile(0) {
        for (int length : lengths) bounds.push_back(bounds.back() + length);
        std::vector<int> order(lengths.size());
        for (std::size_t i = 0; i < order.size(); i++) order[i] = int(i);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lengths[a] > lengths[b]; });
        for (int i : order)
            for (int first = 0; first < lengths[i]; first += ATTENTION_ROWS) tiles.push_back({i, first});
        tile = Buffer<Tile>(tiles);
        counts.set({bounds.back(), int(tiles.size())});
        cu_seqlens.set(bounds);
        plan.tokens = counts.data, plan.tiles = counts.data + 1, plan.cu_seqlens = cu_seqlens.data, plan.tile = tile.data;
        plan.max_tokens = bounds.back() + room, plan.sequences = int(lengths.size());
        plan.max_tiles = plan.max_tokens / ATTENTION_ROWS + plan.sequences;
    }
};

// Milliseconds of one call, each a median of `samples` replays of a graph of `repeats` calls, warm; variants take turns.
inline std::vector<double> times(const std::vector<std::function<void(cudaStream_t)>>& variants, int repeats = 20, int samples = 15,
                                 double warm_seconds = 0.3) {
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    std::vector<cudaGraphExec_t> graphs;
    for (const auto& variant : variants) {
        variant(stream);  // modules are loaded before the capture
        CHECK(cudaStreamSynchronize(stream));
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        for (int i = 0; i < repeats; i++) variant(stream);
        CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK(cudaGraphInstantiate(&executable, graph, 0));
        CHECK(cudaGraphDestroy(graph));
        graphs.push_back(executable);
    }
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    auto once = [&](cudaGraphExec_t graph) {
        float ms;
        CHECK(cudaEventRecord(begin, stream));
        CHECK(cudaGraphLaunch(graph, stream));
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        return double(ms) / repeats;
    };
    for (double spent = 0; spent < warm_seconds * 1e3;)
        for (auto graph : graphs) spent += once(graph) * repeats;
    std::vector<std::vector<double>> found(graphs.size());
    for (int i = 0; i < samples; i++)
        for (std::size_t j = 0; j < graphs.size(); j++) found[j].push_back(once(graphs[j]));
    std::vector<double> medians;
    for (auto& each : found) {
        std::nth_element(each.begin(), each.begin() + each.size() / 2, each.end());
        medians.push_back(each[each.size() / 2]);
    }
    for (auto graph : graphs) cudaGraphExecDestroy(graph);
    cudaEventDestroy(begin), cudaEventDestroy(end), cudaStreamDestroy(stream);
    return medians;
}

}  // namespace bert::bench
