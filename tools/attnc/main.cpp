//===- main.cpp - The program attnc ---------------------------------------===//

#include "tools/attnc/Tool.h"

int main(int argc, char **argv) { return attnc_run_tool(argc, argv); }
