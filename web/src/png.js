/**
 * PNG in and out, without the browser's canvas: that would multiply the colours by the transparency and lose 16 bits,
 * text entries and what the file says of its colours.
 */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
/** First column and row, and steps, of the seven passes of Adam7. */
const PASSES = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  let crc = value;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

async function through(stream, bytes) {
  const piped = new Blob([bytes]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(piped).arrayBuffer());
}

/** Chunks that say what the colours mean; they go with the pixels, as they are. */
const COLOUR_CHUNKS = ["cICP", "iCCP", "sRGB", "gAMA", "cHRM"];

/** Whether the bytes begin as a PNG file does. */
export function isPng(bytes) {
  return SIGNATURE.every((value, index) => bytes[index] === value);
}

/** Chunks by type, each a list of bytes; damage is an Error. */
function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks = {};
  for (let position = 8; position < bytes.length; ) {
    if (position + 12 > bytes.length) throw new Error("the file is cut off");
    const length = view.getUint32(position);
    const type = String.fromCharCode(...bytes.subarray(position + 4, position + 8));
    if (position + 12 + length > bytes.length) throw new Error("the file is cut off");
    const body = bytes.subarray(position + 8, position + 8 + length);
    if (crc32(bytes.subarray(position + 4, position + 8 + length)) !== view.getUint32(position + 8 + length)) {
      throw new Error("a checksum is wrong");
    }
    (chunks[type] ??= []).push(body);
    if (type === "IEND") return chunks;
    position += 12 + length;
  }
  throw new Error("the file is cut off");
}

function unfilter(data, offset, rows, stride, step) {
  let previous = new Uint8Array(stride);
  for (let y = 0; y < rows; y++) {
    const filter = data[offset++];
    const row = data.subarray(offset, offset + stride);
    for (let x = 0; x < stride; x++) {
      const left = x >= step ? row[x - step] : 0;
      const up = previous[x];
      if (filter === 1) row[x] += left;
      else if (filter === 2) row[x] += up;
      else if (filter === 3) row[x] += (left + up) >> 1;
      else if (filter === 4) row[x] += paeth(left, up, x >= step ? previous[x - step] : 0);
      else if (filter !== 0) throw new Error("a row has an unknown filter");
    }
    previous = row;
    offset += stride;
  }
  return offset;
}

