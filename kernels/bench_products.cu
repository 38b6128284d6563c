// Checks product_many_rows.cu against a plain float32 kernel, and times its shapes.
//   bench_products check NAME     bench_products time N K T EPILOGUE NAME…     bench_products gelu
#include "product_many_rows.cu"

#include <map>

#include "bench.cuh"

using namespace bert;
using namespace bert::bench;

enum Epilogue { bias, residual, erf_form, tanh_form, relu_form, tanh_itself, EPILOGUES };
const char* const NAMES[] = {"bias", "residual", "gelu_erf", "gelu_tanh", "relu", "tanh"};
const Activation FORMS[] = {Activation::none, Activation::none, Activation::gelu_erf, Activation::gelu_tanh, Activation::relu, Activation::tanh};

using Call = void (*)(cudaStream_t, const ProductCall&, const CUtensorMap&, int lag, int run);
struct Variant {
    const char* name;
    int groups;  // that one copy of weights takes
    std::map<int, Call> run;  // by type * EPILOGUES + epilogue
};
template <typename S>
Variant variant(const char* name, bool all) {
    Variant v{name, S::groups, {}};
    v.run[bias] = run_many<__half, S, Activation::none, false>;
    v.run[residual] = run_many<__half, S, Activation::none, true>;
    if (all) {
        v.run[erf_form] = run_many<__half, S, Activation::gelu_erf, false>;
        v.run[tanh_form] = run_many<__half, S, Activation::gelu_tanh, false>;
    }
    return v;
}
template <typename T>
void every(Variant& v, int from) {
    using S = Shape<256, 2, 1>;
    v.run[from + bias] = run_many<T, S, Activation::none, false>;
    v.run[from + residual] = run_many<T, S, Activation::none, true>;
    v.run[from + erf_form] = run_many<T, S, Activation::gelu_erf, false>;
    v.run[from + tanh_form] = run_many<T, S, Activation::gelu_tanh, false>;
    v.run[from + relu_form] = run_many<T, S, Activation::relu, false>;
    v.run[from + tanh_itself] = run_many<T, S, Activation::tanh, false>;
}
std::vector<Variant> variants() {
    std::vector<Variant> all = {
        variant<Shape<256, 2, 1>>("256", true),     variant<Shape<256, 1, 1>>("256x1", false),  variant<Shape<256, 1, 2>>("256b2", false),
        variant<Shape<256, 4, 1>>("256x4", false),  variant<Shape<256, 2, 2>>("256x2b2", false), variant<Shape<192, 2, 1>>("192", true),
        variant<Shape<192, 1, 2>>("192b2", false),  variant<Shape<128, 2, 1>>("128", true),      variant<Shape<128, 1, 2>>("128b2", false),
        variant<Shape<128, 2, 2>>("128x2b2", false), variant<Shape<64, 2, 1>>("64", false),      variant<Shape<64, 1, 2>>("64b2", false),
        variant<Shape<256, 2, 1, 1>>("256g1", false),    variant<Shape<64, 2, 2>>("64x2b2", true)};
    every<__half>(all[0], 0), every<__nv_bfloat16>(all[0], EPILOGUES);
    return all;
}

__device__ float exactly(float x, Activation form) {  // in float64, so that nothing is shared with what is checked
    const double d = x;
    switch (form) {
        case Activation::gelu_erf:
            return float(0.5 * d * erfc(-d * 0.70710678118654752));
        case Activation::gelu_tanh:
            return float(d / (1 + exp(-1.5957691216057308 * (d + 0.044715 * d * d * d))));
        case Activation::relu:
            return fmaxf(x, 0.f);
        case Activation::tanh:
            return float(tanh(d));
        default:
            return x;
    }
}
template <typename T>
__global__ void plain(const T* x, const T* weight, const float* bias, const T* residual, int rows, int n, int k, Activation form,
                      float* out) {
    __shared__ float a[64][17], b[64][17];
    const int row = blockIdx.y * 64, column = blockIdx.x * 64, t = threadIdx.x;
    float sum[4][4] = {};
    for (int i = 0; i < k; i += 16) {
        for (int j = t; j < 64 * 16; j += 256) {
            a[j / 16][j % 16] = row + j / 16 < rows ? float(x[std::size_t(row + j / 16) * k + i + j % 16]) : 0.f;
            b[j / 16][j % 16] = float(weight[std::size_t(column + j / 16) * k + i + j % 16]);
        }
        __syncthreads();
        for (int j = 0; j < 16; j++)
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) sum[r][c] += a[t / 16 * 4 + r][j] * b[t % 16 * 4 + c][j];
        __syncthreads();
    }
    for (int r = 0; r < 4; r++)
        for (int c = 0; c < 4; c++) {
            const int i = row + t / 16 * 4 + r, j = column + t % 16 * 4 + c;
            if (i >= rows) continue;
            float y = exactly(sum[r][c] + bias[j], form);
            if (residual) y += float(residual[std::size_t(i) * n + j]);
            if (std::is_same_v<T, __half>) y = fminf(fmaxf(y, -65504.f), 65504.f);
            out[std::size_t(i) * n + j] = y;
        }
}
// How many of out's numbers are wrong, the first of them, and the largest error in units of what is allowed.
template <typename T>
__global__ void compare(const T* out, const float* expected, std::size_t numbers, float allowed, unsigned long long* found) {
    constexpr float unit = std::is_same_v<T, __half> ? 0x1p-11f : 0x1p-8f;
    for (std::size_t i = blockIdx.x * std::size_t(blockDim.x) + threadIdx.x; i < numbers; i += std::size_t(gridDim.x) * blockDim.x) {
        const float error = fabsf(float(out[i]) - expected[i]) / (unit * fabsf(expected[i]) + allowed);
        if (!(error <= 1)) atomicAdd(&found[0], 1ull), atomicMin(&found[1], (unsigned long long)i);
        if (error == error) atomicMax(&found[2], (unsigned long long)(error * 1000));
    }
}

