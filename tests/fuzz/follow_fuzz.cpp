// The bytes are what stands in a stream while a host follows it, round by round
// (fuzz/follow_files.hpp): before each round files come, as whoever can write there has them.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "fuzz/follow_files.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "messages/errors.hpp"
#include "support/places.hpp"
#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/host_record.hpp"
#include "weights/plain_file.hpp"
#include "weights/published.hpp"
#include "weights/pull.hpp"
#include "weights/stream_owner.hpp"
#include "weights/weight_buffer.hpp"
#include "weights/weight_stream.hpp"
#include "weights/workers.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;

/// The tensors of the checkpoint in `dir`; nothing where there is none.
std::optional<weight_buffer> live_in(const fs::path& dir) {
  try {
    const auto files = checkpoint::open(dir);
    weight_buffer out(files.shape());
    out.copy_from(files);
    return out;
  } catch (const error&) {
    return std::nullopt;
  }
}

bool same(const weight_buffer& a, const weight_buffer& b) {
  if (!(a.shape() == b.shape())) return false;
  for (std::size_t i = 0; i < a.shape().count(); ++i)
    if (!std::ranges::equal(a.tensor(i), b.tensor(i))) return false;
  return true;
}

bool same(const std::optional<weight_buffer>& a, const std::optional<weight_buffer>& b) {
  return a.has_value() == b.has_value() && (!a || same(*a, *b));
}

std::optional<std::uint64_t> marker_in(const fs::path& dir) {
  try {
    return marker_of(dir);
  } catch (const error&) {
    return std::nullopt;
  }
}

template <class Action>
bool accepted(Action action) {
  return fuzz::accepted({errc::bad_input, errc::wrong_base, errc::wrong_layout, errc::torn,
                         errc::unwritable, errc::shut_down},
                        action);
}

/// Links of the stream may lead about in it and nowhere else.
void demand_inside(const fs::path& source, const fs::path& dir) {
  const auto root = fs::canonical(source).string() + "/";
  fuzz::demand((fs::canonical(dir).string() + "/").starts_with(root), "a version is in the stream");
  for (const auto& entry : fs::directory_iterator(dir)) {
    const auto name = entry.path().filename().string();
    if (!name.ends_with(".safetensors") && name != index_name) continue;
    fuzz::demand(fs::canonical(entry.path()).string().starts_with(root),
                 "what is taken is in the stream");
  }
}

/// How a stream leads to a version, read from its end: the deltas, the last one first, and the
/// whole checkpoint that they start from, unless that is version 0.
struct way {
  std::vector<fs::path> deltas;
  std::optional<fs::path> whole;
};

way way_to(const fs::path& source, std::uint64_t version) {
  way out;
  try {
    while (version != 0) {
      const auto dir = published_dir(source, version);
      if (!fs::exists(dir)) return out;
      if (!has_index(dir) || !read_index(dir).is_delta()) {
        out.whole = dir;
        return out;
      }
      const auto metadata = read_index(dir).metadata;
      const auto base = metadata.find("base_version");
      const auto number = base == metadata.end() ? std::nullopt : parse_version(base->second);
      if (!number || *number >= version) return out;
      out.deltas.push_back(dir);
      version = *number;
    }
  } catch (const error&) {
    // So far and no further.
  }
  return out;
}

/// `start` after the last `count` deltas of the way, each in one piece; nothing where they do not
/// lead on.
std::optional<weight_buffer> after(weight_buffer start, const way& by, std::size_t count) {
  if (count > by.deltas.size()) return std::nullopt;
  try {
    while (count-- > 0) published_delta::open(by.deltas[count], start.shape()).apply(start);
  } catch (const error&) {
    return std::nullopt;
  }
  return start;
}

/// One host and the stream that it follows.
class host {
 public:
  explicit host(fuzz::scratch& files)
      : files_(files), source_(files.path() / "source"), dir_(files.path() / "checkpoint") {}

  /// Takes a round's bytes from the front of `rest`.
  void round(std::span<const std::byte>& rest) {
    const auto wishes = std::to_integer<unsigned>(rest[0]);
    const auto target = std::to_integer<std::uint64_t>(rest[1]);
    const auto count = std::to_integer<std::size_t>(rest[2]);
    rest = rest.subspan(fuzz::follow_round_bytes);
    for (std::size_t i = 0; i < count && rest.size() >= 3; ++i) put(rest);
    fs::create_directories(source_);
    if ((wishes & fuzz::wish_new) != 0) fs::remove_all(dir_);
    if ((wishes & fuzz::wish_damaged) != 0) damage();
    std::error_code nowhere;
    if ((wishes & fuzz::wish_unmarked) != 0) fs::remove(dir_ / ".weight_sync/state.json", nowhere);
    bring(wishes, target);
  }

