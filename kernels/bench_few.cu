// Checks product_few_rows.cu against a plain float32 kernel, and times it in chains like an encoder's.
//   bench_few check [cluster]     bench_few time     bench_few chain     bench_few trace
#ifdef TRACE
#define MARK(i) trace(i, p.bias)
__device__ const float* trace_base;
__device__ unsigned long long* trace_data;  // [kernel][256 blocks][8]
__device__ __forceinline__ void trace(int i, const float* bias) {
    if (threadIdx.x % 256) return;
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    trace_data[((bias - trace_base) / 8192 * 256 + blockIdx.x) * 8 + i] = now;
}
#endif
#include "product_few_rows.cu"

#include <map>

#include "bench.cuh"

using namespace bert;
using namespace bert::bench;

using Run = void (*)(cudaStream_t, const ProductCall&, const CUtensorMap&, const Way&, const Folded&);
struct Instance {
    int columns, cluster;
    Run run[2][2];  // [bfloat16][norm]
};
template <typename T, int columns, int cluster, bool norm>
Run prepared() {
    CHECK(cudaFuncSetAttribute(few_rows<T, columns, cluster, norm>, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024));
    return run_few<T, columns, cluster, norm>;
}
template <int columns, int cluster>
Instance instance() {
    return {columns, cluster,
            {{prepared<__half, columns, cluster, false>(), prepared<__half, columns, cluster, true>()},
             {prepared<__nv_bfloat16, columns, cluster, false>(), prepared<__nv_bfloat16, columns, cluster, true>()}}};
}
std::vector<Instance> instances() {
#ifdef TRACE
    return {instance<48, 2>(), instance<64, 2>(), instance<32, 4>(), instance<96, 4>(), instance<128, 4>(), instance<64, 8>()};
#else
    return {instance<24, 1>(), instance<32, 1>(), instance<16, 2>(), instance<32, 2>(), instance<48, 2>(),
            instance<64, 2>(), instance<24, 3>(), instance<48, 3>(), instance<72, 3>(), instance<32, 4>(),
            instance<64, 4>(), instance<96, 4>(), instance<128, 4>(), instance<48, 6>(), instance<96, 6>(), instance<64, 8>(),
            instance<128, 8>()};
#endif
}

// [rows]: mean and 1 / deviation, in two passes.
template <typename T>
__global__ void plain_statistics(const T* x, int tokens, int k, float eps, float2* out) {
    const int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= tokens) return;
    float sum = 0, squares = 0;
    for (int i = 0; i < k; i++) sum += float(x[std::size_t(r) * k + i]);
    const float mean = sum / k;
    for (int i = 0; i < k; i++) squares += (float(x[std::size_t(r) * k + i]) - mean) * (float(x[std::size_t(r) * k + i]) - mean);
    out[r] = {mean, 1 / sqrtf(squares / k + eps)};
}
template <typename T>
__global__ void plain(const T* x, const T* weight, const float* bias, const T* residual, int tokens, int n, int k, Activation form,
                      const float2* statistics, Folded f, float* out) {
    const int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 8 + threadIdx.y;
    if (c >= n || r >= tokens) return;
    const float2 s = statistics ? statistics[r] : float2{0, 1};
    float sum = 0;
    for (int i = 0; i < k; i++) sum += (float(x[std::size_t(r) * k + i]) - s.x) * s.y * float(weight[std::size_t(c) * k + i]);
    sum = activate(sum + bias[c], form);
    if (residual) {
        float v = float(residual[std::size_t(r) * n + c]);
        if (f.residual_statistics)
            v = (v - f.residual_statistics[r].x) * f.residual_statistics[r].y * f.residual_gamma[c] + f.residual_beta[c];
        sum += v;
    }
    if (std::is_same_v<T, __half>) sum = fminf(fmaxf(sum, -65504.f), 65504.f);
    out[std::size_t(r) * n + c] = sum;
}
template <typename T>
__global__ void row_sums(const T* weight, int n, int k, float* out) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= n) return;
    float sum = 0;
    for (int i = 0; i < k; i++) sum += float(weight[std::size_t(c) * k + i]);
    out[c] = sum;
}
template <typename T>
__global__ void add(T* x, std::size_t n, float by) {
    for (std::size_t i = blockIdx.x * std::size_t(blockDim.x) + threadIdx.x; i < n; i += std::size_t(gridDim.x) * blockDim.x)
        x[i] = T(float(x[i]) + by);
}

