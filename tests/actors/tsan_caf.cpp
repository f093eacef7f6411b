// Decides what the thread sanitizer knows of CAF, which is Debian's library and not instrumented
// (with one thing of libstdc++, which is not either): that what a sender did before it enqueued a
// message comes before what the receiver does with it,
// that whoever deletes a message comes after its sender, and that whoever deletes something counted
// comes after all who counted it down. Defined in the program, these functions take the place of
// the library's, for it as well, and go on to them.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <caf/actor_control_block.hpp>
#include <caf/mailbox_element.hpp>
#include <caf/memory_managed.hpp>
#include <caf/ref_counted.hpp>
#include <cstddef>
#include <cstdlib>
#include <mutex>

namespace {

/// The library's function of the same name.
template <class Function>
Function* next(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) std::abort();
  return reinterpret_cast<Function*>(found);
}

/// Stands for the clock that delivers delayed messages.
char timer;

/// The address by which a message that `what` owns, a unique_ptr, is deleted.
void* deleted_by(void* what) {
  return static_cast<caf::memory_managed*>(*static_cast<caf::mailbox_element**>(what));
}

constexpr std::ptrdiff_t resumable_offset = 160;  // of the base `resumable` in scheduled_actor

/// An actor that was made is about to be known to others, who count its control block down.
void made(char* self) {
  __tsan_release(self);
  __tsan_release(self - CAF_CACHE_LINE_SIZE);
}

}  // namespace

#define ENQUEUE "ESt10unique_ptrINS_15mailbox_elementENS_6detail8disposerEEPNS_14execution_unitE"
#define SCHEDULED "_ZN3caf15scheduled_actor"
#define BLOCKING "_ZN3caf14blocking_actor"
#define CLOCK "_ZN3caf6detail23thread_safe_actor_clock"

