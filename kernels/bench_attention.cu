// Checks attention_hopper against a plain float32 kernel, then times it.
//   bench_attention check [variant]    bench_attention time
#include "attention_hopper.cu"

#include "bench.cuh"

namespace bert {
#ifdef OWN_DEVICE
Device current_device() {
    static const Device device = [] {
        cudaDeviceProp p;
        int i;
        CHECK(cudaGetDevice(&i));
        CHECK(cudaGetDeviceProperties(&p, i));
        return Device{p.multiProcessorCount, p.major * 10 + p.minor};
    }();
    return device;
}
#endif
}  // namespace bert

using namespace bert;
using namespace bert::bench;

// One block a query and head; dynamic shared memory: the sequence's scores.
template <typename T>
__global__ void plain(const T* qkv, const int32_t* cu_seqlens, const int32_t* sequence, int heads, int head_size, float* out) {
    extern __shared__ float score[];
    __shared__ float reduced[256];
    const int row = blockIdx.x, head = blockIdx.y, begin = cu_seqlens[sequence[row]], length = cu_seqlens[sequence[row] + 1] - begin;
    const int stride = 3 * heads * head_size;
    const T* q = qkv + std::size_t(row) * stride + head * head_size;
    auto reduce = [&](float x, bool sum) {
        reduced[threadIdx.x] = x;
        for (int n = 128; n; n /= 2) {
            __syncthreads();
            if (int(threadIdx.x) < n)
                reduced[threadIdx.x] = sum ? reduced[threadIdx.x] + reduced[threadIdx.x + n]
                                           : fmaxf(reduced[threadIdx.x], reduced[threadIdx.x + n]);
        }
        __syncthreads();
        x = reduced[0];
        __syncthreads();
        return x;
    };
    float top = -INFINITY, sum = 0;
    for (int j = threadIdx.x; j < length; j += 256) {
        const T* k = qkv + std::size_t(begin + j) * stride + (heads + head) * head_size;
        float s = 0;
        for (int d = 0; d < head_size; d++) s += float(q[d]) * float(k[d]);
        score[j] = s / sqrtf(float(head_size));
        top = fmaxf(top, score[j]);
    }
    top = reduce(top, false);
    for (int j = threadIdx.x; j < length; j += 256) sum += score[j] = expf(score[j] - top);
    sum = reduce(sum, true);
    const int lanes = 256 / head_size, d = threadIdx.x % head_size;
    float o = 0;
    if (int(threadIdx.x) < lanes * head_size)
        for (int j = threadIdx.x / head_size; j < length; j += lanes)
            o += score[j] * float(qkv[std::size_t(begin + j) * stride + (2 * heads + head) * head_size + d]);
    reduced[threadIdx.x] = o;
    __syncthreads();
    if (int(threadIdx.x) < head_size) {
        for (int i = 1; i < lanes; i++) o += reduced[i * head_size + d];
        out[(std::size_t(row) * heads + head) * head_size + d] = o / sum;
    }
}

template <typename T>
__global__ void put(T* qkv, int stride, int from_row, int rows, int from_column, int columns, float factor, float value, bool set) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * columns; i += gridDim.x * blockDim.x) {
        T& x = qkv[std::size_t(from_row + i / columns) * stride + from_column + i % columns];
        x = set ? T(value) : T(float(x) * factor);
    }
}

using Run = void (*)(cudaStream_t, Type, const void*, int, int, const Plan&, void*);
struct Variant {
    const char* name;
    Run run;
    int flags;  // 1: only to time, its results are wrong
};

int failures = 0;

