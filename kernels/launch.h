// How kernels are launched: the next one of a stream begins while the last blocks of the one before it still run (programmatic
// dependent launch, CUDA C++ Programming Guide 6.2.9), which a captured graph keeps. So every kernel, in every thread, calls
// `await_previous()` before it reads or writes what another kernel does, and may do before it what depends on weights alone.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <utility>

#include "parts.h"

namespace bert {

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw Error(std::string(what) + ": " + cudaGetErrorString(status));
}

struct Grid {
    dim3 blocks;
    dim3 threads;
    std::size_t shared_bytes = 0;
    int cluster = 1;  // blocks of a cluster, along x
};

template <typename... Parameters, typename... Arguments>
void launch(cudaStream_t stream, const Grid& grid, void (*kernel)(Parameters...), Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid.blocks;
    config.blockDim = grid.threads;
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute attributes[2]{};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {static_cast<unsigned>(grid.cluster), 1, 1};
    config.attrs = attributes;
    config.numAttrs = current_device().capability < 90 ? 0 : grid.cluster > 1 ? 2 : 1;
    check(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...), "a kernel's launch");
}

#ifdef __CUDACC__
// Both do nothing on GPUs before Hopper, where kernels of a stream follow each other whole.
__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void release_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
#endif

}  // namespace bert
