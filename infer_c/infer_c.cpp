// The Python module infer_c: a TensorRT engine for numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cerrno>
#include <functional>

#include "bert_infer.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

// An array as it lies in memory: what would need a copy or a cast is refused.
bert::Array view(const py::array& array, const char* name) {
    if (!py::isinstance<py::array_t<std::int32_t>>(array)) {
        throw std::invalid_argument(std::string(name) + " must be an array of int32, not of " +
                                    py::str(array.dtype()).cast<std::string>());
    }
    if (!(array.flags() & py::array::c_style)) {
        throw std::invalid_argument(std::string(name) + " must be C-contiguous: use numpy.ascontiguousarray");
    }
    return {static_cast<const std::int32_t*>(array.data()), bert::Shape(array.shape(), array.shape() + array.ndim())};
}

template <class... Arrays>
bert::Feed feed_of(const bert::Inference& inference, const Arrays&... arrays) {
    const std::array<std::reference_wrapper<const py::array>, sizeof...(arrays)> given{arrays...};
    const std::vector<const char*>& names = inference.engine()->inputs();
    if (names.size() != given.size()) {
        throw std::invalid_argument(inference.engine()->packed()
                                        ? "the engine is packed: give input_ids, segment_ids, cu_seqlens, max_seqlen"
                                        : "the engine is padded: give input_ids, segment_ids, input_mask");
    }
    bert::Feed feed;
    for (std::size_t i = 0; i < given.size(); ++i) {
        feed.push_back(view(given[i], names[i]));
    }
    return feed;
}

template <class... Arrays>
py::array_t<float> run_arrays(bert::Inference& inference, const Arrays&... arrays) {
    const bert::Feed feed = feed_of(inference, arrays...);
    bert::Shape shape = feed[0].shape;
    shape.insert(inference.engine()->packed() ? shape.begin() : shape.end(), 2);
    py::array_t<float> logits(shape);
    float* const to = logits.mutable_data();
    {
        const py::gil_scoped_release released;
        inference.run(feed, to);
    }
    return logits;
}

template <class... Arrays>
float time_arrays(bert::Inference& inference, const Arrays&... arrays) {
    const bert::Feed feed = feed_of(inference, arrays...);
    const py::gil_scoped_release released;
    return inference.time(feed);
}

std::vector<std::pair<std::int64_t, std::int64_t>> profiles(const bert::Inference& inference) {
    std::vector<std::pair<std::int64_t, std::int64_t>> sizes;
    for (const bert::Profile& profile : inference.engine()->profiles()) {
        sizes.emplace_back(profile.batch_size(), profile.sequence_length());
    }
    return sizes;
}

}  // namespace

PYBIND11_MODULE(infer_c, module) {
    using bert::Engine;
    using bert::Inference;

    module.doc() = "Runs BERT question-answering engines of TensorRT, with or without CUDA graphs.";

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

    py::class_<Inference>(module, "bert_inf", R"(Runs an engine, one batch at a time; threads each need their own.

With enable_graph, the first batch of a shape warms up, and from the second on a captured CUDA graph is replayed.
Arrays are int32 and C-contiguous. Raises ValueError for arguments or an engine file that cannot be used, OSError for a
file that cannot be read, MemoryError where the GPU's memory does not suffice, RuntimeError where CUDA or TensorRT fails.)")
        .def(py::init([](std::shared_ptr<Engine> engine, std::int64_t batch, std::int64_t length, bool graph) {
                 return std::make_unique<Inference>(std::move(engine), batch, length, graph);
             }),
             "engine"_a, "max_batch_size"_a = 0, "max_sequence_length"_a = 0, "enable_graph"_a = false,
             py::call_guard<py::gil_scoped_release>(),
             "Shares an engine; takes batches of up to max_batch_size × max_sequence_length, 0 being the engine's largest.")
        .def(py::init([](const std::filesystem::path& engine, std::int64_t batch, std::int64_t length, bool graph) {
                 return std::make_unique<Inference>(std::make_shared<Engine>(engine), batch, length, graph);
             }),
             "engine"_a, "max_batch_size"_a = 0, "max_sequence_length"_a = 0, "enable_graph"_a = false,
             py::call_guard<py::gil_scoped_release>(), "Loads an engine file; otherwise the same.")
        .def("prepare", &Inference::prepare, "batch_size"_a, py::call_guard<py::gil_scoped_release>(),
             "Warms up, and captures, what runs batches of this size and the largest sequence length.")
        .def("run", &run_arrays<py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "input_mask"_a,
             "Runs a padded batch, arrays [B, S]; returns the logits [B, S, 2] float32, start then end.")
        .def("run", &run_arrays<py::array, py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "cu_seqlens"_a,
             "max_seqlen"_a,
             "Runs a packed batch, arrays [T], [T], [B + 1], [longest]; returns the logits [2, T] float32, start then end.")
        .def("time", &time_arrays<py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "input_mask"_a,
             "Milliseconds that the engine alone takes for a padded batch, by CUDA events, without copies.")
        .def("time", &time_arrays<py::array, py::array, py::array, py::array>, "input_ids"_a, "segment_ids"_a, "cu_seqlens"_a,
             "max_seqlen"_a, "The same for a packed batch.")
        .def_property_readonly(
            "engine", [](const Inference& self) { return self.engine(); }, "The engine, for another bert_inf.")
        .def_property_readonly("profiles", &profiles, "What the engine was optimised for: (batch size, sequence length) each.")
        .def_property_readonly("packed", [](const Inference& self) { return self.engine()->packed(); })
        .def_property_readonly("device_memory", &Inference::activation_bytes, "Bytes of the GPU's memory that hold activations.")
        .def_property_readonly("device", [](const Inference&) { return std::string(bert::device_properties().name); })
        .def_property_readonly("version", [](const Inference&) { return bert::tensorrt_version(); }, "TensorRT's version.");
}
