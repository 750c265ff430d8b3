/*===- attnc.h - The C interface of attnc ---------------------------------===*\
|*
|* Stability: version 0, may change between minor versions. A program built
|* against one ATTNC_API_VERSION runs with any library of the same one; check
|* with attnc_api_version(). Structures that may grow begin with their size.
|*
|* In short: describe an attention (or hand in IR: what `attnc gen` prints, or
|* any later phase), get a program, ask it for the workspace it needs with
|* given arguments, run it.
|*
|*   attnc_attention attention = {sizeof(attention)};
|*   attention.score = "softmax";
|*   attnc_program *program;
|*   attnc_program_from_attention(&attention, NULL, &program);
|*   attnc_program_workspace_size(program, arguments, count, &bytes);
|*   attnc_program_run(program, arguments, count, workspace, bytes, NULL);
|*
|* A program is compiled once and then found by what was asked for: in memory,
|* else on disk (see docs/environment.md for ATTNC_CACHE_DIR and ATTNC_JIT).
|* Sizes, strides and scalars are arguments: one program serves all of them.
|*
|* On a GPU, pointers and workspace are device memory, and a run is put on a
|* stream and not waited for. A run may be captured into a CUDA graph after one
|* with the same sizes, or once attnc_program_workspace_size was asked for them
|* and then attnc_program_warm_up called. Few queries and many keys are served
|* by a second program, which the first such call compiles.
|*
|* Every function may be called from several threads at once, and none ends
|* the process. A function that fails returns a status other than ATTNC_OK and
|* changes nothing; attnc_last_error() then names the argument, what was
|* expected, what was got and what to try.
|*
\*===----------------------------------------------------------------------===*/

#ifndef ATTNC_ATTNC_H
#define ATTNC_ATTNC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATTNC_API_VERSION 2

#if defined(__GNUC__)
#define ATTNC_API __attribute__((visibility("default")))
#else
#define ATTNC_API
#endif

/*---- Status ----------------------------------------------------------------*/

typedef enum attnc_status {
  ATTNC_OK = 0,
  ATTNC_INVALID_ARGUMENT = 1, /* an argument is not what the program takes */
  ATTNC_UNSUPPORTED = 2,      /* this build or machine cannot do it */
  ATTNC_COMPILE_FAILED = 3,   /* the IR is wrong; the message has the place */
  ATTNC_JIT_FORBIDDEN = 4,    /* ATTNC_JIT=forbid, and it is not in the cache */
  ATTNC_LOAD_FAILED = 5,      /* compiled, but does not load here */
  ATTNC_RUN_FAILED = 6,
  ATTNC_INTERNAL = 7,
  ATTNC_COLD = 8 /* captured into a graph before it was warmed up */
} attnc_status;

/* The message of this thread's last call that failed; "" before one. Valid
 * until the thread's next failing call. Never null. */
ATTNC_API const char *attnc_last_error(void);

/* "invalid argument" and the like. */
ATTNC_API const char *attnc_status_name(attnc_status status);

/*---- Versions --------------------------------------------------------------*/

/* ATTNC_API_VERSION of the library. */
ATTNC_API int attnc_api_version(void);

/* "0.1.0". */
ATTNC_API const char *attnc_version(void);

/* A hash of the compiler's sources: two libraries with the same one make the
 * same code. Part of every key of the cache. */
ATTNC_API const char *attnc_compiler_fingerprint(void);

/*---- Programs --------------------------------------------------------------*/

typedef struct attnc_program attnc_program;

typedef enum attnc_dtype {
  ATTNC_DTYPE_NONE = 0, /* of a scalar; in a request: the default */
  ATTNC_DTYPE_F32 = 1,
  ATTNC_DTYPE_F16 = 2,
  ATTNC_DTYPE_BF16 = 3,
  ATTNC_DTYPE_I32 = 4,
  ATTNC_DTYPE_BOOL = 5, /* one byte, 0 or 1 */
  ATTNC_DTYPE_OTHER = 6
} attnc_dtype;

/* Set struct_size to sizeof(attnc_options) and the rest to zero; then change
 * what should differ. Null strings mean the default. */
