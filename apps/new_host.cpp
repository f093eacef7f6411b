#include "apps/new_host.hpp"

#include "weights/file.hpp"
#include "weights/pull_plan.hpp"
#include "weights/pull_start.hpp"

namespace lockstep {

void require_way_to_new_host(const pull_options& options) {
  if (!options.name.empty() || stands(options.checkpoint)) return;
  const auto target = options.target ? options.target : newest_published(options.source);
  if (!target) refuse(errc::bad_input, options.source, "holds no published version");
  (void)plan_pull(options.source, *target,
                  nothing_held(options.checkpoint.string() + " is not there"),
                  options.base.has_value(), nullptr);
}

}  // namespace lockstep
