// Times an engine on random tokens. The figures and the JSON are those of perf.py.
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <iomanip>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "inference.h"

namespace {

constexpr char usage[] = R"(usage: perf -e ENGINE [-b BATCH_SIZE]... [options]

Times an engine on random tokens: the network alone, without copies, measured with CUDA events.

  -e, --engine FILE           engine file
  -b, --batch-size N          batch size; may be repeated (default: 1)
  -s, --sequence-length N     tokens of each sequence (default: 128)
  -i, --iterations N          timed runs a batch size, and a thread (default: 200, or fewer in 10 s, but at least 3)
  -w, --warm-up-runs N        runs before the clock starts (default: 10, or fewer in 2 s, but at least 1)
  -d, --duration SECONDS      least seconds a batch size (default: 0)
  -r, --random-seed N         seed of the input tokens (default: 12345)
      --enable_graph          replay a captured CUDA graph
      --end-to-end            from arrays on the host to logits on the host, measured with a wall clock
      --threads N             contexts that share the engine, each with a thread of its own (default: 1)
      --json FILE             write the figures to this file, with device, versions and engine
  -h, --help                  show this
)";

// How many runs are enough: `most`, or as many as `seconds` allow, but at least `least`.
struct Runs {
    std::int64_t most, least = 0;
    double seconds = std::numeric_limits<double>::infinity();

    bool enough(std::int64_t count, double passed) const { return count >= most || (count >= least && passed >= seconds); }
};

