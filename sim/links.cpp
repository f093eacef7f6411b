#include "sim/links.hpp"

#include <algorithm>

#include "messages/errors.hpp"
#include "sim/fleet.hpp"

namespace lockstep::sim {

namespace {

/// Far more than any measurement needs.
constexpr std::uint64_t steps_max = 50'000'000;

run_options quiet(const link_options& o) {
  run_options out;
  out.seed = o.seed;
  out.receivers = o.receivers;
  out.fanout = o.fanout;
  out.link_bytes_per_s = o.link_bytes_per_s;
  out.tensors = o.tensors;
  set_rate(out.rates, "none");
  return out;
}

class measurement {
 public:
  explicit measurement(const link_options& o)
      : options_(quiet(o)),
        trace_(trace_level::none, {}),
        scheduler_(o.seed),
        dice_(o.seed, options_.rates),
        fleet_(options_, scheduler_, dice_, trace_),
        network_(scheduler_, dice_, trace_, fleet_, o.seed) {
    network_.set_rate(o.link_bytes_per_s);
  }
  ~measurement() { scheduler_.end(); }

  link_result run() {
    fleet_.start(network_);
    until([this] { return is_linked(); });
    sync();  // the first finds every buffer cold; here it only shows that there is no luck in it
    const auto trainer = network_.sent_by(fleet_.leader().where);
    std::vector<std::uint64_t> before;
    for (const auto& r : fleet_.receivers()) before.push_back(network_.sent_by(r.where));
    const auto report = sync();
    link_result out;
    out.seconds = (report.ship + report.vote + report.commit).count();
    out.delta_bytes = report.wire_bytes;
    out.trainer_bytes = network_.sent_by(fleet_.leader().where) - trainer;
    for (const auto& r : fleet_.receivers())
      out.receiver_bytes_max =
          std::max(out.receiver_bytes_max, network_.sent_by(r.where) - before[r.where]);
    return out;
  }

 private:
  template <class Done>
  void until(Done done) {
    for (std::uint64_t steps = 0; !done(); ++steps)
      if (steps == steps_max || !scheduler_.step())
        throw error(errc::timeout, "the simulated fleet comes to no end");
  }

  /// Everybody is a member, and whatever is planned is linked.
  bool is_linked() {
    const auto* s = fleet_.actors_of(fleet_.leader()).supervisor;
    if (!s || s->policy->records().size() != fleet_.receivers().size()) return false;
    for (const auto& [id, record] : s->policy->records())
      if (record.where != standing::member) return false;
    if (options_.fanout == 0 || options_.receivers == 1) return true;
    if (s->fanout.plan.nodes().size() != fleet_.receivers().size()) return false;
    for (const auto& [id, c] : s->children)
      for (const auto& f : c.feeds)
        if (f.parent && !f.up) return false;
    return true;
  }

  sync_report sync() {
    auto& t = fleet_.leader();
    fleet_.sync(t);
    std::optional<sync_report> report;
    until(
        [&] { return (report = t.ticket->wait_report(std::chrono::milliseconds(0))).has_value(); });
    const auto now = bytes_of(t.weights);
    if (report->result != sync_result::ok)
      throw error(report->reason, "a simulated sync was " + std::string(to_string(report->result)) +
                                      ": " + report->detail);
    for (const auto& r : fleet_.receivers())
      if (!holds(r.memory, now))
        throw error(errc::bad_checksum, "a simulated receiver does not hold what it should");
    return *report;
  }

  run_options options_;
  trace trace_;
  scheduler scheduler_;
  dice dice_;
  fleet fleet_;
  network network_;
};

}  // namespace

link_result measure_links(const link_options& o) {
  return measurement(o).run();
}

}  // namespace lockstep::sim
