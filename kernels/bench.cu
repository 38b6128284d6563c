// The whole encoder: checked against plain float32 (reference.cuh), then timed. See README.md.
//   bench parts|models|small|wrong|saturation|threads|replays|times [what the name contains]
#include <atomic>
#include <map>
#include <thread>

#include "bench.cuh"
#include "reference.cuh"

using namespace bert;
using namespace bert::bench;

namespace {

int failures = 0;
void expect(bool good, const std::string& what) {
    if (good) return;
    failures++;
    if (failures <= 40) printf("WRONG %s\n", what.c_str());
}

// ---- models of random weights

struct Form {
    std::string name;
    int layers = 2, hidden = 256, heads = 4, inner = 1024;
    Type type = Type::float16;
    Activation activation = Activation::gelu_erf;
    float eps = 1e-12f;
    int embedding = 0;  // 0: as hidden
    int width = 2;  // 0: the last layer's output itself
    bool segments = true, pooled = false, dense = false;
    int positions = 512, vocabulary = 30522;
    float gain = 0.7f;  // of matrices: their numbers have a deviation of gain / √k
    bool one_layer = false;  // all layers share its weights
};

template <typename T>
struct Model {
    Sizes sizes;
    Weights weights;
    std::vector<Buffer<T>> matrices;
    std::vector<Buffer<float>> vectors;

    explicit Model(const Form& f) {
        Sizes& s = sizes;
        s.vocab_size = f.vocabulary, s.max_position_embeddings = f.positions, s.type_vocab_size = 2;
        s.embedding_size = f.embedding ? f.embedding : f.hidden, s.hidden_size = f.hidden, s.num_attention_heads = f.heads;
        s.intermediate_size = f.inner, s.width = f.width ? f.width : f.hidden, s.layer_norm_eps = f.eps,
        s.activation = f.activation;
        s.type = f.type;
        unsigned seed = 1;
        auto matrix = [&](int n, int k, float scale) {
            matrices.push_back(normal<T>(std::size_t(n) * k, scale, seed++));
            return matrices.back().data;
        };
        auto vector = [&](int n, float mean, float scale) {
            vectors.push_back(normal<float>(n, scale, seed++));
            if (mean) {
                auto host = vectors.back().get();
                for (float& x : host) x += mean;
                vectors.back().set(host);
            }
            return vectors.back().data;
        };
        auto linear = [&](int n, int k) { return Linear{matrix(n, k, f.gain / std::sqrt(float(k))), vector(n, 0, 0.1f)}; };
        auto norm = [&](int n) { return LayerNorm{vector(n, 1, 0.1f), vector(n, 0, 0.1f)}; };
        const int E = f.hidden, F = f.inner, e = s.embedding_size;
        weights.embeddings.word = matrix(s.vocab_size, e, 0.05f);
        weights.embeddings.position = matrix(f.positions, e, 0.05f);
        if (f.segments) weights.embeddings.segment = matrix(2, e, 0.05f);
        weights.embeddings.norm = norm(e);
        if (e != E) weights.embeddings.projection = linear(E, e);
        for (int i = 0; i < f.layers; i++)
            weights.layers.push_back(i && f.one_layer
                                         ? weights.layers[0]
                                         : Layer{linear(3 * E, E), linear(E, E), norm(E), linear(F, E), linear(E, F), norm(E)});
        if (f.dense)
            weights.head.dense = linear(E, E), weights.head.activation = f.pooled ? Activation::tanh : Activation::gelu_erf;
        if (f.width) weights.head.out = linear(f.width, E);
        weights.head.pooled = f.pooled;
        CHECK(cudaDeviceSynchronize());
    }
};

struct Sequences {
    std::vector<int> lengths;
    std::vector<int32_t> host_ids, host_segments, bounds{0};
    Buffer<int32_t> ids{0}, segments{0}, cu_seqlens{0};
    Sequences(const std::vector<int>& lengths, const Sizes& sizes) : lengths(lengths) {
        std::mt19937 random(int(lengths.size()));
        for (int length : lengths) {
            bounds.push_back(bounds.back() + length);
            for (int i = 0; i < length; i++) {
                host_ids.push_back(int(random() % sizes.vocab_size));
                host_segments.push_back(i > length / 3);
            }
        }
        ids = Buffer<int32_t>(host_ids), segments = Buffer<int32_t>(host_segments), cu_seqlens = Buffer<int32_t>(bounds);
    }
    int tokens() const { return bounds.back(); }
    Batch batch(int room = 0) const { return {ids.data, segments.data, cu_seqlens.data, tokens() + room, int(lengths.size())}; }
};

// An encoder, its memory and its outputs, with numbers beyond them that must stay as they are.
struct Runner {
    const Encoder& encoder;
    Batch batch;
    std::size_t outputs, workspace_bytes;
    Buffer<unsigned char> workspace;
    Buffer<float> logits;
    Buffer<int32_t> status;
    cudaStream_t stream;
    cudaGraphExec_t graph = nullptr;
    static constexpr int beyond = 1024;

