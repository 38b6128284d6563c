// The kernels behind Product, one file each, and what is asked of them.
#pragma once

#include <cuda.h>

#include "parts.h"

namespace bert {

struct ProductCall {
    Type type;
    Linear linear;
    int n, k;
    Activation activation;
    const void* x;
    const void* residual;  // or null
    Plan plan;
    void* out;
    const CUtensorMap* weights;  // what this kernel's own `encode_…` made
};

// Hopper, many rows: product_many_rows.cu.
void encode_many_rows(Type, const void* weight, int n, int k, CUtensorMap* weights);
void product_many_rows(cudaStream_t, const ProductCall&);

// Hopper, few rows, where reading the weights is what takes time: product_few_rows.cu.
void encode_few_rows(Type, const void* weight, int n, int k, CUtensorMap* weights);
void product_few_rows(cudaStream_t, const ProductCall&);

// Compute capability 8.0 and later, by mma.sync: product_portable.cu.
void product_portable(cudaStream_t, const ProductCall&);

}  // namespace bert