struct Report {
    unsigned bad, beyond, differ;
    unsigned where[6];
    float got[6], want[6];
    float worst;
    unsigned long long rows[16], columns_bad[16];  // a bit a group of 8 rows, and of 8 columns: what is wrong
};
template <typename T>
__global__ void compare(const T* got, const T* again, const float* want, int tokens, int rows, int n, float eps, float floor, Report* r) {
    for (std::size_t i = blockIdx.x * std::size_t(blockDim.x) + threadIdx.x; i < std::size_t(rows) * n;
         i += std::size_t(gridDim.x) * blockDim.x) {
        const int row = int(i / n), column = int(i % n);
        const unsigned short a = *reinterpret_cast<const unsigned short*>(got + i), b = *reinterpret_cast<const unsigned short*>(again + i);
        if (a != b) atomicAdd(&r->differ, 1);
        if (row >= tokens) {
            if (a != 0xffff) atomicAdd(&r->beyond, 1);
            continue;
        }
        const float g = float(got[i]), e = fabsf(g - want[i]);
        if (!(e <= eps * fabsf(want[i]) + floor)) {
            const unsigned at = atomicAdd(&r->bad, 1);
            if (at < 6) r->where[at] = unsigned(i), r->got[at] = g, r->want[at] = want[i];
            atomicOr(&r->rows[min(row / 512, 15)], 1ull << (row / 8 % 64));
            atomicOr(&r->columns_bad[min(column / 512, 15)], 1ull << (column / 8 % 64));
        } else {
            atomicMax(reinterpret_cast<int*>(&r->worst), __float_as_int(e / (eps * fabsf(want[i]) + floor)));
        }
    }
}

