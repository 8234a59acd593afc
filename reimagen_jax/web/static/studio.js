// The studio's page. What is found and drawn comes from the server; moving along a strip asks for nothing.
import { $, $$, call, el, say, tell, typing } from "./base.js";

const ABOUT = {
  image: "The picture is taken towards noise, as far as the strength says, and drawn from there.",
  inpaint: "What you mark is drawn anew; the rest stays as it is.",
  vary: "An image, and others that keep its layout.",
  swap: "The same noise, drawn with other neighbours.",
};
const LACKS = {
  prompt: ["no prompt", "Prompt"], alone: ["no image without neighbours", "Without neighbours"],
  neighbours: ["no neighbours", "Neighbours"], edit: ["no edits", "Edits"], eta: ["no η", "η"],
  text_weight: ["no text weight", "Text weight"], negative: ["nothing to lead away from", "Lead away from"],
};
const WAIT = 350; // milliseconds after the last letter before the knowledge base is asked

const at = (id) => document.getElementById(id);
let state = { models: [], base: null, etas: [], mask: 32 };
let chosen = { pin: [], ban: [], own: [] };
let other = { pin: [], own: [] }; // that is swapped to first: records {key, text, url}, own pictures
let hits = [];
let current = null; // the drawing that is shown
let selected = 0; // its image
let picture = null; // that is drawn on
let pending = null; // the job that this page waits for
let warmed = new Set();
const jobs = new Map();
const history = new Map();

// --- the form ---------------------------------------------------------------------------------------------------------

const model = () => state.models.find((each) => each.label === at("model").value) ?? state.models[0];
const kind = () => $("input[name=kind]:checked").value;
const number = (id) => (at(id).value === "" ? null : Number(at(id).value));

function chosenNow() {
  if (!model().neighbours) return { query: "", k: 0, own: [], pin: [], ban: [] };
  return {
    query: at("query").value.trim(),
    k: Math.max(0, Math.min(16, number("k") ?? 0)),
    own: captioned(chosen.own),
    pin: chosen.pin,
    ban: chosen.ban,
  };
}

const captioned = (own) => own.filter((each) => each.caption.trim() !== "").map(({ picture, caption }) => ({ picture, caption }));

function asked() {
  const own = model();
  const what = {
    model: own.label, prompt: at("prompt").value, chosen: chosenNow(), kind: kind(),
    negative: own.negative ? at("negative").value : "",
    seed: number("seed") ?? 0, num_images: number("num-images") ?? 1, strength: Number(at("strength").value),
  };
  if (own.text_weight !== null) what.text_weight = number("text-weight");
  if (own.neighbour_weight !== null) what.neighbour_weight = number("neighbour-weight");
  if (own.steps !== null) what.steps = number("steps");
  if (own.solver !== null) what.solver = at("solver").value;
  if (what.kind !== "draw" && own.eta !== null) what.eta = Number(at("edit-eta").value);
  if (what.kind === "image" || what.kind === "inpaint") what.picture = picture?.picture ?? "";
  if (what.kind === "inpaint") what.mask = mask.text();
  if (what.kind === "swap") {
    what.to_prompt = at("to-prompt").value.trim();
    const pin = other.pin.map((each) => each.key);
    what.to = { query: at("to-query").value.trim(), k: Math.max(1, what.chosen.k), own: captioned(other.own), pin, ban: chosen.ban };
  }
  return what;
}

/** Settings of a drawing, in the form; `others` are the neighbours that it was swapped to. */
function fill(what, others) {
  const same = state.models.some((each) => each.label === what.model);
  if (same) at("model").value = what.model;
  modelChanged();
  at("prompt").value = what.prompt;
  at("negative").value = what.negative;
  at("query").value = what.chosen.query;
  at("k").value = what.chosen.k;
  at("seed").value = what.seed;
  at("num-images").value = what.num_images;
  at("strength").value = what.strength;
  for (const [id, value] of [["text-weight", what.text_weight], ["neighbour-weight", what.neighbour_weight], ["steps", what.steps], ["solver", what.solver]]) {
    if (value !== null) at(id).value = value;
  }
  if (what.eta !== null) at("edit-eta").value = what.eta;
  chosen = {
    pin: [...what.chosen.pin], ban: [...what.chosen.ban],
    own: what.chosen.own.map((each) => ({ ...each, url: `/api/pictures/${each.picture}` })),
  };
  at("to-prompt").value = what.to_prompt;
  at("to-query").value = what.to?.query ?? "";
  other = {
    own: (what.to?.own ?? []).map((each) => ({ ...each, url: `/api/pictures/${each.picture}` })),
    pin: (what.to?.pin ?? []).map((key) => others.find((hit) => hit.key === key && !hit.own) ?? { key, text: key, url: "" }),
  };
  showOther();
  if (what.picture) picture = { picture: what.picture, url: `/api/pictures/${what.picture}`, name: "" };
  $(`input[name=kind][value=${what.kind}]`).checked = true;
  if (what.mask) mask.read(what.mask);
  kindChanged();
  look(0);
}

