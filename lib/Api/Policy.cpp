//===- Policy.cpp - One program for all sizes, or one for these -----------===//

#include "lib/Api/Policy.h"

#include "lib/Runtime/Sha256.h"
#include "lib/Support/StatusError.h"
#include "lib/Target/CPU/CpuFeatures.h"

#include "llvm/Support/FormatVariadic.h"

using namespace attnc;
using llvm::Expected;

Expected<std::pair<double, double>>
attnc::comparePrograms(const RunnableProgram &general,
                       const RunnableProgram &exact,
                       const AttentionDescription &description, int device) {
  auto shapes = shapesOf(description);
  if (!shapes)
    return shapes.takeError();
  auto watch = Stopwatch::create(general, *shapes, device);
  if (!watch)
    return watch.takeError();
  std::vector<double> seconds[2];
  for (int round = 0; round < 15; ++round)
    for (int k : {0, 1}) {
      auto taken = (*watch)->time(k ? exact : general);
      if (!taken)
        return taken.takeError();
      seconds[k].push_back(*taken);
    }
  return std::pair(medianOf(seconds[0]), medianOf(seconds[1]));
}

/// What a decision is filed under.
static RequestKey decisionKey(const RequestKey &general,
                              const RequestKey &exact) {
  auto shorten = [](const RequestKey &key) {
    return Sha256::hexOf(key.text()).substr(0, 32);
  };
  return KeyBuilder()
      .add("decision", "exact")
      .add("general", shorten(general))
      .add("exact", shorten(exact))
      .add("threads", getAvailableThreads())
      .build();
}

static void publishDecision(Session &session, const RequestKey &key,
                            double gain, bool adopted) {
  DiskCache *disk = session.kernelCache().diskCache();
  if (!disk)
    return;
  Entry entry;
  entry.key = key.text();
  entry.compiler = compilerFingerprint();
  entry.created = int64_t(time(nullptr));
  entry.metadata["gain"] = llvm::formatv("{0:F3}", gain).str();
  entry.metadata["choice"] = adopted ? "exact" : "dynamic";
  (void)disk->publish(entry); // else it is measured again
}

Result<const RunnableProgram *>
attnc::chooseExact(Session &session, const ProgramRequest &request,
                   const AttentionDescription &description, int device,
                   const Compare &compare) {
  using Choice = Result<const RunnableProgram *>;
  auto failed = [](llvm::Error error) {
    return toFailure(Status::InvalidArgument, std::move(error));
  };
  // Before anything is compiled: are the sizes there?
  if (auto shapes = shapesOf(description); !shapes)
    return failed(shapes.takeError());
  ProgramRequest sized = request;
  sized.genFlags = flagsOf(description);
  auto ir = writeAttention(description, sized.genFlags, "attnc_attention.");
  if (!ir)
    return failed(ir.takeError());
  sized.ir = *ir;
  auto generalKey = session.keyOf(request), exactKey = session.keyOf(sized);
  if (!generalKey || !exactKey)
    return generalKey ? exactKey.failure() : generalKey.failure();
  RequestKey key = decisionKey(*generalKey, *exactKey), ignored;

  if (DiskCache *disk = session.kernelCache().diskCache())
    if (auto known = disk->load(key).entry) {
      if (known->metadata["choice"] != "exact")
        return Choice(nullptr);
      return session.get(sized, ignored);
    }
  auto general = session.get(request, ignored);
  if (!general)
    return general.failure();
  auto exact = session.get(sized, ignored);
  if (!exact)
    return exact.failure();
  auto seconds = compare(**general, **exact, description, device);
  if (!seconds)
    return toFailure(Status::RunFailed, seconds.takeError());
  double gain = seconds->first / seconds->second;
  bool adopted = gain >= exactGain;
  session.kernelCache().eventSink().emit(
      {EventKind::Decide,
       exactKey->text(),
       llvm::formatv("{0} times as fast as the program for any sizes; it is "
                     "{1}",
                     llvm::formatv("{0:F3}", gain).str(),
                     adopted ? "kept" : "not kept")
           .str(),
       "",
       {{"dynamic", seconds->first}, {"exact", seconds->second}},
       {}});
  publishDecision(session, key, gain, adopted);
  return Choice(adopted ? *exact : nullptr);
}

bool attnc::fits(const RunnableProgram &program,
                 llvm::function_ref<llvm::ArrayRef<int64_t>(size_t)> sizes) {
  for (auto [k, parameter] : llvm::enumerate(program.parameters())) {
    llvm::ArrayRef<int64_t> given = sizes(k);
    if (given.size() != parameter.sizes.size())
      return false;
    for (auto [size, expected] : llvm::zip_equal(given, parameter.sizes))
      if (expected >= 0 && size != expected)
        return false;
  }
  return true;
}
