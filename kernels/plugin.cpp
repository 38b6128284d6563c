// The encoder as a plugin of TensorRT's (of the kind V2, dynamic): one layer that is the whole network, from token ids to float32
// outputs. It registers itself as "BertEncoder", version "1", when the library is loaded.
//
//   packed   input_ids [T], segment_ids [T], cu_seqlens [B + 1], max_seqlen [longest] → [width, T, 1, 1]; pooled [B, width, 1, 1]
//   padded   input_ids [B, S], segment_ids [B, S], input_mask [B, S] → [B, S, width, 1, 1]; pooled [B, 1, width, 1, 1]
//
// Inputs are int32; max_seqlen is not read. Outputs of a batch that is not what it should be are NaN.
// Fields: "packed", the members of a Form (weights.h), each an int32 but layer_norm_eps, and "weights", the block as int32.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // later versions of TensorRT still have plugins of this kind

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "encoder.h"
#include "padding.h"
#include "weights.h"

namespace bert {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

constexpr char NAME[] = "BertEncoder", VERSION[] = "1";

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // forgets an error that does not last
    throw Error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Calls work, of which no exception may reach TensorRT; what is wrong is logged, and the result is `otherwise`.
template <typename Result, typename Work>
Result logged(Result otherwise, Work&& work) noexcept {
    try {
        return work();
    } catch (const std::exception& e) {
        const std::string message = std::string(NAME) + ": " + e.what();
        if (nvinfer1::ILogger* logger = getLogger())
            logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
        else
            std::fprintf(stderr, "%s\n", message.c_str());
    }
    return otherwise;
}

std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

// What an engine's plugin and all its clones share: weights on the GPU that was current, and the encoder that reads them.
class Model {
   public:
    Model(bool packed, const Form& form, const void* weights) : packed_(packed), form_(form), memory_(weights_bytes(form)) {
        check(cudaMemcpy(memory_.begin, weights, memory_.bytes, cudaMemcpyHostToDevice), "copying weights to the GPU");
        encoder_ = std::make_unique<Encoder>(form.sizes, place_weights(form, memory_.begin));
    }

    bool packed() const { return packed_; }
    const Form& form() const { return form_; }
    const Encoder& encoder() const { return *encoder_; }
    std::size_t bytes() const { return memory_.bytes; }
    void read_weights(void* to) const {
        check(cudaMemcpy(to, memory_.begin, memory_.bytes, cudaMemcpyDeviceToHost), "copying weights from the GPU");
    }

   private:
    struct Memory {
        void* begin = nullptr;
        std::size_t bytes;
        explicit Memory(std::size_t bytes) : bytes(bytes) { check(cudaMalloc(&begin, bytes), "memory for weights"); }
        ~Memory() { cudaFree(begin); }
        Memory(const Memory&) = delete;
        Memory& operator=(const Memory&) = delete;
    };

    bool packed_;
    Form form_;
    Memory memory_;
    std::unique_ptr<Encoder> encoder_;
};

// A plan holds "packed", the form's members, and the weights.
std::size_t head_bytes() {
    std::size_t bytes = sizeof(int32_t);
    Form form;
    each_member(form, [&](const char*, auto&) { bytes += sizeof(int32_t); });
    return bytes;
}

template <typename T>
using Stored = std::conditional_t<std::is_same_v<T, float>, float, int32_t>;  // how a form's member is stored, and given as a field

class Plugin final : public nvinfer1::IPluginV2DynamicExt {
   public:
    explicit Plugin(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

    const char* getPluginType() const noexcept override { return NAME; }
    const char* getPluginVersion() const noexcept override { return VERSION; }
    void setPluginNamespace(const char* name) noexcept override { namespace_ = name; }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    void destroy() noexcept override { delete this; }
    IPluginV2DynamicExt* clone() const noexcept override { return new Plugin(*this); }

    int32_t getNbOutputs() const noexcept override { return 1; }
    DataType getOutputDataType(int32_t, const DataType*, int32_t) const noexcept override { return DataType::kFLOAT; }
    bool supportsFormatCombination(int32_t i, const PluginTensorDesc* all, int32_t inputs, int32_t) noexcept override {
        return all[i].format == nvinfer1::TensorFormat::kLINEAR && all[i].type == (i < inputs ? DataType::kINT32 : DataType::kFLOAT);
    }
    DimsExprs getOutputDimensions(int32_t, const DimsExprs* inputs, int32_t, nvinfer1::IExprBuilder& build) noexcept override {
        const auto *one = build.constant(1), *width = build.constant(model_->form().sizes.width);
        const bool pooled = model_->form().pooled;
        if (!model_->packed()) return {5, {inputs[0].d[0], pooled ? one : inputs[0].d[1], width, one, one}};
        if (!pooled) return {4, {width, inputs[0].d[0], one, one}};
        return {4, {build.operation(nvinfer1::DimensionOperation::kSUB, *inputs[2].d[0], *one), width, one, one}};
    }
    void configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, int32_t, const nvinfer1::DynamicPluginTensorDesc*,
                         int32_t) noexcept override {}

