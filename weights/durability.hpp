// Decides what a file's name promises of its bytes.
#pragma once

namespace lockstep {

/// Whether what a name stands for has to be on the disk when the name is: a file that is judged by
/// its bytes whenever it is opened can do without, and then costs no wait for the disk.
enum class durability : bool { judged_when_opened, synced };

}  // namespace lockstep
