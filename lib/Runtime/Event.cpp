//===- Event.cpp - What the runtime did and why ---------------------------===//

#include "lib/Runtime/Event.h"

#include "lib/Environment/Environment.h"

#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <unistd.h>

using namespace attnc;

const char *attnc::nameOf(EventKind kind) {
  switch (kind) {
  case EventKind::DiskHit:
    return "disk-hit";
  case EventKind::PackageHit:
    return "package-hit";
  case EventKind::Miss:
    return "miss";
  case EventKind::Compile:
    return "compile";
  case EventKind::Publish:
    return "publish";
  case EventKind::Wait:
    return "wait";
  case EventKind::Prune:
    return "prune";
  case EventKind::Decide:
    return "decide";
  case EventKind::Forbidden:
    return "forbidden";
  case EventKind::Warning:
    return "warning";
  }
  return "event";
}

double attnc::monotonicSeconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + double(now.tv_nsec) * 1e-9;
}

static std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    char escaped[8];
    if (c == '"' || c == '\\') {
      out += '\\';
      out += char(c);
    } else if (c < 0x20) {
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
      out += escaped;
    } else {
      out += char(c);
    }
  }
  return out + '"';
}

static std::string number(const char *format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string attnc::toJson(const Event &event) {
  std::string out = "{\"event\":" + quoted(nameOf(event.kind)) +
                    ",\"time\":" + number("%.0f", double(time(nullptr))) +
                    ",\"pid\":" + std::to_string(getpid());
  if (!event.key.empty())
    out += ",\"key\":" + quoted(event.key);
  if (!event.reason.empty())
    out += ",\"reason\":" + quoted(event.reason);
  if (!event.path.empty())
    out += ",\"path\":" + quoted(event.path);
  if (!event.seconds.empty()) {
    out += ",\"seconds\":{";
    for (size_t i = 0; i < event.seconds.size(); ++i)
      out += (i ? "," : "") + quoted(event.seconds[i].first) + ":" +
             number("%.6f", event.seconds[i].second);
    out += "}";
  }
  if (!event.request.empty()) {
    out += ",\"request\":{";
    for (size_t i = 0; i < event.request.size(); ++i)
      out += (i ? "," : "") + quoted(event.request[i].first) + ":" +
             quoted(event.request[i].second);
    out += "}";
  }
  return out + "}";
}

std::string attnc::toText(const Event &event) {
  std::string out = std::string("attnc: ") + nameOf(event.kind);
  if (!event.reason.empty())
    out += ": " + event.reason;
  if (!event.path.empty())
    out += " (" + event.path + ")";
  if (!event.key.empty())
    out += " [" + event.key + "]";
  for (auto &[phase, seconds] : event.seconds)
    out += " " + phase + " " + number("%.1f ms", seconds * 1e3);
  return out;
}

EventSink EventSink::fromEnvironment() {
  std::string level = environment(Variable::Log).value_or("warn");
  std::string file = environment(Variable::Events).value_or("");
  if (level == "off")
    return EventSink(Level::Off, file);
  if (level == "info")
    return EventSink(Level::Info, file);
  EventSink sink(Level::Warn, file);
  static std::atomic<bool> reported{false};
  if (level != "warn" && !reported.exchange(true))
    sink.emit(
        {EventKind::Warning,
         "",
         "ATTNC_LOG is '" + level + "'; expected off, warn or info; using warn",
         "",
         {}});
  return sink;
}

EventSink::~EventSink() {
  for (Registered *next = callback.load(); next;) {
    Registered *previous = next->previous;
    delete next;
    next = previous;
  }
}

void EventSink::setCallback(Callback function, void *context) {
  Registered *added = new Registered{function, context, callback.load()};
  while (!callback.compare_exchange_weak(added->previous, added))
    ;
}

/// One write, so that lines of several processes do not mix. A log that
/// cannot be written is no reason to fail.
static void writeLine(int fd, std::string line) {
  line += '\n';
  ssize_t written = write(fd, line.data(), line.size());
  (void)written;
}

void EventSink::emit(const Event &event) const {
  bool loud =
      event.kind == EventKind::Warning || event.kind == EventKind::Forbidden;
  if (level == Level::Info || (level == Level::Warn && loud))
    writeLine(STDERR_FILENO, toText(event));
  if (!file.empty()) {
    int fd =
        open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
      writeLine(fd, toJson(event));
      close(fd);
    }
  }
  if (Registered *registered = callback.load(std::memory_order_acquire))
    if (registered->function)
      registered->function(event, registered->context);
}