    std::size_t getWorkspaceSize(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*, int32_t) const noexcept override {
        return logged<std::size_t>(0, [&] { return Workspace(*model_, Shape(model_->packed(), inputs), nullptr).bytes; });
    }

    int32_t enqueue(const PluginTensorDesc* descriptions, const PluginTensorDesc*, const void* const* inputs, void* const* outputs,
                    void* memory, cudaStream_t stream) noexcept override {
        return logged(1, [&] {
            const Form& form = model_->form();
            const Shape shape(model_->packed(), descriptions);
            const Workspace workspace(*model_, shape, memory);
            auto input = [&](int i) { return static_cast<const int32_t*>(inputs[i]); };
            auto* result = static_cast<float*>(outputs[0]);
            const Outputs raw{workspace.logits ? workspace.logits : result, workspace.status};

            Batch batch{input(0), input(1), input(2), shape.tokens, shape.sequences};
            if (!model_->packed()) batch = pack(stream, {input(0), input(1), input(2), shape.sequences, shape.length}, workspace.packed);
            model_->encoder().run(stream, batch, workspace.encoder, raw);
            if (workspace.logits && model_->packed()) transpose(stream, raw, batch, form.sizes.width, result);
            if (workspace.logits && !model_->packed()) unpack(stream, raw, batch, shape.length, form.sizes.width, result);
            return 0;
        });
    }

    std::size_t getSerializationSize() const noexcept override { return head_bytes() + model_->bytes(); }
    void serialize(void* buffer) const noexcept override {
        logged(0, [&] {
            auto* to = static_cast<unsigned char*>(buffer);
            auto write = [&](auto value) {
                std::memcpy(to, &value, sizeof(value));
                to += sizeof(value);
            };
            write(int32_t(model_->packed()));
            each_member(model_->form(), [&](const char*, const auto& member) {
                write(static_cast<Stored<std::decay_t<decltype(member)>>>(member));
            });
            model_->read_weights(to);
            return 0;
        });
    }

   private:
    // A batch's sizes; of a packed one, length is not told.
    struct Shape {
        int tokens, sequences, length = 0;
        Shape(bool packed, const PluginTensorDesc* inputs) {
            const auto& ids = inputs[0].dims;
            if (packed) {
                sequences = int(inputs[2].dims.d[0]) - 1;
                tokens = std::max(int(ids.d[0]), sequences);  // fewer have room in no batch, and TensorRT may ask for both extremes
            } else {
                sequences = int(ids.d[0]), length = int(ids.d[1]);
                if (std::int64_t(sequences) * length > INT32_MAX) throw Error("a batch has fewer than 2^31 tokens");
                tokens = sequences * length;
            }
        }
    };

    // Where things lie in TensorRT's workspace.
    struct Workspace {
        int32_t* status;
        float* logits;  // as the encoder writes them; null where these are the output already
        void *packed, *encoder;
        std::size_t bytes;

