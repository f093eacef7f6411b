// Decides the seeds of `follow`: what others do in a stream of ours.
#include <memory>
#include <string>
#include <utility>

#include "fuzz/follow_files.hpp"
#include "fuzz/seed_files.hpp"
#include "weights/checkpoint.hpp"
#include "weights/published.hpp"
#include "weights/publisher.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

std::string round(unsigned wishes, unsigned target, const named_files& files) {
  std::string out{static_cast<char>(wishes), static_cast<char>(target),
                  static_cast<char>(files.size())};
  for (const auto& [name, contents] : files) add_file(out, follow_names(), name, contents);
  return out;
}

/// What of a stream the target has names for.
named_files files_of(const fs::path& stream) {
  named_files out;
  for (const auto& name : follow_names()) {
    const std::string prefix = "source/";
    if (!name.starts_with(prefix)) continue;
    const auto file = stream / name.substr(prefix.size());
    if (fs::is_regular_file(file)) out.emplace_back(name, get(file));
  }
  return out;
}

/// A stream from the tests' base, in which every version changes a byte; those of `full` are whole.
class made_stream {
 public:
  made_stream(const fs::path& dir, const std::string& run, std::uint64_t full_every)
      : dir_(dir), now_(checkpoint::open(test_data / "published/adler32/base").shape()) {
    now_.copy_from(checkpoint::open(test_data / "published/adler32/base"));
    publisher_options o;
    o.out = dir;
    o.run = run;
    o.full_every = full_every;
    to_ = std::make_unique<publisher>(std::move(o));
  }

  made_stream& add(unsigned change, const version_options& special = {}) {
    const auto before = now_.clone();
    for (std::size_t i = 0; i < now_.shape().count(); ++i)
      if (!now_.tensor(i).empty()) now_.tensor(i).front() ^= static_cast<std::byte>(change);
    to_->add(version_ + 1, version_, source_of(before), source_of(now_), special);
    ++version_;
    return *this;
  }
  named_files files() const { return files_of(dir_); }
  named_files files_of_version(std::uint64_t version) const {
    const auto wanted = "source/" + published_dir("", version).string() + "/";
    named_files out;
    for (auto& f : files())
      if (f.first.starts_with(wanted)) out.push_back(std::move(f));
    return out;
  }

 private:
  fs::path dir_;
  weight_buffer now_;
  std::unique_ptr<publisher> to_;
  std::uint64_t version_ = 0;
};

/// The index of a version of these, with other metadata.
template <class Change>
named_files changed(named_files files, unsigned version, Change change) {
  for (auto& [name, contents] : files) {
    if (name != "source/" + published_dir("", version).string() + "/" + index_json) continue;
    auto index = json::parse(contents);
    change(index["metadata"]);
    contents = index.dump();
  }
  return files;
}

/// Indexes that do not lead where the host is.
void contradictions(const fs::path& dir, const made_stream& deltas) {
  const auto based = static_cast<unsigned>(wish_based);
  const auto index = [&](unsigned version, auto change) {
    return changed(deltas.files_of_version(version), version, change);
  };
  const auto first = deltas.files_of_version(1);
  put(dir / "base-is-no-number", round(based, 1, first) + round(0, 2, index(2, [](json& metadata) {
                                                                  metadata["base_version"] = "one";
                                                                })));
  put(dir / "base-is-behind-the-host",
      round(based, 2, deltas.files()) +
          round(0, 3, index(3, [](json& metadata) { metadata["base_version"] = "000001"; })));
  put(dir / "base-is-said-otherwise",
      round(based, 3, deltas.files()) + round(wish_new | based, 3, index(3, [](json& metadata) {
                                                auto& base = metadata[std::string(own_key::base)];
                                                base = std::string(32, '0');
                                              })));
  auto damaged = deltas.files_of_version(2);
  damaged.emplace_back("source/weight_v000001/" + index_json, "{");
  put(dir / "base-is-damaged-that-is-held", round(based, 1, first) + round(0, 2, damaged));
}

