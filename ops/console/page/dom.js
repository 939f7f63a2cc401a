// Making elements. Text is only ever set as text, and nothing in it can act: what would turn, hide or move letters
// (control characters, directions, invisible ones) is shown as its number.

const INVISIBLE = /[\p{C}\u2028\u2029\u115F\u1160\u3164\uFFA0]/gu;
const IN_LINES = /[^\n\t\P{C}]|[\u2028\u2029\u115F\u1160\u3164\uFFA0]/gu;
const STACKED = /(\p{M}{3})\p{M}+/gu; // marks that would climb over the lines around them

const numbered = (letter) => `‹U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;

/** A text that can be shown in one line. */
export const line = (text) => String(text ?? "").replace(INVISIBLE, numbered).replace(STACKED, "$1…");

/** A text that may have several lines. */
export const lines = (text) => String(text ?? "").replace(IN_LINES, numbered).replace(STACKED, "$1…");

/** An element with classes, attributes and content: texts, or other elements. */
export function make(tag, { class: classes, on, ...attributes } = {}, ...content) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [name, handler] of Object.entries(on ?? {})) element.addEventListener(name, handler);
  element.append(...content.filter((part) => part !== null && part !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** A cell of a row; `bdi` keeps its direction to itself. */
export const cell = (name, text, title) => make("span", { class: `cell ${name}`, title: title ?? line(text) }, line(text));

/** The state of an event, in words and colour. */
export function pill(state, words) {
  return make("span", { class: `pill ${/^[a-z_]+$/.test(state) ? state : ""}` }, line(words));
}

/** A list of facts; those without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make("dl", { class: "facts" }, ...shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value instanceof Node ? value : line(value))]));
}

/** A text with a button that copies it. */
export function copyable(title, text, tag = "pre") {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected: copy it now";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  const code = make(tag, { class: "curl", tabindex: "0" }, lines(text));
  return make("div", { class: "copyable" }, make("h4", {}, title), code, button);
}

/** What to say where there is nothing to show. */
export function empty(element, title, ...paragraphs) {
  element.replaceChildren(make("h3", {}, title), ...paragraphs.map((text) => (text instanceof Node ? text : make("p", {}, text))));
  element.hidden = false;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false });
const NUMBER = new Intl.NumberFormat("en");
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });

const valid = (text) => text && !Number.isNaN(Date.parse(text));
export const clock = (text) => (valid(text) ? TIME.format(new Date(text)) : "–");
export const moment = (text) => (valid(text) ? `${DAY.format(new Date(text))}, ${clock(text)}` : "–");
export const number = (value) => NUMBER.format(value);

/** An element of <select>'s choices, kept as they are where they are the same. */
export function choices(select, values) {
  const shown = [...select.options].slice(1).map((option) => option.value);
  if (shown.length === values.length && shown.every((value, n) => value === values[n])) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...values.map((value) => make("option", { value }, line(value).slice(0, 60))));
  select.value = values.includes(chosen) ? chosen : "";
}

/** Rows that open: a button and what it shows. `fill` is called when it is first opened. */
export function opening(row, detail, fill) {
  let filled = false;
  row.setAttribute("aria-expanded", "false");
  detail.hidden = true;
  row.addEventListener("click", () => {
    const open = detail.hidden;
    detail.hidden = !open;
    row.setAttribute("aria-expanded", String(open));
    if (open && !filled) {
      filled = true;
      fill();
    }
  });
}
