// TensorRT, of the versions that the Python side supports too, and what it says of its failures: it logs the reason and
// returns false or no pointer, out of which an exception is made here.
#pragma once

#include <NvInferVersion.h>

#define BERT_TENSORRT (NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH)
#if BERT_TENSORRT < 80501 || BERT_TENSORRT >= 80700
#error "TensorRT 8.5.1 to 8.6 is needed: the plugins of other versions differ; name its folder with -DTensorRT_ROOT=..."
#endif

#include <NvInfer.h>
#include <NvInferPlugin.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"

// Throws where a call fails, and says which call; gives back the pointer that a call makes.
#define BERT_TRT(call) ::bert::check_trt((call), #call)

namespace bert {

// Keeps what TensorRT complains about, thread by thread, for the exceptions that follow.
class Logger final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR || complaints().size() == 3) {
            return;
        }
        try {
            complaints().emplace_back(message);
        } catch (...) {  // no memory left for a message
        }
    }

    // The first complaints of this thread since they were taken or forgotten, in one line.
    static std::string take() {
        std::string line;
        for (const std::string& complaint : std::exchange(complaints(), {})) {
            line += (line.empty() ? "" : "; ") + complaint;
        }
        std::replace(line.begin(), line.end(), '\n', ' ');
        return line.empty() ? "no reason given" : line;
    }

    static void forget() { complaints().clear(); }

private:
    static std::vector<std::string>& complaints() {
        thread_local std::vector<std::string> kept;
        return kept;
    }
};

inline Logger& logger() {
    static Logger* const one = new Logger;  // never deleted: the registry of plugins keeps it until the process ends
    return *one;
}

inline bool is_out_of_memory(const std::string& complaint) {
    const auto says = [&](const char* words) { return complaint.find(words) != std::string::npos; };
    return says("out of memory") || says("OutOfMemory") || says("ALLOC_FAILED");
}

template <class Result>  // a bool, or a pointer
Result check_trt(Result result, const char* call) {
    if (!result) {
        const std::string complaint = Logger::take();
        if (is_out_of_memory(complaint)) {
            throw OutOfMemory("out of GPU memory: " + complaint);
        }
        throw Error(std::string(call) + ": " + complaint);
    }
    return result;
}

// The version of the library in use.
inline std::string tensorrt_version() {
    const int number = getInferLibVersion();
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 100) + "." + std::to_string(number % 100);
}

}  // namespace bert
