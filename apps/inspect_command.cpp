#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/change_count.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/json_line.hpp"
#include "apps/progress_bar.hpp"
#include "apps/replay_output.hpp"
#include "apps/standard_output.hpp"
#include "kernels/frame.hpp"
#include "kernels/frame_layout.hpp"
#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/part_stream.hpp"
#include "weights/published.hpp"
#include "weights/published_encode.hpp"
#include "weights/pull.hpp"
#include "weights/safetensors.hpp"
#include "weights/state_digest.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

using nlohmann::ordered_json;

struct inspect_arguments {
  std::string path;
  std::string base;
  bool schemes = false;
  bool json = false;
};

/// What an index says of itself, apart from what we say of it: its writer chose the keys. Values
/// that are no strings are not read.
ordered_json as_json(const checkpoint_index& index) {
  auto out = ordered_json::object();
  for (const auto& [key, value] : index.metadata)
    if (!value.empty()) out[key] = value;
  return out;
}

class inspection {
 public:
  explicit inspection(const inspect_arguments& a) : arguments_(a) {
    if (!a.base.empty()) base_ = checkpoint::open(a.base);
  }

  int run() {
    const fs::path path = arguments_.path;
    std::error_code failure;
    if (!stands(path)) refuse(errc::bad_input, path, "is not there");
    if (!fs::is_directory(path, failure)) {
      file(path);
    } else if (has_index(path) && read_index(path).is_delta()) {
      delta(path);
    } else if (has_index(path) || stands(path / single_file_name)) {
      whole(checkpoint::open(path));
    } else {
      stream(path);
    }
    return exit_ok;
  }

 private:
  void print(const ordered_json& line, const std::string& text) const {
    if (arguments_.json)
      print_out(json_line(line));
    else
      print_out(text + '\n');
  }

  void file(const fs::path& path) const {
    const mapped_file mapped(path);
    const bool frame = !mapped.bytes().empty() &&
                       std::to_integer<std::uint8_t>(mapped.bytes()[0]) == kernels::frame_magic &&
                       path.extension() != ".safetensors";
    if (frame) return frames(mapped);
    whole(checkpoint::open(path));
  }

  /// Frames one after the other, as they are on the wire; without their base only the headers say
  /// anything.
  void frames(const mapped_file& in) const {
    auto rest = in.bytes();
    for (std::size_t at = 0; !rest.empty(); ++at) {
      const auto refuse_frame = [&](const std::string& what) {
        refuse(errc::bad_input, in.path(), fmt::format("frame {} {}", at, what));
      };
      if (rest.size() < kernels::frame_header_bytes) refuse_frame("is cut short");
      const auto number = [&](std::size_t from, std::size_t bytes) {
        std::uint64_t value = 0;
        for (auto i = bytes; i-- > 0;)
          value = value << 8 | std::to_integer<std::uint64_t>(rest[from + i]);
        return value;
      };
      namespace field = kernels::field;
      const auto payload = number(field::payload_bytes, 4);
      if (number(field::magic, 1) != kernels::frame_magic) refuse_frame("does not begin as one");
      if (payload > rest.size() - kernels::frame_header_bytes) refuse_frame("is cut short");
      const auto length = kernels::frame_header_bytes + payload;
      const bool intact =
          number(field::checksum, 4) == kernels::frame_checksum({rest.data(), length});
      constexpr std::array<const char*, 4> names{"?", "raw", "full", "coded"};
      const auto encoding = number(field::encoding, 1);
      const auto* name = names[encoding < names.size() ? encoding : 0];
      const auto offset = number(field::range, 3) * kernels::frame_span_bytes_max;
      print({{"kind", "frame"},
             {"encoding", name},
             {"unit", number(field::unit, 1)},
             {"tensor", number(field::tensor, 4)},
             {"offset", offset},
             {"count", number(field::count, 3)},
             {"bytes", length},
             {"intact", intact}},
            fmt::format("{:6} tensor {} offset {} {} changes of {} bytes, {} bytes{}", name,
                        number(field::tensor, 4), offset, number(field::count, 3),
                        number(field::unit, 1), length, intact ? "" : ", damaged"));
      rest = rest.subspan(length);
    }
  }