  /// A publisher takes the stream over and removes what nobody needs.
  void own(std::uint64_t keep) {
    publisher_options o;
    o.out = source_;
    o.keep = keep;
    o.readers = {dir_};
    std::vector<std::uint64_t> before;
    if (!accepted([&] { before = published_versions(source_); })) return;
    std::size_t removed = 0;
    if (!accepted([&] {
          const stream_owner owner(o);
          fuzz::demand(!accepted([&] { const stream_owner another(o); }), "a stream has one owner");
          fuzz::demand(owner.newest() == (before.empty() ? 0 : before.back()),
                       "an owner knows the newest version");
          for (const auto v : before) {
            fuzz::demand(!owner.gone(v) || is_lone_checkpoint(published_dir(source_, v)),
                         "what is there is not gone, but others' in its place");
            accepted([&] { owner.require_run(published_dir(source_, v)); });
            accepted([&] { owner.require_base(v); });
          }
          removed = owner.prune(owner.newest());
        }))
      return;
    fuzz::demand(!fs::exists(rank_staging(source_)), "nothing of killed publishers is left");
    const auto left = published_versions(source_);
    fuzz::demand(left.size() + removed == before.size() &&
                     std::equal(left.rbegin(), left.rend(), before.rbegin()),
                 "the oldest versions go, and as many as are said");
    const auto marker = marker_in(dir_).value_or(0);
    for (std::size_t i = 0; i < removed; ++i)
      fuzz::demand(before[i] <= marker && before[i] + keep <= before.back(),
                   "nothing goes that somebody needs");
  }

 private:
  void put(std::span<const std::byte>& rest) {
    const auto name = std::to_integer<unsigned>(rest[0]);
    const auto length =
        std::to_integer<std::size_t>(rest[1]) | std::to_integer<std::size_t>(rest[2]) << 8;
    rest = rest.subspan(3);
    const auto bytes = rest.first(std::min(length, rest.size()));
    rest = rest.subspan(bytes.size());
    const auto& names = fuzz::follow_names();
    const auto& file = names[(name & ~fuzz::follow_link) % names.size()];
    const auto at = files_.path() / file;
    // What is a link, or a file where a directory is to be, is replaced and never written through.
    auto above = files_.path();
    for (const auto& part : fs::path(file)) {
      above /= part;
      if (fs::is_symlink(above) || !fs::is_directory(above)) fs::remove(above);
    }
    fs::remove_all(at);
    if ((name & fuzz::follow_link) == 0) return files_.put(file, bytes);
    fs::create_directories(at.parent_path());
    const auto where =
        bytes.empty() ? 0 : std::to_integer<std::size_t>(bytes[0]) % fuzz::follow_ends.size();
    fs::create_symlink(fuzz::follow_ends[where], at);
  }

  void damage() {
    const auto file = dir_ / single_file_name;
    if (!fs::is_regular_file(file)) return;
    auto bytes = read_small(file, 1 << 20);
    if (bytes.empty()) return;
    bytes.back() = static_cast<char>(bytes.back() ^ 0x10);
    files_.put("checkpoint/model.safetensors", std::as_bytes(std::span(bytes)));
  }

  void bring(unsigned wishes, std::uint64_t target) {
    pull_options o;
    o.source = source_;
    o.checkpoint = dir_;
    o.rebuild = (wishes & fuzz::wish_rebuild) != 0;
    o.verify = (wishes & fuzz::wish_verify) != 0;
    if ((wishes & fuzz::wish_based) != 0) o.base = files_.path() / "base";
    if ((wishes & fuzz::wish_named) != 0) o.name = "host";
    if (target != 0) o.target = target;
    o.lock_patience = std::chrono::milliseconds(0);
    o.progress = [](std::string_view what, std::uint64_t done, std::uint64_t all) {
      fuzz::demand_message(what);
      fuzz::demand(done <= all, "what is done is of all");
    };
    const auto before = live_in(dir_);
    const auto marker = marker_in(dir_);
    accepted([&] { verify(o); });
    fuzz::demand(same(live_in(dir_), before) && marker_in(dir_) == marker,
                 "who only looks changes nothing");
    std::size_t asked = 0;
    if ((wishes & fuzz::wish_stop) != 0) o.stopping = [&asked] { return ++asked > 3; };
    std::optional<pull_report> done;
    bool unsaid = false;
    {
      const fuzz::held_bytes bound(held_max);
      accepted([&] {
        try {
          done = pull(o);
        } catch (const error& e) {
          unsaid = e.code() == errc::unreachable;
          if (!unsaid) throw;
          fuzz::demand_message(e.what());
        }
      });
    }
    if (done)
      check_done(o, *done, before);
    else if (unsaid)
      check_unsaid(o, before);
    else
      check_refused(o, before, marker);
  }