int failures = 0, cases = 0;
template <typename T>
void check(const std::vector<Instance>& all, int n, int k, int tokens, int max_tokens, Activation form, bool with_residual, float scale, bool norm) {
    const Type type = std::is_same_v<T, __half> ? Type::float16 : Type::bfloat16;
    HostPlan host({tokens}, max_tokens - tokens);
    Buffer<T> x(std::size_t(max_tokens) * k), residual(std::size_t(max_tokens) * n);  // NaN beyond the tokens
    if (tokens) fill_normal<<<256, 256>>>(x.data, std::size_t(tokens) * k, scale, 3u + n);
    if (tokens) fill_normal<<<256, 256>>>(residual.data, std::size_t(tokens) * n, scale, 4u + k);
    auto weight = normal<T>(std::size_t(n) * k, 1 / std::sqrt(float(k)), 5u + n + k);
    auto bias = normal<float>(n, 1.f, 6u);
    Buffer<float> want(std::size_t(max_tokens) * n);
    Buffer<T> got(std::size_t(max_tokens) * n), again(std::size_t(max_tokens) * n);
    Buffer<Report> report(1);
    Folded folded;
    Buffer<float> sums(n), gamma = normal<float>(n, 1.f, 7u), beta = normal<float>(n, 1.f, 8u);
    Buffer<float2> statistics(max_tokens), residual_statistics(max_tokens), statistics_got(max_tokens);
    if (norm) {
        if (tokens) add<<<256, 256>>>(x.data, std::size_t(tokens) * k, 1.5f * scale);
        row_sums<<<(n + 127) / 128, 128>>>(weight.data, n, k, sums.data);
        plain_statistics<<<(max_tokens + 127) / 128, 128>>>(x.data, tokens, k, 1e-5f, statistics.data);
        plain_statistics<<<(max_tokens + 127) / 128, 128>>>(residual.data, tokens, n, 1e-5f, residual_statistics.data);
        folded = {sums.data, 1e-5f, statistics_got.data, residual_statistics.data, gamma.data, beta.data};
    }
    plain<<<dim3((n + 31) / 32, (max_tokens + 7) / 8), dim3(32, 8)>>>(x.data, weight.data, bias.data, with_residual ? residual.data : nullptr,
                                                                    tokens, n, k, form, norm ? statistics.data : nullptr, folded, want.data);
    const float floor = 2e-4f * (norm ? 2.f : scale);
    CHECK(cudaDeviceSynchronize());
    for (const auto& each : all) {
        const CUtensorMap map = encode_weights(type, weight.data, n, k, each.columns);
        CHECK(cudaMemset(got.data, 0xff, got.size * sizeof(T)));
        CHECK(cudaMemset(again.data, 0xff, again.size * sizeof(T)));
        CHECK(cudaMemset(report.data, 0, sizeof(Report)));
        CHECK(cudaDeviceSynchronize());
        const int kernels = 2 - cases % 2;
        ProductCall call{type, {weight.data, bias.data}, n, k, form, x.data, with_residual ? residual.data : nullptr, host.plan, got.data, nullptr};
        each.run[type == Type::bfloat16][norm](0, call, map, {kernels, 1 + cases % 4, 0, cases % 2}, folded);
        call.out = again.data;
        each.run[type == Type::bfloat16][norm](0, call, map, {kernels, 1 + cases % 4, 0, cases % 2}, folded);
        compare<<<128, 256>>>(got.data, again.data, want.data, tokens, max_tokens, n, type == Type::float16 ? 0x1.2p-11f : 0x1.2p-8f,
                              floor, report.data);
        CHECK(cudaDeviceSynchronize());
        Report r = report.get()[0];
        if (norm) {
            const auto a = statistics_got.get(), b = statistics.get();
            for (int i = 0; i < tokens; i++)
                if (!(std::fabs(a[i].x - b[i].x) <= 1e-5f * scale + 1e-5f * std::fabs(b[i].x) && std::fabs(a[i].y - b[i].y) <= 1e-4f * b[i].y)) {
                    if (!r.bad++) printf("statistics of row %d: %g %g, want %g %g\n", i, a[i].x, a[i].y, b[i].x, b[i].y);
                }
        }
        cases++;
        if (r.bad || r.beyond || r.differ) {
            if (failures++ < 12) {
                printf("WRONG %d/%d %s n %d k %d T %d of %d form %d residual %d scale %g norm %d: bad %u beyond %u differ %u\n", each.columns,
                       each.cluster, type == Type::float16 ? "f16" : "bf16", n, k, tokens, max_tokens, int(form), with_residual, scale, norm,
                       r.bad, r.beyond, r.differ);
                for (unsigned i = 0; i < std::min(r.bad, 3u); i++)
                    printf("   row %u column %u got %g want %g;", r.where[i] / n, r.where[i] % n, r.got[i], r.want[i]);
                printf(" rows %016llx %016llx columns %016llx %016llx\n", r.rows[1], r.rows[0], r.columns_bad[1], r.columns_bad[0]);
            }
        }
    }
}

