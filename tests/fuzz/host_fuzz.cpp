// The bytes are files that hosts leave beside a checkpoint and a stream, for each a byte that
// chooses its name, two of its length, and its contents: what a publisher, a reader of notes and
// the next process at the checkpoint take from them.
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "fuzz/fuzz.hpp"
#include "fuzz/host_files.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "messages/errors.hpp"
#include "messages/from_receiver.hpp"
#include "support/places.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/host_checkpoint.hpp"
#include "weights/host_record.hpp"
#include "weights/plain_file.hpp"
#include "weights/published_shards.hpp"
#include "weights/redo_log.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;

template <class Action>
bool accepted(Action action) {
  return fuzz::accepted({errc::bad_input, errc::unwritable, errc::torn}, action);
}

/// What says that it is a host's name is that of one file there, or no name.
void check_name(const fs::path& acks, const std::string& said) {
  const bool file = fuzz::accepted({errc::bad_input}, [&] { require_host_name(said); });
  fuzz::demand(file == is_host_name(said), "what is no name is refused");
  if (file)
    fuzz::demand(said.size() <= 64 && std::ranges::all_of(said, [](char c) { return c > ' '; }) &&
                     (acks / (said + ".json")).lexically_normal().parent_path() == acks,
                 "a name is that of a file there");
}

void check_acknowledgement(const fs::path& acks) {
  std::optional<acknowledgement> heard;
  if (!accepted([&] { heard = read_acknowledgement(acks, "host"); }) || !heard) return;
  fuzz::demand(heard->detail.size() <= reply_detail_max, "a detail is short");
  if (!heard->detail.empty()) fuzz::demand_message(heard->detail);
  check_name(acks, heard->detail);
  const auto seal = seal_of(heard->challenge, heard->proof);
  auto other = heard->proof;
  other.lane0 ^= 1;
  fuzz::demand(is_digest(published_checksum::xxh3_128, seal) &&
                   seal != seal_of(heard->challenge, other) &&
                   seal != seal_of(heard->challenge ^ 1, heard->proof),
               "a seal is of one proof to one challenge");
  write_acknowledgement(acks, "host", *heard);
  const auto again = read_acknowledgement(acks, "host");
  fuzz::demand(again && again->version == heard->version && again->challenge == heard->challenge &&
                   again->reason == heard->reason && again->proof == heard->proof,
               "an acknowledgement that is accepted can be written");
}

/// What a version asks of its hosts: it is answered, whatever stood there.
void check_challenge(const fs::path& version, const fs::path& checkpoint, const fs::path& acks) {
  std::optional<std::uint64_t> challenge;
  if (!accepted([&] { challenge = challenge_in(version); })) return;
  if (has_index(version)) (void)metadata_in(version, "lockstep.challenge");
  for (const auto reason : {errc::none, errc::wrong_base, errc::none, errc::none}) {
    std::optional<acknowledgement> told;
    if (!accepted([&] { told = acknowledgement_of(version, 7, checkpoint, reason, "why"); }))
      return;
    fuzz::demand(told.has_value() == challenge.has_value(), "who asks is answered, nobody else");
    if (!accepted([&] { acknowledge(version, 7, checkpoint, acks, "host", reason, "why"); }))
      return;
    if (!challenge) continue;
    const auto said = read_acknowledgement(acks, "host");
    fuzz::demand(
        said && said->version == 7 && said->challenge == *challenge && said->reason == reason,
        "an answer is to the challenge");
    fuzz::demand(said->proof == told->proof, "files say what connections say");
  }
}

bool same(const version_record& a, const version_record& b) {
  return a.version == b.version && a.run == b.run && a.index == b.index && a.state == b.state &&
         a.files == b.files;
}

void check_notes(const fs::path& checkpoint) {
  host_notes notes;
  if (!accepted([&] { notes = notes_of(checkpoint); }) || !notes.record) return;
  const auto again = parse_record(as_json(*notes.record));
  fuzz::demand(again && same(*again, *notes.record), "a record that is accepted can be written");
  const auto written = written_since(checkpoint, *notes.record);
  fuzz::demand(!written || !notes.record->files.empty(),
               "a record of no file says nothing of files");
}

/// What one process ended the next finds ended: it begins nothing anew.
void check_recovery(const fs::path& checkpoint) {
  constexpr std::chrono::milliseconds patience{0};
  std::optional<std::uint64_t> version;
  std::string torn;
  if (!accepted([&] {
        const host_checkpoint first(checkpoint, patience);
        version = first.version();
        torn = first.torn();
      }))
    return fuzz::demand(!accepted([&] { const host_checkpoint second(checkpoint, patience); }),
                        "what could not be ended is not called ended");
  fuzz::demand(torn.empty() || !version, "what is torn has no version");
  if (!torn.empty()) fuzz::demand_message(torn);
  const host_checkpoint second(checkpoint, patience);
  fuzz::demand(second.version() == version, "a version stays what it is");
  fuzz::demand(second.torn().empty() == torn.empty(), "what is torn stays it");
  fuzz::demand(!second.recovered(), "an interrupted change is ended once");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto model =
      read_small(test::test_data() / "published/adler32/base/model.safetensors", 1 << 20);
  static fuzz::scratch files;
  files.clear();
  files.put("checkpoint/model.safetensors", std::as_bytes(std::span(model)));
  files.put_all(fuzz::input_of(data, size), fuzz::host_names);
  // A log is read through a window of its longest change.
  const fuzz::held_bytes bound(128 * size + redo_log::window_bytes_max + (512 << 10));
  check_acknowledgement(files.path() / "acks");
  check_challenge(files.path() / "version", files.path() / "checkpoint", files.path() / "acks");
  check_notes(files.path() / "checkpoint");
  check_recovery(files.path() / "checkpoint");
  return 0;
}
