/** MATLAB's imresize of one 8-bit channel, as hcflow_tf/data/resize.py does it; for transparency. */

function cubic(x) {
  const t = Math.abs(x);
  if (t <= 1) return 1.5 * t ** 3 - 2.5 * t ** 2 + 1;
  return t <= 2 ? -0.5 * t ** 3 + 2.5 * t ** 2 - 4 * t + 2 : 0;
}

/** Input indices and weights of every output position. */
function contributions(length, scale) {
  const shrink = Math.min(scale, 1);
  const width = 4 / shrink;
  return Array.from({ length: Math.ceil(length * scale) }, (_, position) => {
    const centre = (position + 1) / scale + 0.5 * (1 - 1 / scale);
    const left = Math.floor(centre - width / 2);
    const taps = Array.from({ length: Math.ceil(width) + 2 }, (_, tap) => left + tap);
    const weights = taps.map((index) => cubic(shrink * (centre - index)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return taps
      .map((index, tap) => {
        const mirrored = (((index - 1) % (2 * length)) + 2 * length) % (2 * length);
        return { index: mirrored < length ? mirrored : 2 * length - 1 - mirrored, weight: weights[tap] / sum };
      })
      .filter(({ weight }) => weight !== 0);
  });
}

/** Resizes the rows and transposes: [height, width] -> [width, height * scale]. */
function resizeRows(channel, height, width, scale) {
  const table = contributions(height, scale);
  const out = new Uint8ClampedArray(width * table.length);
  table.forEach((taps, y) => {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (const { index, weight } of taps) sum += weight * channel[index * width + x];
      out[x * table.length + y] = Math.floor(sum + 0.5 + 1e-9);
    }
  });
  return out;
}

/** channel [height, width] scaled in both directions. */
export function imresize(channel, height, width, scale) {
  const scaledHeight = Math.ceil(height * scale);
  return resizeRows(resizeRows(channel, height, width, scale), width, scaledHeight, scale);
}
