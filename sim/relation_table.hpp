// Decides how the model's transitions are looked up. Private to sim/.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "messages/from_receiver.hpp"
#include "protocol/join_fsm.hpp"

namespace lockstep::sim {

/// tests/model/transitions.txt, as it stands.
extern const char transition_lines[];

/// "receiver prepare ahead …" -> what may follow " > " in the model, reply or what is sent
/// included.
using transition_table = std::map<std::string, std::vector<std::string>, std::less<>>;

const transition_table& transitions();

/// Whether the table has this line.
bool allowed(std::string_view from, std::string_view to);

/// Whether a round can get this answer. Not asked of the join's machine, which is what is looked
/// at.
bool answers_to(round_kind round, reply_kind kind);
/// Whether who refuses a delta so cannot say what it holds itself.
bool in_doubt(errc reason);
/// The model's name of an answer.
std::string reply_word(const reply_msg& m);

}  // namespace lockstep::sim
