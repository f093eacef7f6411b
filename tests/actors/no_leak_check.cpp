// What actors of two runtimes hold of each other when both end is not all given back yet: handles
// in a ring, a few KB a link, at the end of the process only. Until that is mended the leak checker
// would hide what else the address sanitizer finds in these tests.
extern "C" int __lsan_is_turned_off();
extern "C" int __lsan_is_turned_off() {
  return 1;
}
