#include "cuda_device.h"

#include <unistd.h>

#include <cstdio>

#include "step.h"

namespace omni_rt::cuda {
namespace {

/// A captured graph, ready to be launched.
class CudaGraph final : public Graph {
 public:
  CudaGraph(cudaGraphExec_t graph, pid_t process) : graph_(graph), process_(process) {}
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph() override;
  [[nodiscard]] cudaGraphExec_t get() const { return graph_; }

 private:
  cudaGraphExec_t graph_;
  pid_t process_;
};

void log_if_failed(cudaError_t code) noexcept {
  if (code != cudaSuccess) std::fprintf(stderr, "omni_rt: CUDA: %s\n", cudaGetErrorString(code));
}

CudaGraph::~CudaGraph() {
  if (getpid() == process_) log_if_failed(cudaGraphExecDestroy(graph_));
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// No driver at all, or one older than this build: CUDA says the same of both.
std::string driver_problem() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return "no NVIDIA driver on this machine: install one, or use engine=\"onnxruntime\"";
  return "the NVIDIA driver is for CUDA " + version_text(driver) + " and this build needs " +
         version_text(CUDART_VERSION) + ": update the driver, or rebuild with an older toolkit";
}

/// What to do about an error that has a remedy; otherwise its own words and the call's place.
std::string line(cudaError_t code, std::source_location at) {
  if (code == cudaErrorInsufficientDriver) return driver_problem();
  if (code == cudaErrorNoDevice) return "no CUDA device is visible: see CUDA_VISIBLE_DEVICES";
  if (code == cudaErrorStreamCaptureInvalidated || code == cudaErrorStreamCaptureUnsupported)
    return "the engine did something that no graph can hold, such as waiting or allocating";
  const std::string file = at.file_name();
  return std::string(cudaGetErrorName(code)) + ": " + cudaGetErrorString(code) + " (" +
         file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(at.line()) + ")";
}

int capability(int ordinal) {
  int major = 0;
  int minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
  return 10 * major + minor;
}

void check_kernels(int ordinal) {
  const cudaError_t found = find_kernels();
  if (found != cudaErrorNoKernelImageForDevice && found != cudaErrorInvalidDeviceFunction)
    return check(found);
  cudaGetLastError();
  const std::string sm = std::to_string(capability(ordinal));
  throw DeviceError("this build has no kernels for sm_" + sm +
                    ": rebuild with -C cmake.define.CMAKE_CUDA_ARCHITECTURES=" + sm);
}

void check_ordinal(int ordinal) {
  int count = 0;
  check(cudaGetDeviceCount(&count));
  if (ordinal < 0 || ordinal >= count)
    throw DeviceError("there is no CUDA device " + std::to_string(ordinal) + ": " +
                      std::to_string(count) + " visible");
}

}  // namespace

void check(cudaError_t code, std::source_location at) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // errors that do not stick are not the next call's
  throw DeviceError(line(code, at));
}

CudaDevice::CudaDevice(int ordinal, std::uintptr_t stream)
    : ordinal_(ordinal), process_(getpid()), owned_(stream == 0) {
  check_ordinal(ordinal);
  check(cudaSetDevice(ordinal));
  check_kernels(ordinal);
  // The caller's stream, or one that does not wait for the legacy default stream.
  stream_ = reinterpret_cast<cudaStream_t>(stream);
  if (owned_) check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaDevice::~CudaDevice() {
  if (forked()) return;
  for (cudaEvent_t mark : marks_) log_if_failed(cudaEventDestroy(mark));
  if (owned_) log_if_failed(cudaStreamDestroy(stream_));
}

bool CudaDevice::forked() const { return getpid() != process_; }

void CudaDevice::enter() {
  if (forked())
    throw DeviceError(
        "this process was forked after CUDA was initialised: open the session in the child, or "
        "start it with multiprocessing's \"spawn\"");
  check(cudaSetDevice(ordinal_));
}

std::uintptr_t CudaDevice::stream() const { return reinterpret_cast<std::uintptr_t>(stream_); }

std::string CudaDevice::name() const {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, ordinal_));
  return properties.name;
}

MemoryInfo CudaDevice::memory() {
  MemoryInfo info;
  check(cudaMemGetInfo(&info.free, &info.total));
  return info;
}

void CudaDevice::check_memory(cudaError_t code, std::size_t wanted, std::source_location at) {
  if (code != cudaErrorMemoryAllocation) return check(code, at);
  cudaGetLastError();
  const MemoryInfo info = memory();
  throw OutOfMemory(wanted, info.free, info.total);
}

void* CudaDevice::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = nullptr;
  check_memory(cudaMalloc(&memory, bytes), bytes);
  check(cudaMemsetAsync(memory, 0, bytes, stream_));
  return memory;
}

void CudaDevice::release(void* memory) noexcept {
  if (!forked()) log_if_failed(cudaFree(memory));
}

void CudaDevice::upload(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_));
}

void CudaDevice::download(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_));
  synchronise();
}

void CudaDevice::zero(void* memory, std::size_t bytes) {
  check(cudaMemsetAsync(memory, 0, bytes, stream_));
}

void CudaDevice::spread(const StepCall& call) { check(launch_spread(call, stream_)); }
void CudaDevice::open_row(const StepCall& call) { check(launch_open_row(call, stream_)); }
void CudaDevice::step(const StepCall& call) { check(launch_step(call, stream_)); }

void CudaDevice::begin_capture() {
  // Other threads may allocate meanwhile; this one may not do what a graph cannot hold.
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
}

std::unique_ptr<Graph> CudaDevice::end_capture() {
  cudaGraph_t captured = nullptr;
  check(cudaStreamEndCapture(stream_, &captured));
  cudaGraphExec_t graph = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&graph, captured, 0);
  log_if_failed(cudaGraphDestroy(captured));
  check_memory(made, 0);
  auto owned = std::make_unique<CudaGraph>(graph, process_);
  check_memory(cudaGraphUpload(graph, stream_), 0);  // or the first launch would do it
  return owned;
}

void CudaDevice::abandon_capture() noexcept {
  cudaGraph_t captured = nullptr;
  cudaStreamEndCapture(stream_, &captured);  // fails if the engine broke the capture: as intended
  if (captured != nullptr) log_if_failed(cudaGraphDestroy(captured));
  cudaGetLastError();
}

void CudaDevice::launch(Graph& graph) {
  check_memory(cudaGraphLaunch(static_cast<CudaGraph&>(graph).get(), stream_), 0);
}

void CudaDevice::mark(std::size_t number) {
  while (marks_.size() <= number) {
    cudaEvent_t mark = nullptr;
    check(cudaEventCreateWithFlags(&mark, cudaEventBlockingSync));
    marks_.push_back(mark);
  }
  check(cudaEventRecord(marks_[number], stream_));
}

void CudaDevice::wait(std::size_t number) { check(cudaEventSynchronize(marks_[number])); }

double CudaDevice::microseconds(std::size_t from, std::size_t to) {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, marks_[from], marks_[to]));
  return 1e3 * static_cast<double>(milliseconds);
}

void CudaDevice::synchronise() { check(cudaStreamSynchronize(stream_)); }

}  // namespace omni_rt::cuda
