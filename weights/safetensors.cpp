#include "weights/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "weights/json_events.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t length_bytes = 8;

// Builds the header straight from the parser's events. Of the three levels that a header has, each
// accepts only what may stand there; so no nesting, no value and no name is ever stored unbounded.
class header_events final : public json_events {
 public:
  header_events(const fs::path& path, const file_limits& limits, safetensors_header& out)
      : json_events(path), limits_(limits), out_(out) {}

  bool start_object(std::size_t) override { return depth() < 2 ? enter() : unexpected("object"); }

  bool key(std::string& name) override {
    if (depth() == 1)
      start_entry(name);
    else if (in_metadata_)
      start_metadata(name);
    else
      start_field(name);
    return true;
  }

  bool string(std::string& text) override {
    if (depth() == 2 && in_metadata_) {
      *value_ = std::move(text);
    } else if (depth() == 2 && field_ == field::type) {
      const auto type = parse_dtype(text);
      if (!type) refuse_tensor("has the unknown dtype " + in_quotes(text));
      current().spec.type = *type;
    } else {
      return unexpected("string");
    }
    return true;
  }

  bool start_array(std::size_t) override {
    const bool expected =
        depth() == 2 && !in_metadata_ && (field_ == field::shape || field_ == field::offsets);
    return expected ? enter() : unexpected("array");
  }

  bool number_unsigned(number_unsigned_t number) override {
    if (depth() != 3) return unexpected("number");
    if (field_ == field::shape) {
      if (current().spec.shape.size() == tensor_rank_max)
        refuse_tensor(fmt::format("has more than {} extents", tensor_rank_max));
      current().spec.shape.push_back(number);
    } else {
      if (offset_count_ == 2) refuse_tensor("has more than two data_offsets");
      (offset_count_++ == 0 ? current().begin : current().end) = number;
    }
    return true;
  }

  bool end_array() override { return leave(); }

  bool end_object() override {
    if (depth() == 2 && !in_metadata_) end_entry();
    in_metadata_ = false;
    return leave();
  }

 private:
  enum class field { none, type, shape, offsets };

  safetensors_header::tensor& current() { return out_.tensors.back(); }

  [[noreturn]] void refuse_tensor(const std::string& what) {
    refuse(errc::bad_input, path(),
           fmt::format("tensor {} {}", in_quotes(current().spec.name), what));
  }

  bool unexpected(std::string_view what) override {
    if (in_metadata_ || out_.tensors.empty()) return json_events::unexpected(what);
    refuse_tensor(fmt::format("has an unexpected {} in its description", what));
  }

  void start_entry(std::string& name) {
    in_metadata_ = name == metadata_key;
    if (in_metadata_) {
      if (std::exchange(had_metadata_, true))
        refuse(errc::bad_input, path(), "has two __metadata__");
      return;
    }
    if (name.empty()) refuse(errc::bad_input, path(), "a tensor has an empty name");
    if (name.size() > tensor_name_bytes_max)
      refuse(errc::bad_input, path(),
             fmt::format("tensor {} has a name of more than {} bytes", in_quotes(name),
                         tensor_name_bytes_max));
    if (out_.tensors.size() == limits_.entry_count_max)
      refuse(errc::bad_input, path(),
             fmt::format("has more than {} tensors", limits_.entry_count_max));
    out_.tensors.emplace_back().spec.name = std::move(name);
    seen_ = {};
    offset_count_ = 0;
    field_ = field::none;
  }

  void start_metadata(std::string& name) {
    if (out_.metadata.size() == limits_.entry_count_max)
      refuse(errc::bad_input, path(),
             fmt::format("has more than {} metadata entries", limits_.entry_count_max));
    const auto [at, fresh] = out_.metadata.try_emplace(std::move(name));
    if (!fresh)
      refuse(errc::bad_input, path(),
             fmt::format("has {} twice in its metadata", in_quotes(at->first)));
    value_ = &at->second;
  }

  void start_field(const std::string& name) {
    if (name == "dtype")
      field_ = field::type;
    else if (name == "shape")
      field_ = field::shape;
    else if (name == "data_offsets")
      field_ = field::offsets;
    else
      refuse_tensor("has the unknown key " + in_quotes(name));
    if (std::exchange(seen_[static_cast<std::size_t>(field_)], true))
      refuse_tensor("has two " + name);
  }

  void end_entry() {
    const bool complete = seen_[static_cast<std::size_t>(field::type)] &&
                          seen_[static_cast<std::size_t>(field::shape)] && offset_count_ == 2;
    if (!complete) refuse_tensor("lacks its dtype, its shape or two data_offsets");
  }

  const file_limits& limits_;
  safetensors_header& out_;
  std::string* value_ = nullptr;
  bool in_metadata_ = false;
  bool had_metadata_ = false;
  field field_ = field::none;
  std::array<bool, 4> seen_{};
  int offset_count_ = 0;
};

// Of a file of `size` bytes that begins with `front`.
std::uint64_t header_length(std::span<const std::byte> front, std::uint64_t size,
                            const fs::path& path, std::uint64_t bytes_max) {
  if (size < length_bytes)
    refuse(errc::bad_input, path,
           fmt::format("has {} bytes, too few for a safetensors header", size));
  std::uint64_t length = 0;
  for (std::size_t i = length_bytes; i-- > 0;)
    length = length << 8 | std::to_integer<std::uint64_t>(front[i]);
  if (length > bytes_max)
    refuse(errc::bad_input, path,
           fmt::format("announces a header of {} bytes, the limit is {}", length, bytes_max));
  if (length > size - length_bytes)
    refuse(errc::bad_input, path,
           fmt::format("announces a header of {} bytes, but ends after {}", length,
                       size - length_bytes));
  return length;
}