void checks(int cluster) {
    std::vector<Instance> all;
    for (const auto& i : instances())
        if (!cluster || i.cluster == cluster) all.push_back(i);
    const int shapes[][2] = {{64, 64}, {128, 64}, {64, 128}, {192, 192}, {1024, 1024}, {3072, 1024}, {1024, 4096}, {768, 768},
                             {2304, 768}, {384, 1536}, {64, 8192}, {8192, 64}, {320, 2048}};
    const int rows[][2] = {{1, 1}, {2, 2}, {63, 63}, {64, 64}, {65, 65}, {127, 128}, {128, 128}, {129, 200}, {200, 256}, {383, 384},
                           {384, 384}, {385, 512}, {500, 512}, {512, 512}, {768, 768}, {1, 512}, {100, 512}, {0, 128}};
    int turn = 0;
    for (auto& shape : shapes)
        for (auto& t : rows) {
            const int epilogue = turn++ % 6;
            const Activation form = epilogue < 5 ? Activation(epilogue) : Activation::none;
            const float scale = turn % 11 == 0 ? 4e4f : 1.f;
            for (bool norm : {false, true}) {
                check<__half>(all, shape[0], shape[1], t[0], t[1], form, epilogue == 5, scale, norm);
                if (turn % 3 == 0) check<__nv_bfloat16>(all, shape[0], shape[1], t[0], t[1], form, epilogue == 5, scale, norm);
            }
        }
    printf("check, clusters of %d: %d cases, %d failures\n", cluster, cases, failures);
}

// Chains of products, each with weights of its own: one product in a row, or all of an encoder's.
enum Norms { without, kernels_of_their_own, folded };
struct Bench {
    Buffer<__half> weights, a, b, c, d;
    Buffer<float> bias;
    Buffer<float2> statistics[2];
    HostPlan host;
    Bench(std::size_t numbers, int tokens, int widest, int kernels)
        : weights(normal<__half>(numbers, 0.015f, 1)), a(normal<__half>(std::size_t(tokens) * widest, 1.f, 2)),
          b(normal<__half>(std::size_t(tokens) * widest, 1.f, 3)), c(normal<__half>(std::size_t(tokens) * widest, 1.f, 3)),
          d(normal<__half>(std::size_t(tokens) * widest, 1.f, 3)), bias(normal<float>(std::size_t(kernels) * 8192, 0.1f, 4)),
          statistics{Buffer<float2>(tokens), Buffer<float2>(tokens)}, host({tokens}) {}

    std::size_t at = 0;
    int number = 0;
    std::function<void(cudaStream_t)> product(const Instance* instance, Way way, int n, int k, Activation form, const void* x,
                                              const void* residual, void* out, bool norm = false, const Folded& folded = {}) {
        if (at + std::size_t(n) * k > weights.size) at = 0;
        const CUtensorMap map = encode_weights(Type::float16, weights.data + at, n, k, instance->columns);
        const ProductCall call{Type::float16, {weights.data + at, bias.data + number * 8192}, n, k, form, x, residual, host.plan, out, nullptr};
        at += std::size_t(n) * k, number++;
        return [=](cudaStream_t stream) { instance->run[0][norm](stream, call, map, way, folded); };
    }
    static std::function<void(cudaStream_t)> all(std::vector<std::function<void(cudaStream_t)>> parts) {
        return [=](cudaStream_t stream) {
            for (const auto& part : parts) part(stream);
        };
    }
    std::function<void(cudaStream_t)> row(const Instance* instance, Way way, int n, int k, Activation form, bool residual, int length) {
        std::vector<std::function<void(cudaStream_t)>> parts;
        at = 0, number = 0;
        for (int i = 0; i < length; i++) {
            void *x = i % 2 ? b.data : a.data, *out = i % 2 ? a.data : b.data;
            parts.push_back(product(instance, way, n, k, form, x, residual ? x : nullptr, out));
        }
        return all(parts);
    }
    std::function<void(cudaStream_t)> layers(int e, int f, int count, std::vector<const Instance*> i, std::vector<Way> way, Norms norms) {
        way.resize(4, way[0]);
        std::vector<std::function<void(cudaStream_t)>> parts;
        at = 0, number = 0;
        float *gamma = bias.data, *beta = bias.data + 8192;
        const bool fold = norms == folded;
        auto x_norm = [&](int j) { return fold ? Folded{bias.data, 1e-12f, statistics[j].data} : Folded{}; };
        auto residual_norm = [&](int j) { return fold ? Folded{nullptr, 0, nullptr, statistics[j].data, gamma, beta} : Folded{}; };
        auto normalise = [&](__half* x) {
            if (norms == kernels_of_their_own)
                parts.push_back([=](cudaStream_t stream) { layer_norm(stream, Type::float16, x, {gamma, beta}, 1e-12f, e, host.plan, x); });
        };
        for (int l = 0; l < count; l++) {
            parts.push_back(product(i[0], way[0], 3 * e, e, Activation::none, a.data, nullptr, b.data, fold, x_norm(0)));
            parts.push_back(product(i[1], way[1], e, e, Activation::none, b.data, a.data, c.data, false, residual_norm(0)));
            normalise(c.data);
            parts.push_back(product(i[2], way[2], f, e, Activation::gelu_erf, c.data, nullptr, d.data, fold, x_norm(1)));
            parts.push_back(product(i[3], way[3], e, f, Activation::none, d.data, c.data, a.data, false, residual_norm(1)));
            normalise(a.data);
        }
        return all(parts);
    }
};

