// The page of `reimagen rate`. What is stored is what the server has said that it stored; a task is left only then.
import { $, $$, call, el, say, tell, typing } from "./base.js";

const SECTIONS = ["start", "known", "task", "end"];
const KEYS = { a: ["photorealism", "0"], s: ["photorealism", "1"], k: ["faithfulness", "0"], l: ["faithfulness", "1"] };
const task = $("#task");
let state = null;
let busy = false;
let name = "";

function show(section, focus) {
  for (const each of SECTIONS) document.getElementById(each).hidden = each !== section;
  const rating = section === "task" || section === "end";
  for (const each of ["#who", "#done", "#progress", "#undo"]) $(each).hidden = !rating;
  focus?.focus({ preventScroll: true });
  scrollTo(0, 0);
}

/** One thing at a time: what is pressed meanwhile does nothing. */
async function alone(action) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  await tell(action);
  busy = false;
  document.body.removeAttribute("aria-busy");
}

function picture(src, alt) {
  const image = el("img", { alt, src, decoding: "sync" });
  const crisp = () => image.classList.toggle("pixels", image.naturalWidth > 0 && image.naturalWidth <= 256);
  image.addEventListener("load", crisp);
  image.addEventListener("error", () => say(`${alt} could not be loaded: load the page again`, { wrong: true }));
  crisp();
  return image;
}

function shown(now) {
  state = now;
  sessionStorage.setItem("rater", now.rater.name);
  localStorage.setItem("rater", now.rater.name);
  const { rated, of, last } = now.progress;
  $("#who").textContent = now.rater.name;
  $("#done").textContent = `${rated} of ${of} stored`;
  $("#progress").max = Math.max(of, 1);
  $("#progress").value = rated;
  $("#undo").disabled = last === null;
  if (now.task === null) {
    $("#end-text").textContent = `${now.rater.name}, all ${of} of your verdicts are stored. You may close this page, or take the last one back.`;
    show("end", $("#end-title"));
  } else {
    ask(now.task);
    for (const src of now.ahead) new Image().src = src;
  }
}

function ask(asked) {
  const several = asked.pictures.length > 1;
  task.reset();
  keys(); // its switch is in the form, too
  $("#prompt").textContent = asked.prompt;
  $("#shown").hidden = asked.references.length === 0;
  $("#references").replaceChildren(...asked.references.map(({ src, caption }) => el("li", {},
    el("button", { type: "button", "aria-label": `Larger: ${caption}`, onclick: () => zoom(src, caption) }, picture(src, caption)),
    el("p", { title: caption }, caption))));
  $("#pictures-title").textContent = several ? "Choose the best, rate that one" : "The picture";
  const place = $("#pictures");
  place.className = [1, 2, 3, 4].includes(asked.pictures.length) ? `of-${asked.pictures.length}` : "of-many";
  if (several) {
    place.setAttribute("role", "radiogroup");
    place.setAttribute("aria-labelledby", "pictures-title");
  } else {
    place.removeAttribute("role");
    place.removeAttribute("aria-labelledby");
  }
  place.replaceChildren(...asked.pictures.map((src, i) => el(several ? "label" : "div", { class: "picture" },
    picture(src, several ? `Picture ${i + 1}` : "The picture to rate"),
    several && el("input", { type: "radio", name: "chosen", value: String(i), "aria-label": `Picture ${i + 1} is the best` }),
    several && el("span", { class: "which", "aria-hidden": "true" }, String(i + 1)))));
  if (asked.before) {
    for (const [question, value] of Object.entries(asked.before)) choose(question, String(value));
  }
  missing();
  show("task", $("#prompt"));
}

function choose(question, value) {
  const found = $(`input[name="${question}"][value="${value}"]`, task);
  if (found) found.checked = true;
  missing();
}

function answers() {
  const told = Object.fromEntries([...new FormData(task)].map(([question, value]) => [question, Number(value)]));
  if (state?.task?.pictures.length === 1) told.chosen = 0;
  return told;
}

