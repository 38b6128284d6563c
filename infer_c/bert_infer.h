// Runs a BERT question-answering engine of TensorRT, as plain launches or as CUDA graphs.
//
// An Engine is deserialized once and serves any number of threads; each thread runs it through an Inference of its own.
// Failures are exceptions: std::invalid_argument for what the caller gave, std::filesystem::filesystem_error for files,
// OutOfMemory, and Error for everything else that CUDA or TensorRT refuses.
#pragma once

#include <NvInfer.h>
#include <NvInferPlugin.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define BERT_TENSORRT (NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR)
#if BERT_TENSORRT < 805
#error "TensorRT 8.5.1 or newer is needed: older versions have no named tensors"
#endif

// Each throws where a call fails, and says which call; BERT_TRT gives back the pointer that a call makes.
#define BERT_CUDA(call) ::bert::check_cuda((call), #call)
#define BERT_TRT(call) ::bert::check_trt((call), #call)

namespace bert {

// ---- failures

// CUDA or TensorRT failed; the message holds the call and the reason.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class OutOfMemory : public std::bad_alloc {
public:
    explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
    const char* what() const noexcept override { return message_.c_str(); }

private:
    std::string message_;
};

// Keeps what TensorRT complains about, thread by thread, for the exceptions that follow.
class Logger final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR || complaints().size() == 3) {
            return;
        }
        try {
            complaints().emplace_back(message);
        } catch (...) {  // no memory left for a message
        }
    }

    // The first complaints of this thread since they were taken or forgotten, in one line.
    static std::string take() {
        std::string line;
        for (const std::string& complaint : std::exchange(complaints(), {})) {
            line += (line.empty() ? "" : "; ") + complaint;
        }
        std::replace(line.begin(), line.end(), '\n', ' ');
        return line.empty() ? "no reason given" : line;
    }

    static void forget() { complaints().clear(); }

private:
    static std::vector<std::string>& complaints() {
        thread_local std::vector<std::string> kept;
        return kept;
    }
};

inline Logger& logger() {
    static Logger* const one = new Logger;  // never deleted: the registry of plugins keeps it until the process ends
    return *one;
}

inline void check_cuda(cudaError_t status, const char* call) {
    if (status != cudaSuccess) {
        cudaGetLastError();  // forgets an error that does not last, lest a later check finds it
        throw Error(std::string(call) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
    }
}

template <class Result>  // a bool, or a pointer
Result check_trt(Result result, const char* call) {
    if (!result) {
        throw Error(std::string(call) + ": " + Logger::take());
    }
    return result;
}

// ---- handles that free what they hold

template <auto destroy>
struct Destroy {
    template <class T>
    void operator()(T* handle) const noexcept {
        destroy(handle);
    }
};

using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy<cudaStreamDestroy>>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy<cudaEventDestroy>>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Destroy<cudaGraphDestroy>>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy<cudaGraphExecDestroy>>;
using DeviceMemory = std::unique_ptr<std::byte, Destroy<cudaFree>>;
using PinnedMemory = std::unique_ptr<std::byte, Destroy<cudaFreeHost>>;
using Context = std::unique_ptr<nvinfer1::IExecutionContext>;

inline Stream make_stream() {
    cudaStream_t stream{};
    BERT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return Stream(stream);
}

inline Event make_event() {
    cudaEvent_t event{};
    BERT_CUDA(cudaEventCreate(&event));
    return Event(event);
}

inline DeviceMemory make_device_memory(std::size_t bytes) {
    void* memory{};
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        std::size_t free{}, total{};
        BERT_CUDA(cudaMemGetInfo(&free, &total));
        const auto mib = [](std::size_t size) { return std::to_string(size >> 20); };
        throw OutOfMemory("out of GPU memory: asked for " + mib(bytes) + " MiB, free are " + mib(free) + " of " + mib(total) +
                          " MiB");
    }
    check_cuda(status, "cudaMalloc(&memory, bytes)");
    return DeviceMemory(static_cast<std::byte*>(memory));
}

