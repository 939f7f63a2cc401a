// JSON shown as it was sent: indented and coloured from its text, without reading numbers or losing a name given twice.
// Works on what was cut off, too.

import { lines, make } from "./dom.js";

const TOKEN = /\s*("(?:[^"\\]|\\.)*"?|[{}[\]:,]|[^\s"{}[\]:,]+)/gy;
const MOST_TOKENS = 20000;

/** A <pre> with the text; what stands at one of the `faulty` paths is marked, and a missing one is named. */
export function jsonText(text, faulty = []) {
  const box = make("pre", { class: "json", tabindex: "0" });
  if (!/^\s*[{[]/.test(text)) {
    box.append(lines(text));
    return box;
  }
  const wrong = new Set(faulty);
  const seen = new Set();
  const stack = []; // of {array, index, name, path}
  let out = box;
  let marked = null;
  const indent = () => "\n" + "  ".repeat(stack.length);
  const put = (kind, token) => out.append(kind ? make("span", { class: kind }, lines(token)) : lines(token));
  const path = () => {
    const top = stack.at(-1);
    if (!top) return "";
    return top.array ? `${top.path}[${top.index}]` : top.path ? `${top.path}.${top.name}` : (top.name ?? "");
  };
  const begin = () => {
    seen.add(path());
    if (!marked && stack.length && wrong.has(path())) {
      marked = { element: make("mark", { title: "faulty" }), depth: stack.length };
      out.append(marked.element);
      out = marked.element;
    }
  };
  const end = () => {
    if (marked && stack.length <= marked.depth) {
      out = box;
      marked = null;
    }
  };
  TOKEN.lastIndex = 0;
  let count = 0;
  let at = 0;
  for (let match; count < MOST_TOKENS && (match = TOKEN.exec(text)); count++) {
    at = TOKEN.lastIndex;
    const token = match[1];
    const top = stack.at(-1);
    if (token === "{" || token === "[") {
      if (top?.array && !top.started) put("", indent());
      if (top) top.started = true;
      begin();
      const inner = path();
      put("", token);
      stack.push({ array: token === "[", index: 0, name: undefined, path: inner, started: false, expectsName: token === "{" });
    } else if (token === "}" || token === "]") {
      const closed = stack.pop();
      if (closed && !closed.array && !closed.path) missing(box, wrong, seen, stack.length, closed.started);
      if (closed?.started) put("", indent());
      put("", token);
      end();
    } else if (token === ",") {
      put("", ",");
      if (top) {
        put("", indent());
        if (top.array) top.index += 1;
        else top.expectsName = true;
      }
    } else if (token === ":") {
      put("", ": ");
    } else if (top && !top.array && top.expectsName) {
      if (!top.started) put("", indent());
      top.started = true;
      top.expectsName = false;
      top.name = unquoted(token);
      begin();
      put("k", token);
    } else {
      if (top?.array && !top.started) put("", indent());
      if (top) top.started = true;
      if (top?.array) begin();
      put(token.startsWith('"') ? "s" : "n", token);
      end();
    }
  }
  if (at < text.trimEnd().length) box.append(lines(text.slice(at)));
  if (stack.length) box.append(make("span", { class: "missing" }, "\n… cut off here"));
  return box;
}

function missing(box, wrong, seen, depth, started) {
  for (const name of wrong) {
    if (seen.has(name) || name.startsWith("(")) continue;
    box.append((started ? "," : "") + "\n" + "  ".repeat(depth + 1), make("mark", {}, make("span", { class: "missing" }, lines(`"${name}": is missing`))));
  }
}

function unquoted(token) {
  try {
    return JSON.parse(token);
  } catch {
    return token.replace(/^"|"$/g, "");
  }
}
