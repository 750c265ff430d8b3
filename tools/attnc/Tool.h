//===- Tool.h - The command line as a function ------------------*- C++ -*-===//

#ifndef ATTNC_TOOLS_ATTNC_TOOL_H
#define ATTNC_TOOLS_ATTNC_TOOL_H

/// All that the program `attnc` is. The library exports it too, as no part of
/// the C interface: so the program of a wheel has no LLVM of its own.
extern "C" __attribute__((visibility("default"))) int
attnc_run_tool(int argc, char **argv);

#endif // ATTNC_TOOLS_ATTNC_TOOL_H