inline PinnedMemory make_pinned_memory(std::size_t bytes) {
    void* memory{};
    BERT_CUDA(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
    return PinnedMemory(static_cast<std::byte*>(memory));
}

// Contexts are made and graphs captured one at a time in a process: neither bears what the other does to the device.
inline std::mutex& preparation() {
    static std::mutex one;
    return one;
}

// The version of the TensorRT library in use.
inline std::string tensorrt_version() {
    const int number = getInferLibVersion();
    const int scale = number >= 10000 ? 10000 : 1000;  // what a major version counts, from TensorRT 10 and before it
    const int rest = number % scale;
    return std::to_string(number / scale) + "." + std::to_string(rest / 100) + "." + std::to_string(rest % 100);
}

inline cudaDeviceProp device_properties() {
    int device{};
    cudaDeviceProp properties{};
    BERT_CUDA(cudaGetDevice(&device));
    BERT_CUDA(cudaGetDeviceProperties(&properties, device));
    return properties;
}

// ---- batches

using Shape = std::vector<std::int64_t>;
using Shapes = std::vector<Shape>;  // one an input, in the order of Engine::inputs

inline std::int64_t volume(const Shape& shape) {
    std::int64_t product = 1;
    for (const std::int64_t size : shape) {
        product *= size;
    }
    return product;
}

inline Shapes smaller(Shapes shapes, const Shapes& limit) {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        for (std::size_t axis = 0; axis < shapes[i].size(); ++axis) {
            shapes[i][axis] = std::min(shapes[i][axis], limit[i][axis]);
        }
    }
    return shapes;
}

// Whether no axis of one is above the same axis of the other.
inline bool within(const Shapes& shapes, const Shapes& limit) { return smaller(shapes, limit) == shapes; }

// An array of the caller's, contiguous.
struct Array {
    const std::int32_t* data;
    Shape shape;
};

using Feed = std::vector<Array>;  // one an input, in the order of Engine::inputs

inline Shapes shapes_of(const Feed& feed) {
    Shapes shapes;
    for (const Array& array : feed) {
        shapes.push_back(array.shape);
    }
    return shapes;
}

// What an engine was optimised for: each input's smallest and largest shape.
struct Profile {
    Shapes least, most;

    std::int64_t tokens() const { return volume(most[0]); }
    std::int64_t sequence_length() const { return most.back().back(); }  // of input_mask [B, S] or max_seqlen [longest]
    std::int64_t batch_size() const { return tokens() / sequence_length(); }
};

// ---- the engine

