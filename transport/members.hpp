// Decides which receivers may be given weights, of those that the security lets in.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "messages/ids.hpp"

namespace lockstep {

/// Names that receivers may have, and whose id is whose. What a peer is called is proven by its
/// certificate; where there is none, it is what the peer says.
class member_list {
 public:
  /// `text`: patterns of the shell (`*`, `?`, `[a-f]`) for whole names, parted by commas; `=ID`
  /// after one gives that id to whom it names and to nobody else. Empty: every receiver, with any
  /// id. Throws `setting_error` that names `key`.
  member_list(std::string_view key, std::string_view text);

  bool admits(std::string_view name, receiver_id id) const;

 private:
  struct entry {
    std::string pattern;
    std::optional<receiver_id> id;
  };
  std::vector<entry> entries_;
};

}  // namespace lockstep