struct Options {
    std::string engine, json;
    std::vector<std::int64_t> batch_sizes;
    Runs iterations{200, 3, 10}, warm_up_runs{10, 1, 2};
    std::int64_t sequence_length = 128, threads = 1, seed = 12345;
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

// Writes all of a text; false, and errno, where that cannot be.
bool write_all(int descriptor, const std::string& content) {
    for (std::size_t done = 0; done < content.size();) {
        const ssize_t part = write(descriptor, content.data() + done, content.size() - done);
        if (part < 0 && errno != EINTR) {
            return false;
        }
        done += static_cast<std::size_t>(std::max<ssize_t>(part, 0));
    }
    return true;
}

void say(const std::string& content) {
    if (!write_all(STDOUT_FILENO, content)) {
        throw bert::Error(text("standard output cannot be written: ", std::strerror(errno)));
    }
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
            case 'i': options.iterations = {whole_number("--iterations", optarg, 1)}; break;
            case 'w': options.warm_up_runs = {whole_number("--warm-up-runs", optarg, 0)}; break;
            case 'd': options.duration = seconds(optarg); break;
            case 'r': options.seed = whole_number("--random-seed", optarg, 0); break;
            case enable_graph: options.graphs = true; break;
            case end_to_end: options.end_to_end = true; break;
            case threads: options.threads = whole_number("--threads", optarg, 1); break;
            case json: options.json = optarg; break;
            case 'h': say(usage); std::exit(0);
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

// What is under way on the disk, which the end of the process must not leave there.
struct {
    std::timed_mutex mutex;  // whoever has it makes, moves or removes the file
    std::string path;
} temporary;

// Where the figures go. A file is replaced as a whole, after each row; a device or a pipe gets the figures once, at the end.
class Output {
public:
    // Finds out before the work starts whether it can be written, and is none of the files that are read.
    Output(std::string path, const std::vector<std::string>& inputs) : path_(std::move(path)), target_(path_) {
        struct stat found {}, other {};
        if (stat(path_.c_str(), &found) == 0) {
            for (const std::string& input : inputs) {
                if (stat(input.c_str(), &other) == 0 && same(found, other)) {
                    throw std::invalid_argument("output " + path_ + " is read as well, and would be overwritten: name another file");
                }
            }
            for (const int descriptor : {STDOUT_FILENO, STDERR_FILENO}) {
                if (fstat(descriptor, &other) == 0 && same(found, other)) {
                    standard_ = descriptor;
                }
            }
            if (S_ISDIR(found.st_mode) || access(path_.c_str(), W_OK) != 0) {
                throw std::invalid_argument(refusal());
            }
            stream_ = standard_ != -1 || !S_ISREG(found.st_mode);
            mode_ = found.st_mode & 07777;
            if (!stream_) {
                target_ = std::filesystem::canonical(path_).string();
            }
        }
        if (!stream_) {
            const std::lock_guard lock(temporary.mutex);
            close(make());
            remove();
        }
    }

    bool stream() const { return stream_; }

    void write(const std::string& content) const {
        if (stream_) {
            const int descriptor = standard_ != -1 ? dup(standard_) : open(path_.c_str(), O_WRONLY | O_CLOEXEC);
            if (descriptor == -1 || !write_all(descriptor, content) || close(descriptor) != 0) {
                throw std::invalid_argument(text("cannot write ", path_, ": ", std::strerror(errno)));
            }
            return;
        }
        const std::lock_guard lock(temporary.mutex);
        const int descriptor = make();
        if (mode_ != -1) {
            static_cast<void>(fchmod(descriptor, static_cast<mode_t>(mode_)));
        }
        const bool written = write_all(descriptor, content) && fsync(descriptor) == 0;
        const bool closed = close(descriptor) == 0;
        if (!written || !closed || rename(temporary.path.c_str(), target_.c_str()) != 0) {
            const int reason = errno;
            remove();
            throw std::invalid_argument(text("cannot write ", path_, ": ", std::strerror(reason)));
        }
        temporary.path.clear();
    }

private:
    static bool same(const struct stat& one, const struct stat& other) {
        return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
    }

    std::string refusal() const { return "cannot write " + path_ + ": name a file in a folder that is there and writable"; }

    // Opens a file beside the target under a name that nobody else has.
    int make() const {
        std::random_device random;
        const auto part = [&] { return text(std::hex, std::setw(8), std::setfill('0'), random()); };
        const std::filesystem::path name = std::filesystem::path(target_).parent_path() / ("." + part() + part() + ".part");
        const int descriptor = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor == -1) {
            throw std::invalid_argument(refusal());
        }
        temporary.path = name.string();
        return descriptor;
    }

    static void remove() {
        unlink(temporary.path.c_str());
        temporary.path.clear();
    }

    std::string path_, target_;  // as it was given, and where its links lead
    int standard_ = -1;          // the descriptor, standard output or error, that leads to it
    int mode_ = -1;              // of a file that is there
    bool stream_ = false;
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

// A number or a name in the description beside an engine, as JSON.
std::string described(const std::string& engine, const std::string& key, const std::string& otherwise) {
    constexpr std::uintmax_t most = 64 << 20;
    std::error_code failure;
    const std::uintmax_t size = std::filesystem::file_size(engine + ".json", failure);  // what is no file has none
    if (failure || size > most) {
        return otherwise;
    }
    std::ostringstream description;
    description << std::ifstream(engine + ".json").rdbuf();
    const std::string content = description.str(), name = '"' + key + "\": ";
    const std::size_t at = content.find(name);
    if (at == std::string::npos) {
        return otherwise;
    }
    const std::size_t begin = at + name.size();
    const std::string value = content.substr(begin, content.find_first_of(",}\n", begin) - begin);
    const auto plain = [](unsigned char c) { return std::isalnum(c) || c == '"' || c == ' '; };
    return std::all_of(value.begin(), value.end(), plain) ? value : otherwise;
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
        const auto start = Clock::now();
        for (std::int64_t i = 0; !options.warm_up_runs.enough(i, since(start)); ++i) {
            run(inference, logits);
        }
        return 0;
    });
    const auto start = Clock::now();
    const auto times = on_threads(inferences, [&](bert::Inference& inference) {
        std::vector<float> logits(size);
        std::vector<double> own;
        const auto count = [&] { return static_cast<std::int64_t>(own.size()); };
        while (!options.iterations.enough(count(), since(start)) || since(start) < options.duration) {
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
    std::string lines = text("Running ", row.times.size(), " iterations with Batch Size: ", row.batch_size,
                             ", Sequence Length: ", row.sequence_length, "\n\tTotal time: ", ms(row.total()),
                             "\tAverage: ", ms(row.average()), "\tMedian: ", ms(percentile(row.times, 50)),
                             "\t95th percentile: ", ms(percentile(row.times, 95)),
                             "\t99th percentile: ", ms(percentile(row.times, 99)));
    if (options.threads > 1) {
        lines += text("\tThroughput: ", fixed(row.throughput(), 1), " sequences/s on ", options.threads, " threads\n");
    }
    say(lines);
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
    say(text("Engine: ", options.engine, ", ", engine.packed() ? "packed" : "padded", ", profiles ",
             bert::describe(engine.profiles()), "\nDevice: ", device.name, ", compute capability ", device.major, ".",
             device.minor, "\nVersions: TensorRT ", bert::tensorrt_version(), ", CUDA driver ", version(driver),
             ", CUDA runtime ", version(runtime), "\nDevice memory: ",
             fixed(static_cast<double>(engine.activation_bytes()) / (1 << 20), 1), " MiB of activations",
             options.threads > 1 ? " a thread" : "", "\nTiming: ", options.end_to_end ? "end to end" : "the engine alone", ", ",
             options.graphs ? "CUDA graphs" : "no CUDA graphs", "\n"));
}

void run(const Options& options) {
    std::unique_ptr<Output> output;
    if (!options.json.empty()) {
        output = std::make_unique<Output>(options.json, std::vector{options.engine, options.engine + ".json"});
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
        if (output && (!output->stream() || rows.size() == options.batch_sizes.size())) {
            output->write(json_of(options, *engine, rows));
        }
    }
}

int fail(int code, std::string message) {
    // What a terminal would obey may stand in the name of a file, and in what TensorRT says of one.
    std::replace_if(message.begin(), message.end(), [](unsigned char c) { return std::iscntrl(c); }, ' ');
    write_all(STDERR_FILENO, "error: " + message + "\n");
    return code;
}

// Descriptors that are closed lead nowhere, lest a file that is opened takes one.
void mend_streams() {
    for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (fcntl(descriptor, F_GETFD) == -1) {
            open("/dev/null", O_RDONLY);
        }
    }
}

// As the scripts end by a signal: at once, with nothing half-written, and 128 + its number.
[[noreturn]] void end_by(int number) {
    const std::unique_lock lock(temporary.mutex, std::chrono::milliseconds(500));
    if (lock && !temporary.path.empty()) {
        unlink(temporary.path.c_str());
    }
    const char* const by = number == SIGTERM ? " by SIGTERM" : number == SIGHUP ? " by SIGHUP" : "";
    pollfd error{STDERR_FILENO, POLLOUT, 0};
    if (poll(&error, 1, 100) == 1) {  // a pipe that nobody reads must not keep the process
        write_all(STDERR_FILENO, text("\ninterrupted", by, "\n"));
    }
    _exit(128 + number);
}

extern "C" void gave_up(int) {
    alarm(2);  // for the case that the heap is what is broken
    _exit(fail(1, "a library of NVIDIA's gave up, as plugins do where the GPU's memory runs out: close what else uses the GPU"));
}

// A thread waits for the signals that end the process, which all others are kept from.
void take_signals() {
    sigset_t ending;
    sigemptyset(&ending);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
        const auto before = std::signal(number, SIG_DFL);
        if (number == SIGHUP && before == SIG_IGN) {  // nohup has it ignored on purpose, a shell SIGINT by habit
            std::signal(number, SIG_IGN);
        } else {
            sigaddset(&ending, number);
        }
    }
    pthread_sigmask(SIG_BLOCK, &ending, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGABRT, gave_up);
    std::thread([ending] {
        int number{};
        sigwait(&ending, &number);
        end_by(number);
    }).detach();
}

}  // namespace

int main(int argc, char** argv) {
    try {
        mend_streams();
        take_signals();
        run(parse(argc, argv));
        return 0;
    } catch (const std::invalid_argument& e) {
        return fail(2, e.what());
    } catch (const std::filesystem::filesystem_error& e) {
        return fail(2, text(e.path1().string(), " cannot be used: ", e.code().message()));
    } catch (const bert::OutOfMemory& e) {
        return fail(2, text(e.what(), "; close what else uses the GPU, or choose a smaller -b"));
    } catch (const std::bad_alloc&) {
        return fail(1, "out of memory");
    } catch (const std::exception& e) {
        return fail(1, e.what());
    }
}