// A padded or a packed engine. A padded one takes input_ids, segment_ids, input_mask [B, S] and gives logits
// [B, S, 2, 1, 1]; a packed one takes input_ids, segment_ids [T], cu_seqlens [B + 1], max_seqlen [longest] (of which
// only the length is read) and gives logits [2, T, 1, 1].
class Engine {
public:
    // Deserializes an engine file.
    explicit Engine(const std::filesystem::path& path) {
        std::vector<char> plan(std::filesystem::file_size(path));
        if (!std::ifstream(path, std::ios::binary).read(plan.data(), static_cast<std::streamsize>(plan.size()))) {
            throw std::filesystem::filesystem_error("cannot be read", path, std::make_error_code(std::errc::io_error));
        }
        BERT_CUDA(cudaFree(nullptr));  // the first call finds out whether there is a GPU
        static const bool registered = BERT_TRT(initLibNvInferPlugins(&logger(), ""));
        static_cast<void>(registered);
        Logger::forget();
        runtime_.reset(BERT_TRT(nvinfer1::createInferRuntime(logger())));
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!engine_) {
            throw std::invalid_argument("engine " + path.string() + " cannot be loaded, build it again: " + Logger::take());
        }
        read_inputs(path);
        read_profiles();
    }

    bool packed() const { return packed_; }
    const std::vector<const char*>& inputs() const { return inputs_; }
    const std::vector<Profile>& profiles() const { return profiles_; }

    std::int64_t longest() const {
        std::int64_t length = 0;
        for (const Profile& profile : profiles_) {
            length = std::max(length, profile.sequence_length());
        }
        return length;
    }

    // The profiles that take these shapes, the tightest first.
    std::vector<int> fitting(const Shapes& shapes) const {
        std::vector<int> found;
        for (std::size_t i = 0; i < profiles_.size(); ++i) {
            if (within(profiles_[i].least, shapes) && within(shapes, profiles_[i].most)) {
                found.push_back(static_cast<int>(i));
            }
        }
        const auto tokens = [&](int i) { return profiles_[static_cast<std::size_t>(i)].tokens(); };
        std::stable_sort(found.begin(), found.end(), [&](int a, int b) { return tokens(a) < tokens(b); });
        return found;
    }

    // The shapes of a batch whose sequences are all full.
    Shapes full(std::int64_t batch_size, std::int64_t sequence_length) const {
        if (!packed_) {
            return Shapes(3, {batch_size, sequence_length});
        }
        const std::int64_t tokens = batch_size * sequence_length;
        return {{tokens}, {tokens}, {batch_size + 1}, {sequence_length}};
    }

    // Refuses a batch whose arrays do not belong together; the attention over packed sequences trusts its bounds.
    void check(const Feed& feed) const {
        for (std::size_t i = 0; i < inputs_.size(); ++i) {
            const Shape& shape = feed.at(i).shape;
            if (static_cast<int>(shape.size()) != axes()) {
                throw std::invalid_argument(std::string(inputs_[i]) + " must have " +
                                            (packed_ ? "one axis" : "two axes, [B, S]") + ", not " +
                                            std::to_string(shape.size()));
            }
            if ((i == 1 || !packed_) && shape != feed[0].shape) {
                throw std::invalid_argument(std::string(inputs_[i]) + " must have the shape of input_ids");
            }
        }
        if (packed_) {
            check_bounds(feed[2].data, feed[2].shape[0], feed[0].shape[0], feed[3].shape[0]);
        }
    }

    // Shapes and profiles, for messages.
    std::string describe(const Shapes& shapes) const {
        const auto number = [&](std::size_t i, std::size_t axis) { return std::to_string(shapes[i][axis]); };
        return packed_ ? "a batch of " + std::to_string(shapes[2][0] - 1) + " sequences, " + number(0, 0) +
                             " tokens, the longest of " + number(3, 0)
                       : "a batch of " + number(0, 0) + " × " + number(0, 1) + " tokens";
    }

    std::string describe_profiles() const {
        std::string line;
        for (const Profile& profile : profiles_) {
            line += (line.empty() ? "" : ", ") + std::to_string(profile.batch_size()) + " × " +
                    std::to_string(profile.sequence_length());
        }
        return line;
    }

    // Bytes that the activations of a context take at most in one of these profiles. TensorRT 8 knows no profile's own.
    std::size_t activation_bytes(const std::vector<int>& profiles) const {
        std::size_t bytes = 0;
        for ([[maybe_unused]] const int profile : profiles) {
#if BERT_TENSORRT >= 1001
            bytes = std::max(bytes, static_cast<std::size_t>(engine_->getDeviceMemorySizeForProfileV2(profile)));
#elif BERT_TENSORRT >= 1000
            bytes = std::max(bytes, engine_->getDeviceMemorySizeForProfile(profile));
#else
            bytes = engine_->getDeviceMemorySize();
#endif
        }
        return bytes;
    }

    // A context whose activations lie in `memory`.
    Context make_context(std::byte* memory, [[maybe_unused]] std::size_t bytes) const {
#if BERT_TENSORRT >= 1000
        constexpr auto strategy = nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED;
        Context context(BERT_TRT(engine_->createExecutionContext(strategy)));
#else
        Context context(BERT_TRT(engine_->createExecutionContextWithoutDeviceMemory()));
#endif
#if BERT_TENSORRT >= 1001
        context->setDeviceMemoryV2(memory, static_cast<std::int64_t>(bytes));
#else
        context->setDeviceMemory(memory);
#endif
        return context;
    }

