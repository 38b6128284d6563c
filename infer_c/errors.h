// What can go wrong, as exceptions: the type tells whose fault it is, and with it what can be done.
//
// std::invalid_argument for what the caller gave, std::filesystem::filesystem_error for files, OutOfMemory where the
// GPU's memory does not suffice, and Error for everything else that CUDA or TensorRT refuses.
#pragma once

#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace bert {

// The message holds the call that failed, and the reason.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class OutOfMemory : public std::bad_alloc {
public:
    explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
    const char* what() const noexcept override { return message_.c_str(); }

private:
    std::string message_;
};

}  // namespace bert
