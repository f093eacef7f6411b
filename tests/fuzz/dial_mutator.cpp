// Mends what a random change breaks of an answer and of the frames that follow it.
#include "fuzz/connection.hpp"
#include "fuzz/conversation_mutator.hpp"

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  using namespace lockstep::fuzz;
  return mutate_conversation(data, size, max, seed, dial_head_bytes, "LKA\x01");
}