const Instance* find(const std::vector<Instance>& all, int columns, int cluster) {
    for (const auto& i : all)
        if (i.columns == columns && i.cluster == cluster) return &i;
    throw Error("no such instance");
}

// Each shape alone, µs a kernel; then the chain of the best ones.
void time_model(const std::vector<Instance>& all, const char* name, int e, int f, int count, std::vector<int> tokens, std::vector<Way> ways) {
    const std::size_t numbers = std::size_t(count) * (4 * e * std::size_t(e) + 2 * e * std::size_t(f));
    const int shapes[4][2] = {{3 * e, e}, {e, e}, {f, e}, {e, f}};
    printf("%s, us a kernel alone in a row: columns/cluster/kernels a multiprocessor.least x slots\n", name);
    struct Tried {
        double us;
        const Instance* instance;
        Way way;
        bool operator<(const Tried& other) const { return us < other.us; }
    };
    std::map<int, std::map<int, std::vector<Tried>>> found;
    for (int t : tokens) {
        Bench bench(numbers, t, std::max(f, 3 * e), 4 * 24);
        for (int s = 0; s < 4; s++) {
            const int n = shapes[s][0], k = shapes[s][1];
            std::vector<Tried> tried;
            std::vector<std::function<void(cudaStream_t)>> variants;
            const int length = int(std::min<std::size_t>(96, numbers / (std::size_t(n) * k)));
            for (const auto& i : all) {
                const int blocks = (n + i.columns - 1) / i.columns * i.cluster;
                if (blocks < 60 || blocks > 272) continue;
                for (Way way : ways) tried.push_back({0, &i, way}), variants.push_back(bench.row(&i, way, n, k, s == 2 ? Activation::gelu_erf : Activation::none, s % 2 == 1, length));
            }
            const auto ms = times(variants, 2, 9, 0.05);
            for (std::size_t i = 0; i < tried.size(); i++) tried[i].us = ms[i] * 1e3 / length;
            found[s][t] = tried;
            std::sort(found[s][t].begin(), found[s][t].end());
        }
        std::vector<std::function<void(cudaStream_t)>> variants;
        auto chain = [&](int place, Norms norms, int release = 0) {
            std::vector<const Instance*> i;
            std::vector<Way> way;
            for (int s = 0; s < 4; s++) i.push_back(found[s][t][place].instance), way.push_back(found[s][t][place].way), way.back().release = release;
            return bench.layers(e, f, count, i, way, norms);
        };
        variants = {chain(0, without), chain(0, kernels_of_their_own), chain(0, folded), chain(1, without), chain(0, without, 1)};
        const auto ms = times(variants, 2, 15, 0.2);
        for (int s = 0; s < 4; s++) {
            printf("  T %3d %4dx%4d:", t, shapes[s][1], shapes[s][0]);
            for (std::size_t i = 0; i < std::min<std::size_t>(found[s][t].size(), 9); i++)
                {
                const Tried& f = found[s][t][i];
                printf(" %d/%d/%d.%d %.2f", f.instance->columns, f.instance->cluster, f.way.kernels, f.way.least_x, f.us);
            }
            printf("\n");
        }
        printf("  T %3d chain of the best: %.4f ms, with layer norms %.4f, folded %.4f; of the second %.4f; of the best, released late %.4f\n", t,
               ms[0], ms[1], ms[2], ms[3], ms[4]);
    }
}

