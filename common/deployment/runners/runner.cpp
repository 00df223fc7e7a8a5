// Image to embedding with ONNX Runtime alone: runner PACKAGE IMAGE.ppm [LIBRARY]
//
// PACKAGE is the folder of this file, IMAGE.ppm a binary PPM (P6, 8 bits) of one person. With LIBRARY, the path of
// libonnxruntime_providers_qnn.so, the compiled context runs on the NPU without a fallback; without it, the INT8 ONNX
// graph runs on the CPU. Prints one line of JSON: where it ran, and the L2-normalised embedding.
//
//   g++ -std=c++17 -O2 runner.cpp -I ORT/include -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib -o runner
//
// It uses ONNX Runtime's C interface, which stays binary compatible over releases: headers of 1.22 or newer for the NPU,
// older ones for the CPU only.

#include <onnxruntime_c_api.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

const OrtApi* ort = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error(message);
}

template <typename T>
using Owned = std::unique_ptr<T, std::function<void(T*)>>;

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The value of a key that occurs once: the package's JSON is written so, which spares a parser.
std::string value_of(const std::string& json, const std::string& key) {
  const auto at = json.find('"' + key + "\":");
  if (at == std::string::npos) throw std::runtime_error("the package does not state \"" + key + '"');
  const auto start = json.find_first_not_of(" \n", at + key.size() + 3);
  if (json[start] == '"') return json.substr(start + 1, json.find('"', start + 1) - start - 1);
  return json.substr(start, json.find_first_of(",}\n", start) - start);
}

// The same of a key that holds one number, or a list of one for each channel.
std::vector<float> numbers_of(const std::string& json, const std::string& key, size_t channels) {
  const auto at = json.find('"' + key + "\":");
  if (at == std::string::npos) throw std::runtime_error("the package does not state \"" + key + '"');
  const auto start = json.find_first_not_of(" \n", at + key.size() + 3);
  if (json[start] != '[') return std::vector<float>(channels, std::stof(value_of(json, key)));
  std::vector<float> numbers;
  for (auto next = start; json.at(next) != ']'; next = json.find_first_of(",]", next + 1)) {
    numbers.push_back(std::stof(json.substr(next + 1)));
  }
  if (numbers.size() != channels) throw std::runtime_error('"' + key + "\" needs a number for each channel");
  return numbers;
}

struct Image {
  int height, width, channels;
  std::vector<uint8_t> pixels;  // rows, columns, channels
};

Image read_ppm(const std::string& path) {
  const std::string content = read(path);
  std::array<int, 3> numbers{};  // width, height, largest value
  size_t at = 2;
  for (int& number : numbers) {
    while (at < content.size() && (std::isspace(static_cast<unsigned char>(content[at])) || content[at] == '#')) {
      at = content[at] == '#' ? std::min(content.find('\n', at), content.size()) : at + 1;
    }
    while (at < content.size() && std::isdigit(static_cast<unsigned char>(content[at])) && number < 100000) {
      number = 10 * number + (content[at++] - '0');
    }
  }
  const auto [width, height, largest] = numbers;
  const size_t size = size_t{3} * width * height;
  if (content.compare(0, 2, "P6") != 0 || size == 0 || largest != 255 || content.size() < at + 1 + size) {
    throw std::runtime_error(path + ": expected a binary PPM (P6) with 8 bits a channel");
  }
  const auto* first = reinterpret_cast<const uint8_t*>(content.data()) + at + 1;
  return {height, width, 3, {first, first + size}};
}

Image with_channels(Image image, const std::string& order) {
  const int channels = order == "GRAY" ? 1 : order == "RGBA" ? 4 : 3;
  if (channels == 3) return image;
  Image result{image.height, image.width, channels, {}};
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    const uint8_t* rgb = &image.pixels[i];
    if (channels == 1) {  // ITU-R BT.601
      const float luma = 0.299f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2];
      result.pixels.push_back(static_cast<uint8_t>(std::nearbyint(luma)));
    } else {
      result.pixels.insert(result.pixels.end(), {rgb[0], rgb[1], rgb[2], 255});
    }
  }
  return result;
}