    Runner(const Encoder& encoder, const Sizes& sizes, bool pooled, const Batch& batch)
        : encoder(encoder),
          batch(batch),
          outputs(std::size_t(pooled ? batch.sequences : batch.max_tokens) * sizes.width),
          workspace_bytes(encoder.workspace_bytes(batch.max_tokens, batch.sequences)),
          workspace(workspace_bytes + beyond),
          logits(outputs + beyond),
          status(1) {
        CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        CHECK(cudaDeviceSynchronize());
    }
    Runner(const Runner&) = delete;
    ~Runner() {
        if (graph) cudaGraphExecDestroy(graph);
        cudaStreamDestroy(stream);
    }
    void enqueue() { encoder.run(stream, batch, workspace.data, {logits.data, status.data}); }
    void capture() {
        cudaGraph_t captured;
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        enqueue();
        CHECK(cudaStreamEndCapture(stream, &captured));
        CHECK(cudaGraphInstantiate(&graph, captured, 0));
        CHECK(cudaGraphDestroy(captured));
    }
    void forget() {  // NaN everywhere
        CHECK(cudaMemsetAsync(workspace.data, 0xff, workspace.size, stream));
        CHECK(cudaMemsetAsync(logits.data, 0xff, logits.size * 4, stream));
        CHECK(cudaMemsetAsync(status.data, 0xff, 4, stream));
    }
    std::vector<float> once() {
        forget();
        if (graph)
            CHECK(cudaGraphLaunch(graph, stream));
        else
            enqueue();
        CHECK(cudaStreamSynchronize(stream));
        return logits.get();
    }
    bool kept_bounds() {
        const auto bytes = workspace.get();
        for (std::size_t i = workspace_bytes; i < bytes.size(); i++)
            if (bytes[i] != 0xff) return false;
        const auto numbers = logits.get();
        for (std::size_t i = outputs; i < numbers.size(); i++)
            if (std::memcmp(&numbers[i], "\xff\xff\xff\xff", 4)) return false;
        return true;
    }
};

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * 4);
}

const std::vector<int> RAGGED{64, 1, 512, 2, 63, 385, 65, 127, 129, 500, 200, 383, 511, 512};

template <typename T>
void check_model(const Form& f, const std::vector<int>& lengths, int room) {
    const Model<T> model(f);
    const Sequences sequences(lengths, model.sizes);
    const Encoder encoder(model.sizes, model.weights);
    const auto want = reference::network<T>(model.sizes, model.weights, lengths, sequences.ids.data, sequences.segments.data);
    Runner runner(encoder, model.sizes, f.pooled, sequences.batch(room));
    const auto got = runner.once();
    const int status = runner.status.get()[0];
    const bool again = same(got, runner.once());
    runner.capture();
    const bool replayed = same(got, runner.once()) && same(got, runner.once());
    const Difference d = difference(got, want, want.size());
    const double allowed = f.type == Type::float16 ? 6e-3 : 5e-2;
    const bool good = status == 0 && again && replayed && runner.kept_bounds() && d.relative < allowed;
    printf("%-44s T %5d +%3d relative %.1e largest %.1e %s%s%s%s\n", f.name.c_str(), sequences.tokens(), room, d.relative,
           d.largest, good ? "ok" : "WRONG", again ? "" : ", not the same again", replayed ? "" : ", not the same in a graph",
           status ? ", status" : "");
    if (!good) {
        failures++;
        const int width = model.sizes.width;
        std::map<int, std::pair<int, int>> rows_of;  // sequence → wrong rows, the first of them
        for (std::size_t i = 0; i < want.size(); i++) {
            if (std::fabs(got[i] - want[i]) < 10 * allowed) continue;
            const int row = int(i / width);
            const int sequence =
                f.pooled
                    ? row
                    : int(std::upper_bound(sequences.bounds.begin(), sequences.bounds.end(), row) - sequences.bounds.begin()) - 1;
            auto& found = rows_of.try_emplace(sequence, 0, row).first->second;
            if (i % width == 0) found.first++;
        }
        int shown = 0;
        for (auto& [sequence, found] : rows_of) {
            const std::size_t at = std::size_t(found.second) * width;
            if (shown++ < 6)
                printf("   sequence %d of length %d: %d rows, first %d: got %g want %g\n", sequence, lengths[sequence],
                       found.first, found.second, got[at], want[at]);
        }
        printf("   got %g %g %g want %g %g %g\n", got[0], got[1], got[2], want[0], want[1], want[2]);
    }
}
void check_model(const Form& f, const std::vector<int>& lengths, int room = 0) {
    try {
        f.type == Type::float16 ? check_model<__half>(f, lengths, room) : check_model<__nv_bfloat16>(f, lengths, room);
    } catch (const Error& e) {
        failures++;
        printf("%-44s WRONG: %s\n", f.name.c_str(), e.what());
        if (cudaGetLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) exit(1);
    }
}

Form large() { return {"large", 24, 1024, 16, 4096}; }
Form base() { return {"base", 12, 768, 12, 3072}; }
Form minilm() { return {"MiniLM", 6, 384, 12, 1536}; }
Form with(Form f, const std::string& name, const std::function<void(Form&)>& change) {
    f.name += " " + name;
    change(f);
    return f;
}

