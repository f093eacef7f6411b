#include "weights/device_stage.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/frame_layout.hpp"
#include "weights/bucket_parts.hpp"

namespace lockstep {

namespace cuda = kernels::cuda;

device_model::device_model(device_queue& queue, const lockstep::layout& shape,
                           const std::vector<std::byte*>& memory) {
  for (std::size_t i = 0; i < shape.count(); ++i) {
    cuda::device_tensor tensor;
    // The same twice: `cut` encodes what is held, which encoders call the target.
    tensor.base = memory[i];
    tensor.target = memory[i];
    tensor.bytes = shape.bytes(i);
    tensor.unit = unit_bytes(shape[i].type);
    tensors.push_back(tensor);
    lengths.push_back({{nullptr, static_cast<std::size_t>(tensor.bytes)}, tensor.unit});
  }
  const auto ranges = cuda::list_ranges(tensors);
  tensors_there = device_block<cuda::device_tensor>(queue, std::span(std::as_const(tensors)));
  ranges_there = device_block<cuda::device_range>(queue, std::span(ranges));
  key = device_block<cuda::device_key>(queue, 1);
  queue.run().expand_key(public_digest_seed, key.data(), queue.on());
  queue.wait();
  layout = {tensors_there.data(), static_cast<std::uint32_t>(tensors.size()), ranges_there.data(),
            ranges.size()};
}

/// What a bucket's headers say, of which nothing is trusted: what is made of it has room for
/// whatever the device finds to be so, and the device refuses all that is not.
struct device_stage::heads {
  /// Frames that are decoded at a time, and how many changes they have.
  struct group {
    std::uint64_t first, count, changes;
  };
  static constexpr std::uint64_t group_frames_max = 4096;
  static constexpr std::uint64_t group_changes_max = 4 << 20;

  std::vector<std::uint64_t> at;
  std::vector<std::size_t> touched;
  std::vector<group> groups;
  std::uint64_t made_bytes = 0;  ///< of what coded frames stand for, at most
  bool coded = false;            ///< there is a frame that says that it is
  bool plain = false;            ///< and one that does not
  bool ordered = true;

  void add(const std::byte* header, const device_model& model);
};

namespace {

template <class T>
T field_of(const std::byte* header, std::size_t offset, std::size_t bytes = sizeof(T)) {
  T value = 0;
  std::memcpy(&value, header + offset, bytes);
  return value;
}

/// Room that the device keeps for what a coded frame stands for; nothing for one that it refuses.
/// As `decode` plans it.
std::uint64_t room_for(const cuda::device_tensor& tensor, std::uint32_t number,
                       std::uint32_t count) {
  const auto offset = std::uint64_t{number} * kernels::frame_span_bytes_max;
  if (offset >= tensor.bytes) return 0;
  const std::uint64_t range = kernels::range_bytes_at(tensor.bytes, offset);
  const auto elements = range / tensor.unit;
  if (count > elements) return 0;
  const auto records = std::uint64_t{count} * (kernels::gap_bytes + tensor.unit) +
                       kernels::gap_bytes * (elements / kernels::gap_escape + 1);
  return kernels::frame_header_bytes + std::min(records, range);
}

constexpr const char* too_large = "staged, it is larger than may be held";

}  // namespace

void device_stage::heads::add(const std::byte* header, const device_model& model) {
  namespace field = kernels::field;
  const auto tensor = field_of<std::uint32_t>(header, field::tensor);
  const auto number = field_of<std::uint32_t>(header, field::range, 3);
  const bool is_coded = header[field::encoding] == std::byte{3};
  (is_coded ? coded : plain) = true;
  if (tensor >= model.tensors.size()) return;
  if (touched.empty() || touched.back() != tensor) touched.push_back(tensor);
  if (!is_coded) return;
  const auto count = field_of<std::uint32_t>(header, field::count, 3);
  const auto room = room_for(model.tensors[tensor], number, count);
  if (room == 0) return;
  made_bytes += room;
  groups.back().changes += count;
}

device_stage::heads device_stage::list_frames(const payload& bucket, const device_model& model) {
  heads out;
  std::optional<std::pair<std::uint32_t, std::uint32_t>> before;
  // More frames than there are ranges cannot all be good ones: the device will find one that is
  // not among the first of them.
  for (std::uint64_t at = 0; at < bucket.size() && out.at.size() <= model.layout.range_count;) {
    if (out.groups.empty() || out.groups.back().count >= heads::group_frames_max ||
        out.groups.back().changes >= heads::group_changes_max)
      out.groups.push_back({out.at.size(), 0, 0});
    out.at.push_back(at);
    ++out.groups.back().count;
    const auto left = bucket.size() - at;
    const auto* const header = bucket.data() + at;
    if (left < kernels::frame_header_bytes ||
        header[kernels::field::magic] != std::byte{kernels::frame_magic}) {
      out.plain = true;
      break;
    }
    out.add(header, model);
    const std::pair range(field_of<std::uint32_t>(header, kernels::field::tensor),
                          field_of<std::uint32_t>(header, kernels::field::range, 3));
    out.ordered = out.ordered && (!before || *before < range);
    before = range;
    const auto payload_bytes = field_of<std::uint32_t>(header, kernels::field::payload_bytes);
    if (payload_bytes > left - kernels::frame_header_bytes) break;
    at += kernels::frame_header_bytes + payload_bytes;
  }
  std::ranges::sort(out.touched);
  out.touched.erase(std::unique(out.touched.begin(), out.touched.end()), out.touched.end());
  return out;
}

device_stage::device_stage(device_queue& queue, const device_model& model,
                           device_block<std::byte>& work, from leads_from)
    : queue_(queue),
      model_(model),
      work_(work),
      leads_from_(leads_from),
      claims_(queue, model.layout.range_count),
      result_(queue, 1) {
  if (leads_from == from::base) {
    read_ = device_block<std::uint32_t>(queue, model.layout.range_count);
    base_ = device_block<cuda::device_digest>(queue, 1);
    base_.set_one({});
    queue_.run().begin_stage(model_.layout, read_.data(), result_.data(), queue_.on());
  }
  queue_.run().begin_stage(model_.layout, claims_.data(), result_.data(), queue_.on());
}

std::uint64_t device_stage::frames() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& bucket : buckets_) sum += bucket.count;
  return sum;
}