/** What is still to be said, in the order of the page. */
function missing() {
  const told = answers();
  const names = { chosen: "which picture is the best", photorealism: "whether it is photorealistic", faithfulness: "whether it is faithful" };
  const open = Object.keys(names).filter((question) => !(question in told));
  $("#missing").textContent = open.length ? `To be said: ${open.map((question) => names[question]).join(", ")}.` : "";
  return open;
}

function store() {
  if (!state?.task || task.hidden) return;
  const [first] = missing();
  if (first) {
    $(`input[name="${first}"]`, task)?.focus();
    return;
  }
  const told = { rater: state.rater.id, place: state.task.place, ...answers() };
  alone(async () => {
    const now = await call("POST", "/api/rate", told);
    shown(now);
    if (!now.stored) say("This was rated already, in another window perhaps: that verdict stands. Undo takes it back.");
  });
}

function undo() {
  const event = state?.progress.last;
  if (event === null || event === undefined) return;
  alone(async () => {
    const now = await call("POST", "/api/undo", { rater: state.rater.id, event });
    shown(now);
    say(now.undone ? "Taken back: say it anew." : "That was taken back already.");
  });
}

function join(known) {
  alone(async () => {
    const now = await call("POST", "/api/join", { name, known });
    if (!now.known) return shown(now);
    $("#known-title").textContent = `Are you ${now.known.name}?`;
    $("#known-text").textContent = `Someone of this name has rated ${now.known.rated} of ${now.known.of}.`;
    show("known", $("#known-title"));
  });
}

function begin() {
  state = null;
  $("#rater").value = sessionStorage.getItem("rater") === null ? (localStorage.getItem("rater") ?? "") : "";
  sessionStorage.removeItem("rater");
  show("start", $("#rater"));
}

function zoom(src, alt) {
  const image = $("#zoom img");
  image.src = src;
  image.alt = alt;
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth <= 256);
  $("#zoom").showModal();
}

function larger() {
  const chosen = answers().chosen ?? 0;
  if (state?.task) zoom(state.task.pictures[chosen], `Picture ${chosen + 1}`);
}

function keys() {
  const on = localStorage.getItem("keys") !== "off";
  $("#keys").checked = on;
  document.body.classList.toggle("keys-off", !on);
  return on;
}

$("#start").addEventListener("submit", (event) => {
  event.preventDefault();
  name = $("#rater").value.trim();
  if (name) join(false);
});
$("#go-on").addEventListener("click", () => join(true));
$("#other-name").addEventListener("click", () => { begin(); $("#rater").select(); });
$("#another").addEventListener("click", begin);
task.addEventListener("submit", (event) => { event.preventDefault(); store(); });
task.addEventListener("change", missing);
$("#undo").addEventListener("click", undo);
$("#larger").addEventListener("click", larger);
$("#keys").addEventListener("change", (event) => {
  localStorage.setItem("keys", event.target.checked ? "on" : "off");
  keys();
});
document.addEventListener("keydown", (event) => {
  if (typing(event) || event.repeat || busy || !state || $("#zoom").open || !keys()) return;
  const key = event.key.toLowerCase();
  if (key === "u") undo();
  else if (task.hidden) return;
  else if (KEYS[key]) choose(...KEYS[key]);
  else if (/^[1-9]$/.test(key) && Number(key) <= state.task.pictures.length) choose("chosen", String(Number(key) - 1));
  else if (key === "z") larger();
  else if (key === "enter" && !event.target.closest?.("button, a, summary")) store();
  else return;
  event.preventDefault();
});
// A page that the browser has kept from before may show what was rated since.
addEventListener("pageshow", (event) => {
  if (event.persisted && state) alone(async () => shown(await call("POST", "/api/task", { rater: state.rater.id })));
});

keys();
name = sessionStorage.getItem("rater") ?? "";
if (name) {
  show("start");
  join(true);
} else begin();
