/*===- tool.c - The program attnc of a wheel ------------------------------===*\
|*
|* The library beside it has all of it, so that a wheel holds LLVM once and the
|* two are of one version. It is the command that users run, and the process in
|* which the library compiles: what goes wrong in a code generator ends that and
|* not the interpreter.
|*
\*===----------------------------------------------------------------------===*/

extern int attnc_run_tool(int count, char **arguments);

int main(int count, char **arguments) {
  return attnc_run_tool(count, arguments);
}
