/*
 * Enlarges a picture with a .tflite file of hcflow_tf, by LiteRT's C API.
 *
 *   decode MODEL.tflite LR.ppm HR [TEMPERATURE [SEED [RUNS]]]
 *
 * LR.ppm is a binary PPM file (P6, 8 bits) of the size that the model was exported for (hcflow export tflite --lr-size HxW).
 * HR becomes a PPM file, or, if its name ends in .f32, the raw float32 values [height, width, 3], not clipped. The same
 * temperature (default 0) and seed (default 0) give the picture that Python gives. With RUNS above 1, it is decoded so often,
 * and the seconds of the fastest run and the process's peak memory in kB are printed.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "latents.h"
#include "litert_api.h"

#define MAX_INPUTS 8

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

static void check(LiteRtStatus status, const char *what) {
  if (status) fail("%s: LiteRT error %d", what, status);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

/* Peak of resident memory in kB, as Linux and Android tell it; 0 elsewhere. */
static long peak_memory(void) {
  char line[256];
  long peak = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "VmHWM: %ld", &peak) == 1) break;
  if (file) fclose(file);
  return peak;
}

static size_t element_count(const LiteRtRankedTensorType *type) {
  size_t count = 1;
  for (unsigned axis = 0; axis < type->layout.rank; axis++) {
    if (type->layout.dimensions[axis] < 1) fail("the model has no fixed size: export it with --lr-size, not --dynamic");
    count *= (size_t)type->layout.dimensions[axis];
  }
  return count;
}

/* Index of the signature "decode". */
static size_t find_decode(LiteRtModel model, LiteRtSignature *signature) {
  size_t count;
  check(LiteRtGetNumModelSignatures(model, &count), "signatures");
  for (size_t index = 0; index < count; index++) {
    const char *key;
    check(LiteRtGetModelSignature(model, index, signature), "signature");
    check(LiteRtGetSignatureKey(*signature, &key), "signature");
    if (!strcmp(key, "decode")) return index;
  }
  fail("the file has no signature decode: is it a decoder made by hcflow export tflite?");
  return 0;
}

/* Reads a picture of exactly this size into values in [0, 1]. */
static void read_ppm(const char *path, int height, int width, float *values) {
  FILE *file = fopen(path, "rb");
  int found_width, found_height, top;
  if (!file) fail("%s: cannot be read", path);
  if (fscanf(file, "P6 %d %d %d", &found_width, &found_height, &top) != 3 || top != 255 || fgetc(file) == EOF)
    fail("%s: not a binary PPM file of 8 bits", path);
  if (found_width != width || found_height != height)
    fail("%s: is %d x %d, the model takes %d x %d", path, found_width, found_height, width, height);
  for (long index = 0; index < 3L * height * width; index++) {
    int byte = fgetc(file);
    if (byte == EOF) fail("%s: is cut off", path);
    values[index] = (float)byte / 255.0f;
  }
  fclose(file);
}

static void write_picture(const char *path, int height, int width, const float *values) {
  FILE *file = fopen(path, "wb");
  size_t count = (size_t)height * width * 3;
  const char *suffix = strrchr(path, '.');
  if (!file) fail("%s: cannot be written", path);
  if (suffix && !strcmp(suffix, ".f32")) {
    fwrite(values, sizeof *values, count, file);
  } else {
    fprintf(file, "P6\n%d %d\n255\n", width, height);
    for (size_t index = 0; index < count; index++) fputc((int)(fminf(fmaxf(values[index], 0.0f), 1.0f) * 255.0f + 0.5f), file);
  }
  if (fclose(file)) fail("%s: cannot be written", path);
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 7) fail("usage: %s MODEL.tflite LR.ppm HR.ppm [TEMPERATURE [SEED [RUNS]]]", argv[0]);
  float temperature = argc > 4 ? strtof(argv[4], NULL) : 0.0f;
  int64_t seed = argc > 5 ? strtoll(argv[5], NULL, 10) : 0;
  int runs = argc > 6 ? atoi(argv[6]) : 1;

  LiteRtEnvironment environment;
  LiteRtModel model;
  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  LiteRtSignature signature;
  check(LiteRtCreateEnvironment(0, NULL, &environment), "environment");
  check(LiteRtCreateModelFromFile(environment, argv[1], &model), argv[1]);
  size_t decode = find_decode(model, &signature);
  check(LiteRtCreateOptions(&options), "options");
  check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "options");
  check(LiteRtCreateCompiledModel(environment, model, options, &compiled), argv[1]);

  size_t input_count;
  LiteRtTensorBuffer inputs[MAX_INPUTS], output;
  check(LiteRtGetNumSignatureInputs(signature, &input_count), "inputs");
  if (input_count > MAX_INPUTS) fail("the model has %zu inputs", input_count);
  for (size_t index = 0; index < input_count; index++) {
    const char *name;
    void *values;
    LiteRtTensor tensor;
    LiteRtRankedTensorType type;
    LiteRtTensorBufferRequirements requirements;
    check(LiteRtGetSignatureInputName(signature, index, &name), "input");
    check(LiteRtGetSignatureInputTensorByIndex(signature, index, &tensor), name);
    check(LiteRtGetRankedTensorType(tensor, &type), name);
    size_t count = element_count(&type);
    check(LiteRtGetCompiledModelInputBufferRequirements(compiled, decode, index, &requirements), name);
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &inputs[index]), name);
    check(LiteRtLockTensorBuffer(inputs[index], &values, kLiteRtTensorBufferLockModeWrite), name);
    if (!strcmp(name, "lr"))
      read_ppm(argv[2], type.layout.dimensions[1], type.layout.dimensions[2], values);
    else if (temperature == 0.0f)
      memset(values, 0, count * sizeof(float));
    else
      draw_latents(seed, (uint32_t)atoi(name + strlen("latents_")), temperature, values, count);
    check(LiteRtUnlockTensorBuffer(inputs[index]), name);
  }

  void *values;
  LiteRtTensor tensor;
  LiteRtRankedTensorType type;
  LiteRtTensorBufferRequirements requirements;
  check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &tensor), "hr");
  check(LiteRtGetRankedTensorType(tensor, &type), "hr");
  check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, decode, 0, &requirements), "hr");
  check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &output), "hr");
  double fastest = 0;
  for (int run = 0; run < runs || run == 0; run++) {
    double start = now();
    check(LiteRtRunCompiledModel(compiled, decode, input_count, inputs, 1, &output), "decoding");
    double seconds = now() - start;
    if (run == 0 || seconds < fastest) fastest = seconds;
  }
  if (runs > 1) printf("%.4f %ld\n", fastest, peak_memory());
  check(LiteRtLockTensorBuffer(output, &values, kLiteRtTensorBufferLockModeRead), "hr");
  write_picture(argv[3], type.layout.dimensions[1], type.layout.dimensions[2], values);
  check(LiteRtUnlockTensorBuffer(output), "hr");

  LiteRtDestroyTensorBuffer(output);
  for (size_t index = 0; index < input_count; index++) LiteRtDestroyTensorBuffer(inputs[index]);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  return 0;
}
