#include "apps/bench_sync.hpp"

#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "actors/receiver.hpp"
#include "actors/runtime.hpp"
#include "actors/trainer.hpp"
#include "messages/errors.hpp"

namespace lockstep {
namespace {

using std::chrono::steady_clock;

/// How long everybody has to be seeded: hashing and copying the model a few times.
constexpr std::chrono::minutes seed_patience{5};

class whole_sync_bench {
 public:
  whole_sync_bench(bench_data& data, const sync_bench_options& options)
      : data_(data), options_(options), copy_(data.shape()) {}

  std::vector<sync_result_of_bench> run() {
    if (!data_.next()) throw error(errc::bad_input, "there is no step to measure");
    runtime on(options_.runtime);
    trainer from(on, data_.shape());
    std::vector<std::unique_ptr<receiver>> to;
    from.seed(data_.base());
    for (receiver_id id = 0; id < options_.receivers; ++id) {
      receiver_options o;
      o.id = id;
      to.push_back(std::make_unique<receiver>(on, data_.shape(), std::move(o)));
    }
    if (!from.wait_for_members(to.size(), seed_patience))
      throw error(errc::timeout, "the receivers were not seeded");
    std::vector<sync_result_of_bench> out;
    for (std::uint32_t i = 0; i <= options_.syncs; ++i) {
      if (i > 0) advance();
      auto result = sync(from, i + 1);
      if (i > 0) out.push_back(std::move(result));
    }
    for (const auto& r : to) check(*r);
    return out;
  }

 private:
  const weight_buffer& now() const noexcept { return back_ ? data_.base() : data_.target(); }

  void advance() {
    if (!over_ && data_.next()) return;
    over_ = true;
    back_ = !back_;
  }

  sync_result_of_bench sync(trainer& from, std::uint64_t label) {
    sync_result_of_bench out;
    const auto begin = steady_clock::now();
    const auto ticket = from.sync(label, now());
    out.released = steady_clock::now() - begin;
    out.report = ticket.wait();
    if (out.report.result != sync_result::ok)
      throw error(errc::timeout, "sync " + std::to_string(label) + " was " +
                                     std::string(to_string(out.report.result)) + ": " +
                                     std::string(to_string(out.report.reason)) + " " +
                                     out.report.detail);
    const auto copying = steady_clock::now();
    for (std::size_t i = 0; i < copy_.shape().count(); ++i)
      if (copy_.shape().bytes(i) != 0)
        std::memcpy(copy_.tensor(i).data(), now().tensor(i).data(), copy_.shape().bytes(i));
    out.copied = steady_clock::now() - copying;
    return out;
  }

  void check(const receiver& r) const {
    for (std::size_t i = 0; i < data_.shape().count(); ++i)
      if (data_.shape().bytes(i) != 0 &&
          std::memcmp(r.tensor(i).data(), now().tensor(i).data(), data_.shape().bytes(i)) != 0)
        throw error(errc::wrong_target, r.name() + " holds other bytes than the trainer");
  }

  bench_data& data_;
  const sync_bench_options& options_;
  weight_buffer copy_;
  bool over_ = false;  ///< no more steps
  bool back_ = false;  ///< the fleet is brought back to the last step's base
};

}  // namespace

std::vector<sync_result_of_bench> bench_sync(bench_data& data, const sync_bench_options& options) {
  return whole_sync_bench(data, options).run();
}

}  // namespace lockstep