void check_models(const std::string& only) {
    std::vector<Form> forms;
    for (Type type : {Type::float16, Type::bfloat16}) {
        auto add = [&](Form f) {
            if (type == Type::bfloat16) f.name += " bfloat16";
            f.type = type;
            forms.push_back(f);
        };
        add(minilm());
        for (int head_size : {8, 24, 32, 40, 64, 80, 96, 128}) {
            const int hidden = head_size % 64 == 0 ? 512 : head_size * 16;
            add({"heads of " + std::to_string(head_size), 2, hidden, hidden / head_size, 2 * hidden});
        }
        for (int hidden : {64, 128, 192, 320, 576, 704, 960, 1088, 1536, 1600, 2048})
            add({"hidden " + std::to_string(hidden), 1, hidden, hidden / 64, hidden == 64 ? 64 : 3 * hidden / 64 * 64});
        add(with(minilm(), "1 layer, tanh, 1e-3",
                 [](Form& f) { f.layers = 1, f.activation = Activation::gelu_tanh, f.eps = 1e-3f; }));
        add(with(minilm(), "2 layers, relu, 1e-5",
                 [](Form& f) { f.layers = 2, f.activation = Activation::relu, f.eps = 1e-5f; }));
        add(with(minilm(), "24 layers", [](Form& f) { f.layers = 24; }));
        add(with(minilm(), "shared layers, embeddings of 128", [](Form& f) { f.one_layer = true, f.embedding = 128; }));
        add(with(minilm(), "embeddings wider", [](Form& f) { f.embedding = 1024; }));
        add(with(minilm(), "without segments, width 9", [](Form& f) { f.segments = false, f.width = 9; }));
        add(with(minilm(), "pooled, dense, width 3", [](Form& f) { f.pooled = f.dense = true, f.width = 3; }));
        add(with(minilm(), "pooled, width 1", [](Form& f) { f.pooled = true, f.width = 1; }));
        add(with(minilm(), "pooled, no head", [](Form& f) { f.pooled = true, f.width = 0; }));
        add(with(minilm(), "no head", [](Form& f) { f.width = 0; }));
        add(with(minilm(), "dense, width 300", [](Form& f) { f.dense = true, f.width = 300; }));
        add(base());
        add(large());
        add(with(large(), "8 layers", [](Form& f) { f.layers = 8; }));
    }
    for (const Form& f : forms) {
        if (f.name.find(only) == std::string::npos) continue;
        check_model(f, RAGGED);
        if (f.layers > 12) continue;
        check_model(f, {1});
        check_model(f, {128});
        check_model(f, {77, 1, 50}, 384);
    }
}

// A few small ones, for compute-sanitizer.
void check_small() {
    for (Type type : {Type::float16, Type::bfloat16})
        for (int head_size : {64, 40, 128}) {
            Form f{"heads of " + std::to_string(head_size), 1,   head_size == 40 ? 320 : 256,
                   head_size == 40 ? 8 : 256 / head_size,   512, type};
            f.pooled = f.dense = head_size == 128;
            check_model(f, {64, 1, 130, 65});
            check_model(f, {77, 1, 50}, 700);
        }
}

// ---- the parts that are no products and no attention, each alone

void check_plan() {
    std::mt19937 random(1);
    auto check_one = [&](const std::vector<int32_t>& bounds, int max_tokens, int longest, bool good) {
        const int sequences = int(bounds.size()) - 1;
        const Buffer<int32_t> cu_seqlens(bounds), status(1);
        Buffer<unsigned char> memory(plan_bytes(max_tokens, sequences) + 256);
        const Plan plan = place_plan(memory.data, max_tokens, sequences);
        Sizes sizes;
        sizes.max_position_embeddings = longest;
        Batch batch{nullptr, nullptr, cu_seqlens.data, max_tokens, sequences};
        make_plan(nullptr, batch, sizes, plan, status.data);
        CHECK(cudaDeviceSynchronize());
        auto copy = [](const auto* from, std::size_t n) {
            std::vector<std::decay_t<decltype(*from)>> host(n);
            CHECK(cudaMemcpy(host.data(), from, n * sizeof(*from), cudaMemcpyDeviceToHost));
            return host;
        };
        const int tokens = copy(plan.tokens, 1)[0], tiles = copy(plan.tiles, 1)[0];
        const auto copied = copy(plan.cu_seqlens, sequences + 1);
        const std::string name = "plan of " + std::to_string(sequences) + " sequences within " + std::to_string(max_tokens) +
                                 ", from " + std::to_string(bounds[0]) + " to " + std::to_string(bounds.back()) + ": ";
        expect(status.get()[0] == (good ? status_ok : status_cu_seqlens), name + "status " + std::to_string(status.get()[0]));
        expect(copied == (good ? bounds : std::vector<int32_t>(bounds.size(), 0)), name + "its copy");
        expect(tokens == (good ? bounds.back() : 0), name + "tokens " + std::to_string(tokens));
        std::vector<std::pair<int, int>> want, got;
        for (int i = 0; good && i < sequences; i++)
            for (int first = 0; first < bounds[i + 1] - bounds[i]; first += ATTENTION_ROWS) want.push_back({i, first});
        expect(tiles == int(want.size()) && tiles <= plan.max_tiles, name + "tiles " + std::to_string(tiles));
        if (tiles != int(want.size())) return;
        double before = 1e30, most = 0;
        auto cost = [&](const Tile& t) {
            const double length = bounds[t.sequence + 1] - bounds[t.sequence];
            return std::min<double>(ATTENTION_ROWS, length - t.first) * length;
        };
        const auto tile = copy(plan.tile, tiles);
        for (const Tile& t : tile) most = std::max(most, t.sequence < sequences && t.sequence >= 0 ? cost(t) : 0);
        for (const Tile& t : tile) {
            got.push_back({t.sequence, t.first});
            if (t.sequence >= sequences || t.sequence < 0) continue;
            expect(cost(t) < before + most / 31, name + "its order");
            before = std::min(before, cost(t));
        }
        make_plan(nullptr, batch, sizes, plan, status.data);
        CHECK(cudaDeviceSynchronize());
        expect(!std::memcmp(copy(plan.tile, tiles).data(), tile.data(), tiles * sizeof(Tile)), name + "not the same again");
        std::sort(got.begin(), got.end());
        expect(got == want, name + "its tiles");
    };
    for (int sequences : {1, 2, 31, 32, 33, 63, 128, 255, 256, 257, 1000, 1024, 1025, 5000, 65536})
        for (int longest : {1, 40, 384, 512, 2000}) {
            std::vector<int32_t> bounds{0};
            for (int i = 0; i < sequences; i++) bounds.push_back(bounds.back() + 1 + int(random() % longest));
            check_one(bounds, bounds.back() + int(random() % 3), longest, true);
            auto wrong = [&](int at, int value, int longest_allowed = 2000) {
                auto changed = bounds;
                changed[at] = value;
                check_one(changed, bounds.back(), longest_allowed, false);
            };
            const int any = int(random() % sequences);
            wrong(0, 1), wrong(0, -1), wrong(sequences, bounds.back() + 1), wrong(sequences, INT32_MAX), wrong(any, INT32_MIN),
                wrong(any + 1, bounds[any]);
            wrong(any + 1, -5), wrong(any + 1, INT32_MAX);
            if (longest > 1 && bounds[any + 1] - bounds[any] > 1)
                check_one(bounds, bounds.back(), bounds[any + 1] - bounds[any] - 1, false);
        }
    printf("plan: %d wrong\n", failures);
}

