/* allrounder's C interface: load a bundle, answer conversations with images.
 *
 *     ar_runtime* runtime = NULL;
 *     ar_error* error = ar_runtime_load("bundles/demo", NULL, &runtime);
 *     if (error) { fprintf(stderr, "%s\n", ar_error_message(error)); ar_error_free(error); return 1; }
 *     ar_part parts[2] = {{sizeof(ar_part)}, {sizeof(ar_part)}};
 *     parts[0].rgb = pixels; parts[0].width = 640; parts[0].height = 480;
 *     parts[1].text = "what is the red object?";
 *     ar_message message = {sizeof message, "user", parts, 2};
 *     ar_request request = {sizeof request};
 *     request.messages = &message; request.message_count = 1;
 *     ar_answer* answer = NULL;
 *     error = ar_generate(runtime, &request, &answer);
 *     if (!error) puts(ar_answer_text(answer, NULL));
 *     ar_answer_free(answer); ar_error_free(error); ar_runtime_free(runtime);
 *
 * What it is: all that the shared library exports; C++ programs use allrounder.hpp, which is made of it.
 * What it knows: opaque handles, plain numbers and UTF-8. What it does not know: image files, and C++ types.
 *
 * Rules. Every call that can fail returns an error, or NULL where it went well; what it was to write is then left
 * alone or set. Handles are freed by their `*_free`, which takes NULL. Text is UTF-8 and ends in a zero byte; texts and
 * arrays that an accessor returns belong to its handle and live as long. No exception leaves the library.
 *
 * Threads. A runtime and a cancellation may be used by any number of threads at once; an error or an answer
 * by one at a time. Freeing is a handle's last call.
 *
 * Processes. A runtime belongs to the process that loaded it. In one that is forked from it, asking gives
 * AR_RUNTIME_CLOSED, closing does nothing, and freeing leaves its memory to the end of that process; fork before loading,
 * or load again after it. Forked processes may end by exit or _exit.
 *
 * Structs. Those that a program fills begin with `size`: zero them, set `size = sizeof`, and every field left zero means
 * its default. One of another size than this library's is refused: header and library belong together, as nothing has been
 * released yet. Of an array of structs each has its `size`.
 *
 * ONNX Runtime is not linked: it is opened when the first runtime is loaded, in this order: `ort_library` of the options,
 * the environment's ALLROUNDER_ORT_LIBRARY, libonnxruntime.so.1 or libonnxruntime.so in this library's own folder, and
 * the system's libonnxruntime.so.1. The first to be found stays for the whole process. Its telemetry is switched off
 * (ORT_DISABLE_TELEMETRY=1) unless that variable is set; set it before threads start, as setenv is not thread-safe.
 *
 * OpenVINO is not linked either: it is opened when a bundle with entries for it is loaded: `openvino_library` of the
 * options, the environment's ALLROUNDER_OPENVINO_LIBRARY, a libopenvino_c.so* in this library's own folder, and the
 * system's libopenvino_c.so. 2026.4 is the oldest that works. Its entries run on the CPU; where it is missing they are
 * left aside, which is logged.
 *
 * TensorRT is not linked either. Where this library was built with it, it is opened when a bundle with TensorRT's entries
 * is loaded: ALLROUNDER_TENSORRT_LIBRARY, else the system's libnvinfer.so of that major version. Those entries run on a
 * GPU whatever `device` says: "cpu" means the first one. Where TensorRT or a GPU is missing they are left aside, which
 * is logged. Images are prepared by ONNX Runtime all the same.
 */
#ifndef ALLROUNDER_C_API_H
#define ALLROUNDER_C_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(ALLROUNDER_BUILDING)
#define AR_API __attribute__((visibility("default")))
#else
#define AR_API
#endif

#define AR_VERSION_MAJOR 0
#define AR_VERSION_MINOR 1
#define AR_VERSION_PATCH 0

typedef struct ar_error ar_error;
typedef struct ar_bundle ar_bundle;
typedef struct ar_runtime ar_runtime;
typedef struct ar_answer ar_answer;
typedef struct ar_prompt ar_prompt;
typedef struct ar_cancellation ar_cancellation;

