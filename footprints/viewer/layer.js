// The layer as Python packed it (footprints/packing.py): outlines in one plane, x to the right and
// y down, in metres or in pixels, and a column for each attribute.

const ARRAYS = {
  u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, i32: Int32Array, f64: Float64Array,
};
const CHUNK = 512; // neighbouring footprints that are drawn, or left out, together

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

  placeOutlines({ outlines, quantum }) {
    const origins = unpack(outlines.origins);
    const steps = unpack(outlines.vertices);
    const ringSizes = unpack(outlines.ring_sizes);
    this.ringStarts = starts(ringSizes);
    this.rings = starts(unpack(outlines.rings));
    this.triangles = starts(unpack(outlines.triangles));
    this.corners = Uint32Array.from(unpack(outlines.corners));
    this.places = new Float32Array(steps.length);
    this.sure = new Float32Array(steps.length / 2).fill(1);
    this.last = new Uint8Array(steps.length / 2);
    this.boxes = new Float32Array(4 * this.count);
    for (let i = 0; i < this.count; i++) {
      const [first, end] = this.verticesOf(i);
      const box = [Infinity, Infinity, -Infinity, -Infinity];
      for (let v = first; v < end; v++) {
        const x = (origins[2 * i] + steps[2 * v]) * quantum;
        const y = (origins[2 * i + 1] + steps[2 * v + 1]) * quantum;
        this.places[2 * v] = x;
        this.places[2 * v + 1] = y;
        if (x < box[0]) box[0] = x;
        if (y < box[1]) box[1] = y;
        if (x > box[2]) box[2] = x;
        if (y > box[3]) box[3] = y;
        if (this.confidences) this.sure[v] = this.confidences[i];
      }
      this.boxes.set(box, 4 * i);
      for (let c = 3 * this.triangles[i]; c < 3 * this.triangles[i + 1]; c++) this.corners[c] += first;
    }
    for (let r = 1; r < this.ringStarts.length; r++) this.last[this.ringStarts[r] - 1] = 1;
  }

  makeChunks() {
    this.chunks = [];
    for (let first = 0; first < this.count; first += CHUNK) {
      const end = Math.min(first + CHUNK, this.count);
      const box = [Infinity, Infinity, -Infinity, -Infinity];
      for (let i = first; i < end; i++) {
        for (const side of [0, 1]) {
          box[side] = Math.min(box[side], this.boxes[4 * i + side]);
          box[side + 2] = Math.max(box[side + 2], this.boxes[4 * i + side + 2]);
        }
      }
      this.chunks.push({ first, end, box });
    }
  }

  verticesOf(index) {
    return [this.ringStarts[this.rings[index]], this.ringStarts[this.rings[index + 1]]];
  }

  boxOf(index) {
    return this.boxes.subarray(4 * index, 4 * index + 4);
  }

  // Runs of footprints, [first, end], of the chunks that meet a box.
  runsIn(box) {
    const runs = [];
    for (const chunk of this.chunks) {
      if (!meet(chunk.box, box)) continue;
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
      if (this.last[v]) continue;
      const [ax, ay, bx, by] = this.places.subarray(2 * v, 2 * v + 4);
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
