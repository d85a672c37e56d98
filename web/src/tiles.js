/** Overlapping tiles, as hcflow_tf/inference/tiles.py lays them. */

/** Tiles along one axis: equal sizes, evenly spread, neighbours sharing at least 2 * overlap pixels. */
export function spans(length, tile, overlap) {
  const margin = Math.min(overlap, Math.floor(tile / 4));
  if (tile >= length) return [{ start: 0, stop: length, head: 0, tail: 0, blend: margin }];
  const count = Math.ceil((length - 2 * margin) / (tile - 2 * margin));
  const starts = Array.from({ length: count }, (_, index) => Math.round((index * (length - tile)) / (count - 1)));
  return starts.map((start, index) => ({
    start,
    stop: start + tile,
    head: index > 0 ? starts[index - 1] + tile - start : 0,
    tail: index < count - 1 ? start + tile - starts[index + 1] : 0,
    blend: margin,
  }));
}

/** Weights of a tile's pixels on a grid that is `factor` times finer; all tiles sum to 1 everywhere. */
export function spanWeights(span, factor) {
  const weights = new Float32Array(factor * (span.stop - span.start)).fill(1);
  const ramp = (length, index) =>
    Math.min(1, Math.max(0, (index + 0.5 - length / 2) / Math.max(factor * span.blend, 1) + 0.5));
  const head = factor * span.head;
  const tail = factor * span.tail;
  for (let index = 0; index < head; index++) weights[index] = ramp(head, index);
  for (let index = 0; index < tail; index++) weights[weights.length - tail + index] *= 1 - ramp(tail, index);
  return weights;
}

/** The smallest side with which no more tiles are needed along this length than with `largest`. */
function fittingSide(length, largest, overlap) {
  if (largest >= length) return length;
  const shared = 2 * Math.min(overlap, Math.floor(largest / 4));
  const count = Math.ceil((length - shared) / (largest - shared));
  return Math.ceil((length - shared) / count) + shared;
}

/** The tiles of an image [height, width] in LR pixels, row by row, none with a side above `largest`. */
export function tiles(height, width, largest, overlap) {
  const [rows, columns] = [height, width].map((length) => spans(length, fittingSide(length, largest, overlap), overlap));
  return rows.flatMap((row) => columns.map((column) => ({ rows: row, columns: column })));
}

/** The tile's part of values [height, width, channels] on the grid that is `factor` times finer. */
export function cut(tile, values, width, channels, factor) {
  const rows = factor * (tile.rows.stop - tile.rows.start);
  const row = factor * (tile.columns.stop - tile.columns.start) * channels;
  const part = new Float32Array(rows * row);
  for (let y = 0; y < rows; y++) {
    const start = ((tile.rows.start * factor + y) * width + tile.columns.start * factor) * channels;
    part.set(values.subarray(start, start + row), y * row);
  }
  return part;
}

/** Adds result, weighted, to its place on the canvas [height, width, 3]. */
export function add(tile, canvas, width, result, factor) {
  const rows = spanWeights(tile.rows, factor);
  const columns = spanWeights(tile.columns, factor);
  for (let y = 0, from = 0; y < rows.length; y++) {
    let to = ((tile.rows.start * factor + y) * width + tile.columns.start * factor) * 3;
    for (let x = 0; x < columns.length; x++) {
      const weight = rows[y] * columns[x];
      canvas[to++] += weight * result[from++];
      canvas[to++] += weight * result[from++];
      canvas[to++] += weight * result[from++];
    }
  }
}
