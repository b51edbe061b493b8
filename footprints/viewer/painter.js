// Draws image and layer with WebGL 2. A view is {x, y, scale}: the place in the middle of the
// canvas, and device pixels per metre (per pixel, for layers in pixels).

const MOST_LINES = 150000; // vertices in view; of more, outlines are too small to be told apart
const MOST_TILES = 128; // of 512 x 512 pixels, a megabyte each on the graphics card
const TO_CLIP = `
uniform vec2 middle, size; uniform float scale;
vec2 onScreen(vec2 place) { return (place - middle) * scale; }
vec4 toClip(vec2 screen) { return vec4(screen * vec2(2, -2) / size, 0, 1); }
const vec4 NOWHERE = vec4(2, 2, 2, 1);`;
const TO_COLOUR = `
uniform float least; uniform vec3 shades[5]; uniform float edges[5]; uniform vec4 own;
vec3 shadeOf(float sure) {
  for (int i = 0; i < 5; i++) if (sure <= edges[i]) return shades[i];
  return shades[4];
}`;
const FILL = [`#version 300 es
in vec2 place; in float sure; flat out vec3 shade;${TO_CLIP}${TO_COLOUR}
void main() {
  shade = own.a > 0. ? own.rgb : shadeOf(sure);
  gl_Position = sure < least ? NOWHERE : toClip(onScreen(place));
}`, `#version 300 es
precision highp float; flat in vec3 shade; uniform float opacity; out vec4 colour;
void main() { colour = vec4(shade, 1) * opacity; }`];
const LINES = [`#version 300 es
in vec2 place, then; in float sure, last; uniform float reach; flat out vec3 shade; out float across;${TO_CLIP}${TO_COLOUR}
void main() {
  shade = own.a > 0. ? own.rgb : shadeOf(sure);
  vec2 from = onScreen(place), to = onScreen(then), along = to - from;
  along = length(along) > 0. ? normalize(along) : vec2(1, 0);
  float end = float(gl_VertexID & 1), side = float(gl_VertexID >> 1) * 2. - 1.;
  across = side * reach;
  vec2 corner = mix(from, to, end) + (along * (end * 2. - 1.) + vec2(-along.y, along.x) * side) * reach;
  gl_Position = sure < least || last > 0. ? NOWHERE : toClip(corner);
}`, `#version 300 es
precision highp float; flat in vec3 shade; in float across; uniform float reach, opacity; out vec4 colour;
void main() { colour = vec4(shade, 1) * opacity * (1. - smoothstep(reach - 1., reach, abs(across))); }`];
const IMAGE = [`#version 300 es
uniform vec4 box; out vec2 where;${TO_CLIP}
void main() {
  where = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = toClip(onScreen(mix(box.xy, box.zw, where)));
}`, `#version 300 es
precision highp float; in vec2 where; uniform sampler2D tile; out vec4 colour;
void main() { colour = vec4(texture(tile, where).rgb, 1); }`];