/* Returns the version of the library that was loaded, for example "0.1.0". */
AR_API const char* ar_version(void);

/* ---- Errors: the tree of allrounder.errors, by name ---- */

typedef enum ar_status {
  AR_OK = 0,
  AR_INTERNAL = 1,                /* a defect of this library, or memory ran out */
  AR_INPUT_INVALID = 10,          /* an argument is wrong */
  AR_UNKNOWN_VERSION = 11,        /* the bundle has no such version */
  AR_IMAGE_INVALID = 12,          /* no pixels, or an impossible size */
  AR_PROMPT_TOO_LONG = 13,        /* prompt or answer exceed the bundle's limits or the model's longest sequence */
  AR_INVALID_BUDGET = 14,         /* `keep` is no keep rule */
  AR_BUNDLE_ERROR = 20,           /* no such directory, or it cannot be read */
  AR_BUNDLE_CORRUPT = 21,         /* a file that is missing, unsafe or of another size, or a malformed manifest */
  AR_BUNDLE_FROM_FUTURE = 22,     /* the manifest's schema is newer than this library */
  AR_BACKEND_ERROR = 30,          /* the backend's own library failed; its message is quoted */
  AR_ENGINE_UNAVAILABLE = 31,     /* backend, device, tokenizer family or library that is not there */
  AR_NO_ENGINE_MEETS_TARGET = 40, /* the message is the table of what there is */
  AR_REQUEST_CANCELLED = 50,      /* by its owner, its callback, or by closing the runtime */
  AR_RUNTIME_CLOSED = 51          /* the runtime was closed before this call, or this process was forked from its own */
} ar_status;

AR_API ar_status ar_error_status(const ar_error* error); /* NULL: AR_OK */
AR_API const char* ar_error_name(const ar_error* error); /* as in Python: "BundleCorrupt" */
AR_API const char* ar_error_message(const ar_error* error); /* what, where, got, wanted and the remedy */
AR_API void ar_error_free(ar_error* error);

/* ---- Loading ---- */

typedef enum ar_weights {
  AR_WEIGHTS_FAST = 0,  /* each session packs a copy of its own */
  AR_WEIGHTS_SHARED = 1 /* the file is mapped once for all; slower */
} ar_weights;

typedef enum ar_level { AR_LOG_INFO = 0, AR_LOG_WARNING = 1 } ar_level;

/* Called in the thread that is in the call which took it, and not after that; `message` lives for this call only. */
typedef void (*ar_log_fn)(void* user, ar_level level, const char* message);

typedef struct ar_load_options {
  size_t size;             /* sizeof(ar_load_options) */
  const char* version;     /* takes the most faithful entry of that name; not with a target */
  double ttft_ms;          /* target: milliseconds from image in to first token out; 0: none */
  double tpot_ms;          /* target: milliseconds per further token; 0: none */
  int32_t percentile;      /* which share of requests must meet the target: 50, 95 (default) or 99 */
  int32_t fallback_fastest; /* 1: the entry nearest to the target where none meets it */
  int32_t threads;         /* CPU threads that one step uses; 0: all usable cores */
  ar_weights weights;
  const char* device;      /* "cpu" (default), "cuda" or "cuda:1" */
  const char* provider;    /* of ONNX Runtime, on a GPU: "cuda" (default), or "tensorrt" with "cuda" behind it */
  int32_t ids_only;        /* 1: no tokenizer is read; requests then have token ids and answers have no text */
  const char* ort_library; /* path of ONNX Runtime's library; NULL: the search order above */
  const char* openvino_library; /* and of the library with OpenVINO's C API */
  ar_log_fn log;           /* NULL: nothing is logged */
  void* user;              /* handed to `log` */
} ar_load_options;

/* Opens a bundle and the entry to be used. Without version and target: the most faithful of all. A target chooses by
 * the latencies that the bundle's manifest records for this machine, its ONNX Runtime and this number of threads, with
 * fast weights; nothing is measured here. Where there are none, AR_NO_ENGINE_MEETS_TARGET says how to record them.
 *
 * What is checked: the manifest against its digest, and that every listed file is there as a regular file of its size.
 * Not every byte is hashed: `allrounder verify` does that, and Python's runtime when it first meets a bundle. */
