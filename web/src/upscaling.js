/** One picture through a model, in tiles; what hcflow_tf/inference/scaling.py and pictures.py do. */

import { imresize } from "./imresize.js";
import { drawLatents, latentShapes } from "./philox.js";
import { checkSize, UserError } from "./picture.js";
import { encodePng } from "./png.js";
import { heatMap, percentile, Spread } from "./spread.js";
import { add, cut, tiles } from "./tiles.js";

/** Memory that decoding one tile may take, bytes. */
const TILE_MEMORY = 350e6;
const MIN_SIDE = 16;

/** Side of the largest tiles, LR pixels. */
export function tileSide(model) {
  return Math.max(MIN_SIDE, Math.floor(Math.sqrt(TILE_MEMORY / model.decode_bytes)));
}

function toBytes(values) {
  const bytes = new Uint8Array(values.length);
  for (let index = 0; index < values.length; index++) {
    bytes[index] = Math.floor(Math.min(1, Math.max(0, values[index])) * 255 + 0.5);
  }
  return bytes;
}

function toGray(values) {
  for (let index = 0; index < values.length; index += 3) {
    const mean = (values[index] + values[index + 1] + values[index + 2]) / 3;
    values.fill(mean, index, index + 3);
  }
}

/** The upper left part of values [?, width, channels]. */
function crop(values, width, channels, newHeight, newWidth) {
  if (newWidth === width) return values.subarray(0, newHeight * newWidth * channels);
  const out = new values.constructor(newHeight * newWidth * channels);
  for (let y = 0; y < newHeight; y++) {
    out.set(values.subarray(y * width * channels, (y * width + newWidth) * channels), y * newWidth * channels);
  }
  return out;
}

/** values [height, width, channels] mirrored at the right and bottom up to this size. */
function mirror(values, height, width, channels, newHeight, newWidth) {
  if (newHeight === height && newWidth === width) return values;
  const out = new values.constructor(newHeight * newWidth * channels);
  const reflect = (index, size) => {
    const position = index % (2 * size);
    return position < size ? position : 2 * size - 1 - position;
  };
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const from = (reflect(y, height) * width + reflect(x, width)) * channels;
      for (let channel = 0; channel < channels; channel++) {
        out[(y * newWidth + x) * channels + channel] = values[from + channel];
      }
    }
  }
  return out;
}

/** Size and grayness of the picture that a file was shrunk from, if it says so and it fits. */
export function originalOf(picture, scale) {
  try {
    const original = JSON.parse(picture.text.hcflow_original);
    const fits =
      original.scale === scale &&
      Math.ceil(original.height / scale) === picture.height &&
      Math.ceil(original.width / scale) === picture.width;
    return fits ? original : null;
  } catch {
    return null;
  }
}

/**
 * A model on pictures of any size.
 *
 * `decode` and `encode` take {name: {data: Float32Array, dims}} and return a Float32Array: hr, and lr.
 */
export class Scaler {
  /** @param {object} model its entry of models.json; @param {number} [tile] side of the tiles, LR pixels */
  constructor(model, { decode, encode }, tile) {
    if (tile !== undefined && !(tile >= MIN_SIDE)) throw new UserError(`Tiles need at least ${MIN_SIDE} pixels.`);
    this.model = model;
    this.tile = tile ?? tileSide(model);
    this.decode = decode;
    this.encode = encode;
  }

  /** The tiles of a picture of this many LR pixels. */
  tiles(height, width) {
    return tiles(height, width, this.tile, this.model.overlap);
  }

  /** hr [scale h, scale w, 3], clipped, of lr [h, w, 3]; `done` is called after each tile. */
  async upscale({ rgb, width, height }, temperature, seed, done) {
    const { scale, latent_channels: channels } = this.model;
    const shapes = latentShapes(height, width, channels);
    const latents = shapes.map(([h, w, c], level) => temperature && drawLatents(seed, level + 1, h * w * c, temperature));
    const canvas = new Float32Array(height * width * scale * scale * 3);
    for (const tile of this.tiles(height, width)) {
      const rows = tile.rows.stop - tile.rows.start;
      const columns = tile.columns.stop - tile.columns.start;
      const inputs = { lr: { data: cut(tile, rgb, width, 3, 1), dims: [1, rows, columns, 3] } };
      channels.forEach((depth, level) => {
        const factor = 2 ** (channels.length - 1 - level);
        const dims = [1, rows * factor, columns * factor, depth];
        const data = temperature
          ? cut(tile, latents[level], width * factor, depth, factor)
          : new Float32Array(dims[1] * dims[2] * depth);
        inputs[`latents_${level + 1}`] = { data, dims };
      });
      add(tile, canvas, width * scale, await this.decode(inputs), scale);
      done();
    }
    return clip(canvas);
  }

