/*===- worker.c - The process that compiles for a wheel -------------------===*\
|*
|* The library finds it beside itself and runs it as `attnc-worker worker`: what
|* goes wrong in a code generator ends this process and not the interpreter.
|* All of it is in the library, so the two are of one version.
|*
\*===----------------------------------------------------------------------===*/

#include <stdio.h>
#include <string.h>

extern int attnc_run_worker(void);

int main(int count, char **arguments) {
  if (count == 2 && !strcmp(arguments[1], "worker"))
    return attnc_run_worker();
  fprintf(stderr, "attnc-worker: compiles for libattnc, which runs it\n");
  return 2;
}
