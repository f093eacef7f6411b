// Weights in a device's memory: what is staged over them, written to them and said of them is what
// it is in the host's memory. On the emulated device, and on a CUDA device if there is one.
#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "kernels/frame_layout.hpp"
#include "tests/weights/there.hpp"
#include "weights/host_memory.hpp"

using namespace lockstep;

namespace {

/// Frames of a bucket.
std::vector<std::vector<std::byte>> frames_of(const payload& bucket) {
  std::vector<std::vector<std::byte>> out;
  for (std::size_t at = 0; at < bucket.size();) {
    std::uint32_t payload_bytes = 0;
    std::memcpy(&payload_bytes, bucket.data() + at + kernels::field::payload_bytes, 4);
    const auto end = at + kernels::frame_header_bytes + payload_bytes;
    out.emplace_back(bucket.data() + at, bucket.data() + end);
    at = end;
  }
  return out;
}
payload bucket_of(const std::vector<std::vector<std::byte>>& frames) {
  std::vector<std::byte> all;
  for (const auto& f : frames) all.insert(all.end(), f.begin(), f.end());
  return payload(std::move(all));
}
void seal(std::vector<std::byte>& frame) {
  const auto sum = kernels::frame_checksum({frame.data(), frame.size()});
  std::memcpy(&frame[kernels::field::checksum], &sum, 4);
}

/// Both take a delta, or both refuse it for the same reason; nothing is written that was not
/// proven.
class twins {
 public:
  twins(std::shared_ptr<device_runtime> device, const transition& t)
      : t_(t),
        here_(t.base.clone()),
        there_(std::move(device), t.base),
        host_(spans_of(here_)),
        device_(t.base.shape(), there_.lent()) {}

  /// Says what came of it.
  failure stage(const buckets_of& buckets) {
    const auto wanted = prove(host_, buckets, t_.base_state, t_.target_state);
    const auto got = prove(device_, buckets, t_.base_state, t_.target_state);
    INFO("host " << said(wanted) << ", device " << said(got));
    if (wanted.has_value() != got.has_value()) FAIL("one of them took it");
    if (wanted && wanted->reason != got->reason) FAIL("for different reasons");
    // The host finds a range that stands in two buckets when all are there.
    if (wanted && got->detail.find("twice") == std::string::npos && wanted->detail != got->detail)
      FAIL("with different words");
    if (!there_.hold(here_)) FAIL("written before it is proven, or outside");
    if (!got) {
      std::vector<std::size_t> touched, touched_there;
      if (host_.apply(touched) || device_.apply(touched_there)) FAIL("not applied");
      if (touched != touched_there) FAIL("other tensors are said to be written");
      if (!there_.hold(here_)) FAIL("other bytes are written");
      here_.copy_from(t_.base);
      there_.set(t_.base);
    } else if (!apply(device_)) {
      FAIL("what was refused can be applied");
    }
    host_.forget();
    device_.forget();
    return got;
  }
  /// All weights: what is refused may have been written in part.
  void write(const payload& bucket) {
    std::vector<std::size_t> touched, touched_there;
    const auto wanted = host_.write(bucket, touched);
    const auto got = device_.write(bucket, touched_there);
    INFO("host " << said(wanted) << ", device " << said(got));
    // The host writes a range twice that is there twice; on a device that would be a race.
    const bool twice = !wanted && got && got->detail.find("twice") != std::string::npos;
    if (wanted.has_value() != got.has_value() && !twice) FAIL("one of them took it");
    if (wanted && wanted->reason != got->reason) FAIL("for different reasons");
    if (wanted && wanted->detail != got->detail) FAIL("with different words");
    if (got && !there_.hold(t_.base)) FAIL("written in part");
    if (!got && touched != touched_there) FAIL("other tensors are said to be written");
    if (!got && !there_.hold(here_)) FAIL("other bytes are written");
    here_.copy_from(t_.base);
    there_.set(t_.base);
  }

 private:
  const transition& t_;
  weight_buffer here_;
  weights_there there_;
  host_memory host_;
  device_memory device_;
};

}  // namespace