        Workspace(const Model& model, const Shape& shape, void* memory) {
            const auto begin = reinterpret_cast<std::uintptr_t>(memory);
            auto next = begin;
            auto take = [&](std::size_t size) {
                const auto here = next;
                next += rounded(size);
                return reinterpret_cast<void*>(here);
            };
            const int width = model.form().sizes.width;
            const bool direct = model.form().pooled || (model.packed() && width == 1);
            status = static_cast<int32_t*>(take(sizeof(int32_t)));
            logits = direct ? nullptr : static_cast<float*>(take(std::size_t(shape.tokens) * width * sizeof(float)));
            packed = model.packed() ? nullptr : take(packed_bytes(shape.sequences, shape.length));
            encoder = take(model.encoder().workspace_bytes(shape.tokens, shape.sequences));
            bytes = next - begin;
        }
    };

    std::shared_ptr<const Model> model_;
    std::string namespace_;
};

class Creator final : public nvinfer1::IPluginCreator {
   public:
    Creator() {
        fields_.emplace_back("packed", nullptr, PluginFieldType::kINT32, 1);
        Form form;
        each_member(form, [&](const char* name, auto& member) { fields_.emplace_back(name, nullptr, type_of(member), 1); });
        fields_.emplace_back("weights", nullptr, PluginFieldType::kINT32, 0);
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    const char* getPluginName() const noexcept override { return NAME; }
    const char* getPluginVersion() const noexcept override { return VERSION; }
    void setPluginNamespace(const char* name) noexcept override { namespace_ = name; }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

    nvinfer1::IPluginV2* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given) noexcept override {
        return logged<nvinfer1::IPluginV2*>(nullptr, [&] {
            auto field = [&](const std::string& name, PluginFieldType type, std::size_t length) {
                const auto* end = given->fields + given->nbFields;
                const auto* found = std::find_if(given->fields, end, [&](const PluginField& f) { return name == f.name; });
                if (found == end || !found->data || found->type != type || std::size_t(found->length) != length)
                    throw Error("its field " + name + " must be there, of the right type and length");
                return found->data;
            };
            int32_t packed;
            std::memcpy(&packed, field("packed", PluginFieldType::kINT32, 1), sizeof(packed));
            Form form;
            each_member(form, [&](const char* name, auto& member) { read(field(name, type_of(member), 1), member); });
            return make(packed, form, field("weights", PluginFieldType::kINT32, weights_bytes(form) / sizeof(int32_t)));
        });
    }

    nvinfer1::IPluginV2* deserializePlugin(const char*, const void* plan, std::size_t bytes) noexcept override {
        return logged<nvinfer1::IPluginV2*>(nullptr, [&] {
            const auto* from = static_cast<const unsigned char*>(plan);
            if (bytes < head_bytes()) throw Error("the plan is too short");
            int32_t packed;
            from = read(from, packed);
            Form form;
            each_member(form, [&](const char*, auto& member) { from = read(from, member); });
            if (bytes != head_bytes() + weights_bytes(form)) throw Error("the plan is of another version of the plugin, or damaged");
            return make(packed, form, from);
        });
    }

   private:
    template <typename T>
    static PluginFieldType type_of(const T&) {
        return std::is_same_v<T, float> ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
    }
    template <typename T>
    static const unsigned char* read(const void* from, T& member) {
        Stored<T> value;
        std::memcpy(&value, from, sizeof(value));
        member = static_cast<T>(value);
        return static_cast<const unsigned char*>(from) + sizeof(value);
    }
    nvinfer1::IPluginV2* make(bool packed, const Form& form, const void* weights) const {
        auto* plugin = new Plugin(std::make_shared<const Model>(packed, form, weights));
        plugin->setPluginNamespace(namespace_.c_str());
        return plugin;
    }

    std::vector<PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
    std::string namespace_;
};

REGISTER_TENSORRT_PLUGIN(Creator);

}  // namespace
}  // namespace bert
