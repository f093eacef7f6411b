// The smallest embedding: a trainer and a receiver in one process, one sync between them.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <lockstep/lockstep.hpp>

int main() {
  using namespace std::chrono_literals;
  lockstep::settings_loader loader;
  loader.add_override("log.level=error");
  lockstep::runtime runtime(loader.build());

  const lockstep::layout shape({{"weight", lockstep::dtype::f32, {64, 64}}});
  lockstep::weight_buffer weights(shape);
  lockstep::receiver receiver(runtime, shape, {});
  lockstep::trainer trainer(runtime, shape);
  trainer.seed(weights);
  if (!trainer.wait_for_members(1, 20s)) return 1;

  std::memset(weights.tensor(0).data(), 0x3f, 100);
  trainer.sync(1, weights).wait();
  if (!receiver.wait_ready(1, 20s)) return 2;
  if (!std::ranges::equal(receiver.tensor(0), weights.tensor(0))) return 3;
  std::cout << "lockstep " << LOCKSTEP_VERSION << " synced\n";
}
