// The page around the map: what keys, buttons and pointers do. layer.js, painter.js and this file
// are one script, in this order.

const MOST_ZOOM = 40; // device pixels per pixel of the image, or per decimetre without one
const STEP = 1.5; // of the zoom, by key or button
const CLOSER = 5; // how many times as wide as a footprint the view is that steps to it

const byId = (id) => document.getElementById(id);
const canvas = byId("map");
const data = JSON.parse(byId("data").textContent);
const layer = new Layer(data);
const unit = data.unit;
const view = { x: 0, y: 0, scale: 1 };
const state = { least: 0, chosen: -1, fill: true, image: true };
let painter;
let asked = false;
let drawn = false;

function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    painter.draw(view, state);
    showScale();
    if (!drawn) performance.mark("drawn");
    drawn = true;
  });
}

const ratio = () => canvas.width / canvas.clientWidth || 1;

function resize() {
  const dots = globalThis.devicePixelRatio || 1;
  const middle = canvas.width === 0;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * dots));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * dots));
  if (middle) fit();
  redraw();
}

function fit() {
  const [left, top, right, bottom] = data.bounds;
  const [width, height] = [Math.max(right - left, 1), Math.max(bottom - top, 1)];
  view.x = (left + right) / 2;
  view.y = (top + bottom) / 2;
  view.scale = Math.min(canvas.width / width, canvas.height / height) * 0.98;
  redraw();
}

function limitScale(scale) {
  const [left, top, right, bottom] = data.bounds;
  const finest = data.image ? data.image.width / data.image.levels[0].width : 0.1;
  const least = Math.min(canvas.width, canvas.height) / Math.max(right - left, bottom - top, 1) / 4;
  return Math.max(Math.min(scale, MOST_ZOOM / finest), Math.min(least, MOST_ZOOM / finest));
}

// The place under (x, y), device pixels from the middle of the canvas, stays there.
function zoom(factor, x = 0, y = 0) {
  const scale = limitScale(view.scale * factor);
  view.x += x / view.scale - x / scale;
  view.y += y / view.scale - y / scale;
  view.scale = scale;
  redraw();
}

function move(x, y) {
  view.x -= x / view.scale;
  view.y -= y / view.scale;
  redraw();
}

function showScale() {
  const most = 120 * ratio() / view.scale;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].find((factor) => factor * power <= most) * power;
  const bar = byId("scale").firstElementChild;
  bar.style.width = `${length * view.scale / ratio()}px`;
  const named = unit === "m" && length >= 1000 ? [length / 1000, "km"] : [length, unit];
  byId("scale").firstChild.data = `${+named[0].toPrecision(1)} ${named[1]}`;
}

function showCount() {
  const shown = layer.count - layer.below(state.least);
  const [some, all] = [shown, layer.count].map((n) => n.toLocaleString("en"));
  byId("count").textContent = `${some} of ${all} footprints shown`;
  byId("value").textContent = state.least.toFixed(2);
  showStep();
}

function showStep() {
  if (!layer.confidences) return;
  const below = layer.below(state.least);
  const shown = layer.count - below;
  const place = state.chosen < 0 ? -1 : layer.rank[state.chosen] - below;
  byId("step").textContent = place < 0
    ? "Least certain first"
    : `${(place + 1).toLocaleString("en")} of ${shown.toLocaleString("en")}, least certain first`;
  byId("next").disabled = place >= shown - 1;
  byId("previous").disabled = place <= 0;
}

function filterBy(least) {
  state.least = least;
  if (state.chosen >= 0 && layer.confidences[state.chosen] < least) choose(-1);
  byId("hover").hidden = true;
  showCount();
  redraw();
}

function choose(index) {
  state.chosen = index;
  byId("details").hidden = index < 0;
  const rows = index < 0 ? [] : layer.attributes(index).map(attributeRow);
  byId("details").querySelector("table").replaceChildren(...rows);
  showStep();
  redraw();
}

// Names and values are text, whatever is in them.
function attributeRow([name, value, note]) {
  const row = document.createElement("tr");
  const cells = [document.createElement("th"), document.createElement("td")];
  cells[0].textContent = name;
  cells[1].textContent = value;
  if (note) {
    const more = document.createElement("small");
    more.textContent = note;
    cells[1].append(more);
  }
  row.append(...cells);
  return row;
}

function step(by) {
  if (!layer.confidences) return;
  const below = layer.below(state.least);
  const from = state.chosen < 0 ? below - 1 : layer.rank[state.chosen];
  const rank = Math.max(below, from + by);
  if (rank >= layer.count) return;
  const index = layer.order[rank];
  const [left, top, right, bottom] = layer.boxOf(index);
  view.x = (left + right) / 2;
  view.y = (top + bottom) / 2;
  view.scale = limitScale(
    Math.min(canvas.width, canvas.height) / CLOSER / Math.max(right - left, bottom - top, 1e-3),
  );
  choose(index);
}

// From the page to device pixels from the middle of the canvas.
function onCanvas(event) {
  const box = canvas.getBoundingClientRect();
  return [
    (event.clientX - box.left) * ratio() - canvas.width / 2,
    (event.clientY - box.top) * ratio() - canvas.height / 2,
  ];
}