TEST_CASE("a device stages, proves and writes deltas of every encoding") {
  for (const auto& device : devices())
    for (const auto choice : choices)
      for (const auto* shape : {&small, &large}) {
        INFO("encoding " << int(choice));
        const transition t(*shape, choice, shape == &large ? 300 : 40);
        weights_there there(device, t.base);
        device_memory m(*shape, there.lent());
        CHECK(said(prove(m, t)) == "ok");
        CHECK(m.staged_bytes() > 0);
        CHECK(there.hold(t.base));
        CHECK(m.state() == t.base_state);
        std::vector<std::size_t> touched;
        CHECK(said(m.apply(touched)) == "ok");
        CHECK(there.hold(t.target));
        CHECK(m.state() == t.target_state);
        CHECK(said(apply(m)) == "ok");  // what is staged absorbs
        CHECK(there.hold(t.target));
        m.forget();
        CHECK(m.staged_bytes() == 0);
        CHECK(said(apply(m)) != "ok");
      }
}

TEST_CASE("a device says of weights what the host says") {
  for (const auto& device : devices())
    for (const auto* shape : {&small, &large}) {
      auto w = some_weights(*shape, 3);
      weights_there there(device, w);
      device_memory m(*shape, there.lent());
      host_memory host(spans_of(w));
      CHECK(m.state() == host.state());
      CHECK(m.states(77) == host.states(77));
      CHECK(m.states_of_each(78) == host.states_of_each(78));
      for (std::size_t i = 0; i < shape->count(); ++i) {
        std::vector<std::byte> copy(w.tensor(i).size());
        m.read(i, copy);
        CHECK(std::equal(copy.begin(), copy.end(), w.tensor(i).begin()));
      }
      for (const std::uint64_t most :
           {std::uint64_t{300}, std::uint64_t{1} << 20, std::uint64_t{3} << 20}) {
        const full_cut cut(views_of(w), most);
        for (std::uint32_t i = 0; i < cut.count(); ++i)
          CHECK(m.cut(most, std::uint32_t(cut.count()), i) ==
                host.cut(most, std::uint32_t(cut.count()), i));
        CHECK(m.cut(most, std::uint32_t(cut.count()) + 1, 0).size() == 0);
        CHECK(m.cut(most, std::uint32_t(cut.count()), std::uint32_t(cut.count())).size() == 0);
      }
    }
}

TEST_CASE("a device writes all weights, bucket by bucket") {
  for (const auto& device : devices())
    for (const auto* shape : {&small, &large}) {
      const auto w = some_weights(*shape, 4);
      weights_there there(device, some_weights(*shape, 5));
      device_memory m(*shape, there.lent());
      const full_cut cut(views_of(w), 1 << 20);
      std::vector<std::size_t> touched;
      for (std::size_t i = 0; i < cut.count(); ++i)
        CHECK(said(m.write(cut.make(i, views_of(w)), touched)) == "ok");
      CHECK(there.hold(w));
    }
}

TEST_CASE("what writes weights is on the engine's stream, and nothing else is") {
  for (const auto choice : choices) {
    const transition t(small, choice, 20, 600);
    const auto device = std::make_shared<emulated_device>();
    weights_there there(device, t.base);
    device_memory m(small, there.lent());
    REQUIRE(said(prove(m, t)) == "ok");
    CHECK(device->enqueued_on(there.engine()).writes == 0);
    CHECK(said(apply(m)) == "ok");
    const auto applied = device->enqueued_on(there.engine()).writes;
    CHECK(applied >= t.buckets.size());
    m.forget();
    CHECK(m.state() == t.target_state);
    const auto bucket = full_cut(views_of(t.base), no_limit).make(0, views_of(t.base));
    std::vector<std::size_t> touched;
    CHECK(said(m.write(bucket, touched)) == "ok");
    CHECK(device->enqueued_on(there.engine()).writes > applied);
    CHECK(m.state() == t.base_state);
    CHECK(m.cut(no_limit, 1, 0) == bucket);
    CHECK(device->enqueued_on(there.engine()).others == 0);
    CHECK(device->enqueued_on(nullptr).writes == 0);
    CHECK(device->enqueued_on(nullptr).others == 0);
  }
}

TEST_CASE("every flipped bit of a delta is refused by a device as by the host") {
  for (const auto& device : devices())
    for (const auto choice : choices) {
      const layout tiny({{"a", dtype::bf16, {90}}, {"b", dtype::u8, {40}}});
      const transition t(tiny, choice, 9);
      REQUIRE(t.buckets.size() == 1);
      twins both(device, t);
      REQUIRE_FALSE(both.stage(t.buckets));
      std::vector<std::byte> bytes(t.buckets[0].data(), t.buckets[0].data() + t.buckets[0].size());
      for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        INFO("encoding " << int(choice) << ", bit " << bit);
        bytes[bit / 8] ^= std::byte(1u << bit % 8);
        REQUIRE(both.stage({payload(bytes)}));
        bytes[bit / 8] ^= std::byte(1u << bit % 8);
      }
    }
}