device_stage::failure device_stage::add(std::uint32_t index, const payload& bucket,
                                        std::uint64_t bytes_max) {
  auto listed = list_frames(bucket, model_);
  if (listed.at.empty()) return std::nullopt;
  const bool decodes = leads_from_ == from::base && listed.coded;
  const bool keeps = listed.plain || !decodes;  // some of what came
  const auto bytes = (keeps ? bucket.size() : 0) + (decodes ? listed.made_bytes : 0);
  if (bytes > bytes_max || bytes_ > bytes_max - bytes)
    return refusal(index, bucket, {errc::bad_manifest, too_large});

  bucket_there there;
  places at;
  there.count = listed.at.size();
  there.came.frames = {queue_, std::span(bucket.data(), bucket.size())};
  at.came = {queue_, std::span(std::as_const(listed.at))};
  if (decodes) {
    there.made.frames = {queue_, listed.made_bytes};
    at.passed = {queue_, there.count};
    at.made = {queue_, there.count};
    at.sum = {queue_, 1};
    at.sum.set_one({});
    for (const auto& [first, count, changes] : listed.groups) {
      const auto refused = decode(first, count, changes, there, at);
      if (refused != cuda::nothing_refused)
        return refusal(index, bucket, reason_of(listed, refused, first));
    }
  }
  // What came and says that it is coded is refused here if it was left over.
  const bool undo = leads_from_ == from::base;
  check(there.came, decodes ? at.passed : at.came, there.count, undo && keeps);
  if (decodes) check(there.made, at.made, there.count, undo);
  if (const auto refused = result_.one().refused; refused != cuda::nothing_refused)
    return refusal(index, bucket, reason_of(listed, refused, 0));
  if (!listed.ordered && leads_from_ != from::nothing)
    return refusal(index, bucket, {errc::bad_frame, ranges_disordered});
  if (!keeps) there.came = {};
  there.touched = std::move(listed.touched);
  buckets_.push_back(std::move(there));
  bytes_ += bytes;
  return std::nullopt;
}