private:
    int axes() const { return packed_ ? 1 : 2; }  // of each input

    void read_inputs(const std::filesystem::path& path) {
        std::vector<std::string> names;
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            names.emplace_back(engine_->getIOTensorName(i));
        }
        const auto has = [&](const char* name, nvinfer1::TensorIOMode mode, nvinfer1::DataType type) {
            return engine_->getTensorIOMode(name) == mode && engine_->getTensorDataType(name) == type;
        };
        packed_ = std::find(names.begin(), names.end(), "cu_seqlens") != names.end();
        inputs_ = packed_ ? std::vector{"input_ids", "segment_ids", "cu_seqlens", "max_seqlen"}
                          : std::vector{"input_ids", "segment_ids", "input_mask"};
        const bool ours =
            names.size() == inputs_.size() + 1 && has("logits", nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT) &&
            std::all_of(inputs_.begin(), inputs_.end(),
                        [&](const char* name) { return has(name, nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kINT32); });
        if (!ours) {
            std::string list;
            for (const std::string& name : names) {
                list += " " + name;
            }
            throw std::invalid_argument("engine " + path.string() +
                                        " is not one of BERT question answering, its tensors are:" + list);
        }
    }

    void read_profiles() {
        profiles_.resize(static_cast<std::size_t>(engine_->getNbOptimizationProfiles()));
        for (std::size_t i = 0; i < profiles_.size(); ++i) {
            for (const char* name : inputs_) {
                const auto shape = [&](nvinfer1::OptProfileSelector which) {
                    const nvinfer1::Dims dims = engine_->getProfileShape(name, static_cast<int>(i), which);
                    if (dims.nbDims != axes()) {
                        throw std::invalid_argument(std::string("the engine's ") + name + " has " + std::to_string(dims.nbDims) +
                                                    " axes, not " + std::to_string(axes()));
                    }
                    return Shape(dims.d, dims.d + dims.nbDims);
                };
                profiles_[i].least.push_back(shape(nvinfer1::OptProfileSelector::kMIN));
                profiles_[i].most.push_back(shape(nvinfer1::OptProfileSelector::kMAX));
            }
        }
    }

    static void check_bounds(const std::int32_t* bounds, std::int64_t count, std::int64_t tokens, std::int64_t longest) {
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

    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    bool packed_ = false;
    std::vector<const char*> inputs_;
    std::vector<Profile> profiles_;
};

// A batch whose sequences are all full. `number(input)` makes the values of input_ids (0) and segment_ids (1).
struct FullBatch {
    template <class Number>
    FullBatch(const Engine& engine, std::int64_t batch_size, std::int64_t sequence_length, Number&& number)
        : shapes(engine.full(batch_size, sequence_length)) {
        for (const Shape& shape : shapes) {
            values.emplace_back(static_cast<std::size_t>(volume(shape)));
        }
        for (const int input : {0, 1}) {
            std::generate(values[input].begin(), values[input].end(), [&] { return number(input); });
        }
        std::fill(values[2].begin(), values[2].end(), 1);
        if (engine.packed()) {
            std::generate(values[2].begin(), values[2].end(), [&, bound = -sequence_length]() mutable {
                return static_cast<std::int32_t>(bound += sequence_length);
            });
        }
    }

    Feed feed() const {
        Feed arrays;
        for (std::size_t i = 0; i < shapes.size(); ++i) {
            arrays.push_back({values[i].data(), shapes[i]});
        }
        return arrays;
    }

    Shapes shapes;
    std::vector<std::vector<std::int32_t>> values;
};

// ---- running it

