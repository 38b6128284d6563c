// An engine of BERT, deserialized once; any number of threads run it, each through an Inference.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "cuda.h"
#include "profile.h"
#include "tensorrt.h"

namespace bert {

using Context = std::unique_ptr<nvinfer1::IExecutionContext>;

// A padded engine takes padded batches and gives logits [B, S, W, 1, 1]; a packed one packed ones, and logits [W, T, 1, 1].
// One that pools gives a row a sequence instead of a row a token: [B, 1, W, 1, 1], packed [B, W, 1, 1].
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
        check_memory(plan.size() + reserve, "the engine's weights and kernels");
        runtime_.reset(BERT_TRT(nvinfer1::createInferRuntime(logger())));
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!engine_) {
            const std::string complaint = Logger::take();
            if (is_out_of_memory(complaint)) {
                throw OutOfMemory("out of GPU memory: " + complaint);
            }
            throw std::invalid_argument("engine " + path.string() + " cannot be loaded, build it again: " + complaint);
        }
        read_tensors(path);
        read_profiles(path);
    }

    bool packed() const { return packed_; }
    bool pooled() const { return pooled_; }
    std::int64_t width() const { return width_; }
    const Profiles& profiles() const { return profiles_; }

    // The shape of a batch's logits: [B, S, W], packed [W, T]; pooled, [B, W] of either.
    Shape logits(const Shapes& shapes) const {
        if (pooled_) {
            return {sequences(shapes), width_};
        }
        Shape shape = shapes.at("input_ids");
        shape.insert(packed_ ? shape.begin() : shape.end(), width_);
        return shape;
    }

    // Bytes that the activations of a context take; a profile's own are not known.
    std::size_t activation_bytes() const { return engine_->getDeviceMemorySize(); }

    // A context whose activations lie in `memory`.
    Context make_context(std::byte* memory) const {
        Context context(BERT_TRT(engine_->createExecutionContextWithoutDeviceMemory()));
        context->setDeviceMemory(memory);
        return context;
    }

private:
    void read_tensors(const std::filesystem::path& path) {
        std::vector<std::string> names;
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            names.emplace_back(engine_->getIOTensorName(i));
        }
        const auto has = [&](const std::string& name, nvinfer1::TensorIOMode mode, nvinfer1::DataType type) {
            return engine_->getTensorIOMode(name.c_str()) == mode && engine_->getTensorDataType(name.c_str()) == type;
        };
        packed_ = std::find(names.begin(), names.end(), "cu_seqlens") != names.end();
        const std::vector<std::string>& inputs = input_names(packed_);
        const nvinfer1::Dims logits = engine_->getTensorShape("logits");  // axes that vary are -1: T, mostly B, seldom S
        const bool ours = names.size() == inputs.size() + 1 && logits.nbDims == static_cast<int>(axes(packed_)) + 3 &&
                          has("logits", nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT) &&
                          std::all_of(inputs.begin(), inputs.end(), [&](const std::string& name) {
                              return has(name, nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kINT32);
                          });
        if (!ours) {
            std::string list;
            for (const std::string& name : names) {
                list += " " + name;
            }
            throw std::invalid_argument("engine " + path.string() + " is not one of this project, its tensors are:" + list);
        }
        width_ = packed_ ? std::max(logits.d[0], logits.d[1]) : logits.d[2];
        pooled_ = packed_ ? logits.d[1] != -1 : logits.d[1] == 1;
        if (width_ < 1) {
            throw std::invalid_argument("engine " + path.string() + " is not one of this project, logits has other axes");
        }
    }

    void read_profiles(const std::filesystem::path& path) {
        profiles_.resize(static_cast<std::size_t>(engine_->getNbOptimizationProfiles()));
        for (std::size_t i = 0; i < profiles_.size(); ++i) {
            for (const std::string& name : input_names(packed_)) {
                const auto shape = [&](nvinfer1::OptProfileSelector which) {
                    const nvinfer1::Dims dims = engine_->getProfileShape(name.c_str(), static_cast<int>(i), which);
                    const Shape shape(dims.d, dims.d + std::max(dims.nbDims, 0));
                    if (shape.size() != axes(packed_) || *std::min_element(shape.begin(), shape.end()) < 1) {
                        throw std::invalid_argument("engine " + path.string() + " is not one of this project, " + name +
                                                    " has other axes");
                    }
                    return shape;
                };
                profiles_[i].least[name] = shape(nvinfer1::OptProfileSelector::kMIN);
                profiles_[i].most[name] = shape(nvinfer1::OptProfileSelector::kMAX);
            }
        }
    }

    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    bool packed_ = false, pooled_ = false;
    std::int64_t width_ = 0;
    Profiles profiles_;
};

}  // namespace bert
