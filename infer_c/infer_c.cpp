// The Python module infer_c: a TensorRT engine for numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "inference.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

// What Python knows as bert_inf: an Inference until it is closed. A call holds it too, so that another thread may close
// the object meanwhile: all is freed as that call ends.
class Closable {
public:
    Closable(std::shared_ptr<bert::Engine> engine, std::int64_t batch, std::int64_t length, bool graph)
        : inference_(std::make_shared<bert::Inference>(std::move(engine), batch, length, graph)) {}

    std::shared_ptr<bert::Inference> get() const {
        if (!inference_) {
            throw bert::Error("this bert_inf is closed");
        }
        return inference_;
    }

    void close() {
        std::shared_ptr<bert::Inference> last = std::move(inference_);
        const py::gil_scoped_release released;  // the GPU may have to be waited for
        last.reset();
    }

private:
    std::shared_ptr<bert::Inference> inference_;  // read and written under Python's lock alone
};

// An array as it lies in memory: what would need a copy or a cast is refused.
bert::Array view(const py::array& array, const std::string& name) {
    if (!py::isinstance<py::array_t<std::int32_t>>(array)) {
        throw std::invalid_argument(name + " must be an array of int32, not of " + py::str(array.dtype()).cast<std::string>());
    }
    if (!(array.flags() & py::array::c_style)) {
        throw std::invalid_argument(name + " must be C-contiguous: use numpy.ascontiguousarray");
    }
    return {static_cast<const std::int32_t*>(array.data()), bert::Shape(array.shape(), array.shape() + array.ndim())};
}

// The arguments of a call, by name.
template <class... Arrays>
bert::Batch batch_of(const bert::Engine& engine, const Arrays&... arrays) {
    const std::vector<std::string>& names = bert::input_names(engine.packed());
    if (names.size() != sizeof...(arrays)) {
        throw std::invalid_argument(engine.packed() ? "the engine is packed: give input_ids, segment_ids, cu_seqlens, max_seqlen"
                                                    : "the engine is padded: give input_ids, segment_ids, input_mask");
    }
    bert::Batch batch;
    auto name = names.begin();
    ((batch[*name] = view(arrays, *name), ++name), ...);
    return batch;
}

template <class... Arrays>
py::array_t<float> run(const Closable& self, const Arrays&... arrays) {
    const std::shared_ptr<bert::Inference> inference = self.get();
    const bert::Batch batch = batch_of(*inference->engine(), arrays...);
    bert::check(batch);  // without which its shapes say nothing
    py::array_t<float> logits(inference->engine()->logits(bert::shapes_of(batch)));
    float* const to = logits.mutable_data();
    {
        const py::gil_scoped_release released;
        inference->run(batch, to);
    }
    return logits;
}

template <class... Arrays>
float time(const Closable& self, const Arrays&... arrays) {
    const std::shared_ptr<bert::Inference> inference = self.get();
    const bert::Batch batch = batch_of(*inference->engine(), arrays...);
    const py::gil_scoped_release released;
    return inference->time(batch);
}

void prepare(const Closable& self, std::int64_t batch_size) {
    const std::shared_ptr<bert::Inference> inference = self.get();
    const py::gil_scoped_release released;
    inference->prepare(batch_size);
}

std::vector<std::pair<std::int64_t, std::int64_t>> profiles(const Closable& self) {
    std::vector<std::pair<std::int64_t, std::int64_t>> sizes;
    for (const bert::Profile& profile : self.get()->engine()->profiles()) {
        sizes.emplace_back(profile.batch_size(), profile.sequence_length());
    }
    return sizes;
}

}  // namespace

PYBIND11_MODULE(infer_c, module) {
    using bert::Engine;

    module.doc() = "Runs BERT engines of TensorRT, with or without CUDA graphs.";

    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            std::rethrow_exception(thrown);
        } catch (const std::filesystem::filesystem_error& e) {
            errno = e.code().value();
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, e.path1().c_str());
        }
    });

    py::class_<Engine, std::shared_ptr<Engine>>(module, "Engine", "An engine, deserialized once, that several bert_inf run.")
        .def(py::init<const std::filesystem::path&>(), "engine"_a, py::call_guard<py::gil_scoped_release>());

    py::class_<Closable>(module, "bert_inf", R"(Runs an engine, one batch at a time; threads each need their own.

With enable_graph, a captured CUDA graph is replayed from the second batch of a shape on, of a packed engine from the third.
Arrays are int32 and C-contiguous. Raises ValueError for arguments or an engine file that cannot be used, OSError for a
file that cannot be read, MemoryError where the GPU's memory does not suffice, RuntimeError where CUDA or TensorRT fails.)")
        .def(py::init([](std::shared_ptr<Engine> engine, std::int64_t batch, std::int64_t length, bool graph) {
                 return std::make_unique<Closable>(std::move(engine), batch, length, graph);
             }),
             "engine"_a.none(false), "max_batch_size"_a = 0, "max_sequence_length"_a = 0, "enable_graph"_a = false,
             py::call_guard<py::gil_scoped_release>(),
             "Shares an engine; takes batches of up to max_batch_size × max_sequence_length, 0 being the engine's largest.")
        .def(py::init([](const std::filesystem::path& engine, std::int64_t batch, std::int64_t length, bool graph) {
                 return std::make_unique<Closable>(std::make_shared<Engine>(engine), batch, length, graph);
             }),
             "engine"_a, "max_batch_size"_a = 0, "max_sequence_length"_a = 0, "enable_graph"_a = false,
             py::call_guard<py::gil_scoped_release>(), "Loads an engine file; otherwise the same.")
        .def("prepare", &prepare, "batch_size"_a,
             "Warms up, and captures, what runs batches of this size and the largest sequence length.")
        .def("run", &run<py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "input_mask"_a,
             "Runs a padded batch, arrays [B, S]; returns the logits float32, [B, S, width], pooled [B, width].")
        .def("run", &run<py::array, py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "cu_seqlens"_a,
             "max_seqlen"_a,
             "Runs a packed batch, arrays [T], [T], [B + 1], [longest]; returns the logits [width, T] or [B, width].")
        .def("time", &time<py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "input_mask"_a,
             "Milliseconds that the engine alone takes for a padded batch, by CUDA events, without copies.")
        .def("time", &time<py::array, py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "cu_seqlens"_a,
             "max_seqlen"_a, "The same for a packed batch.")
        .def("close", &Closable::close, "Gives the GPU's memory back; what is closed cannot run any more.")
        .def_property_readonly(
            "engine", [](const Closable& self) { return self.get()->engine(); }, "The engine, for another bert_inf.")
        .def_property_readonly("profiles", &profiles, "What the engine was optimised for: (batch size, sequence length) each.")
        .def_property_readonly("packed", [](const Closable& self) { return self.get()->engine()->packed(); })
        .def_property_readonly("width", [](const Closable& self) { return self.get()->engine()->width(); }, "Logits in a row.")
        .def_property_readonly(
            "pooled", [](const Closable& self) { return self.get()->engine()->pooled(); },
            "Whether a row is of a sequence, not of a token.")
        .def_property_readonly(
            "device_memory", [](const Closable& self) { return self.get()->engine()->activation_bytes(); },
            "Bytes of the GPU's memory that hold activations.")
        .def_property_readonly("device", [](const Closable&) { return std::string(bert::device_properties().name); })
        .def_property_readonly("version", [](const Closable&) { return bert::tensorrt_version(); }, "TensorRT's version.");
}