// Runs an engine, one batch at a time, on a stream of its own.
//
// With graphs, the first batch of a shape runs as plain launches, which warms its context up; from the second on, a
// captured graph is replayed. A graph holds the state of its context, so each has one to itself, and the activations of
// all lie in the same memory. Without graphs, one context takes every shape in turn.
class Inference {
public:
    // Takes batches of up to these sizes; 0 stands for the engine's largest.
    Inference(std::shared_ptr<Engine> engine, std::int64_t max_batch_size, std::int64_t max_sequence_length, bool graphs)
        : engine_(std::move(engine)),
          length_(max_sequence_length ? max_sequence_length : engine_->longest()),
          graphs_(graphs),
          slots_at_most_(graphs ? 8 : 1) {
        if (max_batch_size < 0 || max_sequence_length < 0) {
            throw std::invalid_argument("max_batch_size and max_sequence_length must be from 0");
        }
        const bool fits = !max_batch_size || !engine_->fitting(engine_->full(max_batch_size, length_)).empty();
        limit_ = engine_->full(max_batch_size ? max_batch_size : std::numeric_limits<std::int32_t>::max(), length_);
        if (engine_->packed()) {
            limit_[2][0] = std::numeric_limits<std::int32_t>::max();  // many short sequences for a few long ones
        }
        std::vector<int> chosen;
        for (std::size_t i = 0; i < engine_->profiles().size(); ++i) {
            const Shapes largest = smaller(engine_->profiles()[i].most, limit_);
            const std::vector<int> fitting = engine_->fitting(largest);
            if (!fitting.empty() && fitting.front() == static_cast<int>(i)) {
                chosen.push_back(fitting.front());
                input_bytes_ = std::max(input_bytes_, offsets(largest).back());
                logits_bytes_ = std::max(logits_bytes_, logits_bytes(largest));
            }
        }
        if (!fits || chosen.empty()) {
            throw std::invalid_argument("batches of " + (max_batch_size ? std::to_string(max_batch_size) + " × " : "") +
                                        std::to_string(length_) + " tokens fit none of the engine's profiles, " +
                                        engine_->describe_profiles());
        }
        activation_bytes_ = engine_->activation_bytes(chosen);
        stream_ = make_stream();
        begin_ = make_event();
        end_ = make_event();
        host_ = make_pinned_memory(input_bytes_ + logits_bytes_);
        device_ = make_device_memory(input_bytes_ + logits_bytes_);
        activations_ = make_device_memory(activation_bytes_);
    }

    const std::shared_ptr<Engine>& engine() const { return engine_; }

    // Bytes of the GPU's memory that hold activations.
    std::size_t activation_bytes() const { return activation_bytes_; }

    // Warms up, and captures, what runs a batch of this many sequences of the largest length.
    void prepare(std::int64_t batch_size) {
        if (batch_size < 1) {
            throw std::invalid_argument("batch_size must be from 1, not " + std::to_string(batch_size));
        }
        check(engine_->full(batch_size, length_));
        const FullBatch batch(*engine_, batch_size, length_, [](int) { return 0; });
        std::vector<float> logits(logits_bytes(batch.shapes) / sizeof(float));
        for (int i = 0; i < (graphs_ ? 2 : 1); ++i) {
            run(batch.feed(), logits.data());
        }
    }

    // Runs a batch; writes as many logits as two for each token.
    void run(const Feed& feed, float* logits) {
        const std::lock_guard lock(mutex_);
        Slot& slot = stage(feed);
        issue(slot.whole, slot.warm, [&] {
            upload(slot);
            enqueue(slot);
            download(slot);
        });
        BERT_CUDA(cudaStreamSynchronize(stream_.get()));
        slot.warm = true;
        std::memcpy(logits, host_.get() + input_bytes_, slot.logits_bytes);
    }

    // Milliseconds that the engine alone takes for a batch, which lies ready on the GPU when the clock starts.
    float time(const Feed& feed) {
        const std::lock_guard lock(mutex_);
        Slot& slot = stage(feed);
        upload(slot);
        if (!slot.warm) {
            enqueue(slot);
        }
        BERT_CUDA(cudaStreamSynchronize(stream_.get()));
        slot.warm = true;
        const auto work = [&] { enqueue(slot); };
        if (graphs_ && !slot.network) {
            slot.network = capture(work);
        }
        BERT_CUDA(cudaEventRecord(begin_.get(), stream_.get()));
        issue(slot.network, slot.warm, work);
        BERT_CUDA(cudaEventRecord(end_.get(), stream_.get()));
        BERT_CUDA(cudaEventSynchronize(end_.get()));
        float milliseconds{};
        BERT_CUDA(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()));
        return milliseconds;
    }

