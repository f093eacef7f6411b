#include "weights/rank_part.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <system_error>
#include <utility>

#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/json_events.hpp"
#include "weights/plain_file.hpp"
#include "weights/published_shards.hpp"
#include "weights/publisher.hpp"
#include "weights/safetensors.hpp"
#include "weights/state_digest.hpp"
#include "weights/stream_owner.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t plan_bytes_max = 64 << 10;
constexpr std::string_view plan_name = "plan.json";
constexpr std::string_view refusal_name = "refusal.json";

template <class T>
std::optional<T> number_in(std::string_view text) {
  T value = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, problem] = std::from_chars(text.data(), end, value);
  if (text.empty() || problem != std::errc() || rest != end) return std::nullopt;
  return value;
}

bool is_hexadecimal(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// A part: words on top, and two sections of lists of words. Nothing else is taken.
class part_events final : public json_events {
 public:
  using lists = std::vector<std::pair<std::string, std::vector<std::string>>>;

  explicit part_events(const fs::path& file) : json_events(file) {}

  bool start_object(std::size_t) override {
    if (depth() == 0 || (depth() == 1 && section())) return enter();
    return unexpected("object");
  }
  bool start_array(std::size_t) override { return depth() == 2 ? enter() : unexpected("array"); }
  bool key(std::string& name) override {
    if (depth() == 2) {
      count();
      section()->emplace_back(std::move(name), std::vector<std::string>());
    } else {
      if (!seen_.insert(name).second)
        refuse(errc::bad_input, path(), fmt::format("has {} twice", in_quotes(name)));
      key_ = std::move(name);
    }
    return true;
  }
  bool string(std::string& text) override {
    if (depth() == 3) {
      count();
      section()->back().second.push_back(std::move(text));
    } else if (depth() == 1 && (key_ == "plan" || key_ == "rank")) {
      (key_ == "plan" ? plan : rank) = std::move(text);
    } else {
      return unexpected("string");
    }
    return true;
  }

  std::string plan;
  std::string rank;
  lists tensors;
  lists shards;

 private:
  lists* section() { return key_ == "tensors" ? &tensors : key_ == "shards" ? &shards : nullptr; }
  void count() {
    constexpr std::size_t words_max = 8 * file_limits{}.entry_count_max;
    if (++count_ > words_max)
      refuse(errc::bad_input, path(), fmt::format("has more than {} words", words_max));
  }

  std::set<std::string> seen_;
  std::string key_;
  std::size_t count_ = 0;
};

// ["BF16", base, target, "64", "48"]
rank_tensor read_tensor(const fs::path& file, const rank_plan& plan, const std::string& name,
                        const std::vector<std::string>& words) {
  const auto refuse_tensor = [&](std::string_view what) {
    refuse(errc::bad_input, file, fmt::format("tensor {} {}", in_quotes(name), what));
  };
  if (name.empty() || name.size() > tensor_name_bytes_max || name == metadata_key)
    refuse_tensor("has a name that no tensor can have");
  if (words.size() < 3 || words.size() > 3 + tensor_rank_max)
    refuse_tensor("is not described by dtype, two digests and shape");
  const auto type = parse_dtype(words[0]);
  if (!type) refuse_tensor("has an unknown dtype");
  rank_tensor out{{name, *type, {}}, words[1], words[2]};
  for (std::size_t i = 3; i < words.size(); ++i) {
    const auto extent = number_in<std::uint64_t>(words[i]);
    if (!extent) refuse_tensor("has a malformed shape");
    out.spec.shape.push_back(*extent);
  }
  const bool base_fits =
      plan.full ? out.base.empty() : is_digest(published_checksum::xxh3_128, out.base);
  if (!base_fits || !is_digest(published_checksum::xxh3_128, out.target))
    refuse_tensor("has a malformed digest");
  return out;
}

const rank_tensor* find_tensor(const rank_part& part, const std::string& name) {
  const auto at =
      std::lower_bound(part.tensors.begin(), part.tensors.end(), name,
                       [](const rank_tensor& t, const std::string& n) { return t.spec.name < n; });
  return at != part.tensors.end() && at->spec.name == name ? &*at : nullptr;
}

// A file of this rank and this plan, and of no other place.
void require_own_name(const fs::path& file, const std::string& prefix, const std::string& name) {
  if (!name.starts_with(prefix) || !name.ends_with(".safetensors") ||
      name.find('/') != std::string::npos || name.find('\0') != std::string::npos)
    refuse(errc::bad_input, file,
           fmt::format("names {}, which is no shard of this rank for this plan", in_quotes(name)));
}

void require_shard(const fs::path& path, const rank_plan& plan, const rank_part& part,
                   const rank_shard& shard) {
  std::error_code failure;
  // Not where a link leads: the name is moved into the version.
  if (fs::symlink_status(path, failure).type() != fs::file_type::regular)
    refuse(errc::bad_input, path, "is not a regular file");
  const auto header = read_safetensors_header(plain_file(path, plain_file::access::read));
  require_mapped(header, path, shard.tensors);
  const auto require_said = [&](const std::string& name, bool is_so) {
    if (!is_so)
      refuse(errc::bad_input, path,
             fmt::format("tensor {} is not what its rank says it is", in_quotes(name)));
  };
  if (plan.full) {
    for (const auto& t : header.tensors)
      require_said(t.spec.name, t.spec == find_tensor(part, t.spec.name)->spec);
    return;
  }
  require_compressed(header, path, plan.checksum);
  // Else no host could apply it, and the index would be there. Adler-32 no part says.
  if (plan.checksum == published_checksum::xxh3_128)
    for (const auto& t : header.tensors)
      require_said(t.spec.name,
                   header.metadata.at(t.spec.name) == find_tensor(part, t.spec.name)->target);
}

// What changed must be in one shard, what did not in none; of a full version everything in one.
void require_carried(const fs::path& file, const rank_plan& plan, const rank_part& part) {
  std::set<std::string_view> carried;
  for (const auto& shard : part.shards)
    for (const auto& name : shard.tensors) {
      if (!find_tensor(part, name))
        refuse(errc::bad_input, file,
               fmt::format("tensor {} is in a shard, and none of the rank's", in_quotes(name)));
      if (!carried.insert(name).second)
        refuse(errc::bad_input, file, fmt::format("tensor {} is in two shards", in_quotes(name)));
    }
  for (const auto& t : part.tensors)
    if (carried.contains(t.spec.name) != (plan.full || t.base != t.target))
      refuse(errc::bad_input, file,
             fmt::format("tensor {} is {} a shard, and its digests say otherwise",
                         in_quotes(t.spec.name), carried.contains(t.spec.name) ? "in" : "not in"));
}

std::string digest_of(const rank_part& part, std::string rank_tensor::*which) {
  std::vector<tensor_spec> specs;
  std::vector<std::string> digests;
  for (const auto& t : part.tensors) {
    specs.push_back(t.spec);
    digests.push_back(t.*which);
  }
  return state_digest(layout(std::move(specs)), digests);
}

}  // namespace

