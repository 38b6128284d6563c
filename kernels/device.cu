#include "launch.h"
#include "parts.h"

namespace bert {

Device current_device() {
    thread_local int known = -1;
    thread_local Device device;
    int current;
    check(cudaGetDevice(&current), "the current GPU");
    if (current == known) return device;
    auto attribute = [&](cudaDeviceAttr which) {
        int value;
        check(cudaDeviceGetAttribute(&value, which, current), "an attribute of the GPU");
        return value;
    };
    const int major = attribute(cudaDevAttrComputeCapabilityMajor), minor = attribute(cudaDevAttrComputeCapabilityMinor);
    if (major < 8)
        throw Error("the encoder needs a GPU of compute capability 8.0 or later, this one has " + std::to_string(major) + "." +
                    std::to_string(minor));
    device = {attribute(cudaDevAttrMultiProcessorCount), 10 * major + minor};
#ifdef BERT_PORTABLE  // a bench of the kernels for 8.0 on a later GPU
    device.capability = 80;
#endif
    known = current;
    return device;
}

}  // namespace bert