AR_API ar_error* ar_runtime_load(const char* bundle, const ar_load_options* options, ar_runtime** runtime);
/* No new requests; those that run are cancelled before their next step (cancel 1) or awaited (cancel 0). Returns when
 * nothing runs any more: a request's own callback must not call it. May be called again. */
AR_API void ar_runtime_close(ar_runtime* runtime, int cancel);
/* Closes, and frees. */
AR_API void ar_runtime_free(ar_runtime* runtime);

AR_API const char* ar_runtime_version(const ar_runtime* runtime); /* of the entry in use: "par-lite" */
AR_API const char* ar_runtime_entry(const ar_runtime* runtime);   /* that entry as the manifest's JSON */
AR_API const char* ar_runtime_manifest(const ar_runtime* runtime); /* the whole manifest's JSON */

/* ---- Bundles alone ---- */

/* Opens and checks a bundle, as above, without running anything of it; ONNX Runtime is not needed. */
AR_API ar_error* ar_bundle_open(const char* path, ar_bundle** bundle);
AR_API const char* ar_bundle_manifest(const ar_bundle* bundle); /* its manifest's JSON */
AR_API void ar_bundle_free(ar_bundle* bundle);

/* ---- Cancelling ---- */

AR_API ar_error* ar_cancellation_new(ar_cancellation** cancellation);
AR_API void ar_cancellation_cancel(ar_cancellation* cancellation); /* stays cancelled; returns at once */
AR_API void ar_cancellation_free(ar_cancellation* cancellation);   /* requests that hold it may still be running */

/* ---- Asking ---- */

/* Called with each piece of text as it comes, in the thread of ar_generate; put together the pieces are the answer's
 * text. `token_count` is how many tokens were drawn so far. Without a tokenizer it is called once per token with
 * empty text. Anything but 0 ends the request with AR_REQUEST_CANCELLED. */
typedef int (*ar_piece_fn)(void* user, const char* text, size_t bytes, int64_t token_count);

/* A part of a message: a text, or, where that is NULL, an image. */
typedef struct ar_part {
  size_t size;        /* sizeof(ar_part) */
  const char* text;   /* plain text: what spells a control token in it stays text */
  size_t text_bytes;  /* 0: the text ends at its zero byte */
  const uint8_t* rgb; /* height rows of width pixels of 3 bytes: red, green, blue */
  int64_t width;      /* pixels */
  int64_t height;     /* pixels */
  int64_t row_bytes;  /* bytes from one row to the next, negative where rows go up; 0: 3 * width */
} ar_part;

/* A turn of a conversation. */
typedef struct ar_message {
  size_t size;          /* sizeof(ar_message) */
  const char* role;     /* "system", "user" or "assistant" */
  const ar_part* parts; /* texts and images, in any order */
  size_t part_count;
} ar_message;

/* A prompt and how it is to be answered. The prompt is exactly one of three: `messages`, which the library renders where
 * the model's chat template is literal strings (another one is a program, which it refuses to run: then the program
 * renders); `text`, rendered; or `ids`. The latter two have a place for each of `images`, in their order. A message is
 * parts: where a template writes a content that is a text alone in another way, that is for the program to render.
 *
 * All that a request points at is the program's: it is read before the first piece is given, and not kept. Until then
 * nobody may change it. */
typedef struct ar_request {
  size_t size;               /* sizeof(ar_request) */
  const ar_message* messages;
  size_t message_count;
  const char* text;          /* rendered, the model's image token once per image: control tokens in it are control tokens,
                              * so no stranger's text goes into it */
  size_t text_bytes;         /* 0: it ends at its zero byte */
  const int64_t* ids;        /* token ids, the placeholder's once per image */
  size_t id_count;
  const ar_part* images;     /* of `text` or `ids`: parts that are images */
  size_t image_count;
  double keep;               /* how much of each image stays: a share up to 1, or a count of image tokens from 2 on; 0: as
                              * the entry's version says. An entry that keeps every token takes 1 alone */
  int64_t max_new_tokens;    /* the stop token counts; 0: 128, or the bundle's limit where that is lower */
  double temperature;        /* 0: the best token */
  int64_t top_k;             /* 0: all */
  double top_p;              /* 0: 1.0 */
  int32_t seeded;            /* 1: `seed` holds: same seed, same draws; they are not those of Python's runtime */
  uint64_t seed;
  const char* const* stop;   /* texts that end the answer and are not part of it */
  size_t stop_count;
  ar_cancellation* cancel;   /* NULL: none */
  ar_piece_fn piece;         /* NULL: no streaming */
  void* user;                /* handed to `piece` */
} ar_request;