template <typename T>
void check_case(const Variant& variant, std::vector<int> lengths, int heads, int head_size, float logits, int spoiled, int room) {
    const Type type = std::is_same_v<T, __half> ? Type::float16 : Type::bfloat16;
    HostPlan host(lengths, room);
    const int tokens = host.bounds.back(), e = heads * head_size;
    Buffer<T> qkv(std::size_t(tokens + room) * 3 * e);  // rows beyond the tokens: NaN
    fill_normal<<<1024, 256>>>(qkv.data, std::size_t(tokens) * 3 * e, 1.f, 7u + head_size);
    if (logits != 1) put<<<256, 256>>>(qkv.data, 3 * e, 0, tokens, 0, e, logits, 0.f, false);
    if (spoiled >= 0)
        put<<<256, 256>>>(qkv.data, 3 * e, host.bounds[spoiled], lengths[spoiled], 2 * e, e, 0.f, INFINITY, true);
    std::vector<int32_t> sequence;
    for (std::size_t i = 0; i < lengths.size(); i++) sequence.insert(sequence.end(), lengths[i], int(i));
    Buffer<int32_t> sequences(sequence);
    Buffer<float> expected(std::size_t(tokens) * e);
    const int longest = *std::max_element(lengths.begin(), lengths.end());
    plain<<<dim3(tokens, heads), 256, longest * 4>>>(qkv.data, host.cu_seqlens.data, sequences.data, heads, head_size, expected.data);
    CHECK(cudaDeviceSynchronize());
    Buffer<T> out(std::size_t(tokens + room) * e), again(std::size_t(tokens + room) * e);
    variant.run(0, type, qkv.data, heads, head_size, host.plan, out.data);
    CHECK(cudaDeviceSynchronize());
    variant.run(0, type, qkv.data, heads, head_size, host.plan, again.data);
    CHECK(cudaDeviceSynchronize());
    const auto got = out.get(), second = again.get();
    const auto want = expected.get();
    double error = 0, rounding = 0, norm = 0, largest = 0;
    long bad = 0, beyond = 0, differ = 0, where = -1;
    std::vector<long> bad_of(lengths.size());
    std::vector<std::string> shown;
    for (std::size_t i = 0; i < got.size(); i++) {
        differ += std::memcmp(&got[i], &second[i], sizeof(T)) != 0;
        const int row = int(i / e);
        if (row >= tokens) {
            uint16_t bits;
            std::memcpy(&bits, &got[i], 2);
            beyond += bits != 0xffff;
            continue;
        }
        const int s = sequence[row];
        if (s == spoiled) continue;
        const double x = float(got[i]), y = want[i], r = float(T(want[i]));
        const double delta = std::isfinite(x) ? std::fabs(x - y) : 1e30;
        error += delta * delta, rounding += (r - y) * (r - y), norm += y * y;
        if (delta > largest) largest = delta, where = long(i);
        if (!(delta < (logits < 1000 ? 1 : 8) * (type == Type::float16 ? 4e-3 : 3e-2) * (std::fabs(y) + 0.3))) {
            bad++, bad_of[s]++;
            if (shown.size() < 5 && (bad_of[s] == 1 || bad % 97 == 0)) {
                char line[160];
                std::snprintf(line, sizeof line, "    seq %d (length %d) row %d head %d channel %d: got %g, expected %g", s, lengths[s],
                              row - host.bounds[s], int(i % e) / head_size, int(i % head_size), x, y);
                shown.push_back(line);
            }
        }
    }
    const double ratio = std::sqrt(error / std::max(rounding, 1e-30));
    const bool right = !bad && !beyond && !differ && ratio < (logits < 1000 ? 2 : 20);
    failures += !right;
    std::printf("%s %s D %3d N %d logits %4g B %3d T %5d%s: error %.2e, of rounding %.2e, ratio %.2f, largest %.1e%s\n",
                right ? "ok  " : "FAIL", type == Type::float16 ? "f16 " : "bf16", head_size, heads, logits, int(lengths.size()), tokens,
                spoiled >= 0 ? " inf" : "", std::sqrt(error / norm), std::sqrt(rounding / norm), ratio, largest,
                right ? "" : (" bad " + std::to_string(bad) + " beyond " + std::to_string(beyond) + " differ " + std::to_string(differ)).c_str());
    (void)where;
    if (!right) {
        for (auto& line : shown) std::puts(line.c_str());
        std::printf("    bad of each length:");
        for (std::size_t i = 0; i < lengths.size() && i < 24; i++)
            if (bad_of[i]) std::printf(" %d:%ld/%d", lengths[i], bad_of[i], lengths[i] * e);
        std::puts("");
    }
    std::fflush(stdout);
}

