// Times an engine on random tokens. The figures and the JSON are those of perf.py.
#include <getopt.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iomanip>
#include <iostream>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "inference.h"

namespace {

constexpr char usage[] = R"(usage: perf -e ENGINE [-b BATCH_SIZE]... [options]

Times an engine on random tokens: the network alone, without copies, measured with CUDA events.

  -e, --engine FILE           engine file
  -b, --batch-size N          batch size; may be repeated (default: 1)
  -s, --sequence-length N     tokens of each sequence (default: 128)
  -i, --iterations N          timed runs a batch size, and a thread (default: 200)
  -w, --warm-up-runs N        runs before the clock starts (default: 10)
  -d, --duration SECONDS      least seconds a batch size (default: 0)
  -r, --random-seed N         seed of the input tokens (default: 12345)
      --enable_graph          replay a captured CUDA graph
      --end-to-end            from arrays on the host to logits on the host, measured with a wall clock
      --threads N             contexts that share the engine, each with a thread of its own (default: 1)
      --json FILE             write the figures to this file, with device, versions and engine
  -h, --help                  show this
)";

struct Options {
    std::string engine, json;
    std::vector<std::int64_t> batch_sizes;
    std::int64_t sequence_length = 128, iterations = 200, warm_up_runs = 10, threads = 1, seed = 12345;
    double duration = 0;
    bool graphs = false, end_to_end = false;
};

template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream stream;
    (stream << ... << parts);
    return stream.str();
}

std::string fixed(double value, int digits) { return text(std::fixed, std::setprecision(digits), value); }

std::int64_t whole_number(const char* option, const std::string& given, std::int64_t least) {
    std::int64_t number{};
    const auto [end, failure] = std::from_chars(given.data(), given.data() + given.size(), number);
    if (failure != std::errc{} || end != given.data() + given.size() || number < least || number > 1'000'000'000) {
        throw std::invalid_argument(text("argument ", option, ": must be a whole number from ", least, ", not '", given, "'"));
    }
    return number;
}

double seconds(const std::string& given) {
    std::istringstream stream(given);
    double value{};
    if (!(stream >> value) || !stream.eof() || !(value >= 0)) {
        throw std::invalid_argument("argument --duration: must be a number of seconds from 0, not '" + given + "'");
    }
    return value;
}

// The command line; where it asks for help, that is printed and the program ends.
Options parse(int argc, char** argv) {
    enum { enable_graph = 256, end_to_end, threads, json };
    const option names[] = {
        {"engine", required_argument, nullptr, 'e'},
        {"batch-size", required_argument, nullptr, 'b'},
        {"sequence-length", required_argument, nullptr, 's'},
        {"iterations", required_argument, nullptr, 'i'},
        {"warm-up-runs", required_argument, nullptr, 'w'},
        {"duration", required_argument, nullptr, 'd'},
        {"random-seed", required_argument, nullptr, 'r'},
        {"enable_graph", no_argument, nullptr, enable_graph},
        {"enable-graph", no_argument, nullptr, enable_graph},
        {"end-to-end", no_argument, nullptr, end_to_end},
        {"threads", required_argument, nullptr, threads},
        {"json", required_argument, nullptr, json},
        {"help", no_argument, nullptr, 'h'},
        {},
    };
    Options options;
    opterr = 0;
    for (int name; (name = getopt_long(argc, argv, ":e:b:s:i:w:d:r:h", names, nullptr)) != -1;) {
        switch (name) {
            case 'e': options.engine = optarg; break;
            case 'b': options.batch_sizes.push_back(whole_number("--batch-size", optarg, 1)); break;
            case 's': options.sequence_length = whole_number("--sequence-length", optarg, 1); break;
            case 'i': options.iterations = whole_number("--iterations", optarg, 1); break;
            case 'w': options.warm_up_runs = whole_number("--warm-up-runs", optarg, 0); break;
            case 'd': options.duration = seconds(optarg); break;
            case 'r': options.seed = whole_number("--random-seed", optarg, 0); break;
            case enable_graph: options.graphs = true; break;
            case end_to_end: options.end_to_end = true; break;
            case threads: options.threads = whole_number("--threads", optarg, 1); break;
            case json: options.json = optarg; break;
            case 'h': std::cout << usage; std::exit(0);
            case ':': throw std::invalid_argument(text("argument ", argv[optind - 1], ": expected one argument"));
            default: throw std::invalid_argument(text("unrecognized arguments: ", argv[optind - 1]));
        }
    }
    if (optind < argc) {
        throw std::invalid_argument(text("unrecognized arguments: ", argv[optind]));
    }
    if (options.engine.empty()) {
        throw std::invalid_argument("the following arguments are required: -e/--engine");
    }
    if (options.batch_sizes.empty()) {
        options.batch_sizes = {1};
    }
    return options;
}

