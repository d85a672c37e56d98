/*
 * The latents of hcflow_tf (models/latents.py): the same seed gives the same values as in Python. Philox 4x32-10 (Salmon et
 * al., SC 2011) with TensorFlow's stateless seeding, then Box-Muller in single precision.
 */

#ifndef HCFLOW_LATENTS_H_
#define HCFLOW_LATENTS_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k[2] = {key[0], key[1]};
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
    memcpy(c, next, sizeof c);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  memcpy(out, c, sizeof c);
}

/* Uniform in [0, 1) from the low 23 bits. */
static float uniform(uint32_t bits) {
  float value;
  bits = 0x3F800000u | (bits & 0x7FFFFFu);
  memcpy(&value, &bits, sizeof value);
  return value - 1.0f;
}

/* count values of N(0, temperature^2) of z_level (1: the finest), row by row, channels last. */
static void draw_latents(int64_t seed, uint32_t level, float temperature, float *values, size_t count) {
  const uint32_t scrambling[2] = {0x3EC8F720u, 0x02461E29u};
  uint32_t mix[4], counter[4] = {(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32), level, 0};
  philox(counter, scrambling, mix);
  counter[2] = mix[2];
  counter[3] = mix[3];
  for (size_t start = 0; start < count; start += 4) {
    uint32_t bits[4];
    counter[0] = (uint32_t)(start / 4);
    counter[1] = (uint32_t)((uint64_t)(start / 4) >> 32);
    philox(counter, mix, bits);
    for (size_t pair = 0; pair < 4; pair += 2) {
      float radius = sqrtf(-2.0f * logf(fmaxf(uniform(bits[pair]), 1e-7f)));
      float angle = (float)(2.0 * 3.14159265358979323846 * uniform(bits[pair + 1]));
      if (start + pair < count) values[start + pair] = temperature * (sinf(angle) * radius);
      if (start + pair + 1 < count) values[start + pair + 1] = temperature * (cosf(angle) * radius);
    }
  }
}

#endif
