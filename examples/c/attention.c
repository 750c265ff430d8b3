/*===- attention.c - Sigmoid attention from C ----------------------*- C -*-===*\
|*
|*   attnc gen --score=sigmoid --causal --head-dim=64 -o sigmoid.mlir
|*   ./attention sigmoid.mlir
|*
|* Reads attention as IR, gets its program (compiled at the first run on this
|* machine, loaded afterwards), and calls it with every value 1 but the bias.
|*
\*===----------------------------------------------------------------------===*/

#include "attnc/attnc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 1, H = 2, S = 100, D = 64, SIZE = B * H * S * D };

static int failed(const char *what) {
  fprintf(stderr, "%s: %s\n", what, attnc_last_error());
  return 1;
}

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  char *text = NULL;
  if (file && !fseek(file, 0, SEEK_END)) {
    long end = ftell(file);
    rewind(file);
    text = malloc((size_t)end + 1);
    *size = text ? fread(text, 1, (size_t)end, file) : 0;
  }
  if (file)
    fclose(file);
  return text;
}

int main(int argc, char **argv) {
  size_t length = 0;
  char *ir = argc == 2 ? read_file(argv[1], &length) : NULL;
  attnc_program *program;
  if (!ir) {
    fprintf(stderr, "usage: attention IR.mlir (from attnc gen)\n");
    return 2;
  }
  if (attnc_program_from_ir(ir, length, NULL, &program))
    return failed("compile");
  free(ir);

  /* All tensors of this example have the same sizes, row-major. */
  static float query[SIZE], key[SIZE], value[SIZE], output[SIZE];
  const int64_t sizes[] = {B, H, S, D};
  const int64_t strides[] = {H * S * D, S * D, D, 1};
  for (int k = 0; k < SIZE; ++k)
    query[k] = key[k] = value[k] = 1;
  const float bias = -logf(S);

  /* Arguments go by position; their names say which is which. */
  attnc_argument arguments[8];
  size_t count = attnc_program_argument_count(program);
  memset(arguments, 0, sizeof(arguments));
  for (size_t k = 0; k < count && k < 8; ++k) {
    attnc_argument_info info;
    if (attnc_program_argument_info(program, k, &info))
      return failed("argument");
    arguments[k].kind = info.kind;
    if (info.kind == ATTNC_F32) {
      arguments[k].as.f32 = bias;
      continue;
    }
    void *data = !strcmp(info.name, "query")   ? query
                 : !strcmp(info.name, "key")   ? key
                 : !strcmp(info.name, "value") ? value
                                               : output;
    attnc_tensor tensor = {data, info.dtype, info.rank, sizes, strides};
    arguments[k].as.tensor = tensor;
  }

  size_t bytes;
  if (attnc_program_workspace_size(program, arguments, count, &bytes))
    return failed("workspace");
  void *workspace = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
  if (attnc_program_run(program, arguments, count, workspace, bytes, NULL))
    return failed("run");

  /* Row i attends i + 1 keys with equal weights. */
  double weight = 1 / (1 + exp(-(sqrt(D) + bias)));
  printf("last row: %.6f, expected %.6f\n", output[SIZE - 1], S * weight);
  free(workspace);
  attnc_program_release(program);
  return fabs(output[SIZE - 1] - S * weight) > 1e-4 * S * weight;
}
