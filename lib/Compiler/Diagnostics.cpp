//===- Diagnostics.cpp - MLIR's diagnostics as one-line errors ------------===//

#include "lib/Compiler/Diagnostics.h"

#include "lib/Support/File.h"

#include "mlir/IR/Location.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace mlir;

DiagnosticCapture::DiagnosticCapture(MLIRContext &context, llvm::StringRef name)
    : name(name), handler(&context, [this](Diagnostic &diagnostic) {
        if (diagnostic.getSeverity() == DiagnosticSeverity::Error) {
          if (errors++ == 0)
            firstError = format(diagnostic, "error");
        } else if (diagnostic.getSeverity() == DiagnosticSeverity::Warning) {
          warnings += format(diagnostic, "warning") + "\n";
        }
        return success();
      }) {}

/// One line of text: an op printed in a message may span several.
static std::string onOneLine(llvm::StringRef text) {
  std::string line;
  for (char c : text.trim()) {
    char next = llvm::isSpace(c) || !llvm::isPrint(c) ? ' ' : c;
    if (uint8_t(c) >= 0x80)
      next = c; // Part of a UTF-8 character.
    if (next != ' ' || (!line.empty() && line.back() != ' '))
      line += next;
  }
  constexpr size_t longest = 800;
  if (line.size() > longest) {
    line.resize(longest);
    line += " ...";
  }
  return line;
}

std::string DiagnosticCapture::format(Diagnostic &diagnostic,
                                      llvm::StringRef severity) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (auto where = diagnostic.getLocation()->findInstanceOf<FileLineColLoc>()) {
    stream << where.getFilename().getValue();
    if (where.getLine()) // The file as a whole is at 0:0.
      stream << ':' << where.getLine() << ':' << where.getColumn();
  } else {
    stream << name;
  }
  stream << ": " << severity << ": " << onOneLine(diagnostic.str());
  for (Diagnostic &note : diagnostic.getNotes()) {
    // Where an op was printed at length is of no use on one line.
    if (!llvm::StringRef(note.str()).starts_with("see current operation"))
      stream << "; " << onOneLine(note.str());
  }
  return text;
}

llvm::Error DiagnosticCapture::takeError(llvm::StringRef otherwise) {
  if (errors == 0)
    return makeError(name + ": error: " + otherwise);
  std::string text = std::move(firstError);
  if (errors > 1)
    text += " (and " + std::to_string(errors - 1) + " more)";
  errors = 0;
  return makeError(text);
}

std::string DiagnosticCapture::takeWarnings() { return std::move(warnings); }
