"use strict";

const byId = (id) => document.getElementById(id);
const [file, drop, shown, strip, seed] = ["file", "drop", "shown", "strip", "seed"].map(byId);
const COPIES = 8;
let picture = null;
let asked = 0; // only the newest question is answered

byId("here").textContent = location.href;

function headers() {
  const token = byId("token")?.value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function post(path, query) {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`, { method: "POST", headers: headers(), body: picture });
  if (response.ok) return response;
  let detail = `the server answered ${response.status}`;
  try { detail = (await response.json()).detail ?? detail; } catch { /* not ours: a proxy's own words */ }
  throw new Error(detail);
}

function show(image, blob, alt) {
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.alt = alt;
  image.hidden = false;
}

function percent(p) {
  if (p > 0.999) return "> 99.9 %";
  if (p < 0.001) return "< 0.1 %";
  return `${(100 * p).toFixed(1)} %`;
}

function tell(top) {
  byId("verdict").textContent = `${top[0].class}, ${percent(top[0].probability)}`;
  byId("bars").replaceChildren(...top.map((row) => {
    const line = document.createElement("li");
    const [name, number, meter] = ["span", "span", "meter"].map((tag) => document.createElement(tag));
    name.className = "name";
    name.textContent = row.class;
    number.textContent = percent(row.probability);
    meter.value = row.probability;
    meter.setAttribute("aria-label", `${row.class}: ${percent(row.probability)}`);
    line.append(name, number, meter);
    return line;
  }));
  settle(true);
}

function settle(answered) {
  byId("verdict").hidden = byId("bars").hidden = !answered;
  byId("nothing").hidden = answered;
}

function fail(error) {
  const text = error instanceof TypeError ? "the server does not answer" : error.message;
  byId("error").textContent = `${text[0].toUpperCase()}${text.slice(1)}.`;
  byId("error").hidden = false;
  byId("status").textContent = "";
}

async function drawStrip() {
  const mine = asked;
  const columns = matchMedia("(max-width: 40rem)").matches ? 3 : COPIES + 1;
  const response = await post("augment", { copies: COPIES, columns, seed: seed.value || 0 });
  const blob = await response.blob();
  if (mine !== asked) return;
  show(strip, blob, `The original and ${COPIES} augmented copies, seed ${seed.value}`);
  byId("again").hidden = false;
}

async function ask(given) {
  if (!given) return;
  picture = given;
  const mine = ++asked;
  byId("error").hidden = true;
  byId("status").textContent = "Looking…";
  settle(false);
  strip.hidden = byId("again").hidden = true;
  show(shown, given, "The picture you gave");
  try {
    const response = await post("predict", { top: 5 });
    const { top } = await response.json();
    if (mine !== asked) return;
    tell(top);
    await drawStrip();
    if (mine === asked) byId("status").textContent = `It is most likely ${top[0].class}.`;
  } catch (error) {
    if (mine === asked) fail(error);
  }
}

async function redraw() {
  byId("error").hidden = true;
  byId("next").disabled = true;
  try { await drawStrip(); } catch (error) { fail(error); }
  byId("next").disabled = false;
}

// Of a tiny picture the pixels are what there is to see.
shown.addEventListener("load", () => shown.classList.toggle("pixels", shown.naturalWidth < 100));
// What the browser cannot show, the server may still read: then the words stand alone.
shown.addEventListener("error", () => { shown.hidden = true; });
file.addEventListener("change", () => ask(file.files[0]));
byId("token")?.addEventListener("change", () => ask(picture));
seed.addEventListener("change", redraw);
byId("next").addEventListener("click", () => {
  seed.value = (Number(seed.value) + 1) % 4294967296;
  redraw();
});
for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", over);
  });
}
addEventListener("drop", (event) => ask(event.dataTransfer.files[0]));
addEventListener("paste", (event) => ask(event.clipboardData.files[0]));