function under(event) {
  const [x, y] = onCanvas(event);
  return layer.at(view.x + x / view.scale, view.y + y / view.scale, state.least);
}

function showHover(event) {
  const index = under(event);
  const hover = byId("hover");
  hover.hidden = index < 0;
  if (index < 0) return;
  hover.textContent = layer.attributes(index)
    .filter(([name], column) => (data.hover.length ? data.hover.includes(name) : column < 3))
    .map(([name, value]) => `${name}: ${value}`)
    .join("\n");
  const box = canvas.getBoundingClientRect();
  const left = Math.min(event.clientX - box.left + 14, box.width - hover.offsetWidth - 4);
  const top = Math.min(event.clientY - box.top + 14, box.height - hover.offsetHeight - 4);
  hover.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, top)}px)`;
}

// One finger or the mouse moves, two fingers zoom; what hardly moves is a click.
const pointers = new Map();
let dragged = 0;

function pointerDown(event) {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, onCanvas(event));
  if (pointers.size === 1) dragged = 0;
  byId("hover").hidden = true;
}

function pointerMove(event) {
  if (!pointers.has(event.pointerId)) {
    if (event.pointerType === "mouse") showHover(event);
    return;
  }
  const before = [...pointers.values()];
  const was = pointers.get(event.pointerId);
  const now = onCanvas(event);
  pointers.set(event.pointerId, now);
  dragged += Math.hypot(now[0] - was[0], now[1] - was[1]);
  const after = [...pointers.values()];
  move((now[0] - was[0]) / after.length, (now[1] - was[1]) / after.length);
  if (after.length === 2) {
    const apart = ([a, b]) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    zoom(apart(after) / apart(before), (after[0][0] + after[1][0]) / 2, (after[0][1] + after[1][1]) / 2);
  }
}

function pointerUp(event) {
  if (!pointers.delete(event.pointerId)) return;
  if (event.type === "pointerup" && !pointers.size && dragged < 5 * ratio()) choose(under(event));
}

function toggle(name) {
  byId(name).checked = !byId(name).checked;
  byId(name).dispatchEvent(new Event("change"));
}

const far = () => 0.15 * Math.min(canvas.width, canvas.height);
const KEYS = {
  n: () => step(1),
  p: () => step(-1),
  "+": () => zoom(STEP),
  "=": () => zoom(STEP),
  "-": () => zoom(1 / STEP),
  0: fit,
  f: () => toggle("fill"),
  i: () => toggle("image"),
  Escape: () => choose(-1),
  ArrowLeft: () => move(far(), 0),
  ArrowRight: () => move(-far(), 0),
  ArrowUp: () => move(0, far()),
  ArrowDown: () => move(0, -far()),
};

function keyDown(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const slides = event.target.type === "range" && key.startsWith("Arrow");
  if (!KEYS[key] || slides || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[key]();
}

function listen() {
  canvas.addEventListener("pointerdown", pointerDown);
  canvas.addEventListener("pointermove", pointerMove);
  canvas.addEventListener("pointerup", pointerUp);
  canvas.addEventListener("pointercancel", pointerUp);
  canvas.addEventListener("pointerleave", () => { byId("hover").hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(1.0015 ** -(event.deltaMode ? 33 * event.deltaY : event.deltaY), ...onCanvas(event));
  }, { passive: false });
  canvas.addEventListener("webglcontextlost", () => complain("the browser dropped the map; load the page again"));
  document.addEventListener("keydown", keyDown);
  byId("in").addEventListener("click", () => zoom(STEP));
  byId("out").addEventListener("click", () => zoom(1 / STEP));
  byId("fit").addEventListener("click", fit);
  byId("next").addEventListener("click", () => step(1));
  byId("previous").addEventListener("click", () => step(-1));
  byId("close").addEventListener("click", () => choose(-1));
  byId("least").addEventListener("input", (event) => filterBy(Number(event.target.value)));
  for (const name of ["fill", "image"]) {
    byId(name).addEventListener("change", (event) => {
      state[name] = event.target.checked;
      redraw();
    });
  }
  new ResizeObserver(resize).observe(canvas);
}

function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = false;
}

function prepare() {
  byId("scale").prepend("");
  byId("about").textContent = data.about;
  byId("confidence").hidden = !layer.confidences;
  byId("image").parentElement.hidden = !data.image;
  const slider = byId("least");
  slider.min = layer.confidences && layer.count
    ? Math.floor(100 * layer.confidences[layer.order[0]]) / 100 : 0;
  slider.max = 1;
  slider.value = slider.min;
  state.least = Number(slider.min);
  for (const shade of data.shades) {
    const item = document.createElement("li");
    const box = document.createElement("i");
    box.style.background = `rgb(${shade.rgb})`;
    item.append(box, `${shade.from.toFixed(1)}–${shade.to.toFixed(1)}`);
    byId("legend").append(item);
  }
}

try {
  prepare();
  painter = new Painter(canvas, layer, data.image, data.shades, redraw);
  canvas.width = 0;
  listen();
  showCount();
} catch (error) {
  complain(error.message);
}