template <typename T>
void check_rows(Type type, int columns, int rows, float mean, float scale) {
    const std::string name = "rows " + std::to_string(rows) + " columns " + std::to_string(columns) +
                             (type == Type::float16 ? "" : " bfloat16") + ": ";
    const HostPlan plan(std::vector<int>(rows, 1), 37);
    const std::size_t n = std::size_t(rows) * columns, room = n + std::size_t(37) * columns;
    auto as_float = [&](const Buffer<T>& buffer, std::size_t count) {
        std::vector<float> numbers;
        for (T x : buffer.get()) numbers.push_back(float(x));
        numbers.resize(count);
        return numbers;
    };
    auto untouched = [&](const Buffer<T>& buffer) {
        const auto host = buffer.get();
        for (std::size_t i = n; i < room; i++)
            if (std::memcmp(&host[i], "\xff\xff", 2)) return false;
        return true;
    };
    Buffer<T> x(room), out(room);
    fill_normal<<<256, 256>>>(x.data, n, scale, columns + rows);
    auto numbers = as_float(x, n);
    auto host = x.get();
    for (std::size_t i = 0; i < n; i++) host[i] = T(numbers[i] + mean), numbers[i] = float(host[i]);
    x.set(host);
    const auto gamma = normal<float>(columns, 1, 1), beta = normal<float>(columns, 1, 2);
    const LayerNorm norm{gamma.data, beta.data};
    const Buffer<float> wide(numbers), want(n);
    reference::layer_norm(wide.data, norm, 1e-5f, rows, columns, want.data);
    layer_norm(nullptr, type, x.data, norm, 1e-5f, columns, plan.plan, out.data);
    CHECK(cudaDeviceSynchronize());
    const double allowed = type == Type::float16 ? 4e-4 : 3e-3;
    const auto first = out.get();
    auto d = difference(first, want.get(), n);
    expect(d.relative < allowed && untouched(out), name + "layer norm, relative " + std::to_string(d.relative) + " largest " +
                                                       std::to_string(d.largest) + " row " + std::to_string(d.where / columns) +
                                                       " column " + std::to_string(d.where % columns));
    layer_norm(nullptr, type, x.data, norm, 1e-5f, columns, plan.plan, x.data);
    CHECK(cudaDeviceSynchronize());
    expect(!std::memcmp(x.get().data(), first.data(), room * sizeof(T)), name + "layer norm in place");

    // embeddings of ragged sequences
    Sizes s;
    s.vocab_size = 1000, s.max_position_embeddings = 100, s.type_vocab_size = 3, s.embedding_size = s.hidden_size = columns;
    s.layer_norm_eps = 1e-5f, s.type = type;
    const auto word = normal<T>(std::size_t(s.vocab_size) * columns, 1, 3), position = normal<T>(100 * columns, 1, 4),
               segment = normal<T>(3 * columns, 1, 5);
    std::mt19937 random(rows);
    std::vector<int> lengths;
    for (int left = rows; left;) {
        lengths.push_back(std::min(left, 1 + int(random() % 100)));
        left -= lengths.back();
    }
    const HostPlan ragged(lengths, 37);
    std::vector<int32_t> ids(rows), segments(rows);
    for (int i = 0; i < rows; i++) ids[i] = int(random() % 1000), segments[i] = int(random() % 3);
    const Buffer<int32_t> gpu_ids(ids), gpu_segments(segments), status(std::vector<int32_t>{0});
    const Batch batch{gpu_ids.data, gpu_segments.data, ragged.cu_seqlens.data, ragged.plan.max_tokens, int(lengths.size())};
    for (bool with_segments : {true, false}) {
        const Embeddings tables{word.data, position.data, with_segments ? segment.data : nullptr, norm, {}};
        reference::embeddings_kernel<T>
            <<<rows, 128>>>(gpu_ids.data, gpu_segments.data, ragged.cu_seqlens.data, tables, columns, want.data);
        reference::layer_norm(want.data, norm, 1e-5f, rows, columns, want.data);
        CHECK(cudaMemset(out.data, 0xff, room * sizeof(T)));
        embeddings(nullptr, batch, s, tables, ragged.plan, out.data, status.data);
        CHECK(cudaDeviceSynchronize());
        d = difference(out.get(), want.get(), n);
        expect(d.relative < allowed && untouched(out) && status.get()[0] == 0,
               name + "embeddings, relative " + std::to_string(d.relative) + " largest " + std::to_string(d.largest) + " row " +
                   std::to_string(d.where / columns) + " column " + std::to_string(d.where % columns) + " status " +
                   std::to_string(status.get()[0]));
    }

    // heads
    for (int width : {1, 2, 3, 17, 0}) {
        s.width = width ? width : columns;
        const auto weight = normal<T>(std::size_t(s.width) * columns, 1 / std::sqrt(float(columns)), 7);
        const auto bias = normal<float>(s.width, 1, 8);
        const Linear linear{width ? weight.data : nullptr, bias.data};
        const std::size_t outputs = std::size_t(rows) * s.width, outputs_room = outputs + std::size_t(37) * s.width;
        Buffer<float> logits(outputs_room), wanted(outputs);
        const Buffer<float> last(as_float(out, n));
        if (width)
            reference::linear<T>(last.data, linear, nullptr, rows, width, columns, Activation::none, Type::bfloat16, wanted.data);
        Buffer<int32_t> good(std::vector<int32_t>{0}), bad(std::vector<int32_t>{3});
        head(nullptr, s, linear, out.data, ragged.plan, {logits.data, good.data});
        CHECK(cudaDeviceSynchronize());
        auto got = logits.get();
        d = difference(got, width ? wanted.get() : last.get(), outputs);
        bool kept = true, all_nan = true;
        for (std::size_t i = outputs; i < outputs_room; i++) kept &= !std::memcmp(&got[i], "\xff\xff\xff\xff", 4);
        expect(d.largest < 1e-4 && kept, name + "head of width " + std::to_string(width) + ", relative " +
                                             std::to_string(d.relative) + " at " + std::to_string(d.where));
        CHECK(cudaMemset(logits.data, 0, outputs_room * 4));
        head(nullptr, s, linear, out.data, ragged.plan, {logits.data, bad.data});
        CHECK(cudaDeviceSynchronize());
        for (float each : logits.get()) all_nan &= std::isnan(each);
        expect(all_nan, name + "NaN where the status is not 0");
    }
}

