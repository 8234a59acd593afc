// What both pages stand on: talking to the server, telling people, making elements. Texts are always set as text.

/** Asks the server; what it says is wrong is thrown as an Error of one line. */
export async function call(method, path, told, { signal } = {}) {
  const raw = told instanceof Blob;
  const request = { method, signal, headers: { Accept: "application/json" } };
  if (told !== undefined) {
    request.body = raw ? told : JSON.stringify(told);
    request.headers["Content-Type"] = raw ? "application/octet-stream" : "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The program does not answer: is it still running in its terminal?");
  }
  let content = null;
  try {
    content = await answer.json();
  } catch {
    if (answer.ok && answer.status !== 204) throw new Error("The program's answer is broken.");
  }
  if (!answer.ok) throw new Error(content?.error ?? `The program refuses (${answer.status}).`);
  return content;
}

/** An element, with attributes, and children that are elements or texts. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const $ = (selector, within = document) => within.querySelector(selector);
export const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

const timers = new Map();

/** Says a line: seen for a while, and read out by screen readers. */
export function say(text, { wrong = false, seconds = wrong ? 12 : 4 } = {}) {
  const place = document.getElementById(wrong ? "wrong" : "said");
  place.textContent = text;
  place.classList.toggle("shown", text !== "");
  clearTimeout(timers.get(place));
  if (text !== "") timers.set(place, setTimeout(() => say("", { wrong }), 1000 * seconds));
}

/** Runs something, and says what goes wrong. */
export async function tell(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, { wrong: true });
    return undefined;
  }
}

/** Whether what has the keyboard takes letters itself. */
export function typing(event) {
  const at = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey) return true;
  return at.isContentEditable || at.matches?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select");
}

// The token has done its work once the page is here: it need not stay in the address and the history.
if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname);