std::vector<int> ragged(unsigned seed) {
    std::vector<int> lengths{1, 2, 63, 64, 65, 127, 129, 200, 383, 385, 500, 511, 512, 96, 31, 384, 128, 700};
    std::mt19937 random(seed);
    std::shuffle(lengths.begin(), lengths.end(), random);
    return lengths;
}

#include VARIANTS

void check(const Variant& v, int head_size) {
    check_case<__half>(v, ragged(head_size), 3, head_size, 1, -1, 300);
    check_case<__half>(v, {64}, 2, head_size, 1, -1, 64);
    check_case<__half>(v, {384, 384, 128}, 5, head_size, 30, -1, 1);
    check_case<__half>(v, ragged(head_size + 1), 2, head_size, 1000, -1, 0);
    check_case<__half>(v, ragged(head_size + 2), 3, head_size, 4, 7, 130);
    check_case<__half>(v, {1}, 1, head_size, 1, -1, 0);
    check_case<__half>(v, std::vector<int>(300, 40), 4, head_size, 2, 100, 64);
}

int main(int argc, char** argv) try {
    const std::string what = argc > 1 ? argv[1] : "check";
    const int which = argc > 2 ? std::atoi(argv[2]) : 0;
    if (what == "check") {
        const auto& v = variants[which];
        std::printf("-- %s\n", v.name);
        check(v, v.flags / 256);
    } else if (what == "count") {
        std::printf("%zu\n", sizeof variants / sizeof *variants);
    } else if (what == "bfloat16") {
        for (auto& v : bfloat16_variants) {
            std::printf("-- %s\n", v.name);
            check_case<__nv_bfloat16>(v, ragged(3), 3, v.flags / 256, 1, -1, 300);
            check_case<__nv_bfloat16>(v, ragged(3), 2, v.flags / 256, 1000, 4, 300);
        }
    } else if (what == "long") {
        const auto& v = variants[which];
        std::printf("-- %s\n", v.name);
        check_case<__half>(v, {8192, 1, 2000}, 2, v.flags / 256, 1, -1, 10);
    } else if (what == "time") {
        struct Cell {
            const char* name;
            std::vector<int> lengths;
            int heads, head_size;
        };
        std::mt19937 random(1);
        std::vector<int> squad(128);
        for (int& x : squad) x = 100 + random() % 285;
        std::vector<Cell> cells{{"128x384x16x64", std::vector<int>(128, 384), 16, 64}, {"32x128x16x64", std::vector<int>(32, 128), 16, 64},
                                {"8x384x16x64", std::vector<int>(8, 384), 16, 64},     {"1x384x16x64", {384}, 16, 64},
                                {"1x128x16x64", {128}, 16, 64},                        {"128x512x16x64", std::vector<int>(128, 512), 16, 64},
                                {"squad128x16x64", squad, 16, 64},                     {"128x128x12x64", std::vector<int>(128, 128), 12, 64},
                                {"512x50x16x64", std::vector<int>(512, 50), 16, 64},   {"128x384x8x128", std::vector<int>(128, 384), 8, 128}};
        for (auto& cell : cells) {
            HostPlan host(cell.lengths);
            const int e = cell.heads * cell.head_size;
            auto qkv = normal<__half>(std::size_t(host.bounds.back()) * 3 * e, 1.f, 3);
            Buffer<__half> out(std::size_t(host.bounds.back()) * e);
            std::vector<std::function<void(cudaStream_t)>> runs;
            std::vector<const char*> names;
            for (auto& v : variants)
                if (v.flags / 256 == cell.head_size) {
                    names.push_back(v.name);
                    runs.push_back([&, v](cudaStream_t s) { v.run(s, Type::float16, qkv.data, cell.heads, cell.head_size, host.plan, out.data); });
                }
            const auto ms = times(runs, 20, 9, 0.15);
            std::printf("%s:", cell.name);
            for (std::size_t i = 0; i < ms.size(); i++) std::printf(" %s %.1f", names[i], ms[i] * 1e3);
            std::puts("");
            std::fflush(stdout);
        }
    }
    if (failures) std::printf("%d FAILED\n", failures);
    return failures != 0;
} catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 2;
}