  /** lr [ceil(h / scale), ceil(w / scale), 3], clipped, of hr [h, w, 3]. */
  async downscale(picture, done) {
    const { scale } = this.model;
    const [height, width] = [picture.height, picture.width].map((side) => Math.ceil(side / scale));
    const rgb = mirror(picture.rgb, picture.height, picture.width, 3, height * scale, width * scale);
    const canvas = new Float32Array(height * width * 3);
    for (const tile of this.tiles(height, width)) {
      const dims = [1, (tile.rows.stop - tile.rows.start) * scale, (tile.columns.stop - tile.columns.start) * scale, 3];
      const data = cut(tile, rgb, width * scale, 3, scale);
      add(tile, canvas, width, await this.encode({ hr: { data, dims } }), 1);
      done();
    }
    return clip(canvas);
  }
}

function clip(values) {
  for (let index = 0; index < values.length; index++) {
    if (Number.isNaN(values[index])) throw new Error("the model computed values that are not numbers");
    values[index] = Math.min(1, Math.max(0, values[index]));
  }
  return values;
}

/**
 * Enlarges a picture; sample i is drawn with seed + i.
 *
 * @returns {Promise<{images: {label, suffix, png}[], note: string, width, height}>}
 */
export async function upscalePicture(scaler, picture, { temperature, seed, samples, uncertainty }, done) {
  const { scale } = scaler.model;
  checkSize(picture.width, picture.height, scale);
  const original = originalOf(picture, scale);
  const width = original?.width ?? picture.width * scale;
  const height = original?.height ?? picture.height * scale;
  const gray = picture.gray || original?.gray;
  const fullWidth = picture.width * scale;
  const alpha =
    picture.alpha && crop(imresize(picture.alpha, picture.height, picture.width, scale), fullWidth, 1, height, width);
  const spread = new Spread();
  const images = [];
  for (let index = 0; index < samples; index++) {
    const hr = await scaler.upscale(picture, temperature, BigInt(seed) + BigInt(index), done);
    const values = crop(hr, fullWidth, 3, height, width);
    if (gray) toGray(values);
    if (uncertainty) spread.add(values);
    const png = await encodePng({ width, height, rgb: toBytes(values), alpha, colours: picture.colours });
    const [label, suffix] = samples === 1 ? ["Result", "_x4"] : [`Sample ${index + 1}`, `_x4_${index + 1}`];
    images.push({ label, suffix, png });
  }
  let note = `${picture.width} × ${picture.height} to ${width} × ${height}`;
  if (uncertainty) {
    const deviation = spread.deviation();
    const top = percentile(deviation, 0.999);
    const text = { hcflow_uncertainty: `brightest = ${top.toFixed(2)} of 255` };
    const png = await encodePng({ width, height, rgb: heatMap(deviation, top), text });
    images.push({ label: "Uncertainty map", suffix: "_uncertainty", png });
    const mean = deviation.reduce((sum, value) => sum + value, 0) / deviation.length;
    note += `; standard deviation ${mean.toFixed(2)}, brightest ${top.toFixed(2)} of 255`;
  }
  return { images, note, width, height };
}

/** Shrinks a picture so that it can be restored, and restores it from the 8-bit file. */
export async function rescalePicture(scaler, picture, done) {
  const { scale, name } = scaler.model;
  const [width, height] = [picture.width, picture.height].map((side) => Math.ceil(side / scale));
  const shrunk = await scaler.downscale(picture, done);
  if (picture.gray) toGray(shrunk);
  const rgb = toBytes(shrunk);
  const padded =
    picture.alpha && mirror(picture.alpha, picture.height, picture.width, 1, height * scale, width * scale);
  const alpha = padded && imresize(padded, height * scale, width * scale, 1 / scale);
  // The order and spacing of Python's json.dumps: the same entry as `hcflow downscale` writes.
  const original = `{"width": ${picture.width}, "height": ${picture.height}, "scale": ${scale}, "gray": ${picture.gray}}`;
  const text = { hcflow_original: original, hcflow_model: name };
  const small = await encodePng({ width, height, rgb, alpha, colours: picture.colours, text });
  const lr = { rgb: Float32Array.from(rgb, (value) => value / 255), width, height };
  const hr = crop(await scaler.upscale(lr, 0, 0, done), width * scale, 3, picture.height, picture.width);
  if (picture.gray) toGray(hr);
  const bytes = toBytes(hr);
  const restoredAlpha = alpha && crop(imresize(alpha, height, width, scale), width * scale, 1, picture.height, picture.width);
  const png = await encodePng({ ...picture, text: {}, rgb: bytes, alpha: restoredAlpha });
  return {
    images: [
      { label: "Restored", suffix: "_restored", png },
      { label: "Small picture", suffix: "_small", png: small },
    ],
    note: `${picture.width} × ${picture.height} to ${width} × ${height} (${small.length.toLocaleString("en")} bytes) and back: PSNR ${psnr(bytes, picture.rgb).toFixed(2)} dB`,
    width: picture.width,
    height: picture.height,
  };
}

/** Of all channels, dB. */
function psnr(bytes, rgb) {
  let squares = 0;
  for (let index = 0; index < bytes.length; index++) squares += (bytes[index] - Math.round(255 * rgb[index])) ** 2;
  return 10 * Math.log10((255 ** 2 * bytes.length) / squares);
}
