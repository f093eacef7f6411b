#include "transport/nccl.hpp"

#include <dlfcn.h>

#include <cstring>
#include <exception>
#include <thread>

namespace lockstep {
namespace {

// NCCL's binary interface, as far as it is used; none of this has changed since 2.14.
constexpr int nccl_success = 0;
constexpr int nccl_remote_error = 6;
constexpr int nccl_in_progress = 7;
constexpr int nccl_uint8 = 1;
constexpr int version_min = 21400;

struct unique_id {
  char bytes[128];
};
static_assert(sizeof(unique_id) == sizeof(nccl_id));

/// The configuration as it was in 2.14; later versions take it, and fill up what it lacks.
struct config {
  std::size_t size = sizeof(config);
  unsigned magic = 0xcafebeef;
  unsigned version = version_min;
  int blocking = 0;
};

constexpr auto poll_interval = std::chrono::microseconds(200);

}  // namespace

struct nccl_library::functions {
  int (*get_version)(int*) = nullptr;
  int (*get_unique_id)(unique_id*) = nullptr;
  int (*init_rank)(void**, int, unique_id, int, config*) = nullptr;
  int (*async_error)(void*, int*) = nullptr;
  int (*abort)(void*) = nullptr;
  int (*broadcast)(const void*, void*, std::size_t, int, int, void*, void*) = nullptr;
  const char* (*error_string)(int) = nullptr;
  int version = 0;
};

nccl_library::nccl_library() : functions_(std::make_unique<functions>()) {}

// Not closed: its threads may still be in it.
nccl_library::~nccl_library() = default;

int nccl_library::version() const noexcept {
  return functions_->version;
}

std::shared_ptr<const nccl_library> nccl_library::open(const std::string& path, failure& why) {
  const std::shared_ptr<nccl_library> library(new nccl_library);
  library->handle_ = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library->handle_ == nullptr) {
    why = {errc::bad_input, std::string("NCCL: ") + ::dlerror()};
    return nullptr;
  }
  const char* missing = nullptr;
  const auto find = [&](auto& function, const char* name) {
    void* const found = ::dlsym(library->handle_, name);
    if (found == nullptr) missing = name;
    std::memcpy(&function, &found, sizeof found);
  };
  functions& call = *library->functions_;
  find(call.get_version, "ncclGetVersion");
  find(call.get_unique_id, "ncclGetUniqueId");
  find(call.init_rank, "ncclCommInitRankConfig");
  find(call.async_error, "ncclCommGetAsyncError");
  find(call.abort, "ncclCommAbort");
  find(call.broadcast, "ncclBroadcast");
  find(call.error_string, "ncclGetErrorString");
  if (missing != nullptr) {
    why = {errc::bad_input, "NCCL: " + path + " has no " + missing};
    return nullptr;
  }
  if (call.get_version(&call.version) != nccl_success || call.version < version_min) {
    why = {errc::bad_input, "NCCL: " + path + " is version " + std::to_string(call.version) +
                                ", not " + std::to_string(version_min) + " or later"};
    return nullptr;
  }
  return library;
}

nccl_group::nccl_group(std::shared_ptr<const nccl_library> library)
    : library_(std::move(library)) {}

nccl_group::~nccl_group() {
  abort();
}

failure nccl_group::make_id(const nccl_library& library, nccl_id& id) {
  unique_id made{};
  const int status = library.call().get_unique_id(&made);
  if (status != nccl_success)
    return {errc::bad_input, std::string("NCCL: no id: ") + library.call().error_string(status)};
  std::memcpy(id.data(), made.bytes, id.size());
  return {};
}

failure nccl_group::join(const nccl_id& id, int size, int rank, clock::time_point until) {
  abort();
  unique_id given{};
  std::memcpy(given.bytes, id.data(), id.size());
  config wish;
  const int status = library_->call().init_rank(&communicator_, size, given, rank, &wish);
  return settle(status, "joining", nullptr, until);
}

failure nccl_group::broadcast(void* buffer, std::size_t bytes, int root, void* stream,
                              const done_function& done, clock::time_point until) {
  if (communicator_ == nullptr) return {errc::dead, "NCCL: broadcast: the group is over"};
  const int status =
      library_->call().broadcast(buffer, buffer, bytes, nccl_uint8, root, communicator_, stream);
  return settle(status, "broadcast", done, until);
}

failure nccl_group::settle(int status, const char* what, const done_function& done,
                           clock::time_point until) {
  const nccl_library::functions& call = library_->call();
  const auto text = [&](int of) {
    return std::string("NCCL: ") + what + ": " + call.error_string(of);
  };
  if (communicator_ == nullptr && (status == nccl_success || status == nccl_in_progress))
    status = nccl_remote_error;  // and nothing to ask why
  if (status != nccl_success && status != nccl_in_progress)
    return give_up(status == nccl_remote_error ? errc::dead : errc::bad_input, text(status));
  for (;;) {
    int state = nccl_success;
    status = call.async_error(communicator_, &state);
    if (status != nccl_success) state = status;
    if (state != nccl_success && state != nccl_in_progress) return give_up(errc::dead, text(state));
    try {
      if (state == nccl_success && (!done || done())) return {};
    } catch (const std::exception& e) {
      return give_up(errc::apply_failed, std::string("NCCL: ") + what + ": " + e.what());
    }
    if (clock::now() >= until)
      return give_up(errc::timeout, std::string("NCCL: ") + what + ": not all answered in time");
    std::this_thread::sleep_for(poll_interval);
  }
}

failure nccl_group::give_up(errc reason, const std::string& detail) noexcept {
  abort();
  return {reason, detail};
}

void nccl_group::abort() noexcept {
  if (communicator_ == nullptr) return;
  library_->call().abort(communicator_);
  communicator_ = nullptr;
}

}  // namespace lockstep