function modelChanged() {
  const own = model();
  if (!own) return;
  for (const id of ["text-weight", "neighbour-weight", "steps", "solver"]) {
    const value = own[id.replace("-", "_")];
    at(`${id}-part`).hidden = value === null;
    if (id === "solver") at(id).replaceChildren(...own.solvers.map((name) => el("option", { value: name }, name)));
    if (value !== null) at(id).value = value;
  }
  at("k").value = own.k;
  at("found").hidden = !own.neighbours;
  at("negative-part").hidden = !own.negative;
  if (own.eta !== null) at("edit-eta").value = own.eta;
  for (const radio of $$("input[name=kind]")) radio.disabled = !own.kinds.includes(radio.value);
  if ($("input[name=kind]:checked").disabled) $("input[name=kind][value=draw]").checked = true;
  at("modes").hidden = own.kinds.length < 2;
  at("onto").hidden = !own.kinds.includes("image");
  at("empty-about").textContent = aboutStrip(own);
  showLacks(own);
  showTries(own);
  kindChanged();
}

function aboutStrip(own) {
  const beside = own.without ? ", beside what the same weights draw without neighbours" : "";
  if (own.eta !== null) return `The strip shows it from all neighbours (η 0) to all text (η 1)${beside}.`;
  return own.neighbours ? `It is drawn from its neighbours${beside}.` : "It is drawn from the prompt alone.";
}

function aboutDraw(own) {
  if (!own || own.eta !== null) return "From all neighbours to all text, from the same noise.";
  return own.without ? "From its neighbours, and from the same noise without them." : "From its neighbours.";
}

/** What a system cannot do, and why: its controls are not there. Without neighbours there is no eta between them. */
function showLacks(own) {
  const names = Object.keys(LACKS).filter((name) => own.lacks[name] && !(name === "eta" && own.lacks.neighbours));
  at("lacks").hidden = names.length === 0;
  at("lacks-said").textContent = `It has ${names.map((name) => LACKS[name][0]).join(", ")}`;
  at("lacks-why").replaceChildren(...names.map((name) => el("li", {}, el("b", {}, `${LACKS[name][1]}: `), own.lacks[name])));
}

function showTries(own) {
  const tries = own.prompts?.length ? own.prompts.map((prompt) => ({ prompt, query: "" })) : state.examples;
  at("tries").replaceChildren(...tries.map(({ prompt, query }) => el("button", { type: "button", title: prompt, onclick: () => { at("prompt").value = prompt; at("query").value = query; look(0); } }, prompt)));
}

function kindChanged() {
  const now = kind(), own = model();
  at("kind-about").textContent = ABOUT[now] ?? aboutDraw(own);
  at("canvas-part").hidden = now !== "image" && now !== "inpaint";
  at("swap-part").hidden = now !== "swap";
  at("strength-part").hidden = !["image", "inpaint", "vary"].includes(now);
  at("eta-part").hidden = now === "draw" || own?.eta === null;
  mask.show();
  told();
}

function told() {
  at("strength-said").textContent = Number(at("strength").value).toFixed(2);
  at("edit-eta-said").textContent = Number(at("edit-eta").value).toFixed(1);
}

// --- what is found ----------------------------------------------------------------------------------------------------

let looking = null, later = null, ready = null;

function look(wait = WAIT) {
  clearTimeout(later);
  later = setTimeout(lookNow, wait);
}

async function lookNow() {
  looking?.abort();
  looking = new AbortController();
  const own = model(), prompt = at("prompt").value;
  if (!own || prompt.trim() === "" || !own.neighbours) {
    hits = [];
    showHits(own?.neighbours && state.base ? "Write a prompt: its neighbours appear here." : "");
    if (own && !own.neighbours) warmSoon(0);
    return;
  }
  try {
    const what = { model: own.label, prompt, chosen: chosenNow() };
    const found = await call("POST", "/api/search", what, { signal: looking.signal });
    hits = found.neighbours;
    const left = Object.entries(found.left_out).map(([why, count]) => `${count} ${why}`).join(", ");
    const none = own.without ? "Nothing is found: it is drawn from the text alone." : "Nothing is found, and it draws from neighbours alone.";
    const few = hits.length === 0 ? none : `${hits.length} for “${found.query}”`;
    const unknown = hits.find((hit) => hit.unknown.length)?.unknown ?? []; // of what is asked, so the same for all
    const parts = [few, left && `left out: ${left}`, unknown.length && `in no caption: ${unknown.join(", ")}`];
    showHits(parts.filter(Boolean).join("; "));
    warmSoon(hits.length);
  } catch (error) {
    if (error.name === "AbortError") return;
    hits = [];
    showHits(error.message);
  }
}