typedef struct attnc_options {
  size_t struct_size;
  const char *target;   /* "cpu" (default), "sm_90a" (Hopper), or "cuda": what
                         * the GPU `device` is */
  const char *schedule; /* "block_m=64,block_n=128"; default: cost model,
                         * "few_queries": for few queries and many keys,
                         * "few_items": for few rows of queries in all */
  const char *cpu;      /* as LLVM names it; default: this machine's */
  const char *features; /* "+avx2,-avx512f" on top of the processor's */
  int32_t device;       /* GPU that the null stream is of, 0 being the first */
  int32_t any_layout;   /* GPU: 1 takes tensors of any strides and alignment,
                         * slower; 0 wants 16-byte aligned rows */
  const char *policy;   /* of an attnc_attention: "dynamic" (default) is one
                         * program for any sizes. "exact" also compiles one
                         * for the sizes described and keeps it if it measures
                         * 3 % faster; "auto" does so in the warm-up. Calls
                         * with other sizes go to the dynamic one. */
} attnc_options;

/* Gets the program for IR text of `length` bytes. Compiles on the first
 * request on this machine, loads afterwards. `options` may be null. No GPU is
 * needed for target "sm_90a" until a run. */
ATTNC_API attnc_status attnc_program_from_ir(const char *ir, size_t length,
                                             const attnc_options *options,
                                             attnc_program **program);

/* Makes the next run cheap and fit for capture: loads the program on the
 * device of its options (nothing to do on the CPU). With policy "auto" this is
 * where programs are measured. */
ATTNC_API attnc_status attnc_program_warm_up(attnc_program *program);

/* Gives the handle back. The code stays loaded while the process lives: the
 * next request for it costs nothing. Null is allowed. */
ATTNC_API void attnc_program_release(attnc_program *program);

/* What the program is filed under, readable. Valid as long as the handle. */
ATTNC_API const char *attnc_program_key(const attnc_program *program);

/* "cpu" or "sm_90a". Valid as long as the handle. */
ATTNC_API const char *attnc_program_target(const attnc_program *program);

typedef enum attnc_kind {
  ATTNC_TENSOR = 0,
  ATTNC_F32 = 1,
  ATTNC_I32 = 2
} attnc_kind;

enum { ATTNC_MAX_RANK = 8 };

/* One parameter of a program. Dims are in logical order, for 4-D tensors
 * batch, head, position, feature, whatever the layout in memory is. */
typedef struct attnc_argument_info {
  const char *name; /* valid as long as the handle */
  attnc_kind kind;
  attnc_dtype dtype;
  int32_t rank;
  int32_t is_result;
  int64_t sizes[ATTNC_MAX_RANK]; /* -1: any */
} attnc_argument_info;

/* Operands first, then results, all passed to attnc_program_run. */
ATTNC_API size_t attnc_program_argument_count(const attnc_program *program);
ATTNC_API attnc_status attnc_program_argument_info(const attnc_program *program,
                                                   size_t index,
                                                   attnc_argument_info *info);

/*---- Running ---------------------------------------------------------------*/

/* A tensor in the caller's memory: `rank` sizes, and strides in elements (not
 * bytes), in logical order. Negative and zero strides are allowed. A result's
 * memory must not overlap itself nor that of another argument. A dim has at
 * most 2^31 - 1 elements. */
typedef struct attnc_tensor {
  void *data;
  attnc_dtype dtype;
  int32_t rank;
  const int64_t *sizes;
  const int64_t *strides;
} attnc_tensor;

typedef struct attnc_argument {
  attnc_kind kind;
  union {
    attnc_tensor tensor;
    float f32;
    int32_t i32;
  } as;
} attnc_argument;

/* Bytes of scratch memory that a run with these arguments needs; may be 0.
 * Depends on sizes only. */
ATTNC_API attnc_status attnc_program_workspace_size(
    const attnc_program *program, const attnc_argument *arguments, size_t count,
    size_t *bytes);

enum { ATTNC_WORKSPACE_ALIGNMENT = 64 };

/* Runs the program. `workspace` is memory of the caller's, aligned to
 * ATTNC_WORKSPACE_ALIGNMENT, not used by another run meanwhile; it may be null
 * when no bytes are needed.
 *
 * On the CPU the call returns when the results are there, and `stream` must be
 * null. On a GPU `stream` is a CUstream (or cudaStream_t), null being the
 * legacy default stream of the options' device; the call puts the work on it
 * and returns. A stream brings its own device and context along, whatever is
 * current in the calling thread. */
ATTNC_API attnc_status attnc_program_run(const attnc_program *program,
                                         const attnc_argument *arguments,
                                         size_t count, void *workspace,
                                         size_t workspace_bytes, void *stream);

