#include "actors/unannounced.hpp"

namespace lockstep {

bool unannounced::take(const bucket_msg& m, caf::strong_actor_ptr from, bool stages,
                       const settings& s, engine& engine) {
  if (!lacks(m.env, m.index)) return false;
  if (!is_of(m.env)) {
    forget(engine);
    env_ = m.env;
  }
  const std::uint64_t size = m.bytes.size();
  const auto most = s.receiver.staged_bytes_max;
  // Beyond that they wait, unpaid, for what is staged to be alone.
  stages = stages && size + bytes_ + engine.staged_bytes() <= most;
  if (m.index >= s.receiver.buckets_max || size > s.bucket.bytes_max || size > most - bytes_ ||
      (!stages && buckets_.size() >= unpaid_max))
    return false;
  bytes_ += size;
  buckets_.emplace(m.index, bucket{m.bytes, std::move(from), stages});
  if (!stages) return false;
  staged_ = true;
  // Where it is not sound, whoever proves what is staged says so.
  engine.stage(m.index, m.bytes, most);
  return true;
}

void unannounced::make_way(const envelope& env, const manifest* content, engine& engine) {
  if (!is_of(env)) return forget(engine);
  const bool fits = content != nullptr &&
                    (buckets_.empty() || buckets_.rbegin()->first < content->buckets.size());
  if (fits || !staged_) return;
  engine.drop();
  staged_ = false;
  // Their credit was given all the same; a second one widens no window.
  for (auto& [index, b] : buckets_) b.staged = false;
}

void unannounced::forget(engine& engine) {
  if (staged_) engine.drop();
  *this = {};
}

}  // namespace lockstep