// A file that is written whole or not at all: into a temporary neighbour first, which is made before the work starts.
class OutputFile {
public:
    explicit OutputFile(std::string path) : path_(std::move(path)), temporary_(text(path_, ".", getpid())) {
        if (std::filesystem::is_directory(path_) || !(stream_.open(temporary_), stream_)) {
            throw std::invalid_argument("cannot write " + path_ + ": name a file in a folder that is there and writable");
        }
    }
    ~OutputFile() { std::remove(temporary_.c_str()); }
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    void write(const std::string& content) {
        stream_ << content;
        stream_.close();
        if (!stream_) {
            throw std::invalid_argument("cannot write " + path_ + ": is the disk full?");
        }
        std::filesystem::rename(temporary_, path_);
    }

private:
    std::string path_, temporary_;
    std::ofstream stream_;
};

// Does the same on several threads at once; the first failure is thrown here.
template <class Work>
auto on_threads(std::vector<bert::Inference*> inferences, const Work& work) {
    std::vector<std::future<decltype(work(*inferences[0]))>> running;
    for (bert::Inference* inference : inferences) {
        running.push_back(std::async(std::launch::async, [&work, inference] { return work(*inference); }));
    }
    std::vector<decltype(work(*inferences[0]))> results;
    for (auto& one : running) {
        results.push_back(one.get());
    }
    return results;
}

// As numpy has it: between the two values that are nearest, linearly.
double percentile(const std::vector<double>& sorted, double percent) {
    const double position = percent / 100 * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

struct Row {
    std::int64_t batch_size, sequence_length;
    std::vector<double> times;  // ms, sorted
    double wall;                // seconds from the first run to the last

    double total() const { return std::accumulate(times.begin(), times.end(), 0.0); }
    double average() const { return total() / static_cast<double>(times.size()); }
    double throughput() const { return static_cast<double>(times.size()) * static_cast<double>(batch_size) / wall; }
};

// A value in the description beside an engine, as JSON.
std::string described(const std::string& engine, const std::string& key, const std::string& otherwise) {
    std::ostringstream description;
    description << std::ifstream(engine + ".json").rdbuf();
    const std::string content = description.str(), name = '"' + key + "\": ";
    const std::size_t at = content.find(name);
    if (at == std::string::npos) {
        return otherwise;
    }
    const std::size_t begin = at + name.size();
    return content.substr(begin, content.find_first_of(",}\n", begin) - begin);
}

Row measure(const Options& options, const std::vector<bert::Inference*>& inferences, std::int64_t batch_size) {
    using Clock = std::chrono::steady_clock;
    const auto since = [](Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); };
    std::mt19937 generator(static_cast<std::uint32_t>(options.seed));
    const std::int64_t vocab_size = whole_number("vocab_size", described(options.engine, "vocab_size", "30522"), 1);
    std::uniform_int_distribution<std::int32_t> token(0, static_cast<std::int32_t>(vocab_size - 1)), segment(0, 1);
    bert::FullBatch full(inferences[0]->engine()->packed(), batch_size, options.sequence_length);
    std::generate(full.values["input_ids"].begin(), full.values["input_ids"].end(), [&] { return token(generator); });
    std::generate(full.values["segment_ids"].begin(), full.values["segment_ids"].end(), [&] { return segment(generator); });
    const bert::Batch batch = full.batch();
    const auto size = static_cast<std::size_t>(bert::volume(inferences[0]->engine()->logits(full.shapes)));

    const auto run = [&](bert::Inference& inference, std::vector<float>& logits) -> double {
        if (!options.end_to_end) {
            return static_cast<double>(inference.time(batch));
        }
        const auto start = Clock::now();
        inference.run(batch, logits.data());
        return since(start) * 1e3;
    };
    on_threads(inferences, [&](bert::Inference& inference) {
        std::vector<float> logits(size);
        inference.prepare(batch_size);
        for (std::int64_t i = 0; i < options.warm_up_runs; ++i) {
            run(inference, logits);
        }
        return 0;
    });
    const auto start = Clock::now();
    const auto times = on_threads(inferences, [&](bert::Inference& inference) {
        std::vector<float> logits(size);
        std::vector<double> own;
        while (static_cast<std::int64_t>(own.size()) < options.iterations || since(start) < options.duration) {
            own.push_back(run(inference, logits));
        }
        return own;
    });
    Row row{batch_size, options.sequence_length, {}, since(start)};
    for (const std::vector<double>& own : times) {
        row.times.insert(row.times.end(), own.begin(), own.end());
    }
    std::sort(row.times.begin(), row.times.end());
    return row;
}

