/** Reads a picture file as hcflow_tf/images/images.py does: upright, gray and transparency kept apart. */

import { decodePng, isPng, pngSize } from "./png.js";

/** What is wrong with the user's file or settings, in words for the user. */
export class UserError extends Error {}

/** Largest picture made, pixels. */
export const MAX_PIXELS = 64e6;

/** EXIF orientation, 1 to 8, of a TIFF structure. */
function orientationOf(exif) {
  try {
    const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
    const little = view.getUint16(0) === 0x4949;
    const directory = view.getUint32(4, little);
    for (let entry = 0; entry < view.getUint16(directory, little); entry++) {
      const position = directory + 2 + 12 * entry;
      if (view.getUint16(position, little) === 0x0112) {
        const value = view.getUint16(position + 8, little);
        return value >= 1 && value <= 8 ? value : 1;
      }
    }
  } catch {
    // Damaged EXIF is no reason to refuse the picture.
  }
  return 1;
}

/** values [height, width, channels] turned upright. */
function turn(values, width, height, channels, orientation) {
  const [newWidth, newHeight] = orientation >= 5 ? [height, width] : [width, height];
  const out = new values.constructor(values.length);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const [u, v] = {
        2: [width - 1 - x, y],
        3: [width - 1 - x, height - 1 - y],
        4: [x, height - 1 - y],
        5: [y, x],
        6: [y, height - 1 - x],
        7: [width - 1 - y, height - 1 - x],
        8: [width - 1 - y, x],
      }[orientation];
      for (let channel = 0; channel < channels; channel++) {
        out[(y * newWidth + x) * channels + channel] = values[(v * width + u) * channels + channel];
      }
    }
  }
  return out;
}

/** Whether red, green and blue are equal wherever one sees them. */
function isGray({ rgb, alpha }) {
  for (let pixel = 0, at = 0; at < rgb.length; pixel++, at += 3) {
    if ((rgb[at] !== rgb[at + 1] || rgb[at] !== rgb[at + 2]) && (!alpha || alpha[pixel] > 0)) return false;
  }
  return true;
}

/** For each value of a line, the index of the one that minimises cost + squared distance (Felzenszwalb and Huttenlocher). */
function nearestAlong(costs) {
  const { length } = costs;
  const [vertices, bounds, nearest] = [[], [], new Int32Array(length).fill(-1)];
  for (let q = 0; q < length; q++) {
    if (costs[q] === Infinity) continue;
    let bound = -Infinity;
    while (vertices.length) {
      const p = vertices.at(-1);
      bound = (costs[q] + q * q - costs[p] - p * p) / (2 * (q - p));
      if (bound > bounds.at(-1)) break;
      vertices.pop();
      bounds.pop();
      bound = -Infinity;
    }
    vertices.push(q);
    bounds.push(bound);
  }
  for (let q = 0, index = 0; q < length && vertices.length; q++) {
    while (index + 1 < vertices.length && bounds[index + 1] < q) index++;
    nearest[q] = vertices[index];
  }
  return nearest;
}

/** Gives each invisible pixel the colours of the nearest visible one, as hcflow_tf/images/alpha.py does. */
function bleed({ rgb, alpha, width, height }) {
  if (!alpha || alpha.every((value) => value > 0) || alpha.every((value) => value === 0)) return;
  const rows = new Int32Array(width * height); // of each pixel, the row of the nearest visible one in its column
  for (let x = 0; x < width; x++) {
    const column = Float64Array.from({ length: height }, (_, y) => (alpha[y * width + x] > 0 ? 0 : Infinity));
    nearestAlong(column).forEach((row, y) => (rows[y * width + x] = row));
  }
  const visible = rgb.slice();
  for (let y = 0; y < height; y++) {
    const costs = Float64Array.from({ length: width }, (_, x) => {
      const row = rows[y * width + x];
      return row < 0 ? Infinity : (y - row) ** 2;
    });
    nearestAlong(costs).forEach((column, x) => {
      const from = 3 * (rows[y * width + column] * width + column);
      rgb.set(visible.subarray(from, from + 3), 3 * (y * width + x));
    });
  }
}

async function decodeByBrowser(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  checkSize(width, height, 1);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Float32Array(width * height * 3);
  const alpha = new Uint8Array(width * height);
  let opaque = true;
  for (let pixel = 0; pixel < alpha.length; pixel++) {
    for (let channel = 0; channel < 3; channel++) rgb[3 * pixel + channel] = rgba[4 * pixel + channel] / 255;
    alpha[pixel] = rgba[4 * pixel + 3];
    opaque &&= alpha[pixel] === 255;
  }
  return { width, height, rgb, alpha: opaque ? null : alpha, text: {}, colours: [] };
}

/** Refuses a picture whose result, `scale` times as wide and high, would be too large. */
export function checkSize(width, height, scale) {
  const pixels = width * height * scale * scale;
  if (pixels > MAX_PIXELS) {
    const what = scale === 1 ? "The picture has" : "The result would have";
    throw new UserError(
      `${what} ${Math.round(pixels / 1e6)} megapixels; this page goes up to ${MAX_PIXELS / 1e6}. Use the hcflow command for more.`,
    );
  }
}

/**
 * Decodes a file.
 *
 * @param {File} file
 * @returns {Promise<{width, height, rgb: Float32Array, alpha: Uint8Array|null, gray: boolean, text, colours}>} rgb in [0, 1]
 * @throws {UserError} it is no picture, damaged, or too large
 */
export async function readPicture(file) {
  const picture = await decode(file);
  picture.gray = isGray(picture);
  bleed(picture);
  return picture;
}

async function decode(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!bytes.length) throw new UserError(`${file.name} is empty.`);
  if (!isPng(bytes)) {
    try {
      return await decodeByBrowser(file);
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw new UserError(`${file.name} cannot be read: it is damaged, or of a format that this browser does not know.`);
    }
  }
  let picture;
  try {
    const { width, height } = pngSize(bytes);
    checkSize(width, height, 1);
    picture = await decodePng(bytes);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${file.name} is a damaged PNG file: ${error.message}.`);
  }
  // Gray of another kind than sRGB's has to be converted, since what is made of it has three channels.
  if (picture.storedAsGray && picture.colours.length) return { ...(await decodeByBrowser(file)), text: picture.text };
  const orientation = picture.exif ? orientationOf(picture.exif) : 1;
  if (orientation === 1) return picture;
  const { width, height } = picture;
  return {
    ...picture,
    ...(orientation >= 5 ? { width: height, height: width } : {}),
    rgb: turn(picture.rgb, width, height, 3, orientation),
    alpha: picture.alpha && turn(picture.alpha, width, height, 1, orientation),
  };
}
