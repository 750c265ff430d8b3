//===- Requests.cpp - Programs asked for, from files ----------------------===//

#include "tools/attnc/Requests.h"

#include "lib/Support/File.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace llvm;

Error attnc::toError(const Failure &failure) {
  return makeError(failure.message);
}

std::string attnc::sizeText(uint64_t bytes) {
  std::string text;
  raw_string_ostream os(text);
  if (bytes < 10240)
    os << bytes << " B";
  else if (bytes < (10u << 20))
    os << format("%.1f KB", double(bytes) / 1024);
  else
    os << format("%.1f MB", double(bytes) / (1 << 20));
  return text;
}

ProgramRequest attnc::requestFor(const TargetFlags &flags, std::string ir,
                                 std::string genFlags) {
  ProgramRequest request;
  request.ir = std::move(ir);
  request.target = flags.target;
  request.schedule = flags.schedule;
  request.cpu = flags.cpu;
  request.features = flags.features;
  request.anyLayout = flags.anyLayout;
  request.genFlags = std::move(genFlags);
  return request;
}

Expected<ProgramRequest> attnc::requestFromAttention(const TargetFlags &flags,
                                                     StringRef attention) {
  auto description = parseAttention(attention);
  if (!description)
    return description.takeError();
  // As the C interface spells it: then the program is found by it.
  std::string gen = flagsOf(*description);
  auto ir = writeAttention(*description, gen);
  if (!ir)
    return ir.takeError();
  return requestFor(flags, std::move(*ir), gen);
}

/// The request of one line, if it is a miss.
static Expected<std::optional<ProgramRequest>> requestOf(StringRef line) {
  auto value = json::parse(line);
  if (!value)
    return value.takeError();
  const json::Object *event = value->getAsObject();
  if (!event || event->getString("event") != StringRef("miss"))
    return std::nullopt;
  const json::Object *said = event->getObject("request");
  if (!said)
    return std::nullopt;
  auto get = [&](StringRef name) {
    return said->getString(name).value_or("").str();
  };
  ProgramRequest request;
  request.ir = get("ir");
  request.target = get("target");
  request.schedule = get("schedule");
  request.cpu = get("cpu");
  request.features = get("features");
  request.anyLayout = get("layout") == "any";
  request.genFlags = get("gen");
  return request;
}

Expected<std::vector<ProgramRequest>>
attnc::requestsFromEvents(StringRef path) {
  auto buffer = readInput(path);
  if (!buffer)
    return buffer.takeError();
  std::vector<ProgramRequest> requests;
  StringSet<> seen;
  size_t number = 0;
  for (StringRef line : split((*buffer)->getBuffer(), '\n')) {
    ++number;
    if (line.trim().empty())
      continue;
    auto request = requestOf(line);
    if (!request)
      return makeError(path + ":" + Twine(number) +
                       ": error: expected a line of JSON as ATTNC_EVENTS "
                       "makes them, got something else: " +
                       toString(request.takeError()));
    if (!*request)
      continue;
    const ProgramRequest &r = **request;
    if (seen.insert(
                join(std::vector<std::string>{r.target, r.schedule, r.cpu,
                                              r.features,
                                              r.anyLayout ? "any" : "", r.ir},
                     "\n"))
            .second)
      requests.push_back(std::move(**request));
  }
  return requests;
}