function warmSoon(k) {
  clearTimeout(ready);
  ready = setTimeout(() => warm(k), 4 * WAIT);
}

function showHits(about) {
  const focus = document.activeElement?.closest?.(".hit") ? document.activeElement : null;
  const key = focus?.closest(".hit").dataset.key, act = focus?.dataset.act;
  at("found-about").textContent = about;
  const waiting = chosen.own.filter((each) => !hits.some((hit) => hit.own === each.picture));
  const cards = [...waiting.map(ownCard), ...hits.map((hit, i) => (hit.own ? ownCard(chosen.own.find((each) => each.picture === hit.own), hit) : hitCard(hit, i)))];
  at("hits").replaceChildren(...cards);
  at("banned").hidden = chosen.ban.length === 0;
  $("#banned ul").replaceChildren(...chosen.ban.map((banned) => el("li", {}, el("button", { type: "button", class: "small", onclick: () => unban(banned), "aria-label": `Allow ${banned} again` }, `${banned} ×`))));
  if (key === undefined) return;
  const card = $$(".hit").find((each) => each.dataset.key === key) ?? $(".hit");
  ((act && card && $(`[data-act="${act}"]`, card)) ?? card)?.focus();
}

function tool(act, label, text, action, more = {}) {
  return el("button", { type: "button", "data-act": act, "aria-label": label, title: label, onclick: action, ...more }, text);
}

function hitCard(hit, i) {
  const words = hit.words.map(([word, score, documents]) => el("span", { class: "word", title: `adds ${score}; in ${documents} captions` }, word));
  const why = el("p", { class: "why" });
  if (hit.score !== null) why.append(el("b", {}, hit.score.toFixed(2)), " ");
  why.append(...(words.length ? words : ["no word in common"]));
  const rightsText = Object.entries(hit.rights).map(([name, value]) => `${name}: ${value}`).join(", ");
  return el("li", { class: `hit${hit.pinned ? " pinned" : ""}`, tabindex: "0", "data-key": hit.key, draggable: "true", "aria-label": `${i + 1}: ${hit.text}${hit.pinned ? ", pinned" : ""}` },
    el("img", { src: hit.url, alt: hit.text, class: "pixels" }),
    el("div", {}, el("p", { class: "text" }, hit.text), why, rightsText ? el("p", { class: "why" }, rightsText) : null),
    el("div", { class: "tools" },
      tool("pin", `Pin ${hit.key}`, hit.pinned ? "Pinned" : "Pin", () => pin(hit.key), { "aria-pressed": String(hit.pinned) }),
      tool("ban", `Ban ${hit.key}`, "Ban", () => ban(hit.key)),
      tool("up", "Move up", "↑", () => move(hit.key, -1)),
      tool("down", "Move down", "↓", () => move(hit.key, 1)),
      kind() === "swap" ? tool("to", `Swap to ${hit.key}`, "Swap to", () => swapTo(hit)) : null,
      el("span", { class: "key", title: hit.key }, hit.key)));
}

function ownCard(own, hit) {
  const caption = el("input", { value: own.caption, placeholder: "What it shows", "aria-label": "Caption of your picture", maxlength: "2000", "data-act": "caption" });
  caption.addEventListener("input", () => { own.caption = caption.value; look(); });
  return el("li", { class: `hit own${hit ? "" : " unused"}`, "data-key": `own ${own.picture}`, "aria-label": `Your picture: ${own.caption || "without a caption yet"}` },
    el("img", { src: own.url, alt: own.caption || "your picture", class: "pixels" }),
    el("div", {}, caption, el("p", { class: "why" }, hit ? "your own" : own.caption.trim() ? "more than there is room for" : "needs a caption")),
    el("div", { class: "tools" },
      tool("remove", "Remove your picture", "Remove", () => { chosen.own = chosen.own.filter((each) => each !== own); look(0); }),
      tool("up", "Move up", "↑", () => moveOwn(own, -1)), tool("down", "Move down", "↓", () => moveOwn(own, 1))));
}