__global__ void pack_kernel(const float* x, int n, __half2* half, __nv_bfloat162* bfloat) {
    const int i = threadIdx.x;
    if (i < n) half[i] = pack<__half>(x[i], -x[i]), bfloat[i] = pack<__nv_bfloat16>(x[i], -x[i]);
}

void check_pack() {
    const std::vector<float> x{0.f,     1.f,      65504.f, 65519.f, 65520.f, 65536.f,       1e9f,
                               3.4e38f, INFINITY, NAN,     1e-8f,   6e-8f,   1.00048828125f};
    const Buffer<float> gpu(x);
    const Buffer<__half2> half(x.size());
    const Buffer<__nv_bfloat162> bfloat(x.size());
    pack_kernel<<<1, 32>>>(gpu.data, int(x.size()), half.data, bfloat.data);
    CHECK(cudaDeviceSynchronize());
    const auto h = half.get();
    const auto b = bfloat.get();
    for (std::size_t i = 0; i < x.size(); i++) {
        const float want = std::isnan(x[i]) ? x[i] : float(__half(std::min(x[i], 65504.f)));
        const float a = __low2float(h[i]), c = __high2float(h[i]), d = __low2float(b[i]);
        expect(std::isnan(x[i]) ? std::isnan(a) && std::isnan(c) && std::isnan(d)
                                : a == want && c == -want && d == float(__nv_bfloat16(x[i])),
               "pack of " + std::to_string(x[i]) + ": " + std::to_string(a) + " " + std::to_string(c) + " " + std::to_string(d));
    }
}

