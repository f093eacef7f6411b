// Decides how the parts of a simulated cluster are held together; see cluster_sim.hpp.
#pragma once

#include "tests/support/cluster_nodes.hpp"

namespace lockstep::sim {

using std::chrono::milliseconds;
namespace ra = receiver_action;
namespace sa = sync_action;
namespace va = supervision_action;

template <class... F>
struct overloaded : F... {
  using F::operator()...;
};
template <class... F>
overloaded(F...) -> overloaded<F...>;

inline constexpr std::uint64_t cluster_id = 77;
inline constexpr std::size_t runs_max = 6;

class cluster {
 public:
  cluster(std::uint64_t seed, const options& opt);
  result run();

 private:
  // --- chance
  std::uint64_t below(std::uint64_t n) { return n == 0 ? 0 : rng_() % n; }
  bool chance(std::uint64_t in_1000) { return in_1000 != 0 && below(1000) < in_1000; }
  bool fault(std::uint64_t in_1000) { return !quiet_ && chance(in_1000); }
  digest dig(const weights& w, std::uint64_t key) const {
    return opt_.digests ? digest_of(w, key) : digest{};
  }
  void violated(const std::string& what) {
    if (out_.violation.empty()) out_.violation = what;
  }

  // --- the network
  void send(packet p);
  void to_node(const participant& who, body what, std::size_t from = 0);
  void deliver(packet p);
  void deliver_to_node(node& n, packet& p);
  void deliver_to_trainer(trainer& t, packet& p);
  node* life(const participant& who);

  // --- receivers
  void start(node& n);
  void crash(node& n);
  void perform(node& n, const ra::list& actions);
  void step(node& n);
  void written(node& n, const job& j);

  // --- trainers
  void boot(const weights& w);
  void perform(trainer& t, sender_event event, const sa::list& actions,
               const round_result* result = nullptr);
  void perform(trainer& t, const va::list& actions);
  void on_emitted(trainer& t, const join_event& told, const join_fsm::emitted& r);
  void encode_delta(trainer& t, const sa::encode& a);
  void conclude(trainer& t, const sa::conclude& a);
  void encode_full(trainer& t, const sa::encode_full& a);
  positions merged(const trainer& t, const std::vector<digest>& held, std::vector<digest>& known);
  void stream(trainer& t, const participant& who, const body& announcement);
  void send_bucket(trainer& t, const participant& who, std::uint32_t index);
  void finished(trainer& t, const sync_report& r);
  void want_sync(trainer& t);
  /// The numbers as the wire carries them; others only where numbers are reused.
  version_ref on_wire(const trainer& t, version_ref v) const;
  txn_ref on_wire(const trainer& t, txn_ref x) const {
    const auto v = on_wire(t, version_ref{x.run, x.seq});
    return {v.run, v.number};
  }

  // --- time and the world
  void tick();
  void one_step();
  void mischief();
  bool whole() const;

  // --- watchers
  void watch(node& n, const ra::list& actions);
  void watch(trainer& t, sender_event event, const sa::list& actions, const round_result* result);

  // --- checkers
  void check();
  version_ref tag_of(const node& n) const;

  options opt_;
  std::mt19937_64 rng_;
  settings settings_;
  time_point now_{};
  bool quiet_ = false;
  std::uint64_t loss_, twice_, trouble_, lies_, disorder_, jumps_;  // in 1000
  envelope credit_env_;              ///< of the bucket being delivered
  const body* delivered_ = nullptr;  ///< to a node, at this moment
  bool ticking_ = false;
  std::vector<node> nodes_;
  std::deque<trainer> trainers_;
  std::vector<packet> net_, old_;
  std::map<version_ref, weights> content_;                // ghost: what a version names
  std::set<std::pair<receiver_id, version_ref>> proven_;  // ghost: who really reached what
  std::set<txn_ref> wrote_, aborted_;                     // ghosts for I5
  std::uint64_t lives_ = 0;
  bool moved_ = false;
  result out_;
};

}  // namespace lockstep::sim