function pin(key) {
  chosen.pin = chosen.pin.includes(key) ? chosen.pin.filter((each) => each !== key) : [...chosen.pin, key];
  look(0);
}

function ban(key) {
  chosen.pin = chosen.pin.filter((each) => each !== key);
  other.pin = other.pin.filter((each) => each.key !== key);
  showOther();
  chosen.ban = [...new Set([...chosen.ban, key])];
  say(`${key} is not found any more`);
  look(0);
}

function unban(key) {
  chosen.ban = chosen.ban.filter((each) => each !== key);
  look(0);
}

/** Moves a neighbour; whatever stands up to there is pinned, so that it stays in this order. */
function move(key, by) {
  const order = hits.filter((hit) => !hit.own).map((hit) => hit.key);
  const from = order.indexOf(key), to = Math.max(0, Math.min(order.length - 1, from + by));
  if (from === to) return;
  order.splice(to, 0, ...order.splice(from, 1));
  const last = Math.max(from < to ? to - 1 : to, ...chosen.pin.map((each) => order.indexOf(each)));
  chosen.pin = order.slice(0, last + 1);
  say(`now number ${to + 1}`);
  look(0);
}

function moveOwn(own, by) {
  const from = chosen.own.indexOf(own), to = Math.max(0, Math.min(chosen.own.length - 1, from + by));
  chosen.own.splice(to, 0, ...chosen.own.splice(from, 1));
  look(0);
}

at("hits").addEventListener("keydown", (event) => {
  const card = event.target.closest(".hit"), key = card?.dataset.key;
  if (!card || event.target.matches("input")) return;
  if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) move(key, event.key === "ArrowUp" ? -1 : 1);
  else if (event.altKey || event.ctrlKey || event.metaKey) return;
  else if (event.key === "p") pin(key);
  else if (event.key === "b") ban(key);
  else if (event.key === "ArrowUp" || event.key === "ArrowLeft") (card.previousElementSibling ?? card).focus();
  else if (event.key === "ArrowDown" || event.key === "ArrowRight") (card.nextElementSibling ?? card).focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
});

let dragged = null;
at("hits").addEventListener("dragstart", (event) => { dragged = event.target.closest(".hit")?.dataset.key ?? null; });
at("hits").addEventListener("dragend", () => { dragged = null; });
at("hits").addEventListener("dragover", (event) => { if (dragged) event.preventDefault(); });
at("hits").addEventListener("drop", (event) => {
  const onto = event.target.closest(".hit")?.dataset.key, order = hits.filter((hit) => !hit.own).map((hit) => hit.key);
  if (!dragged || !order.includes(onto)) return;
  event.preventDefault();
  move(dragged, order.indexOf(onto) - order.indexOf(dragged));
});

// --- pictures of one's own --------------------------------------------------------------------------------------------

async function send(blob, name) {
  if (blob.size > state.largest) throw new Error(`The picture has more than ${state.largest / 2 ** 20} MiB, which is what is taken here at most.`);
  return call("POST", `/api/pictures?name=${encodeURIComponent(name)}`, blob);
}

async function addOwn(file) {
  const sent = await tell(() => send(file, file.name));
  if (!sent) return;
  if (!chosen.own.some((each) => each.picture === sent.picture)) chosen.own.push({ picture: sent.picture, url: sent.url, caption: "" });
  showHits(at("found-about").textContent);
  const card = $$(".hit.own").find((each) => each.dataset.key === `own ${sent.picture}`);
  $("input", card)?.focus();
  say("Say what your picture shows: it is drawn with its caption.");
}

/** A record that is swapped to, beside those found for the other prompt. */
function swapTo({ key, text, url }) {
  if (!other.pin.some((each) => each.key === key)) other.pin.push({ key, text, url });
  showOther();
  say(`It is swapped to ${key}`);
}

async function addOther(file) {
  const sent = await tell(() => send(file, file.name));
  if (!sent) return;
  if (!other.own.some((each) => each.picture === sent.picture)) other.own.push({ picture: sent.picture, url: sent.url, caption: "" });
  showOther();
  $$("#to-list input").find((each) => each.dataset.picture === sent.picture)?.focus();
  say("Say what your picture shows: it is drawn with its caption.");
}