std::string fresh_nonce() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

void write_plan(const fs::path& staging, const rank_plan& plan) {
  write_object(staging / plan_name, {{"plan", plan.nonce},
                                     {"version", version_text(plan.version)},
                                     {"base_version", version_text(plan.base_version)},
                                     {"run", plan.run},
                                     {"kind", plan.full ? "full" : "delta"},
                                     {"delta_encoding", to_string(plan.encoding)},
                                     {"checksum_format", to_string(plan.checksum)},
                                     {"ranks", std::to_string(plan.ranks)}});
}

void begin_staging(const fs::path& stream, const rank_plan& plan) {
  constexpr int tries = 16;
  std::error_code failure;
  for (int i = 0; i < tries; ++i) {
    remove_rank_staging(stream);
    scratch_directory aside(stream);
    write_plan(aside.path() / "ranks", plan);
    fs::rename(aside.path() / "ranks", rank_staging(stream), failure);
    if (!failure) return aside.remove();
    // A rank that has not seen the end of the plan before has written there just now.
    if (failure != std::errc::directory_not_empty && failure != std::errc::file_exists) break;
  }
  refuse_write(rank_staging(stream), "cannot be made", failure.value());
}

std::optional<rank_plan> read_plan(const fs::path& staging) {
  const auto file = staging / plan_name;
  if (!stands(file)) return std::nullopt;
  const auto said = read_object(file, plan_bytes_max);
  const auto version = parse_version(text_in(said, "version"));
  const auto base_version = parse_version(text_in(said, "base_version"));
  const auto ranks = number_in<std::uint32_t>(text_in(said, "ranks"));
  rank_plan out;
  out.nonce = text_in(said, "plan");
  out.run = text_in(said, "run");
  out.full = text_in(said, "kind") == "full";
  bool known = out.full || text_in(said, "kind") == "delta";
  const auto choose = [&known](auto& value, const std::string& name, auto... choices) {
    known = known && ((to_string(choices) == name ? (value = choices, true) : false) || ...);
  };
  choose(out.encoding, text_in(said, "delta_encoding"), published_encoding::xored,
         published_encoding::overwrite, published_encoding::coded);
  choose(out.checksum, text_in(said, "checksum_format"), published_checksum::xxh3_128,
         published_checksum::adler32);
  if (!known || !version || !base_version || !ranks || out.nonce.size() != 16 ||
      !is_hexadecimal(out.nonce))
    refuse(errc::bad_input, file, "is no plan for a version");
  out.version = *version;
  out.base_version = *base_version;
  out.ranks = *ranks;
  return out;
}