std::uint64_t device_stage::decode(std::uint64_t first, std::uint64_t count, std::uint64_t changes,
                                   const bucket_there& there, const places& at) {
  work_.need(queue_, cuda::decode_memory_bytes(count, changes));
  queue_.run().decode(
      model_.layout,
      {there.came.frames.data(), there.came.frames.size(), at.came.data() + first, count},
      model_.key.data(),
      {there.made.frames.data(), there.made.frames.size(), at.made.data() + first,
       at.passed.data() + first, at.sum.data(), read_.data(), base_.data()},
      work_.data(), work_.size(), result_.data(), queue_.on());
  // A frame is known by its place in its group: what is refused has to be asked for each.
  return result_.one().refused;
}

void device_stage::check(part& frames, const device_block<std::uint64_t>& at, std::uint64_t count,
                         bool undo) {
  if (undo) frames.undo = {queue_, frames.frames.size()};
  frames.checked = {queue_, count};
  queue_.run().check(model_.layout, {frames.frames.data(), frames.frames.size(), at.data(), count},
                     model_.key.data(), frames.checked.data(), frames.undo.data(), claims_.data(),
                     result_.data(), queue_.on());
}

bucket_failure device_stage::reason_of(const heads& listed, std::uint64_t refused,
                                       std::uint64_t first) {
  const auto reason = cuda::refused_reason(refused);
  if (reason == cuda::refused_twice) return {errc::bad_frame, range_twice};
  if (reason == cuda::refused_room) return {errc::bad_manifest, too_large};
  const auto frame = first + cuda::refused_frame(refused);
  const auto at = frame < listed.at.size() ? listed.at[frame] : 0;
  return failed_at(at, static_cast<kernels::frame_status>(reason));
}

bucket_failure device_stage::refusal(std::uint32_t index, const payload& bucket,
                                     bucket_failure why) const {
  // Where several things are wrong the device names any of them, and the host this.
  std::vector<frame_at> frames;
  auto failed = leads_from_ == from::base
                    ? parse_bucket(bucket, model_.lengths, frames)
                    : for_each_frame(bucket, model_.lengths, [](const auto&) { return true; });
  if (failed) why = std::move(*failed);
  // All weights come one bucket at a time, which has no number there.
  if (leads_from_ != from::nothing)
    why.detail = "bucket " + std::to_string(index) + ", " + why.detail;
  return why;
}

device_stage::failure device_stage::prove(const digest& base, const digest& target) {
  const auto& run = queue_.run();
  run.digest(model_.layout, cuda::which_state::base, model_.key.data(), read_.data(), base_.data(),
             queue_.on());
  kernels::digest_sum expected_base, expected_target;
  expected_base.lane = {base.lane0, base.lane1};
  expected_target.lane = {target.lane0, target.lane1};
  run.prove(base_.data(), expected_base, expected_target, result_.data(), queue_.on());
  const auto refused = result_.one().refused;
  sound_ = refused == cuda::nothing_refused;
  if (sound_) return std::nullopt;
  if (cuda::refused_reason(refused) == cuda::refused_base)
    return bucket_failure{errc::wrong_base, "the bytes held do not digest to the base"};
  return bucket_failure{errc::wrong_target, "the delta does not lead to the target"};
}

void device_stage::write(device_queue::stream on, std::uint64_t frames_max,
                         std::vector<std::size_t>& touched) {
  for (const auto& bucket : buckets_)
    touched.insert(touched.end(), bucket.touched.begin(), bucket.touched.end());
  std::ranges::sort(touched);
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  queue_.run_on(on, [&] {
    for (const auto& bucket : buckets_) {
      const auto count = std::min(frames_max, bucket.count);
      for (const auto* frames : {&bucket.came, &bucket.made})
        if (frames->checked.size() != 0)
          queue_.run().apply(model_.layout, frames->frames.data(), frames->checked.data(), count,
                             result_.data(), on);
      frames_max -= count;
    }
  });
}

void device_stage::roll_back(device_queue::stream on) {
  const auto undo = [&] {
    for (const auto& bucket : buckets_)
      for (const auto* frames : {&bucket.came, &bucket.made})
        if (frames->undo.size() != 0)
          queue_.run().apply(model_.layout, frames->undo.data(), frames->checked.data(),
                             bucket.count, result_.data(), on);
  };
  // Of a lost device all memory is kept: what is enqueued may run whenever the write has.
  if (queue_.lost())
    undo();
  else
    queue_.run_on(on, undo);
}

}  // namespace lockstep
