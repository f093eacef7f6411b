#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/change_count.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/json_line.hpp"
#include "apps/progress_bar.hpp"
#include "apps/standard_output.hpp"
#include "weights/checkpoint.hpp"
#include "weights/file.hpp"

namespace lockstep {

namespace {

using nlohmann::ordered_json;

struct diff_arguments {
  std::string old;
  std::string fresh;
  bool json = false;
};

void print(const ordered_json& line) {
  print_out(json_line(line));
}

std::string described(const tensor_spec& spec) {
  return fmt::format("{} [{}]", to_string(spec.type), fmt::join(spec.shape, ", "));
}

class comparison {
 public:
  explicit comparison(const diff_arguments& a)
      : json_(a.json), old_(checkpoint::open(a.old)), fresh_(checkpoint::open(a.fresh)) {}

  int run() {
    progress_bar bar(old_.shape().count());
    for (std::size_t i = 0; i < old_.shape().count(); ++i) {
      const auto& spec = old_.shape()[i];
      bar.show(i, printable(spec.name));
      const auto other = fresh_.shape().find(spec.name);
      if (!other) {
        odd(spec, "removed", described(spec));
      } else if (!(fresh_.shape()[*other] == spec)) {
        odd(spec, "reshaped", described(spec) + " to " + described(fresh_.shape()[*other]));
      } else {
        compare(spec, i, *other, bar);
      }
    }
    bar.clear();
    for (const auto& spec : fresh_.shape().tensors())
      if (!old_.shape().find(spec.name)) odd(spec, "added", described(spec));
    summarise();
    return differ_ == 0 ? exit_ok : exit_check_failed;
  }

 private:
  void compare(const tensor_spec& spec, std::size_t i, std::size_t other, progress_bar& bar) {
    constexpr std::size_t window = 1 << 20;
    change_count count(spec);
    const auto a = old_.tensor(i);
    const auto b = fresh_.tensor(other);
    for (std::size_t at = 0; at < a.size(); at += window) {
      const auto size = std::min(window, a.size() - at);
      count.add(at, a.subspan(at, size), b.subspan(at, size));
    }
    old_.release(i);
    fresh_.release(other);
    elements_ += count.elements();
    changed_ += count.changed();
    if (count.changed() == 0) return;
    ++differ_;
    bar.clear();
    if (json_) {
      auto line = count.as_json();
      line["kind"] = "changed";
      line["tensor"] = spec.name;
      return print(line);
    }
    print_out(fmt::format("{:8.4f} % |{}| {} {} from {} to {}\n", 100 * count.density(),
                          count.drawn(), printable(spec.name), count.changed(), count.first(),
                          count.last()));
  }

  void odd(const tensor_spec& spec, const char* kind, const std::string& what) {
    ++differ_;
    if (json_) return print({{"kind", kind}, {"tensor", spec.name}, {"what", what}});
    print_out(fmt::format("{} {} {}\n", kind, printable(spec.name), what));
  }

  void summarise() const {
    if (json_)
      return print({{"kind", "summary"},
                    {"tensors", old_.shape().count()},
                    {"differ", differ_},
                    {"elements", elements_},
                    {"changed", changed_}});
    print_out(fmt::format("{} of {} tensors differ, {} of {} elements\n", differ_,
                          old_.shape().count(), changed_, elements_));
  }

  bool json_;
  checkpoint old_;
  checkpoint fresh_;
  std::size_t differ_ = 0;
  std::uint64_t elements_ = 0;
  std::uint64_t changed_ = 0;
};

}  // namespace

void add_diff_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "diff", "Which tensors of two checkpoints differ, and where; exit status 1 if any does");
  const auto a = std::make_shared<diff_arguments>();
  command->add_option("old", a->old, "A checkpoint")->type_name("DIR")->required();
  command->add_option("new", a->fresh, "Another one")->type_name("DIR")->required();
  command->add_flag("--json", a->json, "One JSON object a line");
  command->callback([a, &run] { run = [a] { return comparison(*a).run(); }; });
}

}  // namespace lockstep
