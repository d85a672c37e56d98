/** A small picture whose results Python has stored in models.json: an engine that computes something else is not used. */

import { drawLatents, latentShapes } from "./philox.js";

const [TEMPERATURE, SEED] = [0.8, 1n];
/** Largest error, of values in [0, 1]: a level of 255. */
const ALLOWED = 1 / 255;

/** [side, side, 3] in [0, 1]: waves, the same as in export_models.py. */
function waves(side) {
  const values = new Float32Array(side * side * 3);
  for (let y = 0, at = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      for (let c = 0; c < 3; c++) values[at++] = 0.5 + 0.4 * Math.sin(0.3 * (c + 1) * x + 0.5 * y);
    }
  }
  return values;
}

function error(values, { every, values: expected }) {
  let largest = 0;
  expected.forEach((value, index) => {
    const difference = Math.abs(values[index * every] - value);
    largest = Number.isNaN(difference) ? Infinity : Math.max(largest, difference);
  });
  return largest;
}

/** Whether the functions of a model (see `Scaler`) give what Python gave. */
export async function isRight(model, { decode, encode }) {
  const { side, decoder, encoder } = model.probe;
  const inputs = { lr: { data: waves(side), dims: [1, side, side, 3] } };
  latentShapes(side, side, model.latent_channels).forEach(([h, w, c], index) => {
    inputs[`latents_${index + 1}`] = { data: drawLatents(SEED, index + 1, h * w * c, TEMPERATURE), dims: [1, h, w, c] };
  });
  if (!(error(await decode(inputs), decoder) <= ALLOWED)) return false;
  const large = side * model.scale;
  return !encode || error(await encode({ hr: { data: waves(large), dims: [1, large, large, 3] } }), encoder) <= ALLOWED;
}