double kernel(const std::string& method, double x) {
  const auto sinc = [](double v) { return v < 1e-9 ? 1.0 : std::sin(M_PI * v) / (M_PI * v); };
  if (method == "bilinear") return x < 1 ? 1 - x : 0;
  if (method == "bicubic") {  // Keys, a = -0.5
    if (x >= 2) return 0;
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((2.5 - 0.5 * x) * x - 4) * x + 2;
  }
  if (method == "lanczos3") return x < 3 ? sinc(x) * sinc(x / 3) : 0;
  if (method == "lanczos5") return x < 5 ? sinc(x) * sinc(x / 5) : 0;
  if (method == "gaussian") return x < 1.5 ? std::exp(-2 * x * x) : 0;
  if (method == "mitchellcubic") {
    if (x >= 2) return 0;
    return (x < 1 ? (7 * x - 12) * x * x + 16.0 / 3 : ((12 - 7.0 / 3 * x) * x - 20) * x + 32.0 / 3) / 6;
  }
  throw std::runtime_error("preprocessing.json: unknown interpolation " + method);
}

// Share of each of `source` pixels in each of `target` pixels; rows sum to 1.
std::vector<std::vector<double>> weights(int source, int target, const std::string& method) {
  const double ratio = static_cast<double>(source) / target;
  std::vector<std::vector<double>> rows(target, std::vector<double>(source));
  for (int i = 0; i < target; ++i) {
    const double centre = (i + 0.5) * ratio, start = i * ratio;
    double sum = 0;
    for (int j = 0; j < source; ++j) {
      double& weight = rows[i][j];
      if (method == "nearest") {
        weight = j == std::min(static_cast<int>(centre), source - 1);
      } else if (method == "area") {
        weight = std::max(std::min(start + ratio, j + 1.0) - std::max(start, static_cast<double>(j)), 0.0);
      } else {
        weight = kernel(method, std::abs(j + 0.5 - centre));
      }
      sum += weight;
    }
    for (double& weight : rows[i]) weight /= sum;
  }
  return rows;
}

Image resize(const Image& image, int height, int width, const std::string& method) {
  if (image.height == height && image.width == width) return image;
  const auto rows = weights(image.height, height, method), columns = weights(image.width, width, method);
  const int channels = image.channels;
  Image result{height, width, channels, std::vector<uint8_t>(size_t{1} * height * width * channels)};
  std::vector<double> line(size_t{1} * image.width * channels);
  for (int i = 0; i < height; ++i) {
    std::fill(line.begin(), line.end(), 0.0);
    for (int y = 0; y < image.height; ++y) {
      if (rows[i][y] == 0) continue;
      const uint8_t* source = &image.pixels[size_t{1} * y * line.size()];
      for (size_t k = 0; k < line.size(); ++k) line[k] += rows[i][y] * source[k];
    }
    for (int j = 0; j < width; ++j) {
      for (int c = 0; c < channels; ++c) {
        double value = 0;
        for (int x = 0; x < image.width; ++x) value += columns[j][x] * line[size_t{1} * x * channels + c];
        const float rounded = std::nearbyint(static_cast<float>(value));
        result.pixels[(size_t{1} * i * width + j) * channels + c] =
            static_cast<uint8_t>(std::clamp(rounded, 0.0f, 255.0f));
      }
    }
  }
  return result;
}

// The part of `image` that starts at (top, left); what lies outside is black.
Image window(const Image& image, int top, int left, int height, int width) {
  Image result{height, width, image.channels, std::vector<uint8_t>(size_t{1} * height * width * image.channels)};
  for (int y = std::max(0, -top); y < std::min(height, image.height - top); ++y) {
    for (int x = std::max(0, -left); x < std::min(width, image.width - left); ++x) {
      const uint8_t* source = &image.pixels[(size_t{1} * (y + top) * image.width + x + left) * image.channels];
      std::copy_n(source, image.channels, &result.pixels[(size_t{1} * y * width + x) * image.channels]);
    }
  }
  return result;
}