function paeth(left, up, corner) {
  const estimate = left + up - corner;
  const toLeft = Math.abs(estimate - left);
  const toUp = Math.abs(estimate - up);
  const toCorner = Math.abs(estimate - corner);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

/** Width and height of a PNG file from its header. */
export function pngSize(bytes) {
  if (bytes.length < 33) throw new Error("the file is cut off");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { width: view.getUint32(16), height: view.getUint32(20) };
}

/**
 * Decodes a PNG file of any kind.
 *
 * @returns {Promise<{width, height, rgb: Float32Array, alpha: Uint8Array|null, storedAsGray: boolean, text: object,
 *   colours: [string, Uint8Array][], exif: Uint8Array|null}>} rgb in [0, 1], [height, width, 3]
 */
export async function decodePng(bytes) {
  const chunks = readChunks(bytes);
  if (!chunks.IHDR || !chunks.IDAT) throw new Error("it has no pixels");
  const header = new DataView(chunks.IHDR[0].buffer, chunks.IHDR[0].byteOffset, 13);
  const [width, height] = [header.getUint32(0), header.getUint32(4)];
  const [depth, kind, interlaced] = [header.getUint8(8), header.getUint8(9), header.getUint8(12)];
  if (!width || !height || !DEPTHS[kind]?.includes(depth)) throw new Error("its header is damaged");
  const channels = CHANNELS[kind];
  const samples = new Uint16Array(width * height * channels);
  const joined = new Uint8Array(chunks.IDAT.reduce((sum, part) => sum + part.length, 0));
  chunks.IDAT.reduce((offset, part) => (joined.set(part, offset), offset + part.length), 0);
  const data = await through(new DecompressionStream("deflate"), joined);
  let offset = 0;
  for (const [left, top, across, down] of interlaced ? PASSES : [[0, 0, 1, 1]]) {
    const columns = Math.ceil((width - left) / across);
    const rows = Math.ceil((height - top) / down);
    if (columns <= 0 || rows <= 0) continue;
    const stride = Math.ceil((columns * channels * depth) / 8);
    if (offset + rows * (stride + 1) > data.length) throw new Error("it lacks pixels");
    const end = unfilter(data, offset, rows, stride, Math.max(1, (channels * depth) >> 3));
    for (let y = 0; y < rows; y++) {
      const row = data.subarray(offset + y * (stride + 1) + 1, offset + (y + 1) * (stride + 1));
      for (let x = 0; x < columns; x++) {
        const to = ((top + y * down) * width + left + x * across) * channels;
        for (let channel = 0; channel < channels; channel++) {
          const index = x * channels + channel;
          let value;
          if (depth === 16) value = (row[2 * index] << 8) | row[2 * index + 1];
          else if (depth === 8) value = row[index];
          else {
            const bit = index * depth;
            value = (row[bit >> 3] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
          }
          samples[to + channel] = value;
        }
      }
    }
    offset = end;
  }
  return { width, height, ...colours(samples, width * height, kind, depth, chunks), ...extras(chunks) };
}

/** rgb, alpha and storedAsGray of the decoded samples. */
function colours(samples, pixels, kind, depth, chunks) {
  const top = 2 ** depth - 1;
  const rgb = new Float32Array(pixels * 3);
  const key = chunks.tRNS?.[0];
  const hasAlpha = kind >= 4 || Boolean(key);
  const alpha = hasAlpha ? new Uint8Array(pixels).fill(255) : null;
  const toByte = (value) => (depth === 16 ? Math.floor((value + 128) / 257) : value);
  const channels = CHANNELS[kind];
  if (kind === 3) {
    const palette = chunks.PLTE?.[0];
    if (!palette) throw new Error("it has no palette");
    for (let pixel = 0; pixel < pixels; pixel++) {
      const index = samples[pixel];
      for (let channel = 0; channel < 3; channel++) rgb[3 * pixel + channel] = (palette[3 * index + channel] ?? 0) / 255;
      if (alpha && index < key.length) alpha[pixel] = key[index];
    }
    return { rgb, alpha, storedAsGray: false };
  }
  const gray = kind === 0 || kind === 4;
  const keyed = key && Array.from({ length: gray ? 1 : 3 }, (_, channel) => (key[2 * channel] << 8) | key[2 * channel + 1]);
  for (let pixel = 0; pixel < pixels; pixel++) {
    const from = pixel * channels;
    for (let channel = 0; channel < 3; channel++) rgb[3 * pixel + channel] = samples[from + (gray ? 0 : channel)] / top;
    if (kind >= 4) alpha[pixel] = toByte(samples[from + channels - 1]);
    else if (keyed?.every((value, channel) => samples[from + channel] === value)) alpha[pixel] = 0;
  }
  return { rgb, alpha, storedAsGray: gray };
}

function extras(chunks) {
  const text = {};
  for (const entry of chunks.tEXt ?? []) {
    const [key, value] = new TextDecoder("latin1").decode(entry).split("\0");
    text[key] = value;
  }
  const colours = COLOUR_CHUNKS.filter((type) => chunks[type]).map((type) => [type, chunks[type][0]]);
  return { text, colours, exif: chunks.eXIf?.[0] ?? null };
}

function chunk(type, body) {
  const bytes = new Uint8Array(12 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  for (let index = 0; index < 4; index++) bytes[4 + index] = type.charCodeAt(index);
  bytes.set(body, 8);
  view.setUint32(8 + body.length, crc32(bytes.subarray(4, 8 + body.length)));
  return bytes;
}

/** Of the five filters, the one whose differences are smallest, written to out. */
function filterRow(row, previous, step, out) {
  let best = Infinity;
  const trial = new Uint8Array(row.length);
  for (const filter of [1, 2, 4]) {
    let sum = 0;
    for (let x = 0; x < row.length; x++) {
      const left = x >= step ? row[x - step] : 0;
      const corner = x >= step ? previous[x - step] : 0;
      const guess = filter === 1 ? left : filter === 2 ? previous[x] : paeth(left, previous[x], corner);
      const difference = (row[x] - guess) & 255;
      trial[x] = difference;
      sum += difference < 128 ? difference : 256 - difference;
    }
    if (sum < best) {
      best = sum;
      out[0] = filter;
      out.set(trial, 1);
    }
  }
}

/**
 * Writes an 8-bit RGB or RGBA file.
 *
 * @param {{width, height, rgb: Uint8Array, alpha?: Uint8Array, text?: object, colours?: [string, Uint8Array][]}} image
 * @returns {Promise<Uint8Array>}
 */
export async function encodePng({ width, height, rgb, alpha, text = {}, colours = [] }) {
  const channels = alpha ? 4 : 3;
  const stride = width * channels;
  const filtered = new Uint8Array(height * (stride + 1));
  let [row, previous] = [new Uint8Array(stride), new Uint8Array(stride)];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const pixel = y * width + x;
      for (let channel = 0; channel < 3; channel++) row[x * channels + channel] = rgb[3 * pixel + channel];
      if (alpha) row[x * channels + 3] = alpha[pixel];
    }
    filterRow(row, previous, channels, filtered.subarray(y * (stride + 1), (y + 1) * (stride + 1)));
    [row, previous] = [previous, row];
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, alpha ? 6 : 2, 0, 0, 0], 8);
  const latin1 = (string) => Uint8Array.from(string, (letter) => letter.charCodeAt(0) & 255);
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    ...colours.map(([type, body]) => chunk(type, body)),
    ...Object.entries(text).map(([key, value]) => chunk("tEXt", latin1(`${key}\0${value}`))),
    chunk("IDAT", await through(new CompressionStream("deflate"), filtered)),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
