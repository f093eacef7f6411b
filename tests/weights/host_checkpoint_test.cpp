#include "weights/host_checkpoint.hpp"

#include "messages/transient.hpp"
#include "test_files.hpp"
#include "weights/file_lock.hpp"
#include "weights/redo_log.hpp"

using namespace lockstep;
using namespace lockstep::test;
using namespace std::chrono_literals;

namespace {

// A host of one file of four bytes, without an index, and a log that makes them "new!".
struct place {
  place() {
    put(dir / "model.safetensors", with_header(header, "old."));
    host.emplace(dir.path(), 0ms);
  }

  redo_seal ready(const std::string& fresh) const {
    redo_log log(host->log_file());
    log.add(0, 8 + header.size(), bytes("old."), bytes(fresh));
    return log.seal();
  }

  void change(const redo_seal& seal) {
    host->change_to({1, {}, {}, {}, {}}, seal, {"model.safetensors"});
  }

  std::string live() const { return get(dir / "model.safetensors").substr(8 + header.size()); }
  fs::path sync(const char* name) const { return dir / ".weight_sync" / name; }

  const std::string header = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  temp_dir dir;
  std::optional<host_checkpoint> host;
};

template <class Action>
void check_refused_for_now(Action&& action, const std::vector<std::string>& parts) {
  check_refused(
      [&] {
        try {
          action();
        } catch (const error& e) {
          CHECK(is_transient(e));
          throw;
        }
      },
      errc::unwritable, parts);
}

}  // namespace

TEST_CASE("a lock is that of the file that stands there", "[host]") {
  const temp_dir dir;
  const auto file = dir / "lock";
  std::optional<file_lock> first(std::in_place, file, 0ms);
  CHECK_NOTHROW(first->require_in_place());
  // Who waits for a file that goes meanwhile waits for the one that comes in its place.
  std::optional<file_lock> second;
  int asked = 0;
  const auto swap = [&] {
    if (++asked == 1) {
      fs::remove(file);
      second.emplace(file, 0ms);
      check_refused_for_now([&] { first->require_in_place(); }, {"lock: was removed or replaced"});
      first.reset();
    }
    return false;
  };
  check_refused([&] { const file_lock third(file, 200ms, swap); }, errc::timeout, {"is held by"});
  CHECK(asked > 1);
  second.reset();
  CHECK_NOTHROW(file_lock(file, 0ms).require_in_place());
}

TEST_CASE("nothing is changed by who lost the lock", "[host]") {
  place p;
  const auto seal = p.ready("new!");
  fs::remove(p.sync("lock"));
  const file_lock others(p.sync("lock"), 0ms);
  check_refused_for_now([&] { p.change(seal); }, {"lock: was removed or replaced"});
  CHECK(p.live() == "old.");
  CHECK_FALSE(fs::exists(p.sync("intent.json")));
  CHECK_FALSE(fs::exists(p.sync("state.json")));

  check_refused_for_now([&] { p.host->note({1, {}, {}, {}, {}}); }, {"lock: was removed"});
  CHECK_FALSE(fs::exists(p.sync("state.json")));

  p.host->clear_incoming();
  put(p.host->incoming() / "model.safetensors", with_header(p.header, "full"));
  check_refused_for_now(
      [&] {
        p.host->replace_by({1, {}, {}, {}, {}}, {"model.safetensors"});
      },
      {"lock: was removed or replaced"});
  CHECK(p.live() == "old.");
}

TEST_CASE("only the log that was written is made true", "[host]") {
  place p;
  const auto seal = p.ready("new!");
  p.ready("bad!");  // others', under the same name
  check_refused_for_now([&] { p.change(seal); }, {"redo.log: is not the log that was written"});
  CHECK(p.live() == "old.");
  CHECK_FALSE(fs::exists(p.sync("state.json")));
  p.change(p.ready("new!"));
  CHECK(p.live() == "new!");
  CHECK(p.host->version() == 1);
}

TEST_CASE("a file gets a copy of its own and keeps its time", "[host]") {
  place p;
  p.host->note({3, {}, {}, {}, {}});
  const auto file = p.dir / "model.safetensors";
  fs::create_hard_link(file, p.dir / "twin");
  const auto written = fs::last_write_time(file);
  p.host->make_private("model.safetensors");
  CHECK(fs::hard_link_count(file) == 1);
  CHECK(fs::last_write_time(file) == written);
  CHECK_FALSE(written_since(p.dir.path(), *p.host->record()));
}

TEST_CASE("what an interrupted change left is cleared away, whatever it is", "[host]") {
  place p;
  p.host->note({3, {}, {}, {}, {}});
  p.host.reset();
  put(p.sync("intent.json"), R"({"kind":)");
  put(p.sync("private.tmp"), "half a copy");
  put(p.sync("redo.log"), "half a log");
  p.host.emplace(p.dir.path(), 0ms);
  CHECK(p.host->torn().empty());
  CHECK(p.host->version() == 3);
  for (const auto* name : {"intent.json", "private.tmp", "redo.log"})
    CHECK_FALSE(fs::exists(p.sync(name)));
}

// Others' names came first in the alphabet: what stands in the way of the last was found when the
// weights were in place.
TEST_CASE("a directory in the way of a file is found before anything changes", "[host]") {
  place p;
  p.host->note({3, {}, {}, {}, {}});
  p.host->clear_incoming();
  put(p.host->incoming() / "model.safetensors", with_header(p.header, "full"));
  put(p.host->incoming() / "tokenizer.json", "{}");
  fs::create_directory(p.dir / "tokenizer.json");
  check_refused(
      [&] {
        p.host->replace_by({4, {}, {}, {}, {}}, {"model.safetensors", "tokenizer.json"});
      },
      errc::unwritable, {"tokenizer.json: is a directory"});
  CHECK(p.live() == "old.");
  CHECK_FALSE(fs::exists(p.sync("intent.json")));
  p.host.reset();
  p.host.emplace(p.dir.path(), 0ms);
  CHECK(p.host->version() == 3);
  CHECK(p.host->torn().empty());
}