int round_div(int64_t numerator, int64_t denominator) {
  return static_cast<int>((2 * numerator + denominator) / (2 * denominator));
}

Image fit(const Image& image, int height, int width, const std::string& aspect_ratio, const std::string& method) {
  const int64_t rows = image.height, columns = image.width;
  if (aspect_ratio == "crop") {
    const int kept_rows = std::clamp(round_div(columns * height, width), 1, image.height);
    const int kept_columns = std::clamp(round_div(rows * width, height), 1, image.width);
    const int top = (image.height - kept_rows) / 2, left = (image.width - kept_columns) / 2;
    return resize(window(image, top, left, kept_rows, kept_columns), height, width, method);
  }
  if (aspect_ratio != "padding") return resize(image, height, width, method);
  const int inner_rows = std::clamp(round_div(rows * width, columns), 1, height);
  const int inner_columns = std::clamp(round_div(columns * height, rows), 1, width);
  const Image inner = resize(image, inner_rows, inner_columns, method);
  return window(inner, -((height - inner_rows) / 2), -((width - inner_columns) / 2), height, width);
}

// float32 (height, width, channels), or (channels, height, width) where the layout says so.
std::vector<float> preprocess(const Image& photo, const std::string& json) {
  const int height = std::stoi(value_of(json, "height")), width = std::stoi(value_of(json, "width"));
  const Image image = fit(with_channels(photo, value_of(json, "color_order")), height, width,
                          value_of(json, "aspect_ratio"), value_of(json, "interpolation"));
  const bool channels_first = value_of(json, "layout") == "NCHW";
  const size_t area = size_t{1} * height * width, channels = image.channels;
  const auto scale = numbers_of(json, "scale", channels), offset = numbers_of(json, "offset", channels);
  std::vector<float> values(image.pixels.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t target = channels_first ? (i % channels) * area + i / channels : i;
    values[target] = image.pixels[i] * scale[i % channels] + offset[i % channels];
  }
  return values;
}

#if ORT_API_VERSION >= 22
// Put the whole graph on the NPU: without these options ONNX Runtime falls back to the CPU silently.
void use_npu(OrtEnv* environment, OrtSessionOptions* options, const std::string& library, const std::string& soc,
             const std::string& mode) {
  static const char* const provider = "QNNExecutionProvider";
  const std::basic_string<ORTCHAR_T> path(library.begin(), library.end());
  check(ort->RegisterExecutionProviderLibrary(environment, provider, path.c_str()));
  const OrtEpDevice* const* devices = nullptr;
  size_t count = 0;
  check(ort->GetEpDevices(environment, &devices, &count));
  std::vector<const OrtEpDevice*> chosen;
  std::copy_if(devices, devices + count, std::back_inserter(chosen), [](const OrtEpDevice* device) {
    return std::strcmp(ort->EpDevice_EpName(device), provider) == 0;
  });
  if (chosen.empty()) throw std::runtime_error(library + " offers no " + provider + " device");
  const char* keys[] = {"backend_type", "soc_model", "offload_graph_io_quantization", "htp_performance_mode"};
  const char* values[] = {"htp", soc.c_str(), "0", mode.c_str()};
  check(ort->AddSessionConfigEntry(options, "session.disable_cpu_ep_fallback", "1"));
  check(ort->SessionOptionsAppendExecutionProvider_V2(options, environment, chosen.data(), chosen.size(), keys,
                                                      values, 4));
}
#else
void use_npu(OrtEnv*, OrtSessionOptions*, const std::string&, const std::string&, const std::string&) {
  throw std::runtime_error("the NPU needs a runner that was compiled with the headers of ONNX Runtime 1.22 or newer");
}
#endif

