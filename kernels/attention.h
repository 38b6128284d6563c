// The kernels behind attention() (parts.h), one file each.
#pragma once

#include "parts.h"

namespace bert {

// Hopper, by wgmma and the tensor memory accelerator: attention_hopper.cu.
void attention_hopper(cudaStream_t, Type, const void* qkv, int heads, int head_size, const Plan&, void* context);

// Compute capability 8.0 and later, by mma.sync: attention_portable.cu.
void attention_portable(cudaStream_t, Type, const void* qkv, int heads, int head_size, const Plan&, void* context);

}  // namespace bert