function showOther() {
  const remove = (what, drop) => el("button", { type: "button", class: "small", "aria-label": `Do not swap to ${what}`, onclick: () => { drop(); showOther(); } }, "Remove");
  const own = other.own.map((each) => {
    const caption = el("input", { value: each.caption, placeholder: "What it shows", "aria-label": "Caption of your picture to swap to", maxlength: "2000", "data-picture": each.picture });
    caption.addEventListener("input", () => { each.caption = caption.value; });
    return el("li", {}, el("img", { src: each.url, alt: "your picture to swap to", class: "pixels" }), caption,
      remove("your picture", () => { other.own = other.own.filter((one) => one !== each); }));
  });
  const pinned = other.pin.map((each) => el("li", {}, el("img", { src: each.url || null, alt: "", class: "pixels" }), el("span", {}, each.text),
    remove(each.key, () => { other.pin = other.pin.filter((one) => one !== each); })));
  at("to-list").replaceChildren(...own, ...pinned);
}

async function drawOn(blob, name) {
  const sent = await tell(() => send(blob, name));
  if (!sent) return;
  picture = sent;
  mask.clear();
  mask.show();
}

function drops(zone, take) {
  zone.addEventListener("dragover", (event) => { if (!dragged) { event.preventDefault(); zone.classList.add("over"); } });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    const file = event.dataTransfer?.files?.[0];
    if (!file) return;
    event.preventDefault();
    take(file);
  });
}

function chooses(button, input, take) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => { if (input.files[0]) take(input.files[0]); input.value = ""; });
}

// --- the mask ---------------------------------------------------------------------------------------------------------

const mask = {
  cells: new Uint8Array(32 * 32), x: 16, y: 16, image: null, url: "",
  get side() { return state.mask; },
  text() { return [...this.cells].join(""); },
  read(text) { this.cells = Uint8Array.from(text, Number); },
  clear() { this.cells = new Uint8Array(this.side ** 2); this.paint(); },
  show() {
    const into = kind() === "inpaint";
    at("canvas").hidden = picture === null;
    at("picture-none").hidden = picture !== null;
    at("picture-choose").textContent = picture === null ? "Choose a picture" : "Another picture";
    at("mask-tools").hidden = picture === null || !into;
    if (picture && this.url !== picture.url) {
      this.url = picture.url;
      this.image = new Image();
      this.image.onload = () => this.paint();
      this.image.onerror = () => say("The picture is not here any more: give it again.", { wrong: true });
      this.image.src = picture.url;
    }
    this.paint();
  },
  paint() {
    const canvas = at("canvas"), pen = canvas.getContext("2d"), size = canvas.width, cell = size / this.side;
    pen.clearRect(0, 0, size, size);
    pen.imageSmoothingEnabled = (this.image?.naturalWidth ?? 0) > 128;
    if (this.image?.complete && this.image.naturalWidth) pen.drawImage(this.image, 0, 0, size, size);
    if (kind() !== "inpaint") return;
    pen.fillStyle = "rgb(255 255 255 / 0.72)";
    this.cells.forEach((on, i) => { if (on) pen.fillRect((i % this.side) * cell, Math.floor(i / this.side) * cell, cell, cell); });
    if (document.activeElement === canvas) {
      pen.lineWidth = 2;
      pen.strokeStyle = "#000"; pen.strokeRect(this.x * cell, this.y * cell, cell, cell);
      pen.strokeStyle = "#fff"; pen.strokeRect(this.x * cell - 2, this.y * cell - 2, cell + 4, cell + 4);
    }
  },
  mark(x, y, on) {
    const reach = Number(at("brush").value) - 1;
    for (let j = Math.max(0, y - reach); j <= Math.min(this.side - 1, y + reach); j++) {
      for (let i = Math.max(0, x - reach); i <= Math.min(this.side - 1, x + reach); i++) {
        if ((i - x) ** 2 + (j - y) ** 2 <= (reach + 0.5) ** 2) this.cells[j * this.side + i] = on;
      }
    }
    this.paint();
  },
  under(event) {
    const box = at("canvas").getBoundingClientRect();
    const of = (place, start, length) => Math.max(0, Math.min(this.side - 1, Math.floor(((place - start) / length) * this.side)));
    return [of(event.clientX, box.left, box.width), of(event.clientY, box.top, box.height)];
  },
};