void print(const Row& row, const Options& options) {
    const auto ms = [](double value) { return fixed(value, 3) + " ms\n"; };
    std::cout << "Running " << row.times.size() << " iterations with Batch Size: " << row.batch_size
              << ", Sequence Length: " << row.sequence_length << "\n"
              << "\tTotal time: " << ms(row.total()) << "\tAverage: " << ms(row.average())
              << "\tMedian: " << ms(percentile(row.times, 50)) << "\t95th percentile: " << ms(percentile(row.times, 95))
              << "\t99th percentile: " << ms(percentile(row.times, 99));
    if (options.threads > 1) {
        std::cout << "\tThroughput: " << fixed(row.throughput(), 1) << " sequences/s on " << options.threads << " threads\n";
    }
    std::cout << std::flush;
}

std::string quoted(const std::string& value) {
    std::ostringstream line;
    line << '"';
    for (const char c : value) {
        if (c == '"' || c == '\\') {
            line << '\\' << c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            line << "\\u" << std::hex << std::setw(4) << std::setfill('0') << static_cast<int>(c);
        } else {
            line << c;
        }
    }
    line << '"';
    return line.str();
}

std::string json_of(const Options& options, const bert::Engine& engine, const std::vector<Row>& rows) {
    const auto boolean = [](bool value) { return value ? "true" : "false"; };
    std::string results;
    for (const Row& row : rows) {
        results += text(results.empty() ? "" : ",", "\n    {\n      \"batch_size\": ", row.batch_size,
                        ",\n      \"sequence_length\": ", row.sequence_length, ",\n      \"iterations\": ", row.times.size(),
                        ",\n      \"total_ms\": ", fixed(row.total(), 4), ",\n      \"average_ms\": ", fixed(row.average(), 4),
                        ",\n      \"median_ms\": ", fixed(percentile(row.times, 50), 4),
                        ",\n      \"p95_ms\": ", fixed(percentile(row.times, 95), 4),
                        ",\n      \"p99_ms\": ", fixed(percentile(row.times, 99), 4));
        if (options.threads > 1) {
            results += ",\n      \"sequences_per_s\": " + fixed(row.throughput(), 1);
        }
        results += "\n    }";
    }
    return text("{\n  \"backend\": \"tensorrt\",\n  \"runtime\": \"perf\",\n  \"version\": ", quoted(bert::tensorrt_version()),
                ",\n  \"device\": ", quoted(bert::device_properties().name), ",\n  \"engine\": ", quoted(options.engine),
                ",\n  \"precision\": ", described(options.engine, "precision", "null"),
                ",\n  \"packed\": ", boolean(engine.packed()), ",\n  \"lengths\": null,\n  \"random_seed\": ", options.seed,
                ",\n  \"enable_graph\": ", boolean(options.graphs), ",\n  \"end_to_end\": ", boolean(options.end_to_end),
                ",\n  \"threads\": ", options.threads, ",\n  \"device_memory\": ", engine.activation_bytes(),
                ",\n  \"results\": [", results, "\n  ]\n}\n");
}