private:
    // What runs batches of one shape. The inputs lie one behind the other, so that a single copy takes them all.
    struct Slot {
        Shapes shapes;
        int profile;
        Context context;
        std::vector<std::size_t> offsets;  // of each input, and of their end
        std::size_t logits_bytes;
        bool warm = false;
        GraphExec whole{}, network{};  // the network with the copies around it, and alone
    };

    static std::vector<std::size_t> offsets(const Shapes& shapes) {
        constexpr std::size_t alignment = 256;  // that TensorRT asks of addresses
        std::vector<std::size_t> found{0};
        for (const Shape& shape : shapes) {
            const std::size_t bytes = static_cast<std::size_t>(volume(shape)) * sizeof(std::int32_t);
            found.push_back(found.back() + (bytes + alignment - 1) / alignment * alignment);
        }
        return found;
    }

    static std::size_t logits_bytes(const Shapes& shapes) {
        return static_cast<std::size_t>(2 * volume(shapes[0])) * sizeof(float);
    }

    // Refuses shapes above the limits that this object was made for, or outside of every profile.
    void check(const Shapes& shapes) const {
        if (engine_->fitting(shapes).empty()) {
            throw std::invalid_argument(engine_->describe(shapes) + " fits none of the engine's profiles, " +
                                        engine_->describe_profiles());
        }
        if (!within(shapes, limit_)) {
            throw std::invalid_argument(engine_->describe(shapes) + " is above max_batch_size or max_sequence_length");
        }
    }

    // Copies a batch to where the GPU reads it; gives what runs it.
    Slot& stage(const Feed& feed) {
        Logger::forget();
        engine_->check(feed);
        const Shapes shapes = shapes_of(feed);
        auto slot = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& other) { return other.shapes == shapes; });
        if (slot == slots_.end()) {
            check(shapes);
            slots_.push_front(make_slot(shapes));
        } else {
            slots_.splice(slots_.begin(), slots_, slot);
        }
        for (std::size_t i = 0; i < feed.size(); ++i) {
            const std::size_t bytes = static_cast<std::size_t>(volume(shapes[i])) * sizeof(std::int32_t);
            std::memcpy(host_.get() + slots_.front().offsets[i], feed[i].data, bytes);
        }
        return slots_.front();
    }

    Slot make_slot(const Shapes& shapes) {
        const std::lock_guard lock(preparation());
        for (const int profile : engine_->fitting(shapes)) {
            if (Context context = take_context(profile)) {
                Slot slot{shapes, profile, std::move(context), offsets(shapes), logits_bytes(shapes)};
                bind(slot);
                return slot;
            }
        }
        throw Error("other contexts hold every profile for " + engine_->describe(shapes) +
                    ": build the engine with profile sharing (TensorRT 8.6), or with this profile once a context");
    }

    // A context in a profile: a new one while there is room, else that of the least recently used shape. None where all
    // contexts that hold the profile belong to others: TensorRT 8 gives it to one only, unless the engine says otherwise.
    Context take_context(int profile) {
        const auto holder = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.profile == profile; });
        if (!sharing_ && holder != slots_.end()) {
            return release(holder);
        }
        const bool room = slots_.size() < slots_at_most_;
        Context context = room ? engine_->make_context(activations_.get(), activation_bytes_) : release(std::prev(slots_.end()));
        const bool selected = select(*context, profile);
        Logger::forget();  // a profile that is taken is no failure
        if (selected) {
            return context;
        }
        if (holder == slots_.end()) {
            return nullptr;
        }
        sharing_ = false;
        return release(holder);
    }

    Context release(std::list<Slot>::iterator slot) {
        Context context = std::move(slot->context);
        slots_.erase(slot);
        return context;
    }

    bool select(nvinfer1::IExecutionContext& context, int profile) {
        const bool selected =
            context.getOptimizationProfile() == profile || context.setOptimizationProfileAsync(profile, stream_.get());
        BERT_CUDA(cudaDeviceSynchronize());  // a new context may still copy, and not on our stream
        return selected;
    }

    void bind(const Slot& slot) {
        nvinfer1::IExecutionContext& context = *slot.context;
        for (std::size_t i = 0; i < slot.shapes.size(); ++i) {
            nvinfer1::Dims dims{};
            dims.nbDims = static_cast<std::int32_t>(slot.shapes[i].size());
            std::transform(slot.shapes[i].begin(), slot.shapes[i].end(), dims.d,
                           [](std::int64_t size) { return static_cast<std::remove_reference_t<decltype(dims.d[0])>>(size); });
            const char* const input = engine_->inputs()[i];
            BERT_TRT(context.setInputShape(input, dims));
            BERT_TRT(context.setTensorAddress(input, device_.get() + slot.offsets[i]));
        }
        BERT_TRT(context.setTensorAddress("logits", device_.get() + input_bytes_));
        const nvinfer1::Dims logits = context.getTensorShape("logits");
        const Shape found(logits.d, logits.d + std::max(logits.nbDims, 0));
        if (static_cast<std::size_t>(volume(found)) * sizeof(float) != slot.logits_bytes) {
            throw Error("the engine gives " + std::to_string(volume(found)) + " logits for " + engine_->describe(slot.shapes));
        }
    }

    void upload(const Slot& slot) {
        BERT_CUDA(cudaMemcpyAsync(device_.get(), host_.get(), slot.offsets.back(), cudaMemcpyHostToDevice, stream_.get()));
    }

    void enqueue(const Slot& slot) { BERT_TRT(slot.context->enqueueV3(stream_.get())); }

    void download(const Slot& slot) {
        std::byte* const to = host_.get() + input_bytes_;
        const std::byte* const from = device_.get() + input_bytes_;
        BERT_CUDA(cudaMemcpyAsync(to, from, slot.logits_bytes, cudaMemcpyDeviceToHost, stream_.get()));
    }

    // Sends work to the stream: as it is, or as a graph, captured the first time, where graphs are wanted and all is warm.
    template <class Work>
    void issue(GraphExec& graph, bool warm, const Work& work) {
        if (!graphs_ || !warm) {
            return work();
        }
        if (!graph) {
            graph = capture(work);
        }
        BERT_CUDA(cudaGraphLaunch(graph.get(), stream_.get()));
    }

    template <class Work>
    GraphExec capture(const Work& work) {
        const std::lock_guard lock(preparation());
        BERT_CUDA(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
        cudaGraph_t captured{};
        try {
            work();
        } catch (...) {
            cudaStreamEndCapture(stream_.get(), &captured);
            const Graph discarded(captured);
            cudaGetLastError();
            throw;
        }
        const cudaError_t status = cudaStreamEndCapture(stream_.get(), &captured);
        const Graph graph(captured);
        check_cuda(status, "cudaStreamEndCapture(stream, &captured)");
        cudaGraphExec_t made{};
        BERT_CUDA(cudaGraphInstantiateWithFlags(&made, graph.get(), 0));
        GraphExec executable(made);
        BERT_CUDA(cudaGraphUpload(made, stream_.get()));
        return executable;
    }

    std::shared_ptr<Engine> engine_;
    std::int64_t length_;  // of the longest sequence
    bool graphs_;
    std::size_t slots_at_most_;
    Shapes limit_;
    bool sharing_ = true;  // whether contexts share profiles, as far as is known
    std::size_t input_bytes_ = 0, logits_bytes_ = 0, activation_bytes_ = 0;
    std::mutex mutex_;
    Stream stream_;
    Event begin_, end_;
    PinnedMemory host_;  // the inputs, then the logits; on the GPU likewise
    DeviceMemory device_, activations_;
    std::list<Slot> slots_;  // the most recently used first
};

}  // namespace bert