template <typename T>
bool check_one(const Variant& v, Call run, Epilogue e, int rows, int room, int n, int k, int lag, int run_rows, float scale = 1) {
    constexpr Type type = std::is_same_v<T, __half> ? Type::float16 : Type::bfloat16;
    HostPlan plan({rows}, room);
    const int most = rows + room, guard = 64;
    auto x = normal<T>(std::size_t(most) * k, scale, rows + k), weight = normal<T>(std::size_t(n) * k, 1 / std::sqrt(float(k)), n);
    auto bias = normal<float>(n, 0.5f, 3), x_bias = normal<float>(n, 0.5f, 3);
    auto residual = normal<T>(std::size_t(most) * n, 1, 5);
    if (room) CHECK(cudaMemset(x.data + std::size_t(rows) * k, 0xff, std::size_t(room) * k * sizeof(T)));
    if (scale > 1) fill_normal<<<1024, 256>>>(weight.data, std::size_t(n) * k, 4 / std::sqrt(float(k)), n);  // sums that float16 cannot hold
    Buffer<T> out(std::size_t(most + guard) * n);
    Buffer<float> expected(std::size_t(rows) * n);
    const T* r = e == Epilogue::residual ? residual.data : nullptr;
    plain<<<dim3(n / 64, (rows + 63) / 64), 256>>>(x.data, weight.data, bias.data, r, rows, n, k, FORMS[e], expected.data);
    CHECK(cudaDeviceSynchronize());
    const CUtensorMap map = encode_weights(type, weight.data, n, k, v.groups);
    ProductCall call{type, {weight.data, bias.data}, n, k, FORMS[e], x.data, r, plan.plan, out.data, &map};
    run(nullptr, call, map, lag, run_rows);
    CHECK(cudaDeviceSynchronize());
    Buffer<unsigned long long> found(std::vector<unsigned long long>{0, ~0ull, 0});
    compare<T><<<512, 256>>>(out.data, expected.data, std::size_t(rows) * n, 1e-4f * scale, found.data);
    auto result = found.get();
    std::size_t strays = 0;
    auto host = out.get();
    for (std::size_t i = std::size_t(most) * n; i < host.size(); i++) strays += reinterpret_cast<uint16_t&>(host[i]) != 0xffff;
    if (!result[0] && !strays) return true;
    printf("WRONG %s %s %s T %d of %d n %d k %d lag %d run %d: %llu of %zu wrong, %zu strays, max %.2f;", v.name, NAMES[e],
           type == Type::float16 ? "f16" : "bf16", rows, most, n, k, lag, run_rows, result[0], std::size_t(rows) * n, strays,
           result[2] / 1000.);
    auto reference = expected.get();
    std::map<int, int> by_rows, by_columns, by_eight;
    int shown = 0;
    for (std::size_t i = 0; i < reference.size(); i++) {
        const float error = std::fabs(float(host[i]) - reference[i]);
        if (error <= 0x1p-8f * std::fabs(reference[i]) + 1e-3f) continue;
        const int row = int(i / n), column = int(i % n);
        by_rows[row / 64]++, by_columns[column / 32]++, by_eight[row % 16 * 100 + column % 32]++;
        if (shown++ < 6) printf(" (%d,%d) %g not %g", row, column, float(host[i]), reference[i]);
    }
    auto show = [](const char* title, const std::map<int, int>& counts) {
        printf("\n   %s:", title);
        int i = 0;
        for (auto [key, count] : counts)
            if (i++ < 14) printf(" %d:%d", key, count);
        printf(" (%zu)", counts.size());
    };
    show("64 rows", by_rows), show("32 columns", by_columns), show("row%16*100+column%32", by_eight);
    // Is it another row's or column's number?
    for (std::size_t i = 0; i < reference.size(); i++) {
        if (std::fabs(float(host[i]) - reference[i]) <= 0x1p-8f * std::fabs(reference[i]) + 1e-3f) continue;
        const std::size_t base = i / n * n;
        for (int c = 0; c < n; c++)
            if (std::fabs(float(host[i]) - reference[base + c]) < 2e-3f) printf(" col %d is %d's?", int(i % n), c);
        break;
    }
    printf("\n");
    return false;
}

