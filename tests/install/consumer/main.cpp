// Uses something of the library that lives in its objects, so that linking is tested too.
#include <iostream>
#include <lockstep/lockstep.hpp>

int main() {
  lockstep::settings_loader loader;
  loader.add_override("sync.redo_max=7");
  const auto settings = loader.build();
  std::cout << "lockstep " << LOCKSTEP_VERSION << " redo_max " << settings.sync.redo_max << '\n';
  return settings.sync.redo_max == 7 ? 0 : 1;
}
