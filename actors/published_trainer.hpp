// Decides what a training loop sees of a fleet that it reaches through a directory alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/ticket.hpp"
#include "config/settings.hpp"
#include "messages/layout.hpp"
#include "messages/report.hpp"
#include "weights/publisher.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// Who follows a stream, and how long they are waited for.
struct published_fleet_options {
  publisher_options stream;
  std::vector<std::string> receivers;  ///< names of hosts (`is_host_name`), each once
  std::filesystem::path acks;          ///< empty: `acknowledgements_of(stream.out)`
  /// Where hosts may say it over connections too (`pull --connect`), HOST:PORT; empty: nowhere.
  std::string listen;
  /// Of those connections, `cluster.name`, security and deadlines (`transport.*`); and `log.*`.
  settings options;
  std::chrono::milliseconds ack_timeout{60'000};
  /// For who failed to hold the version after all.
  std::chrono::milliseconds recovery_timeout{60'000};
  std::chrono::milliseconds poll{50};
  /// Of so many ranks that publish together this is rank 0, which waits; each of the others has a
  /// `rank_publisher`, with both times below as its `hosts_patience`. Such a fleet is published to
  /// by its rank's tensors alone, and `reseed` counts for nothing. Not for a `published_trainer`.
  std::uint32_t ranks = 1;
  std::chrono::milliseconds rank_patience{60'000};
  /// Publish a full version for hosts whose bytes are proven not to be what the chain needs.
  bool reseed = true;
  /// Whether to give up waiting. May be empty.
  std::function<bool()> stopped;
  /// Whether to report without waiting any longer for who failed. May be empty.
  std::function<bool()> hurried;
};

/// `trainer` for hosts that follow a published stream (`lockstep pull --watch --name`): the same
/// calls and the same reports, no connection. The snapshot is a copy of the weights in memory; it
/// is made the target by decoding what was published, once every host in the view has proven that
/// it holds it. Not thread-safe, but for `stop`.
class published_trainer {
 public:
  /// `shape`: the tensors of the model, as the hosts' checkpoint has them. Throws as
  /// `published_fleet`; one trainer at a time for a stream.
  published_trainer(layout shape, published_fleet_options options);
  /// Stops.
  ~published_trainer();
  published_trainer(const published_trainer&) = delete;
  published_trainer& operator=(const published_trainer&) = delete;

  const layout& shape() const noexcept;

  /// Freezes a copy of the weights as the base of the next version. In an empty stream they are
  /// version 0, which hosts have; if they are what the newest version holds they are that; else
  /// they are published whole as the next one, and hosts are waited for. The report is that of this
  /// version, and without participants where nothing was published. Throws `error{wrong_layout}`
  /// naming a tensor whose size is not the layout's, `error{no_memory}`, and as `publisher`.
  sync_report seed(const tensor_reader& tensors, std::uint64_t label = 0);

  /// Publishes what leads every host to `tensors`: returns as soon as they have been read and may
  /// be changed again. Waits for the sync before it, if that is still under way, but not for who
  /// failed in it. The weights must have been seeded. What happens to hosts is in the report, never
  /// an exception; throws as `publisher::add` where nothing could be published, and
  /// `error{shut_down}` if `is_running` is false.
  ticket sync(std::uint64_t label, const tensor_reader& tensors);

  template <tensor_source T>
  sync_report seed(const T& source, std::uint64_t label = 0) {
    return seed(reader_of(source), label);
  }
  template <tensor_source T>
  ticket sync(std::uint64_t label, const T& source) {
    return sync(label, reader_of(source));
  }

  /// The port on which hosts are listened to; 0: none.
  std::uint16_t port() const noexcept;

  /// Whether there is a snapshot that a sync can start from: seeded, not stopped, and the last
  /// version could be read back.
  bool is_running() const;
  /// Ends what waits for acknowledgements. The version it waited for stays published; a trainer
  /// that is started again and seeds the same weights goes on from it. Thread-safe.
  void stop() noexcept;

  /// The version that the snapshot is. Waits for a sync under way.
  std::uint64_t version();
  /// Hosts that are out: they failed, and have not proven the newest version since. Waits likewise.
  std::vector<std::string> absent();

 private:
  struct parts;
  std::unique_ptr<parts> parts_;
};

}  // namespace lockstep
