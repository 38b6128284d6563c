// Padded batches made ragged, and the encoder's outputs in other orders, on the GPU: what stands around a run where a caller's
// tensors are of other shapes than the encoder's.
#pragma once

#include "encoder.h"

namespace bert {

// B sequences padded to S tokens, int32 [B, S] each. Rows of the mask are ones, then zeros; one of zeros alone counts as one token.
struct PaddedBatch {
    const int32_t* ids = nullptr;
    const int32_t* segments = nullptr;
    const int32_t* mask = nullptr;
    int sequences = 0;
    int length = 0;
};

// The same sequences end to end, in `memory` of `packed_bytes`, which begins at a multiple of 256 bytes. Where a mask has gaps,
// cu_seqlens falls, which the encoder refuses.
std::size_t packed_bytes(int sequences, int length);
Batch pack(cudaStream_t stream, const PaddedBatch& batch, void* memory);

// padded [B, S, width] = the rows of logits [T, width] at their tokens, zeros elsewhere; all NaN where the status is not 0.
void unpack(cudaStream_t stream, const Outputs& outputs, const Batch& batch, int length, int width, float* padded);

// planes [width, T] = logits [T, width], where T is all of max_tokens.
void transpose(cudaStream_t stream, const Outputs& outputs, const Batch& batch, int width, float* planes);

}  // namespace bert
