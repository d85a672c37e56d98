/**
 * The latents of `hcflow_tf.models.latents.draw_latents`: the same seed gives the same values as in Python.
 *
 * Philox 4x32-10 (Salmon et al., SC 2011) with TensorFlow's stateless seeding, then Box-Muller in single precision.
 */

const MULTIPLIER_A = 0xd2511f53;
const MULTIPLIER_B = 0xcd9e8d57;
const WEYL_A = 0x9e3779b9;
const WEYL_B = 0xbb67ae85;
const ROUNDS = 10;
const SCRAMBLING_KEY = [0x3ec8f720, 0x02461e29];

/** Upper 32 bits of the product of two unsigned 32-bit integers. */
function multiplyHigh(a, b) {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const lowHigh = aLow * bHigh;
  const highLow = aHigh * bLow;
  const middle = ((aLow * bLow) >>> 16) + (lowHigh & 0xffff) + (highLow & 0xffff);
  return (aHigh * bHigh + (lowHigh >>> 16) + (highLow >>> 16) + (middle >>> 16)) >>> 0;
}

/** Encrypts counter, four unsigned 32-bit integers, with key, two of them, into out. */
export function philox(counter, key, out) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const highA = multiplyHigh(MULTIPLIER_A, c0);
    const lowA = Math.imul(MULTIPLIER_A, c0) >>> 0;
    const highB = multiplyHigh(MULTIPLIER_B, c2);
    const lowB = Math.imul(MULTIPLIER_B, c2) >>> 0;
    c0 = (highB ^ c1 ^ k0) >>> 0;
    c1 = lowB;
    c2 = (highA ^ c3 ^ k1) >>> 0;
    c3 = lowA;
    k0 = (k0 + WEYL_A) >>> 0;
    k1 = (k1 + WEYL_B) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

function halves(integer) {
  const bits = BigInt.asUintN(64, BigInt(integer));
  return [Number(bits & 0xffffffffn), Number(bits >> 32n)];
}

const floatOfBits = new Float32Array(1);
const bitsOfFloat = new Uint32Array(floatOfBits.buffer);

/** Uniform in [0, 1) from the low 23 bits, as TensorFlow makes it. */
function uniform(bits) {
  bitsOfFloat[0] = 0x3f800000 | (bits & 0x7fffff);
  return floatOfBits[0] - 1;
}

/**
 * `count` values of N(0, temperature^2), those that TensorFlow draws from the seed [seed, level].
 *
 * @param {bigint|number} seed any integer of 64 bits
 * @param {number} level 1 for z_1, the finest
 * @param {number} count number of values, row by row, channels last
 * @param {number} temperature standard deviation
 * @returns {Float32Array}
 */
export function drawLatents(seed, level, count, temperature) {
  const values = new Float32Array(count);
  if (temperature === 0) return values;
  const mix = new Uint32Array(4);
  philox([...halves(seed), ...halves(level)], SCRAMBLING_KEY, mix);
  const key = [mix[0], mix[1]];
  const counter = [0, 0, mix[2], mix[3]];
  const out = new Uint32Array(4);
  const scale = Math.fround(temperature);
  const { fround, sqrt, log, sin, cos } = Math;
  for (let group = 0, position = 0; position < count; group++) {
    counter[0] = group;
    philox(counter, key, out);
    for (let pair = 0; pair < 4; pair += 2) {
      const u = Math.max(uniform(out[pair]), fround(1e-7));
      const angle = fround(2 * Math.PI * uniform(out[pair + 1]));
      const radius = fround(sqrt(fround(-2 * fround(log(u)))));
      if (position < count) values[position++] = scale * fround(fround(sin(angle)) * radius);
      if (position < count) values[position++] = scale * fround(fround(cos(angle)) * radius);
    }
  }
  return values;
}

/** [height, width, channels] of z_1, ..., z_L for an LR image of this size. */
export function latentShapes(height, width, channels) {
  return channels.map((depth, index) => {
    const factor = 2 ** (channels.length - 1 - index);
    return [height * factor, width * factor, depth];
  });
}
