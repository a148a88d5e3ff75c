/* A program of the first release: abi_client [BUNDLE ORT_LIBRARY]. It is compiled against the frozen header, and runs
 * with the library of today. Prints one line a fact; with a bundle it asks one question about a grey picture. */
#include "c_api_0_1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t pixels[48 * 64 * 3];

static int fail(ar_error* error) {
  fprintf(stderr, "%s: %s\n", ar_error_name(error), ar_error_message(error));
  ar_error_free(error);
  return 1;
}

static void print_ids(const char* name, const int64_t* ids, size_t count) {
  size_t i;
  printf("%s", name);
  for (i = 0; i < count; ++i) printf(" %lld", (long long)ids[i]);
  printf("\n");
}

static int on_piece(void* user, const char* text, size_t bytes, int64_t token_count) {
  size_t* heard = (size_t*)user;
  (void)text;
  (void)token_count;
  *heard += bytes;
  return 0;
}

static void on_log(void* user, ar_level level, const char* message) {
  (void)level;
  (void)message;
  ++*(int*)user;
}

/* What needs no bundle. */
static int refuse(void) {
  ar_runtime* runtime = NULL;
  ar_cancellation* cancellation = NULL;
  ar_error* error = ar_runtime_load("/no/such/bundle", NULL, &runtime);
  if (!error || runtime) return fail(error);
  printf("status %d\nname %s\n", (int)ar_error_status(error), ar_error_name(error));
  ar_error_free(error);
  error = ar_cancellation_new(&cancellation);
  if (error) return fail(error);
  ar_cancellation_cancel(cancellation);
  ar_cancellation_free(cancellation);
  ar_error_free(NULL);
  ar_runtime_free(NULL);
  ar_answer_free(NULL);
  ar_prompt_free(NULL);
  ar_bundle_free(NULL);
  ar_cancellation_free(NULL);
  return ar_error_status(NULL) == AR_OK ? 0 : 1;
}

static void print_answer(const ar_answer* answer, size_t heard) {
  size_t count = 0;
  const int64_t* ids;
  ar_timing timing;
  memset(&timing, 0, sizeof timing);
  timing.size = sizeof timing;
  ar_answer_timing(answer, &timing);
  printf("text %s\n", ar_answer_text(answer, &count));
  printf("streamed %s\n", heard == count ? "all" : "less");
  ids = ar_answer_token_ids(answer, &count);
  print_ids("token_ids", ids, count);
  ids = ar_answer_prompt_ids(answer, &count);
  print_ids("prompt_ids", ids, count);
  ids = ar_answer_keep_list(answer, &count);
  print_ids("keep_list", ids, count);
  ids = ar_answer_layer_plan(answer, &count);
  print_ids("layer_plan", ids, count);
  printf("finish %s\n", ar_answer_finish(answer) == AR_FINISH_STOP ? "stop" : "length");
  printf("timed %s\n", timing.ttft_ms > 0 && timing.size == sizeof timing ? "yes" : "no");
}

static int ask(ar_runtime* runtime) {
  ar_request request;
  ar_answer* answer = NULL;
  ar_prompt* prompt = NULL;
  ar_error* error;
  size_t heard = 0, count = 0;
  const int64_t* ids;
  memset(pixels, 128, sizeof pixels);
  memset(&request, 0, sizeof request);
  request.size = sizeof request;
  request.rgb = pixels;
  request.width = 64;
  request.height = 48;
  request.question = "what is this?";
  request.max_new_tokens = 4;
  request.piece = on_piece;
  request.user = &heard;
  error = ar_generate(runtime, &request, &answer);
  if (error) return fail(error);
  print_answer(answer, heard);
  ar_answer_free(answer);
  error = ar_prompt_encode(runtime, request.question, 0, &prompt);
  if (error) return fail(error);
  ids = ar_prompt_prefix_ids(prompt, &count);
  print_ids("prefix", ids, count);
  ids = ar_prompt_suffix_ids(prompt, &count);
  print_ids("suffix", ids, count);
  ar_prompt_free(prompt);
  return 0;
}

/* Opens the bundle alone; its manifest must be the runtime's. */
static int look(const char* path, const ar_runtime* runtime) {
  ar_bundle* bundle = NULL;
  ar_error* error = ar_bundle_open(path, NULL, NULL, &bundle);
  int same;
  if (error) return fail(error);
  same = strcmp(ar_bundle_manifest(bundle), ar_runtime_manifest(runtime)) == 0;
  ar_bundle_free(bundle);
  return !same;
}

int main(int argc, char** argv) {
  ar_load_options options;
  ar_runtime* runtime = NULL;
  ar_error* error;
  int logs = 0, result;
  printf("version %s\n", ar_version());
  if (refuse()) return 1;
  if (argc < 3) return 0;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.version = "par-lite";
  options.threads = 1;
  options.ort_library = argv[2];
  options.log = on_log;
  options.user = &logs;
  error = ar_runtime_load(argv[1], &options, &runtime);
  if (error) return fail(error);
  printf("entry %s\n", ar_runtime_version(runtime));
  if (!strstr(ar_runtime_manifest(runtime), ar_runtime_version(runtime)) || !*ar_runtime_entry(runtime)) return 1;
  result = look(argv[1], runtime) || ask(runtime);
  ar_runtime_close(runtime, 1);
  ar_runtime_free(runtime);
  return result;
}
