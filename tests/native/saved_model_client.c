/*
 * Runs an exported SavedModel in TensorFlow's C++ runtime, the one inside TF Serving, through its C API; no Python.
 *
 *   saved_model_client DIRECTORY REQUESTS RESULTS             every request once, results in the same form
 *   saved_model_client DIRECTORY REQUESTS --bench CALLERS CALLS   the first request, CALLS times by each caller; JSON
 *
 * REQUESTS is a sequence of: signature name; number of tensors; of each, its name, type (a TF_DataType), rank, sizes
 * (int64), number of content bytes (uint64), content. Names are a length and their bytes; numbers are uint32 of this machine.
 * The content of strings is, of each, its length (uint64) and its bytes.
 */

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

#define MAX_TENSORS 16
#define MAX_NAME 256
#define MAX_RANK 8

typedef struct {
  const uint8_t *data;
  size_t size;
} Bytes;

typedef struct {
  char name[MAX_NAME];
  TF_Tensor *tensor;
} NamedTensor;

typedef struct {
  char signature[MAX_NAME];
  int count;
  NamedTensor inputs[MAX_TENSORS];
} Request;

/* One input or output of a signature: the name that callers use, and the operation behind it. */
typedef struct {
  char name[MAX_NAME];
  TF_Output output;
} Endpoint;

typedef struct {
  int input_count, output_count;
  Endpoint inputs[MAX_TENSORS], outputs[MAX_TENSORS];
} Signature;

typedef struct {
  TF_Graph *graph;
  TF_Session *session;
  TF_Buffer *meta_graph;
} Model;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail("%s: %s", what, TF_Message(status));
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

/* Protocol buffers, as far as signatures need them (https://protobuf.dev/programming-guides/encoding). */