int check(const std::string& name) {
    int done = 0, wrong = 0;
    for (auto& v : variants()) {
        if (v.name != name) continue;
        auto all = [&](auto zero, int from) {
            using T = decltype(zero);
            for (auto& entry : v.run) {
                const int which = entry.first;
                const Call run = entry.second;
                if (which / EPILOGUES * EPILOGUES != from) continue;
                const auto e = Epilogue(which % EPILOGUES);
                auto one = [&](int rows, int room, int n, int k, int lag, int run_rows, float scale = 1) {
                    if (wrong < 4) done++, wrong += !check_one<T>(v, run, e, rows, room, n, k, lag, run_rows, scale);
                };
                for (int rows : {1, 63, 64, 65, 127, 128, 129, 500, 513}) one(rows, rows % 100, 192, 192, 1, 0), one(rows, 200, 320, 320, 2, 1);
                for (int n : {64, 128, 320, 768, 1024}) one(513, 700, n, 64, 4, 0), one(700, 0, n, 128, 0, 2), one(1300, 7, n, 1024, 3, 0);
                if (e != bias && (from || name != "256")) continue;
                one(4100, 100, 1024, 768, 4, 2), one(4100, 100, 3072, 1024, 4, 0), one(4100, 5000, 4096, 1024, 8, 4), one(4100, 0, 1024, 4096, 4, 1);
                one(9000, 0, 1088, 320, 2, 3), one(20000, 50, 768, 128, 1, 4), one(700, 0, 256, 128, 1, 0, 1e4f);
            }
        };
        all(__half{}, 0), all(__nv_bfloat16{}, EPILOGUES);
    }
    printf("check %s: %d cases, %d wrong\n", name.c_str(), done, wrong);
    return wrong;
}

// Every float16, on the GPU itself, against float64.
__global__ void gelu_errors(float* worst) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const float x = __half2float(__ushort_as_half(i));
    if (!isfinite(x)) return;
    for (int form = 0; form < 2; form++) {
        const float y = form ? gelu_tanh(x) : gelu_erf(x), z = exactly(x, form ? Activation::gelu_tanh : Activation::gelu_erf);
        const __half a = __float2half_rn(y), b = __float2half_rn(z);
        atomicMax(reinterpret_cast<int*>(worst) + 3 * form, __float_as_int(fabsf(y - z) / fmaxf(1.f, fabsf(z))));
        atomicMax(reinterpret_cast<int*>(worst) + 3 * form + 1,
                  __float_as_int(fabsf(float(int(__half_as_ushort(a) & 0x7fff) - int(__half_as_ushort(b) & 0x7fff)))));
        atomicAdd(worst + 3 * form + 2, float(__half_as_ushort(a) != __half_as_ushort(b)));
    }
}
void check_gelu() {
    Buffer<float> worst(std::vector<float>(6, 0.f));
    gelu_errors<<<256, 256>>>(worst.data);
    auto w = worst.get();
    printf("gelu over all float16: erf %.2e, %g ulp, %g differ; tanh %.2e, %g ulp, %g differ\n", w[0], w[1], w[2], w[3], w[4], w[5]);
}