extern "C" {

using enqueue_function = void(char*, void*, void*);

void scheduled_enqueue(char* self, void* what, void* unit) asm(SCHEDULED "7enqueue" ENQUEUE);
void scheduled_enqueue(char* self, void* what, void* unit) {
  static auto* const library = next<enqueue_function>(SCHEDULED "7enqueue" ENQUEUE);
  __tsan_acquire(&timer);
  __tsan_release(deleted_by(what));
  __tsan_release(self);
  library(self, what, unit);
}

void blocking_enqueue(char* self, void* what, void* unit) asm(BLOCKING "7enqueue" ENQUEUE);
void blocking_enqueue(char* self, void* what, void* unit) {
  static auto* const library = next<enqueue_function>(BLOCKING "7enqueue" ENQUEUE);
  __tsan_acquire(&timer);
  __tsan_release(deleted_by(what));
  __tsan_release(self);
  library(self, what, unit);
}

// Returns a unique_ptr, so its place comes first.
void* blocking_dequeue(void* result, char* self) asm(BLOCKING "7dequeueEv");
void* blocking_dequeue(void* result, char* self) {
  static auto* const library = next<void*(void*, char*)>(BLOCKING "7dequeueEv");
  library(result, self);
  __tsan_acquire(self);
  return result;
}

// One message that is received. The visitor's first member is its actor here too.
int blocking_visit(char** visitor,
                   void* message) asm(BLOCKING "15mailbox_visitorclERNS_15mailbox_elementE");
int blocking_visit(char** visitor, void* message) {
  static auto* const library =
      next<int(char**, void*)>(BLOCKING "15mailbox_visitorclERNS_15mailbox_elementE");
  __tsan_acquire(*visitor);
  return library(visitor, message);
}

void launch(char* self, void* unit, bool lazy,
            bool hide) asm(SCHEDULED "6launchEPNS_14execution_unitEbb");
void launch(char* self, void* unit, bool lazy, bool hide) {
  static auto* const library =
      next<void(char*, void*, bool, bool)>(SCHEDULED "6launchEPNS_14execution_unitEbb");
  made(self);
  library(self, unit, lazy, hide);
}

// Brokers begin in the thread of the connections, by a launch of their own.
void launch_broker(char* self, void* unit, bool lazy,
                   bool hide) asm("_ZN3caf2io15abstract_broker6launchEPNS_14execution_unitEbb");
void launch_broker(char* self, void* unit, bool lazy, bool hide) {
  static auto* const library = next<void(char*, void*, bool, bool)>(
      "_ZN3caf2io15abstract_broker6launchEPNS_14execution_unitEbb");
  made(self);
  library(self, unit, lazy, hide);
}

// One run of an actor by a worker, which looks at messages before it visits them.
int resume(char* base, void* unit,
           std::size_t count) asm("_ZThn160_N3caf15scheduled_actor6resumeEPNS_14execution_unitEm");
int resume(char* base, void* unit, std::size_t count) {
  static auto* const library = next<int(char*, void*, std::size_t)>(
      "_ZThn160_N3caf15scheduled_actor6resumeEPNS_14execution_unitEm");
  __tsan_acquire(base - resumable_offset);
  return library(base, unit, count);
}

// The first run of an actor: its state is made, and other threads may run it afterwards.
bool activate(char* self, void* unit) asm(SCHEDULED "8activateEPNS_14execution_unitE");
bool activate(char* self, void* unit) {
  static auto* const library =
      next<bool(char*, void*)>(SCHEDULED "8activateEPNS_14execution_unitE");
  __tsan_acquire(self);
  const bool result = library(self, unit);
  __tsan_release(self);
  return result;
}

// One message. The visitor's first member is its actor.
int visit(char** visitor,
          void* message) asm(SCHEDULED "15mailbox_visitorclERNS_15mailbox_elementE");
int visit(char** visitor, void* message) {
  static auto* const library =
      next<int(char**, void*)>(SCHEDULED "15mailbox_visitorclERNS_15mailbox_elementE");
  char* const self = *visitor;
  __tsan_acquire(self);
  const int result = library(visitor, message);
  __tsan_release(self);
  return result;
}

bool cleanup(char* self, void* reason,
             void* unit) asm(SCHEDULED "7cleanupEONS_5errorEPNS_14execution_unitE");
bool cleanup(char* self, void* reason, void* unit) {
  static auto* const library =
      next<bool(char*, void*, void*)>(SCHEDULED "7cleanupEONS_5errorEPNS_14execution_unitE");
  __tsan_acquire(self);
  const bool result = library(self, reason, unit);
  __tsan_release(self);
  return result;
}

// Run by the thread that delivers what was delayed, for each message.
void deliver(void* clock,
             void* event) asm("_ZN3caf6detail18simple_actor_clock4shipERNS1_13delayed_eventE");
void deliver(void* clock, void* event) {
  static auto* const library =
      next<void(void*, void*)>("_ZN3caf6detail18simple_actor_clock4shipERNS1_13delayed_eventE");
  __tsan_acquire(&timer);
  library(clock, event);
}

#define SCHEDULE                                                                                  \
  "16schedule_messageENSt6chrono10time_pointINS2_3_V212steady_clockENS2_8durationIlSt5ratioILl1"  \
  "ELl1000000000EEEEEENS_13intrusive_ptrINS_19actor_control_blockEEESt10unique_ptrINS_15mailbox_" \
  "elementENS0_8disposerEE"
void schedule_message(void* self, long when, void* receiver, void* what) asm(CLOCK SCHEDULE);
void schedule_message(void* self, long when, void* receiver, void* what) {
  static auto* const library = next<void(void*, long, void*, void*)>(CLOCK SCHEDULE);
  __tsan_release(&timer);
  __tsan_release(deleted_by(what));
  library(self, when, receiver, what);
}

// Exceptions that threads hand on, as a promise does, are counted in libstdc++, which is not
// instrumented either. One thread at a time lets go of one, which who has caught it does at the
// end: who frees it comes after all others. A nested exception is let go of by the one around it.
std::recursive_mutex& letting_go() {
  static std::recursive_mutex one;
  return one;
}

#define RELEASE "_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv"
void release_exception(void* self) asm(RELEASE);
void release_exception(void* self) {
  static auto* const library = next<void(void*)>(RELEASE);
  const std::lock_guard lock(letting_go());
  library(self);
}

void end_catch() asm("__cxa_end_catch");
void end_catch() {
  static auto* const library = next<void()>("__cxa_end_catch");
  const std::lock_guard lock(letting_go());
  library();
}

}  // extern "C"

// The library's own code of these, instrumented.
namespace caf {

// A message that nobody visits, since its actor has ended, is deleted by the thread that finds it
// in the mailbox or finds the mailbox closed: ordered after its sender by the message itself.
void memory_managed::request_deletion(bool) const noexcept {
  __tsan_acquire(const_cast<memory_managed*>(this));
  delete this;
}

void ref_counted::deref() const noexcept {
  if (rc_.fetch_sub(1, std::memory_order_acq_rel) == 1) request_deletion(true);
}

void intrusive_ptr_release_weak(actor_control_block* x) {
  if (x->weak_refs.fetch_sub(1, std::memory_order_acq_rel) == 1) x->block_dtor(x);
}

void intrusive_ptr_release(actor_control_block* x) {
  __tsan_acquire(x);
  if (x->strong_refs.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    x->data_dtor(x->get());
    intrusive_ptr_release_weak(x);
  }
}

}  // namespace caf