  void whole(const checkpoint& c) const {
    std::map<std::string, std::pair<std::size_t, std::uint64_t>> types;
    for (std::size_t i = 0; i < c.shape().count(); ++i) {
      const auto& spec = c.shape()[i];
      auto& type = types[std::string(to_string(spec.type))];
      ++type.first;
      type.second += c.shape().bytes(i);
      print({{"kind", "tensor"},
             {"tensor", spec.name},
             {"dtype", to_string(spec.type)},
             {"shape", spec.shape},
             {"bytes", c.shape().bytes(i)},
             {"file", c.file(c.place_of(i).file).filename().string()}},
            fmt::format("{:>10} {:8} [{}] {}", human_bytes(c.shape().bytes(i)),
                        to_string(spec.type), fmt::join(spec.shape, ", "), printable(spec.name)));
    }
    ordered_json by_type;
    std::string text;
    for (const auto& [type, sums] : types) {
      by_type[type] = {{"tensors", sums.first}, {"bytes", sums.second}};
      text += fmt::format(", {} {}", sums.first, type);
    }
    print({{"kind", "checkpoint"},
           {"tensors", c.shape().count()},
           {"bytes", c.shape().total_bytes()},
           {"files", c.file_count()},
           {"dtypes", by_type}},
          fmt::format("checkpoint of {} tensors, {} in {} files{}", c.shape().count(),
                      human_bytes(c.shape().total_bytes()), c.file_count(), text));
  }

  /// A line for each version.
  void stream(const fs::path& dir) const {
    const auto versions = published_versions(dir);
    if (versions.empty()) refuse(errc::bad_input, dir, "holds no checkpoint and no version");
    for (const auto version : versions) {
      const auto at = published_dir(dir, version);
      const auto index = has_index(at) ? read_index(at) : checkpoint_index();
      const auto tensors =
          has_index(at) ? index.weight_map.size() : checkpoint::open(at).shape().count();
      std::uint64_t bytes = 0;
      std::error_code failure;
      for (fs::directory_iterator it(at, failure), end; !failure && it != end;
           it.increment(failure))
        if (it->is_regular_file(failure)) bytes += it->file_size(failure);
      if (failure) refuse_read(at, "cannot be read", failure.value());
      ordered_json line{{"kind", "version"},  {"version", version}, {"full", !index.is_delta()},
                        {"tensors", tensors}, {"bytes", bytes},     {"metadata", as_json(index)}};
      const auto value = [&](const char* key) {
        const auto found = index.metadata.find(key);
        return found == index.metadata.end() ? std::string() : printable(found->second);
      };
      print(line, fmt::format(
                      "version {:6} {:>10} {} tensors, {}", version, human_bytes(bytes), tensors,
                      index.is_delta() ? value("delta_encoding") + " from " + value("base_version")
                                       : "full"));
    }
  }

  /// What a delta changes. How large tensors are and, of a coded one, what it means, only a base
  /// says.
  void delta(const fs::path& dir) const {
    if (!base_) {
      const auto index = read_index(dir);
      std::uint64_t bytes = 0;
      for (const auto& [shard, mapped] : index.shards()) {
        const safetensors_file file(dir / shard);
        require_mapped(file.header(), file.path(), mapped);
        for (std::size_t i = 0; i < file.count(); ++i) {
          bytes += file.bytes(i).size();
          print({{"kind", "part"},
                 {"tensor", file.spec(i).name},
                 {"bytes", file.bytes(i).size()},
                 {"file", shard}},
                fmt::format("{:>10} {}", human_bytes(file.bytes(i).size()),
                            printable(file.spec(i).name)));
        }
      }
      return print({{"kind", "delta"},
                    {"tensors", index.weight_map.size()},
                    {"bytes", bytes},
                    {"metadata", as_json(index)}},
                   fmt::format("delta of {} tensors, {}; --base DIR shows what changes",
                               index.weight_map.size(), human_bytes(bytes)));
    }
    described(published_delta::open(dir, base_->shape()));
  }

