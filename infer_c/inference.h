// Runs an engine, one batch at a time, on a stream of its own: as plain launches or as CUDA graphs.
//
// A graph holds the state of its context, so each has one to itself, with memory of its own for the activations. Without graphs,
// one context takes every shape in turn. Neither that memory nor what follows mends the replays of padded engines with several
// lengths, whose logits change from time to time, for a reason that is not known (docs/benchmarks.md, Soak).
//
// Of a padded engine a graph is captured as soon as the first batch of a shape has run: what NVIDIA's attention plugin
// knows of a shape its contexts share, and it is right just after a context was given one
// (https://github.com/NVIDIA/TensorRT/issues/2648). Packed batches tell the plugin their lengths each time, and have any
// number of shapes: two batches of a shape run as plain launches, and from the third on a captured graph is replayed, so
// that shapes that come once in a while have no graphs made and dropped all the time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"

namespace bert {

// Contexts are made and graphs captured one at a time in a process: neither bears what the other does to the device.
inline std::mutex& preparation() {
    static std::mutex one;
    return one;
}

class Inference {
public:
    // Takes batches of up to these sizes; 0 stands for the engine's largest.
    Inference(std::shared_ptr<Engine> engine, std::int64_t max_batch_size, std::int64_t max_sequence_length, bool graphs)
        : engine_(std::move(engine)),
          length_(max_sequence_length ? max_sequence_length : longest(engine_->profiles())),
          graphs_(graphs),
          slots_at_most_(graphs ? 8 : 1) {
        if (max_batch_size < 0 || max_sequence_length < 0) {
            throw std::invalid_argument("max_batch_size and max_sequence_length must be from 0");
        }
        constexpr std::int64_t unlimited = std::numeric_limits<std::int32_t>::max();
        limit_ = full_shapes(engine_->packed(), max_batch_size ? max_batch_size : unlimited, length_);
        const bool fits = max_batch_size == 0 || !fitting(engine_->profiles(), limit_).empty();
        if (engine_->packed()) {
            limit_["cu_seqlens"] = {unlimited};  // many short sequences for a few long ones
        }
        for (const Profile& profile : engine_->profiles()) {
            const Shapes largest = smaller(profile.most, limit_);
            if (profile.takes(largest)) {
                input_bytes_ = std::max(input_bytes_, Places(largest).bytes);
                logits_bytes_ = std::max(logits_bytes_, logits_bytes(largest));
            }
        }
        if (!fits || !input_bytes_) {
            throw std::invalid_argument("batches of " + (max_batch_size ? std::to_string(max_batch_size) + " × " : "") +
                                        std::to_string(length_) + " tokens fit none of the engine's profiles, " +
                                        describe(engine_->profiles()));
        }
        stream_ = make_stream();
        begin_ = make_event();
        end_ = make_event();
        host_ = make_pinned_memory(input_bytes_ + logits_bytes_);
        device_ = make_device_memory(input_bytes_ + logits_bytes_, "inputs and outputs");
        spare_ = make_device_memory(engine_->activation_bytes(), "the network's activations");
    }

    const std::shared_ptr<Engine>& engine() const { return engine_; }

    // Warms up, and captures, what runs a batch of this many sequences of the largest length.
    void prepare(std::int64_t batch_size) {
        if (batch_size < 1) {
            throw std::invalid_argument("batch_size must be from 1, not " + std::to_string(batch_size));
        }
        check_size(full_shapes(engine_->packed(), batch_size, length_));
        const FullBatch full(engine_->packed(), batch_size, length_);
        std::vector<float> logits(logits_bytes(full.shapes) / sizeof(float));
        for (int i = 0; i < (graphs_ ? plain_runs() : 1); ++i) {
            run(full.batch(), logits.data());
        }
    }

    // Runs a batch; writes its logits, as many as the engine's shape of them says.
    void run(const Batch& batch, float* logits) {
        const std::lock_guard lock(mutex_);
        Slot& slot = stage(batch, &Slot::whole);
        const auto work = [&] {
            upload(slot);
            enqueue(slot);
            download(slot);
        };
        if (graphs_ && slot.runs >= plain_runs()) {
            replay(slot.whole, work);
        } else {
            work();
        }
        BERT_CUDA(cudaStreamSynchronize(stream_.get()));
        ++slot.runs;
        if (graphs_ && slot.runs == plain_runs()) {
            record(slot.whole, work);
        }
        std::memcpy(logits, host_.get() + input_bytes_, slot.logits_bytes);
    }

