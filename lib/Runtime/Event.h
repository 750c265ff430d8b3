//===- Event.h - What the runtime did and why -------------------*- C++ -*-===//
//
// Misses, compiles and warnings are told as events: to standard error, to a
// file of JSON lines, and to a callback. Hits in memory are only counted.
//
//===----------------------------------------------------------------------===//

#ifndef ATTNC_LIB_RUNTIME_EVENT_H
#define ATTNC_LIB_RUNTIME_EVENT_H

#include <atomic>
#include <string>
#include <utility>
#include <vector>

namespace attnc {

enum class EventKind {
  DiskHit,    ///< An entry on disk served the request.
  PackageHit, ///< An entry of a package did.
  Miss,       ///< Nothing served the request; `reason` says why.
  Compile,    ///< A program was compiled; `seconds` per phase.
  Publish,    ///< An entry was written to disk.
  Wait,       ///< Another process or thread was waited for.
  Prune,      ///< Entries were removed to keep the size limit.
  Decide,     ///< One program was preferred to another; `seconds` of each.
  Forbidden,  ///< A compile was refused (ATTNC_JIT=forbid).
  Warning,    ///< Something did not work; the request was served regardless.
};

const char *nameOf(EventKind kind);

struct Event {
  EventKind kind;
  std::string key;    ///< The request's text; empty when about no request.
  std::string reason; ///< Why, for a person.
  std::string path;   ///< The file or directory concerned.
  std::vector<std::pair<std::string, double>> seconds; ///< Per phase.
  /// Of a miss: what it takes to make the program, name and value.
  std::vector<std::pair<std::string, std::string>> request = {};
};

/// One line of JSON, without the newline.
std::string toJson(const Event &event);

/// A line for a person.
std::string toText(const Event &event);

/// Seconds on a clock that never goes back.
double monotonicSeconds();

/// Where events go. Holds no lock and no open file, so that it works after a
/// fork and under any limit on open files.
class EventSink {
public:
  using Callback = void (*)(const Event &event, void *context);
  enum class Level { Off, Warn, Info };

  /// Reads ATTNC_LOG and ATTNC_EVENTS.
  static EventSink fromEnvironment();

  EventSink(Level level = Level::Warn, std::string file = {})
      : level(level), file(std::move(file)) {}
  EventSink(EventSink &&other)
      : level(other.level), file(std::move(other.file)),
        callback(other.callback.exchange(nullptr)) {}
  ~EventSink();

  /// The callback runs in the thread that caused the event. Replacing one
  /// does not wait for calls of the old one that are under way.
  void setCallback(Callback function, void *context);

  void emit(const Event &event) const;

private:
  struct Registered {
    Callback function;
    void *context;
    Registered *previous;
  };

  Level level;
  std::string file;
  // A replaced registration stays until the sink goes: another thread may be
  // about to call it.
  std::atomic<Registered *> callback{nullptr};
};

} // namespace attnc

#endif // ATTNC_LIB_RUNTIME_EVENT_H