TEST_CASE("forged deltas are taken or refused by a device as by the host") {
  for (const auto& device : devices())
    for (const auto choice : choices) {
      const transition t(small, choice, 12, 250);
      REQUIRE(t.buckets.size() > 1);
      twins both(device, t);
      std::mt19937 rng(6);
      int taken = 0, refused = 0;
      for (int round = 0; round < 400; ++round) {
        auto buckets = t.buckets;
        const auto which = rng() % buckets.size();
        auto frames = frames_of(buckets[which]);
        auto& frame = frames[rng() % frames.size()];
        switch (round % 8) {
          case 0:
          case 1:
          case 2: {  // other bytes under a good checksum
            const auto reach =
                rng() % 2 != 0 ? frame.size() - 5 : std::min<std::size_t>(40, frame.size() - 5);
            for (unsigned i = 0; i <= rng() % 3; ++i)
              frame[5 + rng() % reach] ^= std::byte(1u << rng() % 8);
            seal(frame);
            break;
          }
          case 3:  // cut off
            frame.resize(rng() % frame.size());
            break;
          case 4:  // out of order, or the same
            frames.push_back(frames[rng() % frames.size()]);
            break;
          case 5:  // in another bucket, too
            buckets.push_back(bucket_of({frame}));
            break;
          case 6:  // not there
            frames.erase(frames.begin() + std::ptrdiff_t(rng() % frames.size()));
            break;
          default:  // what is behind it
            for (unsigned i = 0; i <= rng() % 30; ++i) frames.back().push_back(std::byte(rng()));
            break;
        }
        buckets[which] = bucket_of(frames);
        INFO("encoding " << int(choice) << ", round " << round);
        ++(both.stage(buckets) ? refused : taken);
        both.write(buckets[which]);
      }
      both.stage(t.buckets);
      CHECK(refused > 300);
    }
}

TEST_CASE("a bucket of headers alone is refused without memory for each of them") {
  const transition t(small, kernels::encoding_choice::raw);
  const auto device = std::make_shared<emulated_device>();
  weights_there there(device, t.base);
  device_memory m(small, there.lent());
  const auto before = device->bytes_held();
  std::vector<std::byte> many;
  std::vector<std::byte> header(kernels::frame_header_bytes);
  header[0] = std::byte{kernels::frame_magic};
  for (const auto encoding : {1, 2, 3}) {
    many.clear();
    header[kernels::field::encoding] = std::byte(encoding);
    header[kernels::field::unit] = std::byte{2};
    header[kernels::field::count + 2] = std::byte{0x0f};
    seal(header);
    for (int i = 0; i < 20'000; ++i) many.insert(many.end(), header.begin(), header.end());
    CHECK(m.stage(0, payload(many), no_limit));
    m.forget();
  }
  CHECK(device->bytes_held_max() - before < 3 * many.size());
}

TEST_CASE("what does not lead from base to target is not staged on a device") {
  for (const auto& device : devices())
    for (const auto choice : choices) {
      const transition t(small, choice);
      weights_there there(device, t.base);
      device_memory m(small, there.lent());
      const auto reason = [&](const digest& base, const digest& target) {
        const auto bad = prove(m, t.buckets, base, target);
        CHECK((said(apply(m)) == "apply_failed: what is staged was not proven") == bad.has_value());
        m.forget();
        return bad ? bad->reason : errc::none;
      };
      CHECK(reason({1, 2}, t.target_state) == errc::wrong_base);
      CHECK(reason(t.base_state, t.base_state) == errc::wrong_target);
      CHECK(there.hold(t.base));
      // Nothing changed is a delta, too.
      CHECK(said(prove(m, {}, t.base_state, t.base_state)) == "ok");
      CHECK(said(apply(m)) == "ok");
      m.forget();
      CHECK(said(prove(m, {}, t.target_state, t.target_state)).substr(0, 10) == "wrong_base");
      m.forget();
      CHECK(reason(t.base_state, t.target_state) == errc::none);
    }
}