class Painter {
  constructor(canvas, layer, image, shades, changed) {
    const gl = canvas.getContext("webgl2", { antialias: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("this browser has no WebGL 2, which draws the map");
    Object.assign(this, { gl, canvas, layer, image, changed, tiles: new Map() });
    this.edges = shades.map((shade) => shade.to);
    this.shades = shades.flatMap((shade) => shade.rgb.map((part) => part / 255));
    this.fill = program(gl, FILL);
    this.lines = program(gl, LINES);
    this.picture = program(gl, IMAGE);
    this.places = filled(gl, gl.ARRAY_BUFFER, layer.places);
    this.sure = filled(gl, gl.ARRAY_BUFFER, layer.sure);
    this.last = filled(gl, gl.ARRAY_BUFFER, layer.last);
    this.corners = filled(gl, gl.ELEMENT_ARRAY_BUFFER, layer.corners);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  // Options: least, fill, image, chosen (a footprint or -1).
  draw(view, options) {
    const { gl, canvas, layer } = this;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const half = [canvas.width / view.scale / 2, canvas.height / view.scale / 2];
    const box = [view.x - half[0], view.y - half[1], view.x + half[0], view.y + half[1]];
    if (this.image && options.image) this.drawImage(view, box);
    const runs = layer.runsIn(box);
    const vertices = runs.reduce(
      (sum, [first, end]) => sum + layer.verticesOf(end - 1)[1] - layer.verticesOf(first)[0], 0,
    );
    const plain = layer.confidences ? [0, 0, 0, 0] : [0, 0.64, 1, 1];
    const lines = vertices <= MOST_LINES;
    if (options.fill || !lines) this.drawFill(view, runs, options.least, plain, lines ? 0.28 : 0.75);
    const dots = globalThis.devicePixelRatio || 1;
    if (lines) this.drawOutlines(view, runs, options.least, plain, 1.6 * dots);
    const chosen = [[options.chosen, options.chosen + 1]];
    if (options.chosen >= 0) this.drawOutlines(view, chosen, -1, [1, 1, 1, 1], 2.8 * dots);
  }

  // On something dark, so that every colour shows on bright roofs.
  drawOutlines(view, runs, least, own, reach) {
    this.drawLines(view, runs, least, [0, 0, 0, 1], 1.5 * reach, 0.5);
    this.drawLines(view, runs, least, own, reach, 1);
  }

  use(made, view) {
    const { gl, canvas } = this;
    gl.useProgram(made.program);
    gl.uniform2f(made.at("middle"), view.x, view.y);
    gl.uniform2f(made.at("size"), canvas.width, canvas.height);
    gl.uniform1f(made.at("scale"), view.scale);
  }

  useShades(made, least, own) {
    const { gl } = this;
    gl.uniform1f(made.at("least"), least);
    gl.uniform3fv(made.at("shades"), this.shades);
    gl.uniform1fv(made.at("edges"), this.edges);
    gl.uniform4f(made.at("own"), ...own);
  }

  drawFill(view, runs, least, own, opacity) {
    const { gl, fill, layer } = this;
    this.use(fill, view);
    this.useShades(fill, least, own);
    gl.uniform1f(fill.at("opacity"), opacity);
    attribute(gl, fill, "place", this.places, 2, gl.FLOAT, 0, 0);
    attribute(gl, fill, "sure", this.sure, 1, gl.FLOAT, 0, 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.corners);
    for (const [first, end] of runs) {
      const [start, stop] = [3 * layer.triangles[first], 3 * layer.triangles[end]];
      gl.drawElements(gl.TRIANGLES, stop - start, gl.UNSIGNED_INT, 4 * start);
    }
  }

  // One strip of four corners for each vertex and the one after it in its ring.
  drawLines(view, runs, least, own, reach, opacity) {
    const { gl, lines, layer } = this;
    this.use(lines, view);
    this.useShades(lines, least, own);
    gl.uniform1f(lines.at("reach"), reach);
    gl.uniform1f(lines.at("opacity"), opacity);
    for (const [first, end] of runs) {
      const [start, stop] = [layer.verticesOf(first)[0], layer.verticesOf(end - 1)[1]];
      attribute(gl, lines, "place", this.places, 2, gl.FLOAT, 8 * start, 1);
      attribute(gl, lines, "then", this.places, 2, gl.FLOAT, 8 * start + 8, 1);
      attribute(gl, lines, "sure", this.sure, 1, gl.FLOAT, 4 * start, 1);
      attribute(gl, lines, "last", this.last, 1, gl.UNSIGNED_BYTE, start, 1);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, stop - start - 1);
    }
  }

  // The coarsest level stands in for as long as tiles of the right one are being decoded.
  drawImage(view, box) {
    const { gl, picture, image } = this;
    this.use(picture, view);
    gl.uniform1i(picture.at("tile"), 0);
    const shrink = image.width / image.levels[0].width * view.scale;
    const wanted = Math.floor(Math.log2(Math.max(1, 1 / shrink)) + 0.01);
    const coarsest = image.levels.length - 1;
    const tiles = this.tilesIn(Math.min(wanted, coarsest), box);
    if (tiles.some((tile) => !tile.texture)) this.drawTiles(this.tilesIn(coarsest, box), shrink);
    this.drawTiles(tiles, shrink);
    for (const [key] of [...this.tiles].slice(0, Math.max(0, this.tiles.size - MOST_TILES))) {
      gl.deleteTexture(this.tiles.get(key));
      this.tiles.delete(key);
    }
  }

  // The tiles of a level that meet a box: where each lies, and its texture.
  tilesIn(number, box) {
    const level = this.image.levels[number];
    const side = this.image.tile;
    const [across, down] = [this.image.width / level.width, this.image.height / level.height];
    const columns = Math.ceil(level.width / side);
    const found = [];
    level.tiles.forEach((content, index) => {
      const left = (index % columns) * side;
      const top = Math.floor(index / columns) * side;
      const right = Math.min(left + side, level.width);
      const bottom = Math.min(top + side, level.height);
      const ground = [left * across, top * down, right * across, bottom * down];
      if (meet(ground, box)) found.push({ ground, texture: this.textureOf(`${number}/${index}`, content) });
    });
    return found;
  }

  drawTiles(tiles, shrink) {
    const { gl, picture } = this;
    gl.activeTexture(gl.TEXTURE0);
    for (const { ground, texture } of tiles) {
      if (!texture) continue;
      gl.bindTexture(gl.TEXTURE_2D, texture);
      // Pixels of the scene are seen as such from twice their size on.
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, shrink > 2 ? gl.NEAREST : gl.LINEAR);
      gl.uniform4f(picture.at("box"), ...ground);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
  }

  // A tile's texture, or null while it is decoded; those used last come last in the map.
  textureOf(key, content) {
    if (!this.tiles.has(key)) this.decode(key, content);
    const texture = this.tiles.get(key);
    this.tiles.delete(key);
    this.tiles.set(key, texture);
    return texture;
  }

  async decode(key, content) {
    const { gl } = this;
    this.tiles.set(key, null);
    const bitmap = await createImageBitmap(new Blob([bytesOf(content)], { type: "image/jpeg" }));
    if (!this.tiles.has(key)) return;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, bitmap);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    bitmap.close();
    this.tiles.set(key, texture);
    this.changed();
  }
}

function program(gl, sources) {
  const made = gl.createProgram();
  [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].forEach((kind, i) => {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, sources[i]);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  });
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  const places = new Map();
  const at = (name) => {
    if (!places.has(name)) places.set(name, gl.getUniformLocation(made, name));
    return places.get(name);
  };
  return { program: made, at, slots: new Map() };
}

function filled(gl, kind, values) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(kind, buffer);
  gl.bufferData(kind, values, gl.STATIC_DRAW);
  return buffer;
}

function attribute(gl, made, name, buffer, size, type, offset, divisor) {
  if (!made.slots.has(name)) made.slots.set(name, gl.getAttribLocation(made.program, name));
  const slot = made.slots.get(name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.enableVertexAttribArray(slot);
  gl.vertexAttribPointer(slot, size, type, false, 0, offset);
  gl.vertexAttribDivisor(slot, divisor);
}
