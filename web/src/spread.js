/** Where samples differ, as hcflow_tf/inference/heat_map.py shows it. */

const COLOURS = [
  [0, 0, 4],
  [81, 18, 124],
  [183, 55, 121],
  [252, 137, 97],
  [252, 253, 191],
  [255, 255, 255],
];

/** Standard deviation of images that come one after the other (Welford 1962). */
export class Spread {
  #count = 0;
  #mean;
  #squares;

  /** Adds values in [0, 1]. */
  add(values) {
    this.#mean ??= new Float32Array(values.length);
    this.#squares ??= new Float32Array(values.length);
    this.#count++;
    for (let index = 0; index < values.length; index++) {
      const before = values[index] - this.#mean[index];
      this.#mean[index] += before / this.#count;
      this.#squares[index] += before * (values[index] - this.#mean[index]);
    }
  }

  /** Standard deviation of each pixel, mean over the three channels, of 255. */
  deviation() {
    const deviation = new Float32Array(this.#squares.length / 3);
    for (let pixel = 0; pixel < deviation.length; pixel++) {
      let sum = 0;
      for (let channel = 0; channel < 3; channel++) sum += Math.sqrt(this.#squares[3 * pixel + channel] / this.#count);
      deviation[pixel] = (255 * sum) / 3;
    }
    return deviation;
  }
}

/** The value below which a share of the values lies, interpolated as NumPy does. */
export function percentile(values, share) {
  const sorted = Float32Array.from(values).sort();
  const position = share * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
}

/** RGB bytes: black for 0, over violet, red and yellow to white for `top` and above. */
export function heatMap(deviation, top) {
  const rgb = new Uint8Array(deviation.length * 3);
  for (let pixel = 0; pixel < deviation.length; pixel++) {
    const position = Math.min(1, deviation[pixel] / Math.max(top, 1e-12)) * (COLOURS.length - 1);
    const below = Math.min(Math.floor(position), COLOURS.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [from, to] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
      rgb[3 * pixel + channel] = Math.round(from + (position - below) * (to - from));
    }
  }
  return rgb;
}