void print_header(const Options& options, const bert::Engine& engine) {
    const cudaDeviceProp device = bert::device_properties();
    int driver{}, runtime{};
    BERT_CUDA(cudaDriverGetVersion(&driver));
    BERT_CUDA(cudaRuntimeGetVersion(&runtime));
    const auto version = [](int number) { return text(number / 1000, ".", number % 1000 / 10); };
    std::cout << "Engine: " << options.engine << ", " << (engine.packed() ? "packed" : "padded") << ", profiles "
              << bert::describe(engine.profiles()) << "\n"
              << "Device: " << device.name << ", compute capability " << device.major << "." << device.minor << "\n"
              << "Versions: TensorRT " << bert::tensorrt_version() << ", CUDA driver " << version(driver) << ", CUDA runtime "
              << version(runtime) << "\n"
              << "Device memory: " << fixed(static_cast<double>(engine.activation_bytes()) / (1 << 20), 1)
              << " MiB of activations" << (options.threads > 1 ? " a thread" : "") << "\n"
              << "Timing: " << (options.end_to_end ? "end to end" : "the engine alone") << ", "
              << (options.graphs ? "CUDA graphs" : "no CUDA graphs") << std::endl;
}

void run(const Options& options) {
    std::unique_ptr<OutputFile> output;
    if (!options.json.empty()) {
        output = std::make_unique<OutputFile>(options.json);
    }
    const auto engine = std::make_shared<bert::Engine>(options.engine);
    for (const std::int64_t size : options.batch_sizes) {
        const bert::Shapes shapes = bert::full_shapes(engine->packed(), size, options.sequence_length);
        if (bert::fitting(engine->profiles(), shapes).empty()) {
            throw std::invalid_argument(bert::describe(shapes) + " fits none of the engine's profiles, " +
                                        bert::describe(engine->profiles()) + ": choose -b and -s among them");
        }
    }
    const std::int64_t largest = *std::max_element(options.batch_sizes.begin(), options.batch_sizes.end());
    std::vector<std::unique_ptr<bert::Inference>> owned;
    std::vector<bert::Inference*> inferences;
    for (std::int64_t i = 0; i < options.threads; ++i) {
        owned.push_back(std::make_unique<bert::Inference>(engine, largest, options.sequence_length, options.graphs));
        inferences.push_back(owned.back().get());
    }
    print_header(options, *engine);
    std::vector<Row> rows;
    for (const std::int64_t size : options.batch_sizes) {
        rows.push_back(measure(options, inferences, size));
        print(rows.back(), options);
    }
    if (output) {
        output->write(json_of(options, *engine, rows));
    }
}

int fail(int code, const std::string& message) {
    std::cerr << "error: " << message << std::endl;
    return code;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        run(parse(argc, argv));
        return 0;
    } catch (const std::invalid_argument& e) {
        return fail(2, e.what());
    } catch (const std::filesystem::filesystem_error& e) {
        return fail(2, text(e.path1().string(), " cannot be used: ", e.code().message()));
    } catch (const bert::OutOfMemory& e) {
        return fail(2, text(e.what(), ": close what else uses the GPU, or choose a smaller -b"));
    } catch (const std::exception& e) {
        return fail(1, e.what());
    }
}