let marking = null;
at("canvas").addEventListener("pointerdown", (event) => {
  if (kind() !== "inpaint") return;
  const [x, y] = mask.under(event);
  marking = event.shiftKey || event.button === 2 ? 0 : 1;
  at("canvas").setPointerCapture(event.pointerId);
  mask.mark(x, y, marking);
});
at("canvas").addEventListener("pointermove", (event) => { if (marking !== null) mask.mark(...mask.under(event), marking); });
at("canvas").addEventListener("pointerup", () => { marking = null; });
at("canvas").addEventListener("contextmenu", (event) => event.preventDefault());
for (const name of ["focus", "blur"]) at("canvas").addEventListener(name, () => mask.paint());
at("canvas").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (kind() !== "inpaint" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (by) {
    mask.x = Math.max(0, Math.min(mask.side - 1, mask.x + by[0]));
    mask.y = Math.max(0, Math.min(mask.side - 1, mask.y + by[1]));
    mask.paint();
  } else if (event.key === " ") {
    mask.mark(mask.x, mask.y, mask.cells[mask.y * mask.side + mask.x] ? 0 : 1);
  } else return;
  event.preventDefault();
  event.stopPropagation();
});
at("mask-clear").addEventListener("click", () => mask.clear());
at("mask-invert").addEventListener("click", () => { mask.cells = mask.cells.map((on) => 1 - on); mask.paint(); });

// --- drawing ----------------------------------------------------------------------------------------------------------

async function draw() {
  if (!at("form").reportValidity()) return;
  const job = await tell(() => call("POST", "/api/drawings", asked()));
  if (!job) return;
  pending = job.number;
  jobs.set(job.number, jobs.get(job.number) ?? job);
  showJobs();
}

async function warm(k) {
  const own = model(), key = [own.label, k, at("steps").value, at("solver").value].join();
  if (warmed.has(key) || jobs.size > 0) return;
  warmed.add(key);
  const what = { model: own.label, k };
  if (own.steps !== null) what.steps = number("steps");
  if (own.solver !== null) what.solver = at("solver").value;
  await tell(() => call("POST", "/api/warm", what));
}

const cancel = (number) => tell(() => call("DELETE", `/api/jobs/${number}`));

function cancelMine() {
  const mine = pending ?? [...jobs.values()].at(-1)?.number;
  if (mine !== undefined && mine !== null) cancel(mine);
}

function showJobs() {
  const shown = [...jobs.values()];
  at("queue").replaceChildren(...shown.map((job) => el("span", { class: "job" },
    el("span", {}, `${job.state === "waiting" ? "waits" : job.steps ? `${job.step} of ${job.steps}` : "starts"}: ${job.title}`),
    el("button", { type: "button", class: "plain", "aria-label": `Cancel: ${job.title}`, onclick: () => cancel(job.number) }, "×"))));
  const mine = jobs.get(pending);
  at("cancel").disabled = shown.length === 0;
  at("progress").hidden = !mine;
  at("empty").hidden = Boolean(mine) || current !== null;
  if (!mine) return;
  const before = shown.findIndex((job) => job.number === pending);
  at("bar").max = mine.steps || 1;
  if (mine.steps) at("bar").value = mine.step;
  else at("bar").removeAttribute("value");
  at("progress-said").textContent = mine.state === "waiting" ? `Waits for ${before || 1} before it`
    : mine.step === 0 ? "Getting ready: a program that is new is compiled once" : `Step ${mine.step} of ${mine.steps}`;
}

function happened({ job, waiting, jobs: all }) {
  if (all) {
    jobs.clear();
    for (const each of all) jobs.set(each.number, each);
    if (pending !== null && !jobs.has(pending)) tell(load);
    showJobs();
    return;
  }
  if (job.state === "running" || job.state === "waiting") jobs.set(job.number, job);
  else jobs.delete(job.number);
  for (const each of jobs.values()) if (each.state === "waiting" && !waiting.includes(each.number) && each.number !== job.number) jobs.delete(each.number);
  const mine = job.number === pending;
  if (mine && !jobs.has(job.number)) pending = null;
  if (job.state === "failed") say(job.error, { wrong: true });
  if (job.state === "cancelled" && job.about.kind !== "warm") say("Cancelled");
  if (job.state === "done" && job.about.kind === "reproduce") {
    const { equal, most, mean } = job.result;
    say(equal ? "Drawn again: equal, bit for bit" : `Drawn again: it differs by up to ${most} grey levels, ${mean.toFixed(3)} on average`, { seconds: 8 });
  } else if (job.state === "done" && job.result?.images) {
    history.set(job.result.number, job.result);
    showHistory();
    if (mine || current === null) show(job.result);
  }
  showJobs();
}

// --- what was drawn ---------------------------------------------------------------------------------------------------

const pixels = (drawing) => (drawing.resolution < 128 ? "pixels" : "");