void follow_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const auto based = static_cast<unsigned>(wish_based);
  for (const std::string format : {"adler32", "xxh3-128"}) {
    const auto all = files_of(test_data / "published" / format / "stream");
    put(dir / ("published-" + format), round(based, 0, all));
    put(dir / ("published-" + format + "-compared"),
        round(based | wish_named, 2, all) + round(wish_verify, 2, {}) + round(wish_verify, 0, {}));
    put(dir / ("published-" + format + "-without-base"), round(0, 0, all));
    put(dir / ("published-" + format + "-marked-by-others"),
        round(based, 1, all) +
            round(0, 0, {{"checkpoint/.weight_sync/state.json", R"({"version":"000000"})"}}));
  }
  made_stream deltas(scratch / "deltas", "run", 0);
  for (unsigned v = 1; v <= 10; ++v) deltas.add(v);
  const auto chain = deltas.files();
  put(dir / "ten-deltas", round(based, 0, chain));
  put(dir / "ten-deltas-stopped", round(based | wish_stop, 0, chain) + round(based, 0, {}));
  auto cut = chain;
  std::erase_if(cut, [](const auto& f) { return f.first.find("v000009/") != f.first.npos; });
  put(dir / "ten-deltas-one-missing", round(based, 0, cut));
  auto damaged = chain;
  for (auto& [name, contents] : damaged)
    if (name == "source/weight_v000007/" + shard)
      contents.back() = static_cast<char>(contents.back() ^ 1);
  put(dir / "ten-deltas-one-damaged", round(based, 0, damaged));
  const auto three = deltas.files_of_version(1);
  put(dir / "changed-by-others", round(based, 0, three) + round(wish_damaged, 0, {}) +
                                     round(wish_damaged | wish_verify, 0, {}));
  // Of what it was nobody knows any more.
  const std::pair<std::string, std::string> forgotten("checkpoint/.weight_sync/lockstep.json",
                                                      "{}");
  auto next = deltas.files_of_version(2);
  next.push_back(forgotten);
  put(dir / "changed-by-others-and-no-base", round(based, 0, three) + round(wish_damaged, 0, next));
  put(dir / "changed-by-others-and-no-digest",
      round(based, 1, files_of(test_data / "published/adler32/stream")) +
          round(based | wish_damaged, 2, {forgotten}));
  put(dir / "changed-and-unmarked",
      round(based, 0, three) + round(wish_damaged | wish_unmarked, 0, {}) +
          round(wish_unmarked | wish_damaged, 0, deltas.files_of_version(2)));
  put(dir / "unmarked", round(based, 0, three) + round(wish_unmarked, 0, {}) +
                            round(wish_unmarked, 0, deltas.files_of_version(2)));
  put(dir / "earlier-again", round(based, 3, chain) + round(0, 2, {}));

  made_stream full(scratch / "full", "run", 2);
  full.add(1).add(2).add(4);
  const auto mixed = full.files();
  put(dir / "full", round(0, 0, mixed));
  put(dir / "full-rebuilt",
      round(0, 2, mixed) + round(wish_rebuild, 3, {}) + round(wish_damaged | wish_verify, 3, {}));
  put(dir / "full-on-a-new-disk", round(0, 0, mixed) + round(wish_new | wish_named, 0, {}));
  put(dir / "base-rebuilt", round(based, 1, mixed) + round(based | wish_rebuild, 1, {}));
  auto false_digest = mixed;
  for (auto& [name, contents] : false_digest) {
    const auto at = contents.find("target_digest");
    if (name.ends_with(index_json) && at != contents.npos)
      contents[at + 20] = contents[at + 20] == '0' ? '1' : '0';
  }
  put(dir / "full-with-other-digest", round(0, 2, false_digest));
  put(dir / "delta-with-other-digest", round(based, 1, false_digest));

  made_stream anew(scratch / "anew", "other", 0);
  anew.add(1).add(9);
  put(dir / "another-run", round(based, 0, deltas.files_of_version(1)) + round(0, 0, anew.files()));
  put(dir / "another-run-behind", round(based, 3, chain) + round(0, 1, anew.files()));
  made_stream shorter(scratch / "shorter", "other", 0);
  shorter.add(1 ^ 2).add(4);
  put(dir / "another-run-has-the-same-earlier",
      round(based, 2, chain) + round(0, 1, shorter.files()));
  contradictions(dir, deltas);

  version_options meant;
  meant.full = true;
  meant.metadata[std::string(own_key::meant_for)] = "a,b";
  made_stream others(scratch / "others", "run", 0);
  others.add(1).add(0, meant).add(3);
  put(dir / "meant-for-others", round(based | wish_named, 1, others.files()) +
                                    round(wish_named, 2, {}) + round(wish_named, 3, {}));
  version_options asks;
  asks.metadata[std::string(own_key::challenge)] = "0123456789abcdef";
  made_stream asked(scratch / "asked", "run", 0);
  asked.add(1, asks).add(2, asks);
  put(dir / "asked", round(based | wish_named, 0, asked.files()) + round(wish_named, 0, {}));
  put(dir / "asked-without-base", round(wish_named, 0, asked.files()));
  auto unheard = asked.files();
  unheard.emplace_back("source/acks/host.json", "x");
  put(dir / "asked-after-nonsense", round(based | wish_named, 0, unheard));
  const auto asked_nonsense = changed(asked.files_of_version(1), 1, [](json& metadata) {
    metadata[std::string(own_key::challenge)] = "0123";
  });
  put(dir / "asked-nonsense", round(based | wish_named, 0, asked_nonsense));
  put(dir / "asked-nonsense-without-base", round(wish_named, 0, asked_nonsense));

  const auto model = get(test_data / "published/adler32/base/model.safetensors");
  put(dir / "lone-checkpoint", round(0, 1, {{"source/weight_v000001/model.safetensors", model}}));
  auto later = model;
  later.back() = static_cast<char>(later.back() ^ 1);
  put(dir / "lone-checkpoint-changed-in-the-stream",
      round(0, 1, {{"source/weight_v000001/model.safetensors", model}}) +
          round(wish_verify, 1, {{"source/weight_v000001/model.safetensors", later}}));
  put(dir / "nothing", round(based, 0, {}));
  put(dir / "not-published", round(based, 9, three));
  const auto link = [&](const std::string& name, unsigned where) {
    std::string out;
    add_file(out, follow_names(), name, std::string(1, static_cast<char>(where)));
    out[0] = static_cast<char>(static_cast<unsigned char>(out[0]) | follow_link);
    return out;
  };
  const auto linked = [&](unsigned wishes, const named_files& files, const std::string& more) {
    auto out = round(wishes, 1, files);
    ++out[2];
    return out + more;
  };
  put(dir / "version-is-a-link", linked(based, {}, link("source/weight_v000001", 0)));
  put(dir / "index-is-a-link",
      linked(based, three, link("source/weight_v000001/" + index_json, 4)));
  put(dir / "shard-is-a-link", linked(based, three, link("source/weight_v000001/" + shard, 1)));
  put(dir / "shard-is-a-link-to-the-same",
      linked(based,
             {{"source/weight_v000001/" + index_json,
               get(test_data / "published/adler32/stream/weight_v000001" / index_json)}},
             link("source/weight_v000001/" + shard, 5)));
  put(dir / "shard-of-a-full-one-is-a-link",
      linked(0, {}, link("source/weight_v000001/model.safetensors", 1)));
  put(dir / "notes-are-a-link", linked(based, three, link("checkpoint/.weight_sync", 0)));
  put(dir / "left-by-killed-publishers",
      round(based, 0,
            {{"source/.lockstep-ranks/plan.json", "{}"},
             {"source/.lockstep-scratch-1/model.safetensors", "x"},
             {"source/weight_v000001/" + index_json, "{"}}));
  fs::remove_all(scratch);
}

}  // namespace

void put_follow_seeds(const fs::path& dir) {
  follow_seeds(dir / "follow");
}

}  // namespace lockstep::fuzz