std::string rank_prefix(std::uint32_t rank, std::string_view nonce) {
  return fmt::format("rank-{:05}-{}-", rank, nonce);
}

void write_part(const fs::path& file, const rank_part& part) {
  auto tensors = nlohmann::ordered_json::object();
  auto shards = nlohmann::ordered_json::object();
  // Built as lists: looking for an earlier entry of the same name would make it quadratic.
  auto& tensor_list = tensors.get_ref<nlohmann::ordered_json::object_t&>();
  for (const auto& t : part.tensors) {
    nlohmann::ordered_json words{to_string(t.spec.type), t.base, t.target};
    for (const auto extent : t.spec.shape) words.push_back(std::to_string(extent));
    tensor_list.emplace_back(t.spec.name, std::move(words));
  }
  for (const auto& s : part.shards) shards[s.file] = s.tensors;
  const nlohmann::ordered_json said{{"plan", part.plan},
                                    {"rank", std::to_string(part.rank)},
                                    {"tensors", std::move(tensors)},
                                    {"shards", std::move(shards)}};
  std::string text;
  try {
    text = said.dump();
  } catch (const nlohmann::json::exception&) {
    refuse(errc::wrong_layout, file, "would hold a tensor's name that is not valid UTF-8");
  }
  if (text.size() > part_bytes_max)
    refuse(errc::wrong_layout, file,
           fmt::format("would have {} bytes, the limit is {}", text.size(), part_bytes_max));
  file_writer out(file);
  out.write(text);
  out.commit();
}

rank_part read_part(const fs::path& file, const rank_plan& plan, std::uint32_t rank) {
  const auto text = read_small(file, part_bytes_max);
  part_events said(file);
  parse_json(std::as_bytes(std::span(text)), said);
  if (said.plan != plan.nonce || number_in<std::uint32_t>(said.rank) != rank)
    refuse(errc::bad_input, file, fmt::format("is not rank {}'s part of this plan", rank));
  rank_part out{said.plan, rank, {}, {}};
  for (const auto& [name, words] : said.tensors)
    out.tensors.push_back(read_tensor(file, plan, name, words));
  std::sort(out.tensors.begin(), out.tensors.end(),
            [](const rank_tensor& a, const rank_tensor& b) { return a.spec.name < b.spec.name; });
  std::vector<tensor_spec> specs;
  for (const auto& t : out.tensors) specs.push_back(t.spec);
  try {
    (void)layout(std::move(specs));  // no name twice, no size that overflows
  } catch (const error& e) {
    refuse(e.code(), file, e.what());
  }
  const auto prefix = rank_prefix(rank, plan.nonce);
  std::set<std::string_view> files;
  for (auto& [name, tensors] : said.shards) {
    require_own_name(file, prefix, name);
    if (!files.insert(name).second)
      refuse(errc::bad_input, file, fmt::format("has {} twice", in_quotes(name)));
    std::sort(tensors.begin(), tensors.end());
    out.shards.push_back({name, tensors});
  }
  require_carried(file, plan, out);
  for (const auto& shard : out.shards)
    require_shard(file.parent_path() / shard.file, plan, out, shard);
  return out;
}