    // Milliseconds that the engine alone takes for a batch, which lies ready on the GPU when the clock starts.
    float time(const Batch& batch) {
        const std::lock_guard lock(mutex_);
        Slot& slot = stage(batch, &Slot::network);
        upload(slot);
        if (!slot.runs) {
            enqueue(slot);
            ++slot.runs;
        }
        BERT_CUDA(cudaStreamSynchronize(stream_.get()));
        const auto work = [&] { enqueue(slot); };
        if (graphs_) {
            record(slot.network, work);
        }
        BERT_CUDA(cudaEventRecord(begin_.get(), stream_.get()));
        if (graphs_) {
            replay(slot.network, work);
        } else {
            work();
        }
        BERT_CUDA(cudaEventRecord(end_.get(), stream_.get()));
        BERT_CUDA(cudaEventSynchronize(end_.get()));
        float milliseconds{};
        BERT_CUDA(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()));
        return milliseconds;
    }

private:
    // Of a shape, before its graph is captured.
    int plain_runs() const { return engine_->packed() ? 2 : 1; }

    // Where the inputs of a batch lie: one behind the other, so that a single copy takes them all.
    struct Places {
        explicit Places(const Shapes& shapes) {
            constexpr std::size_t alignment = 256;  // that TensorRT asks of addresses
            for (const std::string& name : input_names(is_packed(shapes))) {
                offsets[name] = bytes;
                bytes += static_cast<std::size_t>(volume(shapes.at(name))) * sizeof(std::int32_t);
                bytes = (bytes + alignment - 1) / alignment * alignment;
            }
        }

        std::map<std::string, std::size_t> offsets;
        std::size_t bytes = 0;
    };

    // A context and the memory that it works in, which outlives it.
    struct Runner {
        DeviceMemory activations;
        Context context;

        explicit operator bool() const { return context != nullptr; }
    };

    // What runs batches of one shape.
    struct Slot {
        Shapes shapes;
        int profile;
        Runner runner;
        Places inputs;
        std::size_t logits_bytes;
        std::int64_t runs = 0;
        GraphExec whole{}, network{};  // the network with the copies around it, and alone
    };

    std::size_t logits_bytes(const Shapes& shapes) const {
        return static_cast<std::size_t>(volume(engine_->logits(shapes))) * sizeof(float);
    }

    // Refuses shapes above the limits that this object was made for, or outside of every profile.
    void check_size(const Shapes& shapes) const {
        if (fitting(engine_->profiles(), shapes).empty()) {
            throw std::invalid_argument(describe(shapes) + " fits none of the engine's profiles, " +
                                        describe(engine_->profiles()));
        }
        if (!within(shapes, limit_)) {
            throw std::invalid_argument(describe(shapes) + " is above max_batch_size or max_sequence_length");
        }
    }