static uint64_t varint(Bytes *bytes) {
  uint64_t value = 0;
  for (int shift = 0; bytes->size && shift < 64; shift += 7) {
    uint8_t byte = *bytes->data++;
    bytes->size--;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
  fail("the SavedModel's description is damaged");
  return 0;
}

/* Takes the next field off the message; false at its end. Fields without a length have an empty content. */
static int next_field(Bytes *message, uint64_t *number, Bytes *content) {
  if (!message->size) return 0;
  uint64_t tag = varint(message), length = 0;
  *number = tag >> 3;
  *content = (Bytes){message->data, 0};
  switch (tag & 7) {
    case 0: varint(message); return 1;
    case 1: length = 8; break;
    case 2: length = varint(message); *content = (Bytes){message->data, length}; break;
    case 5: length = 4; break;
    default: fail("the SavedModel's description is damaged");
  }
  if (length > message->size) fail("the SavedModel's description is damaged");
  message->data += length;
  message->size -= length;
  return 1;
}

static Bytes field(Bytes message, uint64_t wanted) {
  uint64_t number;
  Bytes content;
  while (next_field(&message, &number, &content))
    if (number == wanted) return content;
  return (Bytes){NULL, 0};
}

static void copy_name(char *target, Bytes name) {
  if (name.size >= MAX_NAME) fail("a name has more than %d bytes", MAX_NAME - 1);
  memcpy(target, name.data, name.size);
  target[name.size] = 0;
}

static Endpoint endpoint(TF_Graph *graph, Bytes entry) {
  Endpoint result;
  char operation[MAX_NAME];
  copy_name(result.name, field(entry, 1));
  copy_name(operation, field(field(entry, 2), 1)); /* TensorInfo.name, such as serving_default_image:0 */
  char *colon = strrchr(operation, ':');
  if (colon) *colon = 0;
  result.output.oper = TF_GraphOperationByName(graph, operation);
  result.output.index = colon ? atoi(colon + 1) : 0;
  if (!result.output.oper) fail("the graph has no operation %s", operation);
  return result;
}

static Signature find_signature(const Model *model, const char *name) {
  Signature signature = {0};
  Bytes meta_graph = {model->meta_graph->data, model->meta_graph->length}, entry;
  uint64_t number;
  while (next_field(&meta_graph, &number, &entry)) {
    char key[MAX_NAME];
    if (number != 5) continue; /* MetaGraphDef.signature_def */
    copy_name(key, field(entry, 1));
    if (strcmp(key, name)) continue;
    Bytes definition = field(entry, 2), tensor;
    while (next_field(&definition, &number, &tensor)) {
      if (number == 1 && signature.input_count < MAX_TENSORS)
        signature.inputs[signature.input_count++] = endpoint(model->graph, tensor);
      if (number == 2 && signature.output_count < MAX_TENSORS)
        signature.outputs[signature.output_count++] = endpoint(model->graph, tensor);
    }
    return signature;
  }
  fail("the model has no signature %s", name);
  return signature;
}

static Model load(const char *directory) {
  const char *tags[] = {"serve"};
  TF_Status *status = TF_NewStatus();
  TF_SessionOptions *options = TF_NewSessionOptions();
  Model model = {TF_NewGraph(), NULL, TF_NewBuffer()};
  model.session = TF_LoadSessionFromSavedModel(options, NULL, directory, tags, 1, model.graph, model.meta_graph, status);
  check(status, directory);
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return model;
}

/* The request file. */

static void read_exactly(FILE *file, void *target, size_t size) {
  if (fread(target, 1, size, file) != size) fail("the request file is cut off");
}

static uint32_t read_number(FILE *file) {
  uint32_t number;
  read_exactly(file, &number, sizeof number);
  return number;
}

static void read_name(FILE *file, char *target) {
  uint32_t length = read_number(file);
  if (length >= MAX_NAME) fail("a name has more than %d bytes", MAX_NAME - 1);
  read_exactly(file, target, length);
  target[length] = 0;
}

static TF_Tensor *read_tensor(FILE *file) {
  TF_DataType type = (TF_DataType)read_number(file);
  uint32_t rank = read_number(file);
  int64_t sizes[MAX_RANK];
  uint64_t length;
  if (rank > MAX_RANK) fail("a tensor has rank %u", rank);
  read_exactly(file, sizes, rank * sizeof *sizes);
  read_exactly(file, &length, sizeof length);
  if (type != TF_STRING) {
    TF_Tensor *tensor = TF_AllocateTensor(type, sizes, rank, length);
    read_exactly(file, TF_TensorData(tensor), length);
    return tensor;
  }
  int64_t count = 1;
  for (uint32_t axis = 0; axis < rank; axis++) count *= sizes[axis];
  TF_Tensor *tensor = TF_AllocateTensor(type, sizes, rank, count * sizeof(TF_TString));
  TF_TString *strings = TF_TensorData(tensor);
  for (int64_t index = 0; index < count; index++) {
    uint64_t size;
    read_exactly(file, &size, sizeof size);
    char *content = malloc(size + 1);
    read_exactly(file, content, size);
    TF_StringInit(&strings[index]);
    TF_StringCopy(&strings[index], content, size);
    free(content);
  }
  return tensor;
}

/* Reads the next request; false at the end of the file. */
static int read_request(FILE *file, Request *request) {
  int next = fgetc(file);
  if (next == EOF) return 0;
  ungetc(next, file);
  read_name(file, request->signature);
  request->count = read_number(file);
  if (request->count > MAX_TENSORS) fail("a request has %d tensors", request->count);
  for (int index = 0; index < request->count; index++) {
    read_name(file, request->inputs[index].name);
    request->inputs[index].tensor = read_tensor(file);
  }
  return 1;
}

static void write_number(FILE *file, uint32_t number) { fwrite(&number, sizeof number, 1, file); }

static void write_name(FILE *file, const char *name) {
  write_number(file, strlen(name));
  fputs(name, file);
}

static void write_tensor(FILE *file, TF_Tensor *tensor) {
  int rank = TF_NumDims(tensor);
  uint64_t length = TF_TensorByteSize(tensor);
  write_number(file, TF_TensorType(tensor));
  write_number(file, rank);
  for (int axis = 0; axis < rank; axis++) {
    int64_t size = TF_Dim(tensor, axis);
    fwrite(&size, sizeof size, 1, file);
  }
  if (TF_TensorType(tensor) != TF_STRING) {
    fwrite(&length, sizeof length, 1, file);
    fwrite(TF_TensorData(tensor), 1, length, file);
    return;
  }
  const TF_TString *strings = TF_TensorData(tensor);
  int64_t count = TF_TensorElementCount(tensor);
  length = 0;
  for (int64_t index = 0; index < count; index++) length += sizeof(uint64_t) + TF_StringGetSize(&strings[index]);
  fwrite(&length, sizeof length, 1, file);
  for (int64_t index = 0; index < count; index++) {
    uint64_t size = TF_StringGetSize(&strings[index]);
    fwrite(&size, sizeof size, 1, file);
    fwrite(TF_StringGetDataPointer(&strings[index]), 1, size, file);
  }
}

/* Runs a request; outputs[i] belongs to signature->outputs[i] and is to be deleted. */
static void call(const Model *model, const Signature *signature, const Request *request, TF_Tensor **outputs) {
  TF_Output inputs[MAX_TENSORS], wanted[MAX_TENSORS];
  TF_Tensor *values[MAX_TENSORS];
  TF_Status *status = TF_NewStatus();
  for (int index = 0; index < signature->input_count; index++) {
    inputs[index] = signature->inputs[index].output;
    values[index] = NULL;
    for (int given = 0; given < request->count; given++)
      if (!strcmp(request->inputs[given].name, signature->inputs[index].name)) values[index] = request->inputs[given].tensor;
    if (!values[index]) fail("%s: the input %s is missing", request->signature, signature->inputs[index].name);
  }
  for (int index = 0; index < signature->output_count; index++) wanted[index] = signature->outputs[index].output;
  TF_SessionRun(model->session, NULL, inputs, values, signature->input_count, wanted, outputs, signature->output_count, NULL,
                0, NULL, status);
  check(status, request->signature);
  TF_DeleteStatus(status);
}

static int answer(const Model *model, FILE *requests, const char *path) {
  FILE *results = fopen(path, "wb");
  Request request;
  if (!results) fail("cannot write %s", path);
  while (read_request(requests, &request)) {
    Signature signature = find_signature(model, request.signature);
    TF_Tensor *outputs[MAX_TENSORS];
    call(model, &signature, &request, outputs);
    write_name(results, request.signature);
    write_number(results, signature.output_count);
    for (int index = 0; index < signature.output_count; index++) {
      write_name(results, signature.outputs[index].name);
      write_tensor(results, outputs[index]);
      TF_DeleteTensor(outputs[index]);
    }
    for (int index = 0; index < request.count; index++) TF_DeleteTensor(request.inputs[index].tensor);
  }
  if (fclose(results)) fail("cannot write %s", path);
  return 0;
}

/* The benchmark. */

typedef struct {
  const Model *model;
  const Signature *signature;
  const Request *request;
  int calls;
  double *seconds;
} Caller;

static void *repeat(void *argument) {
  Caller *caller = argument;
  for (int index = 0; index < caller->calls; index++) {
    TF_Tensor *outputs[MAX_TENSORS];
    double start = now();
    call(caller->model, caller->signature, caller->request, outputs);
    caller->seconds[index] = now() - start;
    for (int output = 0; output < caller->signature->output_count; output++) TF_DeleteTensor(outputs[output]);
  }
  return NULL;
}

static int compare(const void *first, const void *second) {
  double a = *(const double *)first, b = *(const double *)second;
  return (a > b) - (a < b);
}

static int bench(const Model *model, FILE *requests, int callers, int calls, double load_seconds) {
  Request request;
  if (callers < 1 || calls < 1 || !read_request(requests, &request)) fail("nothing to do");
  Signature signature = find_signature(model, request.signature);
  double first, *seconds = calloc((size_t)callers * calls, sizeof *seconds);
  pthread_t *threads = calloc(callers, sizeof *threads);
  Caller *states = calloc(callers, sizeof *states);
  Caller once = {model, &signature, &request, 1, &first};
  repeat(&once);
  double start = now();
  for (int index = 0; index < callers; index++) {
    states[index] = (Caller){model, &signature, &request, calls, seconds + (size_t)index * calls};
    if (pthread_create(&threads[index], NULL, repeat, &states[index])) fail("cannot start a thread");
  }
  for (int index = 0; index < callers; index++) pthread_join(threads[index], NULL);
  double elapsed = now() - start;
  int total = callers * calls;
  qsort(seconds, total, sizeof *seconds, compare);
  printf("{\"load_s\": %.4f, \"first_call_s\": %.4f, \"p50_s\": %.4f, \"p95_s\": %.4f, \"calls_per_s\": %.4f}\n", load_seconds,
         first, seconds[total / 2], seconds[(int)(0.95 * (total - 1))], total / elapsed);
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 4 && argc != 6) fail("usage: %s DIRECTORY REQUESTS (RESULTS | --bench CALLERS CALLS)", argv[0]);
  FILE *requests = fopen(argv[2], "rb");
  if (!requests) fail("cannot read %s", argv[2]);
  double start = now();
  Model model = load(argv[1]);
  double load_seconds = now() - start;
  if (argc == 4) return answer(&model, requests, argv[3]);
  if (strcmp(argv[3], "--bench")) fail("unknown option %s", argv[3]);
  return bench(&model, requests, atoi(argv[4]), atoi(argv[5]), load_seconds);
}