whole_state merge_parts(const fs::path& dir, const std::vector<rank_part>& parts) {
  struct owned {
    const rank_tensor* tensor;
    std::size_t part;
  };
  std::vector<owned> all;
  for (std::size_t p = 0; p < parts.size(); ++p)
    for (const auto& t : parts[p].tensors) all.push_back({&t, p});
  std::stable_sort(all.begin(), all.end(), [](const owned& a, const owned& b) {
    return a.tensor->spec.name < b.tensor->spec.name;
  });
  whole_state out;
  out.repeated.resize(parts.size());
  std::vector<tensor_spec> specs;
  const owned* first = nullptr;  // of those with the same name
  for (const auto& now : all) {
    const auto& t = *now.tensor;
    if (first && first->tensor->spec.name == t.spec.name) {
      if (!(*first->tensor == t))
        refuse(errc::wrong_layout, dir,
               fmt::format("tensor {} is rank {}'s and rank {}'s, and not the same at both",
                           in_quotes(t.spec.name), parts[first->part].rank, parts[now.part].rank));
      out.repeated[now.part].push_back(t.spec.name);
      continue;
    }
    first = &now;
    specs.push_back(t.spec);
    out.base.push_back(t.base);
    out.target.push_back(t.target);
  }
  out.shape = layout(std::move(specs));
  return out;
}

void require_same(const fs::path& dir, const layout& before, const layout& now) {
  const auto refuse_tensor = [&](const tensor_spec& t, std::string_view what) {
    refuse(errc::wrong_layout, dir, fmt::format("tensor {} {}", in_quotes(t.name), what));
  };
  for (const auto& t : before.tensors()) {
    const auto at = now.find(t.name);
    if (!at) refuse_tensor(t, "was in the version before, and is no rank's now");
    if (!(now[*at] == t)) refuse_tensor(t, "has another dtype or shape than in the version before");
  }
  for (const auto& t : now.tensors())
    if (!before.find(t.name)) refuse_tensor(t, "was not in the version before");
}

void copy_tensors(const fs::path& from, const fs::path& to, const std::vector<std::string>& names) {
  const safetensors_file all(from);
  auto metadata = all.metadata();
  std::vector<tensor_spec> specs;
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < all.count(); ++i) {
    const auto& spec = all.spec(i);
    if (std::binary_search(names.begin(), names.end(), spec.name)) {
      specs.push_back(spec);
      numbers.push_back(i);
    } else {
      metadata.erase(spec.name);
    }
  }
  write_safetensors(
      to, layout(std::move(specs)), [&](std::size_t i) { return all.bytes(numbers[i]); }, metadata);
}

void write_refusal(const fs::path& staging, const rank_refusal& what) {
  remove_file(staging / plan_name);
  write_object(staging / refusal_name, {{"plan", what.plan}, {"why", what.why}});
}

std::optional<rank_refusal> read_refusal(const fs::path& staging) {
  try {
    const auto file = staging / refusal_name;
    if (!stands(file)) return std::nullopt;
    const auto said = read_object(file, plan_bytes_max);
    return rank_refusal{text_in(said, "plan"), text_in(said, "why")};
  } catch (const error&) {
    return std::nullopt;  // it is going
  }
}

void clear_refusal(const fs::path& staging) {
  for (const auto& file : files_in(staging))
    if (file.filename() != refusal_name) return;
  remove_file(staging / refusal_name);
  std::error_code ignored;
  fs::remove(staging, ignored);  // not with what another rank 0 has put there meanwhile
}

std::vector<std::string> rank_digests(std::string_view said, std::uint32_t ranks) {
  std::vector<std::string> out;
  // Counted first: whoever writes an index may have put millions of commas there.
  if (said.empty() || std::ranges::count(said, ',') + 1 != std::ptrdiff_t{ranks}) return out;
  for (std::size_t begin = 0; begin <= said.size();) {
    const auto end = std::min(said.find(',', begin), said.size());
    out.emplace_back(said.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

std::string base_digest(const rank_part& part) {
  return digest_of(part, &rank_tensor::base);
}

std::string target_digest(const rank_part& part) {
  return digest_of(part, &rank_tensor::target);
}

}  // namespace lockstep