void chains(const std::vector<Instance>& all) {
    for (int t : {128, 384}) {
        Bench bench(std::size_t(24) * 12 * 1024 * 1024, t, 4096, 96);
        const int sets[][8] = {{96, 4, 64, 8, 128, 4, 64, 8}, {48, 2, 32, 4, 64, 2, 64, 8}, {48, 2, 64, 8, 64, 2, 64, 8},
                               {48, 2, 32, 4, 64, 2, 32, 4}, {24, 1, 16, 2, 32, 1, 32, 4}, {64, 2, 32, 4, 64, 2, 64, 8}};
        for (auto& s : sets) {
            std::vector<std::function<void(cudaStream_t)>> variants;
            std::vector<const Instance*> i;
            for (int j = 0; j < 4; j++) i.push_back(find(all, s[2 * j], s[2 * j + 1]));
            const std::vector<Way> ways = {{2, 1, 0, 1}, {2, 2, 0, 1}, {2, 2, 0, 0}, {2, 3, 0, 1}, {2, 3, 0, 0}, {1, 8, 0, 0}, {3, 1, 0, 1}, {2, 2, 1, 1}, {2, 2, 2, 1}};
            for (auto& way : ways) variants.push_back(bench.layers(1024, 4096, 24, i, {way}, without));
            variants.push_back(bench.layers(1024, 4096, 24, i, {{}}, kernels_of_their_own));
            variants.push_back(bench.layers(1024, 4096, 24, i, {{}}, folded));
            const auto ms = times(variants, 2, 11, 0.1);
            printf("T %d large %d/%d %d/%d %d/%d %d/%d (kernels,least x,release,prefetch):", t, s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
            for (std::size_t j = 0; j < ways.size(); j++) printf(" %d%d%d%d %.4f", ways[j].kernels, ways[j].least_x, ways[j].release, ways[j].prefetch, ms[j]);
            printf(" | layer norms %.4f, folded %.4f", ms[ways.size()], ms[ways.size() + 1]);
            printf("\n");
        }
    }
}

#ifdef TRACE
void traced(const std::vector<Instance>& all, int t, std::vector<int> s, Way way, Norms norms = without) {
    Bench bench(std::size_t(24) * 12 * 1024 * 1024, t, 4096, 96);
    Buffer<unsigned long long> data(96 * 256 * 8);
    CHECK(cudaMemset(data.data, 0, data.size * 8));
    CHECK(cudaMemcpyToSymbol(trace_base, &bench.bias.data, sizeof(void*)));
    CHECK(cudaMemcpyToSymbol(trace_data, &data.data, sizeof(void*)));
    std::vector<const Instance*> i;
    for (int j = 0; j < 4; j++) i.push_back(find(all, s[2 * j], s[2 * j + 1]));
    const auto chain = bench.layers(1024, 4096, 24, i, {way}, norms);
    const auto ms = times({chain}, 1, 5, 0.05);
    const auto got = data.get();
    printf("T %d %d/%d %d/%d %d/%d %d/%d, %d kernels, %d x%s: %.4f ms; ns from the previous kernel's last end: first, mean, last block\n", t, s[0], s[1], s[2], s[3],
           s[4], s[5], s[6], s[7], way.kernels, way.least_x, norms == folded ? ", folded" : "", ms[0]);
    const char* names[6] = {"begin", "waited", "x here", "multiplied", "sums here", "end"};
    for (int q = 0; q < 4; q++) {
        double first[6] = {}, mean[6] = {}, last[6] = {};
        for (int layer = 6; layer < 18; layer++) {
            auto at = [&](int kernel, int block, int i) { return double(got[(kernel * 256 + block) * 8 + i] & 0xffffffffffffull); };
            double end = 0;
            const int kernel = 4 * layer + q;
            for (int b = 0; b < 256; b++) end = std::max(end, at(kernel - 1, b, 5));
            for (int i = 0; i < 6; i++) {
                double lo = 1e18, hi = -1e18, sum = 0;
                int n = 0;
                for (int b = 0; b < 256; b++)
                    if (double v = at(kernel, b, i)) v -= end, lo = std::min(lo, v), hi = std::max(hi, v), sum += v, n++;
                if (n) first[i] += lo / 12, last[i] += hi / 12, mean[i] += sum / n / 12;
            }
        }
        for (int i = 0; i < 6; i++) printf("%s %s %.0f %.0f %.0f", i ? ";" : (const char*[]){"qkv", "out", "ff1", "ff2"}[q], names[i], first[i], mean[i], last[i]);
        printf("\n");
    }
}
#endif

int main(int argc, char** argv) try {
    const std::string what = argc > 1 ? argv[1] : "time";
    if (what == "check") {
        checks(argc > 2 ? atoi(argv[2]) : 0);
        return failures != 0;
    }
    const auto all = instances();
    if (what == "time") {
        time_model(all, "large", 1024, 4096, 24, {128, 384}, {{2, 1}, {2, 3}, {1, 8}});
        time_model(all, "large", 1024, 4096, 24, {16, 64, 256, 512}, {{2, 2}});
        time_model(all, "base", 768, 3072, 12, {128, 384}, {{2, 2}});
    }
    if (what == "chain") chains(all);
    if (what == "small") {
        time_model(all, "large", 1024, 4096, 24, {1, 768}, {{}});
        time_model(all, "MiniLM", 384, 1536, 6, {128, 384}, {{}});
    }
#ifdef TRACE
    if (what == "trace") {
        traced(all, 128, {96, 4, 64, 8, 128, 4, 64, 8}, {2, 2});
        traced(all, 128, {48, 2, 32, 4, 64, 2, 64, 8}, {2, 2});
        traced(all, 128, {48, 2, 32, 4, 64, 2, 64, 8}, {1, 8});
        traced(all, 384, {48, 2, 32, 4, 64, 2, 64, 8}, {2, 2});
        traced(all, 128, {48, 2, 32, 4, 64, 2, 64, 8}, {2, 2}, folded);
    }
#endif
    if (what == "occupancy")
        for (int kb : {72, 112, 220})
            for (int size : {1, 2, 4, 8}) {
                cudaLaunchConfig_t config{};
                config.gridDim = 8 * 132, config.blockDim = THREADS, config.dynamicSmemBytes = kb * 1024;
                cudaLaunchAttribute a{};
                a.id = cudaLaunchAttributeClusterDimension, a.val.clusterDim = {unsigned(size), 1, 1};
                config.attrs = &a, config.numAttrs = 1;
                int n = 0;
                CHECK(cudaOccupancyMaxActiveClusters(&n, size == 8 ? (void*)few_rows<__half, 64, 8, false> : size == 4 ? (void*)few_rows<__half, 64, 4, false>
                                                     : size == 2 ? (void*)few_rows<__half, 64, 2, false> : (void*)few_rows<__half, 32, 1, false>, &config));
                printf("clusters of %d, %d KB: %d active, %d blocks\n", size, kb, n, n * size);
            }
} catch (const std::exception& e) {
    printf("FAILED: %s\n", e.what());
    return 1;
}
