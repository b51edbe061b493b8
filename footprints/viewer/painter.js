// Draws image and layer with WebGL 2. A view is {x, y, scale}: the place in the middle of the
// canvas, and device pixels per metre (per pixel, for layers in pixels).

// Footprints are drawn by their size on the screen, in pixels: so there is never more to draw than
// the screen has room for.
const LEAST_SHAPE = 4; // smaller ones are dots
const LEAST_OUTLINE = 16; // smaller ones have no outline, which would be all there is of them
const LEAST_DOT = 2; // the side of dots at least, however small the footprint; they are fainter instead
const ROW = 2048; // texels in a row of the texture of vertices; all of WebGL 2 can do that
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
// Vertices lie in a texture: drawing a copy of one strip for each of them instead takes software,
// and some hardware, many times as long.
const TO_VERTEX = `
uniform highp sampler2D vertices;
vec4 vertex(int number) { return texelFetch(vertices, ivec2(number % ${ROW}, number / ${ROW}), 0); }`;
const FILL = [`#version 300 es
flat out vec3 shade;${TO_CLIP}${TO_COLOUR}${TO_VERTEX}
void main() {
  vec4 here = vertex(gl_VertexID);
  shade = own.a > 0. ? own.rgb : shadeOf(here.z);
  gl_Position = here.z < least ? NOWHERE : toClip(onScreen(here.xy));
}`, `#version 300 es
precision highp float; flat in vec3 shade; uniform float opacity; out vec4 colour;
void main() { colour = vec4(shade, 1) * opacity; }`];
const DOTS = [`#version 300 es
in vec4 place; uniform float smallest; flat out vec3 shade; flat out float cover;${TO_CLIP}${TO_COLOUR}
void main() {
  shade = own.a > 0. ? own.rgb : shadeOf(place.w);
  gl_Position = place.w < least ? NOWHERE : toClip(onScreen(place.xy));
  gl_PointSize = max(place.z * scale, smallest);
  cover = clamp(place.z * scale / smallest, 0.5, 1.);
}`, `#version 300 es
precision highp float; flat in vec3 shade; flat in float cover; uniform float opacity; out vec4 colour;
void main() { colour = vec4(shade, 1) * opacity * cover * cover; }`];
const LINES = [`#version 300 es
uniform float reach; flat out vec3 shade; out float across;${TO_CLIP}${TO_COLOUR}${TO_VERTEX}
const vec2 CORNERS[6] = vec2[6](
  vec2(0, -1), vec2(1, -1), vec2(0, 1), vec2(0, 1), vec2(1, -1), vec2(1, 1));
void main() {
  vec4 here = vertex(gl_VertexID / 6), next = vertex(gl_VertexID / 6 + 1);
  vec2 corner = CORNERS[gl_VertexID % 6];
  shade = own.a > 0. ? own.rgb : shadeOf(here.z);
  vec2 from = onScreen(here.xy), to = onScreen(next.xy), along = to - from;
  along = length(along) > 0. ? normalize(along) : vec2(1, 0);
  across = corner.y * reach;
  vec2 outwards = along * (corner.x * 2. - 1.) + vec2(-along.y, along.x) * corner.y;
  gl_Position = here.z < least || here.w > 0.
    ? NOWHERE : toClip(mix(from, to, corner.x) + outwards * reach);
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
    this.dots = program(gl, DOTS);
    this.vertices = textureOfVertices(gl, layer.vertices);
    filled(gl, gl.ELEMENT_ARRAY_BUFFER, layer.corners);
    filled(gl, gl.ARRAY_BUFFER, layer.dots);
    const slot = gl.getAttribLocation(this.dots.program, "place");
    gl.enableVertexAttribArray(slot);
    gl.vertexAttribPointer(slot, 4, gl.FLOAT, false, 0, 0);
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
    const plain = layer.confidences ? [0, 0, 0, 0] : [0, 0.64, 1, 1];
    const dots = globalThis.devicePixelRatio || 1;
    const [shape, outline] = [LEAST_SHAPE, LEAST_OUTLINE].map((side) => side * dots / view.scale);
    const outlined = layer.runsIn(box, outline);
    if (options.fill) this.drawFill(view, outlined, options.least, plain, 0.28);
    this.drawFill(view, layer.runsIn(box, shape, outline), options.least, plain, 0.75);
    this.drawDots(view, layer.runsIn(box, 0, shape), options.least, plain, 0.75, LEAST_DOT * dots);
    this.drawOutlines(view, outlined, options.least, plain, 1.6 * dots);
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

  useVertices(made) {
    const { gl } = this;
    gl.uniform1i(made.at("vertices"), 1);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.vertices);
  }

  drawFill(view, runs, least, own, opacity) {
    const { gl, fill, layer } = this;
    this.use(fill, view);
    this.useShades(fill, least, own);
    this.useVertices(fill);
    gl.uniform1f(fill.at("opacity"), opacity);
    for (const [first, end] of runs) {
      const [start, stop] = [3 * layer.triangles[first], 3 * layer.triangles[end]];
      gl.drawElements(gl.TRIANGLES, stop - start, gl.UNSIGNED_INT, 4 * start);
    }
  }

  drawDots(view, runs, least, own, opacity, smallest) {
    const { gl, dots } = this;
    this.use(dots, view);
    this.useShades(dots, least, own);
    gl.uniform1f(dots.at("opacity"), opacity);
    gl.uniform1f(dots.at("smallest"), smallest);
    for (const [first, end] of runs) gl.drawArrays(gl.POINTS, first, end - first);
  }

  // Two triangles for each vertex and the one after it in its ring.
  drawLines(view, runs, least, own, reach, opacity) {
    const { gl, lines, layer } = this;
    this.use(lines, view);
    this.useShades(lines, least, own);
    this.useVertices(lines);
    gl.uniform1f(lines.at("reach"), reach);
    gl.uniform1f(lines.at("opacity"), opacity);
    for (const [first, end] of runs) {
      const [start, stop] = [layer.verticesOf(first)[0], layer.verticesOf(end - 1)[1]];
      gl.drawArrays(gl.TRIANGLES, 6 * start, 6 * (stop - start - 1));
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
  return { program: made, at };
}

function filled(gl, kind, values) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(kind, buffer);
  gl.bufferData(kind, values, gl.STATIC_DRAW);
  return buffer;
}

function textureOfVertices(gl, vertices) {
  const rows = Math.max(1, Math.ceil(vertices.length / 4 / ROW));
  const texels = new Float32Array(4 * ROW * rows);
  texels.set(vertices);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32F, ROW, rows);
  gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, rows, gl.RGBA, gl.FLOAT, texels);
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
  return texture;
}
