#include "actors/encoding.hpp"

#include <exception>
#include <new>

#include "messages/errors.hpp"
#include "weights/file.hpp"

namespace lockstep {

bucket_form form_of(const settings& s) {
  return {s.bucket.bytes_max, s.transport.fanout > 0 ? bucket_hash::sha256 : bucket_hash::xxh3};
}

encoding encode_against(const snapshot_store& store, const tensor_reader& tensors,
                        kernels::encoding_choice choice, const bucket_form& form,
                        const bucket_sink& closed) {
  const auto target = views_of(store.shape(), tensors);
  encoding out;
  auto delta = store.read([&](const tensor_views& base) {
    return encode_delta(store.shape(), base, target, form, choice, &out.state, closed);
  });
  out.delta = std::make_shared<delta_source>(std::move(delta), store.shape().total_bytes());
  return out;
}

std::optional<std::pair<errc, std::string>> failure_of(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (const error& e) {
    return std::pair(e.code(), printable(e.what()));
  } catch (const std::bad_alloc&) {
    return std::pair(errc::no_memory, std::string("out of memory while encoding"));
  } catch (const std::exception& e) {
    return std::pair(errc::encode_failed, printable(e.what()));
  } catch (...) {  // the tensor reader is the embedding program's
    return std::pair(errc::encode_failed, std::string("an exception of an unknown type"));
  }
}

manifest merged(const std::vector<manifest>& parts, const hash128& layout) {
  manifest out;
  out.layout = layout;
  for (const auto& part : parts) {
    out.bytes += part.bytes;
    out.changed += part.changed;
    out.buckets.insert(out.buckets.end(), part.buckets.begin(), part.buckets.end());
  }
  return out;
}

digest operator+(const digest& a, const digest& b) {
  return {a.lane0 + b.lane0, a.lane1 + b.lane1};
}

}  // namespace lockstep
