// The two 16-bit types in one vocabulary, so that each kernel is written once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "encoder.h"

namespace bert {

template <typename T>
struct Pair;
template <>
struct Pair<__half> {
    using type = __half2;
};
template <>
struct Pair<__nv_bfloat16> {
    using type = __nv_bfloat162;
};

__device__ __forceinline__ float2 unpack(__half2 x) { return __half22float2(x); }
__device__ __forceinline__ float2 unpack(__nv_bfloat162 x) { return __bfloat1622float2(x); }

// Rounds to nearest. What float16 cannot hold becomes its largest number: an infinity would be NaN a layer later, quietly.
template <typename T>
__device__ __forceinline__ typename Pair<T>::type pack(float x, float y);
template <>
__device__ __forceinline__ __half2 pack<__half>(float x, float y) {
    unsigned packed;  // .satfinite: PTX ISA 8.1, cvt; NaN stays NaN
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(y), "f"(x));
    return *reinterpret_cast<__half2*>(&packed);
}
template <>
__device__ __forceinline__ __nv_bfloat162 pack<__nv_bfloat16>(float x, float y) {
    return __floats2bfloat162_rn(x, y);
}

// Calls f with a value of the storage type: dispatch(type, [&](auto zero) { using T = decltype(zero); … }).
template <typename F>
void dispatch(Type type, F&& f) {
    if (type == Type::float16)
        f(__half{});
    else
        f(__nv_bfloat16{});
}

// GELU as max(x, 0) - t · 2^q(t), t = |x|: in the form by erf, t · 2^q is t · Φ(-t) with Φ the normal distribution's, and log2 Φ(-t) is
// nearly a parabola, so a short polynomial will do; likewise log2 of tanh's form. q is the polynomial of its degree whose largest
// error of t · 2^q is least: 5e-8 for erf, 6e-8 for tanh. Rounded to float16, both are within one unit of the last place of the
// exact ones, for every x of float16. NaN stays NaN.
template <int terms>
__device__ __forceinline__ float gelu(float x, const float (&q)[terms]) {
    const float t = fminf(fabsf(x), 6.5f);
    float y = q[terms - 1], power, positive;
#pragma unroll
    for (int i = terms - 2; i >= 0; i--) y = fmaf(y, t, q[i]);
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(y));
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(positive) : "f"(x));
    return fmaf(-t, power, positive);
}
__device__ __forceinline__ float gelu_erf(float x) {
    constexpr float q[] = {-0.999993086f,  -1.15120173f,     -0.45877099f,   -0.0534120984f,
                           0.00808071345f, -0.000769218546f, 3.30926669e-05f};
    return gelu(x, q);
}
__device__ __forceinline__ float gelu_tanh(float x) {
    constexpr float q[] = {-1.00001037f,   -1.15091348f,   -0.460391313f,    -0.0480891876f,  0.00233982783f,
                           0.00475579826f, -0.00282264617f, 0.000519817811f, -3.31498995e-05f};
    return gelu(x, q);
}

__device__ __forceinline__ float activate(float x, Activation form) {
    switch (form) {
        case Activation::gelu_erf:
            return gelu_erf(x);
        case Activation::gelu_tanh:
            return gelu_tanh(x);
        case Activation::relu:
            return fmaxf(x, 0.f);
        case Activation::tanh:
            return tanhf(x);
        default:
            return x;
    }
}

}  // namespace bert