  void described(const published_delta& d) const {
    std::uint64_t changed = 0;
    std::map<std::string, std::uint64_t> schemes;
    progress_bar bar(d.count());
    for (std::size_t p = 0; p < d.count(); ++p) {
      const auto& spec = base_->shape()[d.tensor(p)];
      bar.show(p, printable(spec.name));
      change_count count(spec);
      std::vector<std::byte> fresh;
      read_part(d, p, count, arguments_.schemes ? &fresh : nullptr);
      changed += count.changed();
      auto line = count.as_json();
      line["kind"] = "part";
      line["tensor"] = spec.name;
      line["bytes"] = d.compressed_bytes(p);
      if (arguments_.schemes) measure(d.tensor(p), fresh, line, schemes);
      base_->release(d.tensor(p));
      bar.clear();
      print(line, fmt::format("{:>10} {:8.4f} % |{}| {}", human_bytes(d.compressed_bytes(p)),
                              100 * count.density(), count.drawn(), printable(spec.name)));
    }
    ordered_json line{{"kind", "delta"},
                      {"version", d.version()},
                      {"base_version", d.base_version()},
                      {"encoding", to_string(d.encoding())},
                      {"tensors", d.count()},
                      {"bytes", d.compressed_bytes()},
                      {"changed", changed}};
    std::string text;
    for (const auto& [name, bytes] : schemes) {
      line["schemes"][name] = bytes;
      text += fmt::format(", as {} {}", name, human_bytes(bytes));
    }
    print(line, fmt::format("{} delta from {} to {}: {} tensors, {} elements, {}{}",
                            to_string(d.encoding()), d.base_version(), d.version(), d.count(),
                            changed, human_bytes(d.compressed_bytes()), text));
  }

  void read_part(const published_delta& d, std::size_t p, change_count& count,
                 std::vector<std::byte>* all) const {
    const auto old = base_->tensor(d.tensor(p));
    constexpr int window_log_max = 27;
    part_stream stream(d.encoding(), d.compressed(p), old.size(),
                       unit_bytes(base_->shape()[d.tensor(p)].type), window_log_max);
    std::vector<std::byte> fresh(std::min<std::size_t>(part_stream::window_bytes, old.size()));
    published_hasher hash(d.checksum());
    const auto refuse_part = [&](const std::string& what) {
      refuse(errc::bad_input, d.file(p),
             fmt::format("tensor {} {}", in_quotes(base_->shape()[d.tensor(p)].name), what));
    };
    for (std::size_t at = 0; at < old.size(); at += part_stream::window_bytes) {
      const auto from = old.subspan(at, std::min(fresh.size(), old.size() - at));
      const auto to = std::span(fresh).first(from.size());
      if (auto problem = stream.next(from, to); !problem.empty()) refuse_part(problem);
      hash.update(to);
      count.add(at, from, to);
      if (all) all->insert(all->end(), to.begin(), to.end());
    }
    if (auto problem = stream.finish(); !problem.empty()) refuse_part(problem);
    if (hash.digest() != d.digest(p))
      refuse_part(fmt::format("does not match its checksum: it is damaged, or {} is not version {}",
                              arguments_.base, d.base_version()));
  }

  /// How long the part would be in each scheme; one tensor in memory.
  void measure(std::size_t tensor, const std::vector<std::byte>& fresh, ordered_json& line,
               std::map<std::string, std::uint64_t>& sums) const {
    for (const auto encoding :
         {published_encoding::xored, published_encoding::overwrite, published_encoding::coded}) {
      if (encoding == published_encoding::overwrite && fresh.size() > overwrite_bytes_max) continue;
      std::vector<std::byte> out;
      std::uint64_t bytes = 0;
      const auto spill = [&](std::uint64_t) {
        bytes += out.size();
        out.clear();
      };
      encode_part(encoding, published_checksum::xxh3_128, unit_bytes(base_->shape()[tensor].type),
                  base_->tensor(tensor), fresh, out, spill);
      spill(fresh.size());
      const std::string name(to_string(encoding));
      line["schemes"][name] = bytes;
      sums[name] += bytes;
    }
  }

  const inspect_arguments& arguments_;
  std::optional<checkpoint> base_;
};

}  // namespace

void add_inspect_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "inspect", "What is in a checkpoint, a stream, a published version or a file of frames");
  const auto a = std::make_shared<inspect_arguments>();
  command->add_option("path", a->path, "What to look at")->type_name("PATH")->required();
  auto* base =
      command
          ->add_option("--base", a->base,
                       "Checkpoint that a delta starts from: shows what changes, and where")
          ->type_name("DIR");
  command->add_flag("--schemes", a->schemes, "With --base: how long it would be in each scheme")
      ->needs(base);
  command->add_flag("--json", a->json, "One JSON object a line");
  command->callback([a, &run] { run = [a] { return inspection(*a).run(); }; });
}

}  // namespace lockstep