void check_parts() {
    check_plan();
    check_pack();
    int cases = 0;
    for (int columns = 64; columns <= 2048; columns += 64)
        for (int rows : {1, 5, 130, 2100}) {
            if (rows == 2100 && columns % 256 && columns % 192) continue;
            check_rows<__half>(Type::float16, columns, rows, columns % 128 ? 5.f : 0.f, 1.f), cases++;
            if (columns % 192 == 0) check_rows<__nv_bfloat16>(Type::bfloat16, columns, rows, 0, 1.f), cases++;
        }
    check_rows<__half>(Type::float16, 1024, 9000, 0, 1e4f);
    check_rows<__nv_bfloat16>(Type::bfloat16, 768, 9000, 0, 1e4f);
    printf("parts: %d cases of rows\n", cases + 2);
}

// ---- what is not as it should be

template <typename F>
void expect_error(const std::string& part_of_message, F&& f) {
    try {
        f();
        expect(false, "no error about " + part_of_message);
    } catch (const Error& e) {
        expect(std::string(e.what()).find(part_of_message) != std::string::npos,
               std::string(e.what()) + " (wanted: " + part_of_message + ")");
    }
}

void check_wrong() {
    using T = __half;
    for (bool pooled : {false, true}) {
        const Form f{"", 2, 256, 4, 512, Type::float16, Activation::gelu_erf, 1e-12f, 0, 2, true, pooled, pooled};
        const Model<T> model(f);
        const Encoder encoder(model.sizes, model.weights);
        const std::vector<int> lengths{64, 1, 200, 385, 512, 129};
        Sequences sequences(lengths, model.sizes);
        Runner runner(encoder, model.sizes, pooled, sequences.batch());
        runner.once();
        runner.capture();
        const auto good = runner.once();
        auto check_batch = [&](const std::string& name, int status) {
            const auto got = runner.once();
            bool all_nan = true;
            for (std::size_t i = 0; i < runner.outputs; i++)
                all_nan &= std::isnan(got[i]) && std::memcmp(&got[i], "\xff\xff\xff\xff", 4);
            const int found = runner.status.get()[0];
            expect(found == status, name + ": status " + std::to_string(found));
            expect(all_nan, name + ": not all outputs are NaN");
            expect(runner.kept_bounds(), name + ": wrote beyond");
            sequences.cu_seqlens.set(sequences.bounds), sequences.ids.set(sequences.host_ids),
                sequences.segments.set(sequences.host_segments);
            expect(same(runner.once(), good), name + ": the next batch is not right");
        };
        auto change = [](std::vector<int32_t> x, int at, int value) {
            x[at] = value;
            return x;
        };
        for (auto [at, value] : std::vector<std::pair<int, int>>{{0, 1},
                                                                 {0, -3},
                                                                 {3, 64},
                                                                 {3, 65},
                                                                 {3, 10},
                                                                 {2, INT32_MAX},
                                                                 {2, INT32_MIN},
                                                                 {6, 1292},
                                                                 {6, 5},
                                                                 {6, INT32_MAX},
                                                                 {5, 200}}) {
            sequences.cu_seqlens.set(change(sequences.bounds, at, value));
            check_batch("cu_seqlens[" + std::to_string(at) + "] = " + std::to_string(value), status_cu_seqlens);
        }
        for (int at : {0, 64, 700, 1290})
            for (int value : {-1, 30522, INT32_MAX, INT32_MIN}) {
                sequences.ids.set(change(sequences.host_ids, at, value));
                check_batch("ids[" + std::to_string(at) + "] = " + std::to_string(value), status_ids);
                sequences.segments.set(change(sequences.host_segments, at, value < 0 ? value : value == 30522 ? 2 : value));
                check_batch("segments[" + std::to_string(at) + "] = " + std::to_string(value), status_segments);
            }
        sequences.cu_seqlens.set(change(sequences.bounds, 3, 1)), sequences.ids.set(change(sequences.host_ids, 3, -1));
        check_batch("cu_seqlens and ids", status_cu_seqlens);

        if (pooled) continue;
        auto with_sizes = [&](const std::string& message, const std::function<void(Sizes&)>& change) {
            Sizes sizes = model.sizes;
            change(sizes);
            expect_error(message, [&] { Encoder(sizes, model.weights); });
        };
        with_sizes("hidden_size must be", [](Sizes& s) { s.hidden_size = 96; });
        with_sizes("hidden_size must be", [](Sizes& s) { s.hidden_size = 2112; });
        with_sizes("embedding_size must be", [](Sizes& s) { s.embedding_size = 0; });
        with_sizes("need a projection", [](Sizes& s) { s.embedding_size = 128; });
        with_sizes("intermediate_size must be", [](Sizes& s) { s.intermediate_size = 100; });
        with_sizes("num_attention_heads must be", [](Sizes& s) { s.num_attention_heads = 3; });
        with_sizes("size of a head must be", [](Sizes& s) { s.num_attention_heads = 64; });
        with_sizes("size of a head must be", [](Sizes& s) { s.num_attention_heads = 1; });
        with_sizes("layer_norm_eps must be", [](Sizes& s) { s.layer_norm_eps = -1; });
        with_sizes("width must be", [](Sizes& s) { s.width = 0; });
        with_sizes("vocab_size must be", [](Sizes& s) { s.vocab_size = 0; });
        with_sizes("type_vocab_size must not be", [](Sizes& s) { s.type_vocab_size = 0; });
        auto with_weights = [&](const std::string& message, const std::function<void(Weights&)>& change) {
            Weights weights = model.weights;
            change(weights);
            expect_error(message, [&] { Encoder(model.sizes, weights); });
        };
        with_weights("layer 1's qkv's weight must begin",
                     [](Weights& w) { w.layers[1].qkv.weight = static_cast<const T*>(w.layers[1].qkv.weight) + 1; });
        with_weights("gamma is absent", [](Weights& w) { w.layers[0].output_norm.gamma = nullptr; });
        with_weights("at least one layer", [](Weights& w) { w.layers.clear(); });
        with_weights("width must be the hidden_size", [](Weights& w) { w.head.out.weight = nullptr; });
        auto with_run = [&](const std::string& message, const std::function<void(Batch&, Outputs&, void*&)>& change) {
            Batch batch = runner.batch;
            Outputs outputs{runner.logits.data, runner.status.data};
            void* workspace = runner.workspace.data;
            change(batch, outputs, workspace);
            expect_error(message, [&] { encoder.run(runner.stream, batch, workspace, outputs); });
        };
        with_run("workspace must begin", [](Batch&, Outputs&, void*& w) { w = static_cast<char*>(w) + 16; });
        with_run("cu_seqlens is absent", [](Batch& b, Outputs&, void*&) { b.cu_seqlens = nullptr; });
        with_run("segments is absent", [](Batch& b, Outputs&, void*&) { b.segments = nullptr; });
        with_run("status is absent", [](Batch&, Outputs& o, void*&) { o.status = nullptr; });
        with_run("at least one token for each", [](Batch& b, Outputs&, void*&) { b.max_tokens = 5; });
        with_run("at least one sequence", [](Batch& b, Outputs&, void*&) { b.sequences = 0; });
    }
    printf("wrong batches, sizes and pointers: %d failures\n", failures);
}