function show(drawing) {
  const eta = current?.images[selected]?.eta ?? state.models.find((each) => each.label === drawing.model)?.eta ?? 0.5;
  current = drawing;
  const etas = drawing.images.map((image) => image.eta ?? -9);
  const near = etas.reduce((best, value, i) => (Math.abs(value - eta) < Math.abs(etas[best] - eta) ? i : best), 0);
  const own = drawing.images.flatMap((image, i) => (image.without ? [] : [i]));
  const second = drawing.asked.kind === "vary" || drawing.asked.kind === "swap"; // the first is what it comes from
  selected = drawing.asked.kind === "draw" && etas[near] >= 0 ? near : own[second ? 1 : 0] ?? own[0] ?? 0;
  at("empty").hidden = true;
  at("stage").hidden = false;
  at("result-title").textContent = drawing.asked.prompt;
  const found = drawing.neighbours.length;
  at("result-about").textContent = `${found === 1 ? "1 neighbour" : `${found} neighbours`}, seed ${drawing.asked.seed}, ${drawing.model}, ${drawing.seconds} s`;
  const rows = Map.groupBy ? Map.groupBy(drawing.images, (image) => image.row) : grouped(drawing.images);
  at("strip").replaceChildren(...[...rows.values()].map((row) => el("div", { class: "line" }, row.map((image) => {
    const i = drawing.images.indexOf(image);
    return el("button", { type: "button", class: image.without ? "without" : "", "data-n": String(i), "aria-label": `${image.label}, row ${image.row + 1}`, onclick: () => select(i) },
      el("img", { src: image.url, alt: "", class: pixels(drawing) }), image.without ? "without" : image.label);
  }))));
  at("files").replaceChildren(...drawing.files.map((name) => el("a", { href: `/api/drawings/${drawing.number}/files/${encodeURIComponent(name)}`, download: name }, name)));
  at("slider-part").hidden = !drawing.images.some((image) => image.eta !== null) || drawing.asked.kind !== "draw";
  select(selected);
  showHistory();
}

function grouped(images) {
  const rows = new Map();
  for (const image of images) rows.set(image.row, [...(rows.get(image.row) ?? []), image]);
  return rows;
}

function select(i) {
  selected = i;
  const image = current.images[i], drawing = current, asked = drawing.asked;
  const figure = (label, url, alt) => el("figure", {}, el("figcaption", {}, el("b", {}, label)), el("img", { src: url, alt, class: pixels(drawing) }));
  const drawn = (each) => figure(each.without && each !== image ? "without neighbours" : each.label, each.url, `${asked.prompt}, ${each.label}`);
  const before = asked.kind === "image" || asked.kind === "inpaint" ? [figure("before", `/api/pictures/${asked.picture}`, "the picture before")] : [];
  at("pair").replaceChildren(...before, ...besideOf(drawing, image).map(drawn), drawn(image));
  for (const button of $$("#strip button")) button.setAttribute("aria-pressed", String(Number(button.dataset.n) === i));
  $("#strip [aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (image.eta !== null) {
    at("eta").value = image.eta;
    at("eta").setAttribute("aria-valuetext", `eta ${image.eta}`);
  }
  at("command").textContent = image.command;
  for (const ending of ["png", "json"]) {
    at(`save-${ending}`).href = `${image.url.replace(/png$/, ending)}?save`;
    at(`save-${ending}`).setAttribute("download", `${image.file}.${ending}`);
  }
}

/** What stands beside an image: in an edit, the one that it comes from; and the same without neighbours. */
function besideOf(drawing, image) {
  const row = drawing.images.filter((each) => each.row === image.row), edit = drawing.asked.kind === "vary" || drawing.asked.kind === "swap";
  const same = image.without && drawing.asked.kind !== "draw" ? row.find((each) => each.beside === drawing.images.indexOf(image)) : null;
  const others = [edit ? row[0] : null, drawing.images[image.beside] ?? same];
  return [...new Set(others)].filter((each) => each && each !== image);
}

/** Along the strip, or to another row. */
function step(across, down) {
  if (!current) return;
  const image = current.images[selected];
  const row = current.images.filter((each) => each.row === image.row && (current.asked.kind !== "draw" || !each.without || across === 0));
  if (down) {
    const names = current.images.filter((each) => each.name === image.name), now = names.indexOf(image);
    const next = names[now + down];
    if (next) select(current.images.indexOf(next));
  } else {
    const next = row[Math.max(0, Math.min(row.length - 1, row.indexOf(image) + across))];
    if (next) select(current.images.indexOf(next));
  }
}