/*---- Attention from a description ------------------------------------------*/

/* What `attnc gen` takes as flags (see 'attnc help gen'). Set struct_size to
 * sizeof(attnc_attention) and the rest to zero, then change what should
 * differ: that is sigmoid attention of f32 tensors with a scalar bias and head
 * dim 64. Lengths, scalars, windows and slopes are arguments of a run. */
typedef struct attnc_attention {
  size_t struct_size;
  const char *score;      /* "sigmoid" (default), "softmax", "relu", ... */
  const char *bias;       /* "none", "scalar", "head", "key" or "full"; default:
                           * scalar for sigmoid, else none */
  const char *causal;     /* "bottom_right" or "top_left"; null: not causal */
  const char *masks;      /* of "documents", "dilated", "tensor", with commas
                           * between; null: none */
  const char *layout;     /* "bhsd" (default) or "bshd": order of the IR's dims;
                           * a run takes any strides either way */
  attnc_dtype dtype;      /* of query, key, value */
  attnc_dtype out_dtype;  /* default: dtype */
  int64_t head_dim;       /* 0: 64 */
  int64_t value_head_dim; /* 0: head_dim */
  /* What is known of the sizes, 0 being nothing: for the policies "exact" and
   * "auto". With cosine and gaussian scores, fewer key heads than heads are
   * possible only if both are given. */
  int64_t batch, heads, kv_heads, seq, kv_seq;
  int32_t window; /* 1: takes window_left and window_right, -1 being all */
  int32_t scale;  /* 1: takes the scale, else it is 1 / sqrt(head_dim) */
  int32_t alibi;  /* 1: takes one slope a head */
  int32_t gate;   /* 1: takes a gate, the output is multiplied by sigmoid */
  int32_t q_len;  /* 1: takes each sequence's own length */
  int32_t kv_len;
  int32_t lse;          /* 1: also gives log sum exp of the logits (softmax) */
  const char *backward; /* the program of the gradients of query, key and value
                         * ("operands"), or of bias, slopes, gate and scale too
                         * ("all"); null: of the attention. docs/backward.md
                         * says what it takes */
} attnc_attention;

/* As attnc_program_from_ir, for the IR of a description. */
ATTNC_API attnc_status attnc_program_from_attention(
    const attnc_attention *attention, const attnc_options *options,
    attnc_program **program);

/* The IR of a description, as `attnc gen` writes it. `*length` becomes its
 * length in bytes; what fits is copied to `buffer` and ended with a zero byte.
 * `buffer` may be null when `capacity` is 0. */
ATTNC_API attnc_status attnc_attention_ir(const attnc_attention *attention,
                                          char *buffer, size_t capacity,
                                          size_t *length);

/*---- Programs from a build -------------------------------------------------*/

/* Looks into a file that `attnc package` made, from now on and before the
 * cache; ATTNC_PACKAGE names such files too. Needs no ptxas. */
ATTNC_API attnc_status attnc_load_package(const char *path);

/*---- Looking inside --------------------------------------------------------*/

/* What a compile of IR text has made after a phase: "fused", "tile", ...,
 * "ptx" (as 'attnc --emit'). `*length` becomes its length in bytes; what fits
 * is copied to `buffer` and ended with a zero byte. `buffer` may be null when
 * `capacity` is 0. Nothing is cached, and no GPU is needed. */
ATTNC_API attnc_status attnc_emit(const char *ir, size_t ir_length,
                                  const attnc_options *options,
                                  const char *phase, char *buffer,
                                  size_t capacity, size_t *length);

/*---- What happened ---------------------------------------------------------*/

typedef struct attnc_counters {
  size_t struct_size; /* set by the caller */
  uint64_t memory_hits;
  uint64_t disk_hits;
  uint64_t compiles;
  uint64_t waits; /* for another thread or process that compiled */
  uint64_t package_hits;
} attnc_counters;

ATTNC_API attnc_status attnc_get_counters(attnc_counters *counters);

/* Called for each event (a hit on disk, a miss and why, a compile with the
 * time of each phase, a warning) with one line of JSON, in the thread that
 * caused it. Null removes the callback. */
typedef void (*attnc_event_callback)(const char *json, void *context);
ATTNC_API void attnc_set_event_callback(attnc_event_callback callback,
                                        void *context);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* ATTNC_ATTNC_H */