std::vector<float> embed(OrtSession* session, const std::string& manifest, const std::string& input,
                         std::vector<float>& pixels, const std::vector<int64_t>& shape) {
  OrtMemoryInfo* memory = nullptr;
  check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
  const Owned<OrtMemoryInfo> owned_memory(memory, ort->ReleaseMemoryInfo);
  OrtValue* tensor = nullptr;
  check(ort->CreateTensorWithDataAsOrtValue(memory, pixels.data(), pixels.size() * sizeof(float), shape.data(),
                                            shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &tensor));
  const Owned<OrtValue> owned_tensor(tensor, ort->ReleaseValue);
  const std::string output = value_of(manifest, "output");
  const char *input_name = input.c_str(), *output_name = output.c_str();
  OrtValue* result = nullptr;
  check(ort->Run(session, nullptr, &input_name, &tensor, 1, &output_name, 1, &result));
  const Owned<OrtValue> owned_result(result, ort->ReleaseValue);
  void* data = nullptr;
  check(ort->GetTensorMutableData(result, &data));
  const auto* first = static_cast<const float*>(data);
  std::vector<float> vector(first, first + std::stoi(value_of(manifest, "embedding_dim")));
  double squares = 0;
  for (const float value : vector) squares += static_cast<double>(value) * value;
  for (float& value : vector) value /= static_cast<float>(std::max(std::sqrt(squares), 1e-12));
  return vector;
}

void run(const std::string& package, const std::string& photo, const std::string& library, std::FILE* answers) {
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == nullptr) throw std::runtime_error("the library of ONNX Runtime is older than the header");
  const std::string manifest = read(package + "/package.json"), json = read(package + "/preprocessing.json");
  std::vector<float> pixels = preprocess(read_ppm(photo), json);
  std::vector<int64_t> shape = {1, std::stoi(value_of(json, "height")), std::stoi(value_of(json, "width"))};
  const int64_t channels = static_cast<int64_t>(pixels.size()) / (shape[1] * shape[2]);
  shape.insert(value_of(json, "layout") == "NCHW" ? shape.begin() + 1 : shape.end(), channels);

  OrtEnv* environment = nullptr;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "runner", &environment));
  const Owned<OrtEnv> owned_environment(environment, ort->ReleaseEnv);
  OrtSessionOptions* options = nullptr;
  check(ort->CreateSessionOptions(&options));
  const Owned<OrtSessionOptions> owned_options(options, ort->ReleaseSessionOptions);
  const bool npu = !library.empty();
  if (npu) {
    use_npu(environment, options, library, value_of(manifest, "soc_model"), value_of(manifest, "performance_mode"));
  }
  const std::string file = package + '/' + value_of(manifest, npu ? "qnn_context" : "onnx");
  OrtSession* session = nullptr;
  check(ort->CreateSession(environment, std::basic_string<ORTCHAR_T>(file.begin(), file.end()).c_str(), options,
                           &session));
  const Owned<OrtSession> owned_session(session, ort->ReleaseSession);
  const std::vector<float> vector = embed(session, manifest, value_of(json, "name"), pixels, shape);
#if defined(__x86_64__) || defined(_M_X64)
  const char* chip = "qnn_htp_emulator";
#else
  const char* chip = "qnn_htp";
#endif
  std::fprintf(answers, "{\"runs_on\": \"%s\", \"embedding\": [", npu ? chip : "onnxruntime_cpu");
  for (size_t i = 0; i < vector.size(); ++i) std::fprintf(answers, "%s%.9g", i == 0 ? "" : ", ", vector[i]);
  std::fprintf(answers, "]}\n");
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || count > 4) {
    std::fprintf(stderr, "usage: runner PACKAGE IMAGE.ppm [LIBRARY]\n");
    return 2;
  }
  std::FILE* answers = fdopen(dup(STDOUT_FILENO), "w");
  dup2(STDERR_FILENO, STDOUT_FILENO);  // the QNN libraries print to stdout, which is for JSON
  try {
    run(arguments[1], arguments[2], count == 4 ? arguments[3] : "", answers);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  std::fclose(answers);
  return 0;
}