AR_API ar_error* ar_generate(ar_runtime* runtime, const ar_request* request, ar_answer** answer);

/* Answers up to as many requests as the bundle's limit `batch` says; with more it is AR_INPUT_INVALID. Where the entry's
 * layers are static they are prefilled one after the other and decoded together, each with its own options, and each
 * gets the tokens that it gets alone. Where layers are chosen per input they run one after the other.
 *
 * `answers` and `errors` have room for `count`. One request's failure, its cancellation say, ends that request alone:
 * its answer is NULL and its error is set; of the others the error is NULL. The call itself returns an error, and sets
 * neither, where nothing could be run: too many requests, a struct that is none (another size, two prompts), or an
 * engine that holds one sequence alone (AR_ENGINE_UNAVAILABLE). Pieces come in the calling thread, those of several
 * requests in turns. */
AR_API ar_error* ar_generate_batch(ar_runtime* runtime, const ar_request* requests, size_t count, ar_answer** answers,
                                   ar_error** errors);

/* ---- Answers ---- */

typedef enum ar_finish { AR_FINISH_STOP = 0, AR_FINISH_LENGTH = 1 } ar_finish;

/* Milliseconds by phase; what lies between the phases (tokenising, callbacks) is in none. A step in which several
 * requests are decoded counts in full for each. */
typedef struct ar_timing {
  size_t size; /* sizeof(ar_timing) */
  double preprocess_ms;
  double vision_ms;
  double router_ms;
  double prefill_ms;
  double decode_ms;
  double ttft_ms;
  double tpot_ms; /* mean over the further tokens; negative where there is none */
} ar_timing;

/* Numbers of tokens. */
typedef struct ar_usage {
  size_t size; /* sizeof(ar_usage) */
  int64_t text_tokens;       /* of the prompt */
  int64_t image_tokens;      /* of all its images */
  int64_t kept_image_tokens; /* those that stayed */
  int64_t new_tokens;        /* of the answer, the stop token included */
} ar_usage;

AR_API const char* ar_answer_text(const ar_answer* answer, size_t* bytes); /* without stop token and stop text */
AR_API const int64_t* ar_answer_token_ids(const ar_answer* answer, size_t* count); /* the stop token included */
AR_API const int64_t* ar_answer_prompt_ids(const ar_answer* answer, size_t* count);   /* the prompt's text tokens */
AR_API const int64_t* ar_answer_keep_indices(const ar_answer* answer, size_t* count); /* counted over all images */
AR_API const int64_t* ar_answer_kept_layers(const ar_answer* answer, size_t* count);
AR_API ar_finish ar_answer_finish(const ar_answer* answer);
AR_API void ar_answer_timing(const ar_answer* answer, ar_timing* timing); /* where `timing->size` is right */
AR_API void ar_answer_usage(const ar_answer* answer, ar_usage* usage);    /* where `usage->size` is right */
AR_API void ar_answer_free(ar_answer* answer);

/* ---- Token ids alone ---- */

/* Gives the ids of a conversation, with one placeholder per image, as ar_generate would. Images are not read. */
AR_API ar_error* ar_prompt_encode(ar_runtime* runtime, const ar_message* messages, size_t count, ar_prompt** prompt);
AR_API const int64_t* ar_prompt_ids(const ar_prompt* prompt, size_t* count);
AR_API void ar_prompt_free(ar_prompt* prompt);

#ifdef __cplusplus
}
#endif

#endif /* ALLROUNDER_C_API_H */