    // Copies a batch to where the GPU reads it; gives what runs it, with a graph of that kind, where it has any.
    Slot& stage(const Batch& batch, GraphExec Slot::*graph) {
        Logger::forget();
        check(batch);
        const Shapes shapes = shapes_of(batch);
        auto slot = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& other) { return other.shapes == shapes; });
        if (slot != slots_.end() && graphs_ && !engine_->packed() && !((*slot).*graph)) {
            spare_ = std::move(release(slot).activations);  // it is too late to capture one
            slot = slots_.end();
        }
        if (slot == slots_.end()) {
            check_size(shapes);
            slots_.push_front(make_slot(shapes));
        } else {
            slots_.splice(slots_.begin(), slots_, slot);
        }
        for (const auto& [name, offset] : slots_.front().inputs.offsets) {
            const Array& array = batch.at(name);
            std::memcpy(host_.get() + offset, array.data, static_cast<std::size_t>(volume(array.shape)) * sizeof(std::int32_t));
        }
        return slots_.front();
    }

    Slot make_slot(const Shapes& shapes) {
        const std::lock_guard lock(preparation());
        for (const int profile : fitting(engine_->profiles(), shapes)) {
            if (Runner runner = take_runner(profile)) {
                Slot slot{shapes, profile, std::move(runner), Places(shapes), logits_bytes(shapes)};
                bind(slot);
                return slot;
            }
        }
        throw Error("other contexts hold every profile for " + describe(shapes) +
                    ": build the engine with profile sharing (TensorRT 8.6), or with this profile once a context");
    }

    // A context in a profile: a new one while there is room, else that of the least recently used shape. None where all
    // contexts that hold the profile belong to others: TensorRT 8 gives it to one only, unless the engine says otherwise.
    Runner take_runner(int profile) {
        const auto holder = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.profile == profile; });
        if (!sharing_ && holder != slots_.end()) {
            return release(holder);
        }
        Runner runner = room() ? make_runner() : release(std::prev(slots_.end()));
        const bool selected = select(*runner.context, profile);
        Logger::forget();  // a profile that is taken is no failure
        if (selected) {
            return runner;
        }
        spare_ = std::move(runner.activations);
        if (holder == slots_.end()) {
            return {};
        }
        sharing_ = false;
        return release(holder);
    }

    // Whether there may be one more context. Where the GPU is nearly full the first has to do.
    bool room() const {
        if (slots_.empty()) {
            check_memory(reserve, "an execution context and its kernels");
        }
        const std::size_t wanted = reserve + (spare_ ? 0 : engine_->activation_bytes());
        return slots_.empty() || (slots_.size() < slots_at_most_ && memory_info().free >= wanted);
    }

    Runner make_runner() {
        DeviceMemory memory = std::move(spare_);
        if (!memory) {
            memory = make_device_memory(engine_->activation_bytes(), "the network's activations");
        }
        Context context = engine_->make_context(memory.get());
        return {std::move(memory), std::move(context)};
    }

    Runner release(std::list<Slot>::iterator slot) {
        Runner runner = std::move(slot->runner);
        slots_.erase(slot);
        return runner;
    }

    bool select(nvinfer1::IExecutionContext& context, int profile) {
        const bool selected =
            context.getOptimizationProfile() == profile || context.setOptimizationProfileAsync(profile, stream_.get());
        BERT_CUDA(cudaDeviceSynchronize());  // a new context may still copy, and not on our stream
        return selected;
    }

    void bind(const Slot& slot) {
        nvinfer1::IExecutionContext& context = *slot.runner.context;
        for (const std::string& name : input_names(engine_->packed())) {
            const Shape& shape = slot.shapes.at(name);
            nvinfer1::Dims dims{};
            dims.nbDims = static_cast<std::int32_t>(shape.size());
            std::transform(shape.begin(), shape.end(), dims.d, [](std::int64_t size) { return static_cast<std::int32_t>(size); });
            BERT_TRT(context.setInputShape(name.c_str(), dims));
            BERT_TRT(context.setTensorAddress(name.c_str(), device_.get() + slot.inputs.offsets.at(name)));
        }
        BERT_TRT(context.setTensorAddress("logits", device_.get() + input_bytes_));
        const nvinfer1::Dims logits = context.getTensorShape("logits");
        const Shape found(logits.d, logits.d + std::max(logits.nbDims, 0));
        if (static_cast<std::size_t>(volume(found)) * sizeof(float) != slot.logits_bytes) {
            throw Error("the engine gives " + std::to_string(volume(found)) + " logits for " + describe(slot.shapes));
        }
    }

    void upload(const Slot& slot) {
        BERT_CUDA(cudaMemcpyAsync(device_.get(), host_.get(), slot.inputs.bytes, cudaMemcpyHostToDevice, stream_.get()));
    }

    void enqueue(const Slot& slot) { BERT_TRT(slot.runner.context->enqueueV3(stream_.get())); }

    void download(const Slot& slot) {
        std::byte* const to = host_.get() + input_bytes_;
        const std::byte* const from = device_.get() + input_bytes_;
        BERT_CUDA(cudaMemcpyAsync(to, from, slot.logits_bytes, cudaMemcpyDeviceToHost, stream_.get()));
    }

    template <class Work>
    void replay(GraphExec& graph, const Work& work) {
        record(graph, work);
        BERT_CUDA(cudaGraphLaunch(graph.get(), stream_.get()));
    }

    // Captures work the first time.
    template <class Work>
    void record(GraphExec& graph, const Work& work) {
        if (!graph) {
            const std::lock_guard lock(preparation());
            graph = capture(stream_.get(), work);
        }
    }

    std::shared_ptr<Engine> engine_;
    std::int64_t length_;  // of the longest sequence
    bool graphs_;
    std::size_t slots_at_most_;
    Shapes limit_;
    bool sharing_ = true;  // whether contexts share profiles, as far as is known
    std::size_t input_bytes_ = 0, logits_bytes_ = 0;
    std::mutex mutex_;
    Stream stream_;
    Event begin_, end_;
    PinnedMemory host_;  // the inputs, then the logits; on the GPU likewise
    DeviceMemory device_, spare_;  // the latter for the next context's activations, if any
    std::list<Slot> slots_;  // the most recently used first
};

}  // namespace bert
