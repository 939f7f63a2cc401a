// The flow: five boxes with rate, sum, fifteen minutes as a line, what waits; and what is wrong, with its runbook.

import { ask } from "./ask.js";
import { byId, line, make, number } from "./dom.js";

const BOXES = {
  refused: ["Refused", null],
  accepted: ["Accepted", "in the journal"],
  in_kafka: ["In Kafka", "to be stored"],
  stored: ["Stored", null],
  dead_letters: ["Dead letters", "to review"],
};
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 90;
const HEIGHT = 30;
const shown = {};

/** Start asking; `tell` hears each answer, and null where there is none. */
export function startFlow(tell) {
  for (const [name, [title]] of Object.entries(BOXES)) {
    const parts = { rate: make("div", { class: "rate" }, "–"), sum: make("p", { class: "sum" }, " "), waits: make("span", { class: "waits" }), spark: sparkline() };
    shown[name] = { ...parts, box: make("li", { class: `box ${name}` }, make("h3", {}, title), parts.rate, parts.sum, parts.spark, parts.waits) };
    byId("flow").append(shown[name].box);
  }
  const again = async () => {
    if (!document.hidden) {
      try {
        const flow = await ask("/api/flow");
        for (const name of Object.keys(BOXES)) show(name, flow[name], flow.problems);
        problems(flow.problems);
        tell(flow);
      } catch {
        tell(null);
      }
    }
    setTimeout(again, 2000);
  };
  document.addEventListener("visibilitychange", () => !document.hidden && ask("/api/flow").catch(() => {}));
  again();
}

function show(name, figures, found) {
  const { box, rate, sum, waits, spark } = shown[name];
  rate.replaceChildren(perSecond(figures.per_second), make("small", {}, " / s"));
  sum.textContent = `${number(figures.total)} in all`;
  const where = BOXES[name][1];
  waits.replaceChildren(...(where ? [`${number(figures.waiting)} ${figures.waiting === 1 ? "waits" : "wait"}`, make("span", { class: "desk" }, ` ${where}`)] : []));
  waits.classList.toggle("some", Boolean(where && figures.waiting));
  box.classList.toggle("troubled", found.some((problem) => problem.box === name && problem.level === "bad"));
  box.classList.toggle("warned", found.some((problem) => problem.box === name && problem.level !== "bad"));
  draw(spark, figures.history, BOXES[name][0]);
}

const perSecond = (rate) => (rate >= 100 ? number(Math.round(rate)) : rate >= 10 ? rate.toFixed(0) : rate === 0 ? "0" : rate < 0.05 ? "< 0.1" : rate.toFixed(1));

let before = "";
function problems(found) {
  const now = JSON.stringify(found);
  if (now === before) return;
  before = now;
  byId("problems").replaceChildren(
    ...found.map((problem) => make("li", { class: problem.level }, `${line(problem.text)} `, make("a", { href: problem.runbook }, "What to do")))
  );
}

function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const name of ["base", "area", "line"]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    svg.append(path);
  }
  svg.children[0].setAttribute("d", `M0 ${HEIGHT}H${WIDTH}`);
  return svg;
}

function draw(svg, history, title) {
  const most = Math.max(...history, 0.1);
  const from = WIDTH - history.length;
  const points = history.map((rate, n) => `${from + n + 0.5} ${(HEIGHT - (rate / most) * (HEIGHT - 2)).toFixed(2)}`);
  const path = points.length > 1 ? `M${points.join("L")}` : "";
  svg.children[1].setAttribute("d", path && `${path}V${HEIGHT}H${from + 0.5}Z`);
  svg.children[2].setAttribute("d", path);
  const peak = history.length ? Math.max(...history) : 0;
  svg.setAttribute("aria-label", `${title}, last fifteen minutes: at most ${perSecond(peak)} a second`);
}