  /// Whether a whole checkpoint, and the deltas after it, are what is live.
  bool is_whole(const pull_options& o, const way& by, const weight_buffer& live) const {
    auto start = live_in(by.whole ? *by.whole : o.base ? *o.base : fs::path());
    if (!start) return false;
    const auto end = after(std::move(*start), by, by.deltas.size());
    return end && same(*end, live);
  }

  bool is_before(const std::optional<weight_buffer>& before, const way& by, std::size_t deltas,
                 const weight_buffer& live) const {
    if (!before) return false;
    const auto end = after(before->clone(), by, deltas);
    return end && same(*end, live);
  }

  void check_done(const pull_options& o, const pull_report& done,
                  const std::optional<weight_buffer>& before) {
    const auto live = live_in(dir_);
    fuzz::demand(live.has_value(), "what was brought can be read");
    fuzz::demand(marker_in(dir_) == done.version, "the marker says the version");
    fuzz::demand(done.version == (o.target ? *o.target : newest_published(source_).value_or(0)),
                 "the version is the one that was asked for");
    const auto by = way_to(source_, done.version);
    fuzz::demand(done.whole ? is_whole(o, by, *live) : is_before(before, by, done.deltas, *live),
                 "a checkpoint is exactly what the stream says");
    for (std::size_t i = 0; i < by.deltas.size() && (done.whole || i < done.deltas); ++i)
      demand_inside(source_, by.deltas[i]);
    if (done.whole && by.whole) demand_inside(source_, *by.whole);
    auto again = o;
    again.rebuild = again.verify = false;
    accepted([&] { pull(again); });
    fuzz::demand(same(live_in(dir_), live) && marker_in(dir_) == done.version,
                 "who is there stays as it is");
  }

  /// It is there, and whoever wants to hear of it cannot be told.
  void check_unsaid(const pull_options& o, const std::optional<weight_buffer>& before) const {
    const auto live = live_in(dir_);
    const auto target = o.target ? *o.target : newest_published(source_).value_or(0);
    fuzz::demand(!o.name.empty() && live && marker_in(dir_) == target,
                 "what cannot be said is that it is there");
    fuzz::demand(leads_to(o, *live, before, target), "and it is exactly what the stream says");
  }

  void check_refused(const pull_options& o, const std::optional<weight_buffer>& before,
                     const std::optional<std::uint64_t>& marker) const {
    const auto now = marker_in(dir_);
    const auto live = live_in(dir_);
    if (same(live, before)) return;
    fuzz::demand(live && now && now != marker, "what is refused leads to a version or nowhere");
    fuzz::demand(leads_to(o, *live, before, *now),
                 "an earlier version is exactly what the stream says");
  }

  /// Whether the stream leads from what was live, or from a whole checkpoint, to `live` as that
  /// version.
  bool leads_to(const pull_options& o, const weight_buffer& live,
                const std::optional<weight_buffer>& before, std::uint64_t version) const {
    const auto by = way_to(source_, version);
    bool any = is_whole(o, by, live);
    for (std::size_t n = 0; n <= by.deltas.size(); ++n) any = any || is_before(before, by, n, live);
    return any;
  }

  /// A window of the log, and for each of some deltas two of what is compressed.
  static constexpr std::size_t held_max = 8 << 20;

  fuzz::scratch& files_;
  fs::path source_;
  fs::path dir_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto from = test::test_data() / "published/adler32";
  static const auto model = read_small(from / "base/model.safetensors", 1 << 20);
  static const auto delta =
      read_small(from / "stream/weight_v000001/model-00000-of-00001.safetensors", 1 << 20);
  static fuzz::scratch files;
  set_workers(1);
  files.clear();
  auto other = model;
  other.back() = static_cast<char>(other.back() ^ 1);
  const std::string index = R"({"metadata":{},"weight_map":{}})";
  files.put("base/model.safetensors", std::as_bytes(std::span(model)));
  files.put("outside/model.safetensors", std::as_bytes(std::span(other)));
  files.put("outside/delta.safetensors", std::as_bytes(std::span(delta)));
  files.put("outside/model.safetensors.index.json", std::as_bytes(std::span(index)));
  auto rest = fuzz::input_of(data, size);
  host h(files);
  for (std::size_t i = 0; i < fuzz::follow_rounds_max && rest.size() >= fuzz::follow_round_bytes;
       ++i)
    h.round(rest);
  h.own(1 + size % 3);
  fuzz::demand(read_small(files.path() / "outside/model.safetensors", 1 << 20) == other &&
                   fs::is_regular_file(files.path() / "outside/model.safetensors"),
               "what is not of the stream stays as it is");
  return 0;
}
