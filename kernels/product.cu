#include "product.h"

namespace bert {

namespace {
constexpr int FEW_ROWS = 512;  // up to which the weights' way from memory is what takes time (README.md)
}

Product::Product(Type type, const Linear& linear, int n, int k, Activation activation)
    : type_(type), linear_(linear), n_(n), k_(k), activation_(activation) {
    if (current_device().capability != 90) return;
    auto* maps = reinterpret_cast<CUtensorMap*>(maps_);
    encode_many_rows(type, linear.weight, n, k, maps);
    encode_few_rows(type, linear.weight, n, k, maps + 2);
}

void Product::run(cudaStream_t stream, const void* x, const void* residual, const Plan& plan, void* out) const {
    const auto* maps = reinterpret_cast<const CUtensorMap*>(maps_);
    ProductCall call{type_, linear_, n_, k_, activation_, x, residual, plan, out, maps};
    if (current_device().capability != 90) return product_portable(stream, call);
    if (plan.max_tokens > FEW_ROWS) return product_many_rows(stream, call);
    call.weights = maps + 2;
    product_few_rows(stream, call);
}

}  // namespace bert
