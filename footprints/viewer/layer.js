// The layer as Python packed it (footprints/packing.py): outlines in one plane, x to the right and
// y down, in metres or in pixels, and a column for each attribute.

const ARRAYS = {
  u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, i32: Int32Array, f64: Float64Array,
};
const CHUNK = 64; // neighbouring footprints that are drawn, or left out, together

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function unpack(packed) {
  return new ARRAYS[packed.type](bytesOf(packed.data).buffer);
}

// First member of each group and the end of the last, from the groups' sizes.
function starts(sizes) {
  const firsts = new Uint32Array(sizes.length + 1);
  for (let i = 0; i < sizes.length; i++) firsts[i + 1] = firsts[i] + sizes[i];
  return firsts;
}

class Layer {
  constructor(data) {
    this.count = data.count;
    this.columns = data.columns.map((column) => ({
      ...column, values: unpack(column.values),
    }));
    const sure = this.columns.find((column) => column.name === data.confidence);
    this.confidences = sure ? sure.values : null;
    this.order = sure ? unpack(data.order) : new Uint32Array(0);
    this.rank = new Uint32Array(this.order.length);
    this.order.forEach((index, rank) => { this.rank[index] = rank; });
    this.placeOutlines(data);
    this.makeChunks();
  }

  // Of each vertex: x, y, confidence, and 1 where its ring ends. Of each footprint, as a dot: x, y,
  // side of a square of its area, confidence.
  placeOutlines({ outlines, quantum }) {
    const origins = unpack(outlines.origins);
    const steps = unpack(outlines.vertices);
    const ringSizes = unpack(outlines.ring_sizes);
    this.ringStarts = starts(ringSizes);
    this.rings = starts(unpack(outlines.rings));
    this.triangles = starts(unpack(outlines.triangles));
    this.corners = Uint32Array.from(unpack(outlines.corners));
    this.vertices = new Float32Array(2 * steps.length);
    this.boxes = new Float32Array(4 * this.count);
    this.dots = new Float32Array(4 * this.count);
    for (let i = 0; i < this.count; i++) {
      const [first, end] = this.verticesOf(i);
      const sure = this.confidences ? this.confidences[i] : 1;
      const box = [Infinity, Infinity, -Infinity, -Infinity];
      for (let v = first; v < end; v++) {
        const x = (origins[2 * i] + steps[2 * v]) * quantum;
        const y = (origins[2 * i + 1] + steps[2 * v + 1]) * quantum;
        this.vertices[4 * v] = x;
        this.vertices[4 * v + 1] = y;
        this.vertices[4 * v + 2] = sure;
        if (x < box[0]) box[0] = x;
        if (y < box[1]) box[1] = y;
        if (x > box[2]) box[2] = x;
        if (y > box[3]) box[3] = y;
      }
      this.boxes.set(box, 4 * i);
      for (let c = 3 * this.triangles[i]; c < 3 * this.triangles[i + 1]; c++) this.corners[c] += first;
      const side = Math.sqrt(this.areaOf(i));
      this.dots.set([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, side, sure], 4 * i);
    }
    for (let r = 1; r < this.ringStarts.length; r++) this.vertices[4 * this.ringStarts[r] - 1] = 1;
  }

  areaOf(index) {
    const { vertices, corners } = this;
    let doubled = 0;
    for (let c = 3 * this.triangles[index]; c < 3 * this.triangles[index + 1]; c += 3) {
      const a = 4 * corners[c];
      const b = 4 * corners[c + 1];
      const d = 4 * corners[c + 2];
      doubled += Math.abs(
        (vertices[b] - vertices[a]) * (vertices[d + 1] - vertices[a + 1])
        - (vertices[d] - vertices[a]) * (vertices[b + 1] - vertices[a + 1]),
      );
    }
    return doubled / 2;
  }

  makeChunks() {
    this.chunks = [];
    for (let first = 0; first < this.count; first += CHUNK) {
      const end = Math.min(first + CHUNK, this.count);
      const box = [Infinity, Infinity, -Infinity, -Infinity];
      let side = 0;
      for (let i = first; i < end; i++) {
        for (const axis of [0, 1]) {
          const [low, high] = [this.boxes[4 * i + axis], this.boxes[4 * i + axis + 2]];
          box[axis] = Math.min(box[axis], low);
          box[axis + 2] = Math.max(box[axis + 2], high);
          side = Math.max(side, high - low);
        }
      }
      // Rounded up to a power of two, as the layer is sorted: those alike change at one zoom.
      this.chunks.push({ first, end, box, side: 2 ** (Math.floor(Math.log2(side)) + 1) });
    }
  }

  verticesOf(index) {
    return [this.ringStarts[this.rings[index]], this.ringStarts[this.rings[index + 1]]];
  }

  boxOf(index) {
    return this.boxes.subarray(4 * index, 4 * index + 4);
  }

  // Runs of footprints, [first, end], of the chunks that meet a box and whose widest footprint is
  // of a size from `least` to below `most`.
  runsIn(box, least = 0, most = Infinity) {
    const runs = [];
    for (const chunk of this.chunks) {
      if (chunk.side < least || chunk.side >= most || !meet(chunk.box, box)) continue;
      const before = runs[runs.length - 1];
      if (before && before[1] === chunk.first) before[1] = chunk.end;
      else runs.push([chunk.first, chunk.end]);
    }
    return runs;
  }

  // The surest footprint at a place, of those from `least` on; -1 where there is none.
  at(x, y, least) {
    let best = -1;
    for (const [first, end] of this.runsIn([x, y, x, y])) {
      for (let i = first; i < end; i++) {
        if (!meet(this.boxOf(i), [x, y, x, y]) || !this.covers(i, x, y)) continue;
        if (!this.confidences) return i;
        if (this.confidences[i] < least) continue;
        if (best < 0 || this.confidences[i] > this.confidences[best]) best = i;
      }
    }
    return best;
  }

  covers(index, x, y) {
    let inside = false;
    const [first, end] = this.verticesOf(index);
    for (let v = first; v < end - 1; v++) {
      const [ax, ay, , last, bx, by] = this.vertices.subarray(4 * v, 4 * v + 6);
      if (last) continue;
      if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) inside = !inside;
    }
    return inside;
  }

  // How many are less sure than `least`: the place in `order` of the first that is shown.
  below(least) {
    let low = 0;
    let high = this.order.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.confidences[this.order[middle]] < least) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // Name, value and note of each attribute of a footprint, as text.
  attributes(index) {
    return this.columns.map((column) => {
      const value = column.values[index];
      if (!column.texts) return [column.name, Number.isNaN(value) ? "–" : String(value), ""];
      const text = column.texts[value];
      return [column.name, text[0], text[1] ? `and ${text[1].toLocaleString("en")} more characters` : ""];
    });
  }
}

function meet(one, other) {
  return one[0] <= other[2] && one[2] >= other[0] && one[1] <= other[3] && one[3] >= other[1];
}