// Activations near float16's largest: an infinity on the way would be NaN in the end.
void check_saturation() {
    for (float gain : {30.f, 1000.f, 60000.f})
        for (Activation activation : {Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}) {
            Form f{"", 3, 256, 4, 1024};
            f.gain = gain, f.activation = activation;
            Model<__half> model(f);
            const Encoder encoder(model.sizes, model.weights);
            for (const std::vector<int>& lengths : {std::vector<int>{128}, RAGGED}) {
                const Sequences sequences(lengths, model.sizes);
                Runner runner(encoder, model.sizes, false, sequences.batch());
                const auto got = runner.once();
                const auto want =
                    reference::network<__half>(model.sizes, model.weights, lengths, sequences.ids.data, sequences.segments.data);
                int not_finite = 0;
                for (std::size_t i = 0; i < want.size(); i++) not_finite += !std::isfinite(got[i]);
                const Difference d = difference(got, want, want.size());
                printf("gain %7g, activation %d, %4d tokens: %d not finite, relative %.1e\n", gain, int(activation),
                       sequences.tokens(), not_finite, d.relative);
                expect(!not_finite, "saturation");
            }
        }
}

void check_threads() {
    const Model<__half> model(minilm()), other(with(base(), "", [](Form& f) { f.layers = 3; }));
    const Sequences sequences(RAGGED, model.sizes), few({100, 28}, model.sizes);
    const Encoder encoder(model.sizes, model.weights), another(other.sizes, other.weights);
    struct Task {
        const Encoder& encoder;
        const Sizes& sizes;
        const Sequences& sequences;
        std::vector<float> want;
    };
    std::vector<Task> tasks{{encoder, model.sizes, sequences, {}},
                            {encoder, model.sizes, few, {}},
                            {another, other.sizes, few, {}},
                            {another, other.sizes, sequences, {}}};
    for (Task& t : tasks) t.want = Runner(t.encoder, t.sizes, false, t.sequences.batch()).once();
    std::atomic<int> different{0};
    std::vector<std::thread> threads;
    for (const Task& t : tasks)
        threads.emplace_back([&t, &different] {
            Runner runner(t.encoder, t.sizes, false, t.sequences.batch());
            for (int i = 0; i < 60; i++) {
                if (i == 30) runner.capture();
                different += !same(runner.once(), t.want);
            }
        });
    for (auto& thread : threads) thread.join();
    printf("four threads, two encoders, 60 runs each: %d different\n", int(different));
    expect(!different, "threads");
}

void check_replays() {
    const Model<__half> model(with(minilm(), "", [](Form& f) { f.layers = 2; }));
    const Sequences sequences({100, 28, 300}, model.sizes);
    const Encoder encoder(model.sizes, model.weights);
    Runner runner(encoder, model.sizes, false, sequences.batch(84));
    const auto want = runner.once();
    runner.capture();
    runner.once();
    std::size_t before, after, total;
    CHECK(cudaMemGetInfo(&before, &total));
    for (int i = 0; i < 10000; i++) CHECK(cudaGraphLaunch(runner.graph, runner.stream));
    CHECK(cudaStreamSynchronize(runner.stream));
    CHECK(cudaMemGetInfo(&after, &total));
    const bool good = same(runner.logits.get(), want);
    printf("10,000 replays: memory grew by %lld bytes, %s\n", static_cast<long long>(before) - static_cast<long long>(after),
           good ? "the same bits" : "WRONG");
    expect(good && after >= before, "replays");
}

// ---- times