#ifdef PROFILE
void* profile_address() {
    void* p;
    CHECK(cudaGetSymbolAddress(&p, profile_data));
    return p;
}
#endif
// time n k rows epilogue, then NAME:lag:run …: a line of µs (and TFLOP/s of the best).
void time_them(int n, int k, int rows, Epilogue e, const std::vector<std::string>& wanted) {
    const int copies = rows > 8192 ? 1 : 20;  // of weights: an encoder's come from memory
    HostPlan plan({rows});
    using T = __half;
    auto x = normal<T>(std::size_t(rows) * k, 1, 1), weight = normal<T>(std::size_t(copies) * n * k, 1 / std::sqrt(float(k)), 2);
    auto b = normal<float>(n, 0.5f, 3);
    auto r = normal<T>(std::size_t(rows) * n, 1, 4);
    Buffer<T> out(std::size_t(rows) * n);
    std::vector<std::function<void(cudaStream_t)>> calls;
    std::vector<int> turn(wanted.size());
    std::vector<std::vector<CUtensorMap>> maps(wanted.size());
    auto all = variants();
    for (std::size_t i = 0; i < wanted.size(); i++) {
        char name[32];
        int lag, run;
        if (sscanf(wanted[i].c_str(), "%31[^:]:%d:%d", name, &lag, &run) != 3) throw Error("what is " + wanted[i]);
        const bool plain_order = name[0] == '=';  // columns as they are: wrong, but what does the order cost?
        auto found = std::find_if(all.begin(), all.end(), [&](auto& v) { return std::string(v.name) == name + plain_order; });
        if (found == all.end() || !found->run.count(e)) throw Error("no " + wanted[i]);
        for (int c = 0; c < copies; c++) {
            const T* w = weight.data + std::size_t(c) * n * k;
            const cuuint64_t row = cuuint64_t(k) * 2;
            maps[i].push_back(plain_order ? encode({w, Type::float16, 5, {cuuint64_t(k), 2, 4, 4, cuuint64_t(n / GROUP)},
                                                    {row, 2 * row, 8 * row, 32 * row}, {CHUNK, 2, 4, 4, cuuint32_t(found->groups)}})
                                          : encode_weights(Type::float16, w, n, k, found->groups));
        }
        Call f = found->run[e];
        calls.push_back([=, &plan, &turn, &maps, &x, &b, &r, &out, &weight](cudaStream_t stream) {
            const CUtensorMap& map = maps[i][turn[i]++ % maps[i].size()];
            f(stream, {Type::float16, {weight.data, b.data}, n, k, FORMS[e], x.data, e == residual ? r.data : nullptr, plan.plan, out.data, &map},
              map, lag, run);
        });
    }
#ifdef PROFILE
    for (std::size_t i = 0; i < wanted.size(); i++) {
        for (int j = 0; j < (rows > 8192 ? 300 : 3000); j++) calls[i](nullptr);
        CHECK(cudaDeviceSynchronize());
        std::vector<long long> data(264 * 8);
        CHECK(cudaMemcpyFromSymbol(data.data(), profile_data, data.size() * 8));
        double sum[8] = {}, used = 0, longest = 0;
        for (int j = 0; j < 264; j++) {
            if (!data[j * 8 + 7]) continue;
            for (int c = 0; c < 8; c++) sum[c] += double(data[j * 8 + c]);
            used++, longest = std::max(longest, double(data[j * 8 + 6]));
        }
        const double tiles = sum[7], chunks = tiles * (k / 64);
        printf("%d x %d x %d %s %s: %.2f GHz, %.1f us; start %.0f, a chunk %.0f (waits %.0f weights, %.0f rows), end of a tile %.0f, tiles %.2f of %.0f\n", rows, k, n,
               NAMES[e], wanted[i].c_str(), sum[5] / sum[6], longest / 1e3, sum[0] / used, sum[1] / chunks, sum[3] / chunks, sum[4] / chunks, sum[2] / tiles, tiles / used, used);
        CHECK(cudaMemset(profile_address(), 0, 264 * 64));
    }
    return;
#endif
    auto ms = times(calls, rows > 8192 ? 10 : 20, rows > 8192 ? 5 : 9, 0.15);
    printf("%d x %d x %d %s:", rows, k, n, NAMES[e]);
    double best = 1e9;
    for (std::size_t i = 0; i < wanted.size(); i++) printf(" %s %.1f", wanted[i].c_str(), ms[i] * 1e3), best = std::min(best, ms[i]);
    printf(" | %.0f TF\n", 2e-9 * rows * n * k / best);
    fflush(stdout);
}

int main(int argc, char** argv) try {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "check" && argc > 2) return check(argv[2]);
    if (what == "gelu") return check_gelu(), 0;
    if (what == "time" && argc > 6) {
        const int e = int(std::find(NAMES, NAMES + EPILOGUES, std::string(argv[5])) - NAMES);
        return time_them(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), Epilogue(e), {argv + 6, argv + argc}), 0;
    }
    printf("bench_products check NAME | time N K T EPILOGUE NAME:lag:run … | gelu\n");
    return 2;
} catch (const std::exception& error) {
    printf("ERROR %s\n", error.what());
    return 1;
}
