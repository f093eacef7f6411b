#include "weights/rank_proof.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "weights/acknowledgement.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/json_events.hpp"
#include "weights/plain_file.hpp"
#include "weights/safetensors.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view order_start = "order-";
constexpr std::size_t share_bytes_max = 4 << 10;

fs::path order_file(const fs::path& staging, std::string_view nonce, std::uint32_t rank) {
  return staging / fmt::format("{}{:05}-{}.json", order_start, rank, nonce);
}

std::optional<std::uint32_t> number_in(const std::string& text) {
  std::uint32_t value = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, problem] = std::from_chars(text.data(), end, value);
  if (text.empty() || problem != std::errc() || rest != end) return std::nullopt;
  return value;
}

// An order, word by word: made whole before it is looked at, a file of `part_bytes_max` would take
// seventy times its length.
class order_events final : public json_events {
 public:
  explicit order_events(const fs::path& file) : json_events(file) {}

  bool start_object(std::size_t) override { return depth() == 0 ? enter() : unexpected("object"); }
  bool start_array(std::size_t) override {
    return depth() == 1 && key_ == "numbers" ? enter() : unexpected("array");
  }
  bool key(std::string& name) override {
    key_ = std::move(name);
    return true;
  }
  bool string(std::string& text) override {
    if (depth() == 2)
      add(text);
    else if (depth() == 1 && (key_ == "part" || key_ == "challenge"))
      (key_ == "part" ? part : challenge) = std::move(text);
    else
      return unexpected("string");
    return true;
  }

  std::string part;
  std::string challenge;
  std::vector<std::optional<std::uint32_t>> numbers;

 private:
  // Tensors and those of the whole are both in the order of their names.
  void add(const std::string& text) {
    const auto number = number_in(text);
    if (numbers.size() == file_limits{}.entry_count_max)
      refuse(errc::bad_input, path(), "has more numbers than there can be tensors");
    if (!text.empty() && (!number || *number >= file_limits{}.entry_count_max || *number < next_))
      refuse(errc::bad_input, path(), "has what is no number of a later tensor");
    if (number) next_ = *number + 1;
    numbers.push_back(number);
  }

  std::string key_;
  std::uint32_t next_ = 0;
};

}  // namespace

std::vector<rank_order> orders_for(const std::vector<rank_part>& parts, const whole_state& whole,
                                   std::uint64_t challenge) {
  std::vector<rank_order> out;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    rank_order order{target_digest(parts[p]), challenge, {}};
    for (const auto& t : parts[p].tensors) {
      const bool counted = std::ranges::binary_search(whole.repeated[p], t.spec.name);
      const auto at = whole.shape.find(t.spec.name);
      order.numbers.push_back(counted ? std::nullopt
                                      : std::optional(static_cast<std::uint32_t>(*at)));
    }
    out.push_back(std::move(order));
  }
  return out;
}

void write_order(const fs::path& staging, std::string_view nonce, std::uint32_t rank,
                 const rank_order& order) {
  auto numbers = nlohmann::json::array();
  for (const auto& n : order.numbers) numbers.push_back(n ? std::to_string(*n) : std::string());
  write_object(order_file(staging, nonce, rank), {{"part", order.part},
                                                  {"challenge", challenge_text(order.challenge)},
                                                  {"numbers", std::move(numbers)}});
}

std::optional<rank_order> read_order(const fs::path& staging, std::string_view nonce,
                                     std::uint32_t rank) {
  try {
    const auto file = order_file(staging, nonce, rank);
    if (!stands(file)) return std::nullopt;
    const auto text = read_small(file, part_bytes_max);
    order_events said(file);
    parse_json(std::as_bytes(std::span(text)), said);
    const auto challenge = parse_challenge(said.challenge);
    if (!challenge) return std::nullopt;
    return rank_order{std::move(said.part), *challenge, std::move(said.numbers)};
  } catch (const error&) {
    return std::nullopt;  // it is going
  }
}

void clear_orders(const fs::path& staging) {
  for (const auto& file : files_in(staging))
    if (file.filename().native().starts_with(order_start)) remove_file(file);
}

// As a model of which this rank has some tensors, and the others are empty.
digest share_of(const rank_order& order, const published_source& own) {
  const auto views = views_of(own.shape, own.tensors);
  tensor_views whole;
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (!order.numbers[i]) continue;
    whole.resize(*order.numbers[i] + std::size_t{1});
    whole.back() = views[i];
  }
  const auto out = digest_of(order.challenge, whole);
  if (own.done)
    for (std::size_t i = 0; i < own.shape.count(); ++i) own.done(i, 0, own.shape.bytes(i));
  return out;
}

std::string share_prefix(std::uint32_t rank, std::string_view nonce) {
  return fmt::format("share-{:05}-{}-", rank, nonce);
}

void write_share(const fs::path& file, const digest& share) {
  write_object(file, {{"share", to_string(share)}});
}

digest read_share(const fs::path& file) {
  const auto share = parse_proof(text_in(read_object(file, share_bytes_max), "share"));
  if (!share) refuse(errc::bad_input, file, "is no share of a proof");
  return *share;
}

}  // namespace lockstep