void time_cell(const std::string& name, const Form& f, int length, int count) {
    using T = __half;
    static std::map<std::string, std::unique_ptr<Model<T>>> models;
    auto& kept = models[f.name];
    if (!kept) kept = std::make_unique<Model<T>>(f);
    const Model<T>& model = *kept;
    const Sizes& s = model.sizes;
    const Sequences sequences(std::vector<int>(count, length), s);
    const Encoder encoder(s, model.weights);
    Runner runner(encoder, s, false, sequences.batch());
    const HostPlan plan(sequences.lengths);
    const std::size_t rows = (sequences.tokens() + 127) / 128 * 128;
    const int E = s.hidden_size, F = s.intermediate_size;
    auto x = normal<T>(rows * E, 1, 1), qkv = normal<T>(rows * 3 * E, 1, 2), inner = normal<T>(rows * F, 1, 3),
         out = normal<T>(rows * E, 1, 4);
    std::vector<Product> products[4];
    for (const Layer& l : model.weights.layers) {
        products[0].emplace_back(s.type, l.qkv, 3 * E, E, Activation::none);
        products[1].emplace_back(s.type, l.attention_output, E, E, Activation::none);
        products[2].emplace_back(s.type, l.intermediate, F, E, s.activation);
        products[3].emplace_back(s.type, l.output, E, F, Activation::none);
    }
    Buffer<unsigned char> memory(plan_bytes(sequences.tokens(), count));
    const Plan made = place_plan(memory.data, sequences.tokens(), count);
    using Run = std::function<void(cudaStream_t)>;
    auto each = [&](int which, const T* from, const T* residual, T* to) -> Run {
        return [&, which, from, residual, to](cudaStream_t stream) {
            for (const Product& p : products[which]) p.run(stream, from, residual, plan.plan, to);
        };
    };
    const std::vector<Run> runs{
        [&](cudaStream_t stream) {
            encoder.run(stream, runner.batch, runner.workspace.data, {runner.logits.data, runner.status.data});
        },
        [&](cudaStream_t stream) {
            make_plan(stream, runner.batch, s, made, runner.status.data);
            embeddings(stream, runner.batch, s, model.weights.embeddings, made, x.data, runner.status.data);
        },
        each(0, x.data, nullptr, qkv.data),
        [&](cudaStream_t stream) {
            for (std::size_t i = 0; i < model.weights.layers.size(); i++)
                attention(stream, s.type, qkv.data, s.num_attention_heads, E / s.num_attention_heads, plan.plan, out.data);
        },
        each(1, x.data, x.data, out.data),
        [&](cudaStream_t stream) {
            for (const Layer& l : model.weights.layers) {
                layer_norm(stream, s.type, x.data, l.attention_norm, s.layer_norm_eps, E, plan.plan, out.data);
                layer_norm(stream, s.type, out.data, l.output_norm, s.layer_norm_eps, E, plan.plan, x.data);
            }
        },
        each(2, x.data, nullptr, inner.data),
        each(3, inner.data, x.data, out.data),
        [&](cudaStream_t stream) {
            head(stream, s, model.weights.head.out, x.data, plan.plan, {runner.logits.data, runner.status.data});
        },
    };
    const double total = times({runs[0]}, 1, 25, 0.5)[0];
    double sum = 0;
    printf("%-14s %8.4f |", name.c_str(), total);
    for (std::size_t i = 1; i < runs.size(); i++) {
        const double one = times({runs[i]}, 1, 15, 0.1)[0];
        sum += one;
        printf(" %7.4f", one);
    }
    printf(" | %8.4f\n", sum);
    fflush(stdout);
}

void time_all(const std::string& only) {
    printf("ms             whole    | plan+emb  qkv   attention  out    norms   inner  output   head  | sum of these\n");
    struct Cell {
        const char* name;
        Form form;
        int length, count;
    };
    for (const Cell& c : std::vector<Cell>{{"large 384/128", large(), 384, 128},
                                           {"large 384/1", large(), 384, 1},
                                           {"large 128/32", large(), 128, 32},
                                           {"large 128/8", large(), 128, 8},
                                           {"large 128/1", large(), 128, 1},
                                           {"base 128/32", base(), 128, 32},
                                           {"base 128/1", base(), 128, 1},
                                           {"MiniLM 128/1", minilm(), 128, 1}})
        if (std::string(c.name).find(only) != std::string::npos) time_cell(c.name, c.form, c.length, c.count);
}

}  // namespace

int main(int count, char** arguments) {
    const std::string command = count > 1 ? arguments[1] : "", only = count > 2 ? arguments[2] : "";
    const std::map<std::string, std::function<void()>> commands{
        {"parts", check_parts},     {"models", [&] { check_models(only); }}, {"small", check_small},
        {"wrong", check_wrong},     {"saturation", check_saturation},        {"threads", check_threads},
        {"replays", check_replays}, {"times", [&] { time_all(only); }}};
    const auto found = commands.find(command);
    if (found == commands.end())
        return printf("bench parts|models|small|wrong|saturation|threads|replays|times [what the name contains]\n"), 2;
    try {
        found->second();
    } catch (const Error& e) {
        printf("WRONG %s: %s\n", command.c_str(), e.what());
        return 1;
    }
    if (failures) printf("%s: %d failures\n", command.c_str(), failures);
    return failures > 0;
}