// Sorts by name, where equal names come to stand side by side.
void require_unique(std::vector<safetensors_header::tensor>& tensors, const fs::path& path) {
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.spec.name < b.spec.name; });
  for (std::size_t i = 1; i < tensors.size(); ++i)
    if (tensors[i].spec.name == tensors[i - 1].spec.name)
      refuse(errc::bad_input, path,
             fmt::format("tensor {} stands twice in the header", in_quotes(tensors[i].spec.name)));
}

void require_places(const std::vector<safetensors_header::tensor>& tensors,
                    std::uint64_t data_bytes, const fs::path& path) {
  const auto refuse_tensor = [&](const safetensors_header::tensor& t, const std::string& what) {
    refuse(errc::bad_input, path, fmt::format("tensor {} {}", in_quotes(t.spec.name), what));
  };
  std::vector<const safetensors_header::tensor*> by_place;
  by_place.reserve(tensors.size());
  for (const auto& t : tensors) {
    if (t.begin > t.end)
      refuse_tensor(t, fmt::format("ends at {}, before its begin {}", t.end, t.begin));
    if (t.end > data_bytes)
      refuse_tensor(t,
                    fmt::format("ends at {}, past the end of the data at {}", t.end, data_bytes));
    const auto bytes = bytes_of(t.spec);
    if (!bytes) refuse_tensor(t, "has a shape whose size in bytes cannot be represented");
    if (*bytes != t.end - t.begin)
      refuse_tensor(
          t, fmt::format("has {} bytes, but its dtype and shape make {}", t.end - t.begin, *bytes));
    by_place.push_back(&t);
  }
  // Empty tensors first where several begin at one place, so that each begins where one ended.
  std::sort(by_place.begin(), by_place.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  std::uint64_t covered = 0;
  for (const auto* t : by_place) {
    if (t->begin < covered)
      refuse_tensor(*t, fmt::format("begins at {}, inside the tensor before it", t->begin));
    if (t->begin > covered)
      refuse_tensor(
          *t, fmt::format("begins at {}, after a hole of {} bytes", t->begin, t->begin - covered));
    covered = t->end;
  }
  if (covered != data_bytes)
    refuse(errc::bad_input, path,
           fmt::format("has {} bytes after its last tensor", data_bytes - covered));
}

// `text`: the header of a file of `size` bytes.
safetensors_header parse_header(std::span<const std::byte> text, std::uint64_t size,
                                const fs::path& path, const file_limits& limits) {
  // The format says so; a parser would also take white space or a byte order mark.
  if (text.empty() || text[0] != std::byte{'{'})
    refuse(errc::bad_input, path, "its header does not start with '{'");
  safetensors_header header;
  header.data_offset = length_bytes + text.size();
  header_events events(path, limits, header);
  parse_json(text, events);
  require_unique(header.tensors, path);
  require_places(header.tensors, size - header.data_offset, path);
  return header;
}

}  // namespace

safetensors_header parse_safetensors(std::span<const std::byte> file, const fs::path& path,
                                     const file_limits& limits) {
  const auto length = header_length(file, file.size(), path, limits.header_bytes_max);
  return parse_header(file.subspan(length_bytes, length), file.size(), path, limits);
}

safetensors_header read_safetensors_header(const plain_file& file, const file_limits& limits) {
  const auto size = file.size();
  std::array<std::byte, length_bytes> front{};
  if (size >= length_bytes) file.read(0, front);
  std::vector<std::byte> text(header_length(front, size, file.path(), limits.header_bytes_max));
  file.read(length_bytes, text);
  return parse_header(text, size, file.path(), limits);
}

safetensors_file::safetensors_file(const fs::path& path)
    : file_(path), header_(read_safetensors_header(plain_file(path, plain_file::access::read))) {
  const auto& tensors = header_.tensors;
  for (const auto& t : tensors)
    if (file_.bytes().size() < header_.data_offset + t.end)
      refuse(errc::bad_input, path, "is written to while it is read");
}

std::span<const std::byte> safetensors_file::bytes(std::size_t index) const {
  const auto& t = header_.tensors[index];
  return file_.bytes().subspan(header_.data_offset + t.begin, t.end - t.begin);
}

void require_mapped(const safetensors_header& file, const fs::path& path,
                    const std::vector<std::string>& mapped) {
  const auto& held = file.tensors;
  for (std::size_t i = 0; i < std::max(held.size(), mapped.size()); ++i) {
    const bool here = i < held.size();
    const bool wanted = i < mapped.size();
    // Both are sorted, so at the first difference the smaller name is the one that the other lacks.
    if (!here || (wanted && mapped[i] < held[i].spec.name))
      refuse(errc::bad_input, path,
             fmt::format("lacks tensor {}, which the index maps to it", in_quotes(mapped[i])));
    if (!wanted || held[i].spec.name < mapped[i])
      refuse(errc::bad_input, path,
             fmt::format("holds tensor {}, which the index does not map to it",
                         in_quotes(held[i].spec.name)));
  }
}

}  // namespace lockstep