function showHistory() {
  const past = [...history.values()].reverse();
  at("history-part").hidden = past.length === 0;
  at("history").replaceChildren(...past.map((drawing) => {
    const own = drawing.asked.kind === "draw" ? drawing.images : drawing.images.filter((image) => !image.without);
    const some = new Set([own[0], own[Math.ceil((own.length - 1) / 2)]]);
    return el("li", {}, el("button", { type: "button", "aria-current": current?.number === drawing.number ? "true" : null, onclick: () => { show(drawing); at("result").scrollIntoView({ block: "start" }); } },
      el("span", { class: "thumbs" }, [...some].map((image) => el("img", { src: image.url, alt: "", class: pixels(drawing) }))),
      el("span", {}, el("span", { class: "text" }, drawing.asked.prompt), el("small", {}, `${drawing.asked.kind === "draw" ? "" : `${drawing.asked.kind}, `}seed ${drawing.asked.seed}, ${drawing.neighbours.length} nbr.`))));
  }));
}

async function reproduce() {
  if (current) await tell(() => call("POST", `/api/drawings/${current.number}/reproduce`));
}

// --- keys and the rest ------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (at("keys").open) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") { event.preventDefault(); draw(); return; }
  if (event.key === "Escape" && jobs.size > 0) { event.preventDefault(); cancelMine(); return; }
  if (typing(event) || event.target.matches("canvas, select")) return;
  const range = event.target.matches("input");
  const actions = {
    "/": () => at("prompt").focus(), "?": () => at("keys").showModal(), n: () => ($(".hit[tabindex]") ?? at("query")).focus(),
    r: reproduce, s: () => { otherSeed(); draw(); },
    ArrowLeft: range ? null : () => step(-1, 0), ArrowRight: range ? null : () => step(1, 0),
    ArrowUp: range ? null : () => step(0, -1), ArrowDown: range ? null : () => step(0, 1),
  };
  const action = actions[event.key];
  if (!action || (event.key.startsWith("Arrow") && !current)) return;
  event.preventDefault();
  action();
});

const otherSeed = () => { at("seed").value = Math.floor(Math.random() * 2 ** 32); };

at("form").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
at("form").addEventListener("invalid", () => { at("more").open = true; }, true);
at("cancel").addEventListener("click", cancelMine);
at("dice").addEventListener("click", otherSeed);
at("keys-open").addEventListener("click", () => at("keys").showModal());
at("reproduce").addEventListener("click", reproduce);
at("again").addEventListener("click", () => { fill(current.asked, current.others); say("The form has its settings"); });
at("onto").addEventListener("click", async () => {
  const image = current.images[selected];
  await tell(async () => drawOn(await (await fetch(image.url)).blob(), `${image.file}.png`));
  if (kind() !== "inpaint") $("input[name=kind][value=image]").checked = true;
  kindChanged();
  at("form").scrollIntoView({ block: "start" });
});
at("copy").addEventListener("click", () => tell(async () => { await navigator.clipboard.writeText(at("command").textContent); say("Copied"); }));
at("eta").addEventListener("input", () => {
  const row = current.images[selected].row, eta = Number(at("eta").value);
  select(current.images.findIndex((image) => image.row === row && image.eta !== null && Math.abs(image.eta - eta) < 0.01));
});
at("model").addEventListener("change", () => { modelChanged(); look(0); });
for (const radio of $$("input[name=kind]")) radio.addEventListener("change", () => { kindChanged(); showHits(at("found-about").textContent); });
for (const id of ["prompt", "query", "k"]) at(id).addEventListener("input", () => look());
for (const id of ["strength", "edit-eta"]) at(id).addEventListener("input", told);
drops(at("found"), addOwn);
drops(at("to-drop"), addOther);
drops(at("picture-drop"), (file) => drawOn(file, file.name));
chooses(at("own-add"), at("own-file"), addOwn);
chooses(at("to-add"), at("to-file"), addOther);
chooses(at("picture-choose"), at("picture-file"), (file) => drawOn(file, file.name));

async function load() {
  const before = state;
  state = await call("GET", "/api/state");
  for (const drawing of state.history) history.set(drawing.number, drawing);
  showHistory();
  if (before.models.length) return;
  at("model").replaceChildren(...state.models.map((each) => el("option", { value: each.label }, each.label)));
  at("model-part").hidden = state.models.length < 2;
  const records = state.base ? `${state.base.records.toLocaleString("en")} records to look in` : "no knowledge base: give pictures of your own";
  at("about").textContent = `${state.models.map((each) => each.names.join(" + ")).join(", ")} · ${records}`;
  at("query-part").hidden = !state.base;
  modelChanged();
  if (state.history.length && !current) show(state.history.at(-1));
  await warm(model().neighbours && state.base ? model().k : 0);
  look(0);
}

const source = new EventSource("/api/events");
source.addEventListener("message", (event) => happened(JSON.parse(event.data)));
source.addEventListener("open", () => tell(load));
