// CUDA's calls in C++: what fails throws, and what is made is freed by the handle that holds it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include "errors.h"

// Throws where a call fails, and says which call.
#define BERT_CUDA(call) ::bert::check_cuda((call), #call)

namespace bert {

// Bytes that a load leaves free, for kernels, cuBLAS and what plugins take for themselves: some abort where there are none.
constexpr std::size_t reserve = 256 << 20;

inline void check_cuda(cudaError_t status, const char* call) {
    if (status == cudaSuccess) {
        return;
    }
    cudaGetLastError();  // forgets an error that does not last, lest a later check finds it
    if (status == cudaErrorMemoryAllocation) {
        throw OutOfMemory(std::string("out of GPU memory: ") + call);
    }
    throw Error(std::string(call) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}

struct MemoryInfo {
    std::size_t free, total;  // bytes
};

inline MemoryInfo memory_info() {
    MemoryInfo info{};
    BERT_CUDA(cudaMemGetInfo(&info.free, &info.total));
    return info;
}

[[noreturn]] inline void throw_out_of_memory(std::size_t wanted, const std::string& what) {
    const MemoryInfo info = memory_info();
    const auto mib = [](std::size_t size) { return std::to_string(size >> 20); };
    throw OutOfMemory("out of GPU memory: " + what + " need " + mib(wanted) + " MiB, free are " + mib(info.free) + " of " +
                      mib(info.total) + " MiB");
}

// Throws where the GPU has less than so many bytes free.
inline void check_memory(std::size_t wanted, const std::string& what) {
    if (wanted > memory_info().free) {
        throw_out_of_memory(wanted, what);
    }
}

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

inline DeviceMemory make_device_memory(std::size_t bytes, const std::string& what) {
    void* memory{};
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw_out_of_memory(bytes, what);
    }
    check_cuda(status, "cudaMalloc(&memory, bytes)");
    return DeviceMemory(static_cast<std::byte*>(memory));
}

inline PinnedMemory make_pinned_memory(std::size_t bytes) {
    void* memory{};
    BERT_CUDA(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
    return PinnedMemory(static_cast<std::byte*>(memory));
}

// What `work` sends to a stream, recorded as a graph instead of being run.
template <class Work>
GraphExec capture(cudaStream_t stream, const Work& work) {
    BERT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t captured{};
    try {
        work();
    } catch (...) {
        cudaStreamEndCapture(stream, &captured);
        const Graph discarded(captured);
        cudaGetLastError();
        throw;
    }
    const cudaError_t status = cudaStreamEndCapture(stream, &captured);
    const Graph graph(captured);
    check_cuda(status, "cudaStreamEndCapture(stream, &captured)");
    cudaGraphExec_t made{};
    BERT_CUDA(cudaGraphInstantiateWithFlags(&made, graph.get(), 0));
    GraphExec executable(made);
    BERT_CUDA(cudaGraphUpload(made, stream));
    return executable;
}

inline cudaDeviceProp device_properties() {
    int device{};
    cudaDeviceProp properties{};
    BERT_CUDA(cudaGetDevice(&device));
    BERT_CUDA(cudaGetDeviceProperties(&properties, device));
    return properties;
}

}  // namespace bert
