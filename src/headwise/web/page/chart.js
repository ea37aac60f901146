// Curves of the score over k, with their bands, and a cursor at the chosen k.

import { el, number, svg } from "./dom.js";

const [WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM] = [520, 300, 62, 14, 12, 40];

export function chart(found, order, place) {
  const names = Object.keys(found.orders);
  const heads = found.ks.at(-1);
  const all = names.flatMap((name) => [...found.orders[name].low, ...found.orders[name].high]);
  const [low, high] = [Math.min(0, ...all), Math.max(...all, 1e-6)];
  const x = (k) => LEFT + ((WIDE - LEFT - RIGHT) * k) / heads;
  const y = (score) => HIGH - BOTTOM - ((HIGH - TOP - BOTTOM) * (score - low)) / (high - low);
  const points = (values) => values.map((value, i) => `${x(found.ks[i]).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const made = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": said(found) });
  for (const score of [low, (low + high) / 2, high]) {
    made.append(svg("line", { class: "axis", x1: LEFT - 4, x2: LEFT, y1: y(score), y2: y(score) }), svg("text", { x: LEFT - 7, y: y(score) + 4, "text-anchor": "end" }, number(score)));
  }
  for (const k of found.ks) made.append(svg("line", { class: "axis", x1: x(k), x2: x(k), y1: HIGH - BOTTOM, y2: HIGH - BOTTOM + 4 }));
  for (const k of [0, ...found.ks.filter((k) => k >= heads / 4)]) made.append(svg("text", { x: x(k), y: HIGH - BOTTOM + 17, "text-anchor": "middle" }, String(k)));
  made.append(
    svg("line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: HIGH - BOTTOM }), svg("line", { class: "axis", x1: LEFT, x2: WIDE - RIGHT, y1: HIGH - BOTTOM, y2: HIGH - BOTTOM }),
    svg("text", { x: (LEFT + WIDE) / 2, y: HIGH - 7, "text-anchor": "middle" }, "heads weakened"),
    svg("text", { transform: `translate(14 ${(TOP + HIGH - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, found.score === "choice" ? "share judged right" : `score: ${found.score}`));
  names.forEach((name, i) => {
    const one = found.orders[name], kind = `o${i % 5}`;
    if (name === order) made.append(svg("polygon", { class: kind, points: `${points(one.low)} ${points([...one.high]).split(" ").reverse().join(" ")}` }));
    made.append(svg("polyline", { class: name === order ? kind : `${kind} dim`, points: points(one.mean) }));
    if (name === order) made.append(svg("circle", { class: kind, r: 5, cx: x(found.ks[place]), cy: y(one.mean[place]) }));
  });
  made.append(svg("line", { class: "cursor", x1: x(found.ks[place]), x2: x(found.ks[place]), y1: TOP, y2: HIGH - BOTTOM }));
  return made;
}

export const key = (i) => svg("svg", { class: "key", viewBox: "0 0 30 10", "aria-hidden": "true" }, svg("line", { class: `o${i % 5}`, x1: 1, x2: 29, y1: 5, y2: 5 }));

const said = (found) => `Curves of the score over the number of weakened heads. ${Object.entries(found.orders).map(([name, one]) => `${name}: mean ${number(one.height[0])}`).join("; ")}.`;

export function table(found) {
  const head = el("tr", {}, el("th", { scope: "col" }, "order"), found.ks.map((k) => el("th", { scope: "col", class: "n" }, `k = ${k}`)));
  const rows = Object.entries(found.orders).map(([name, one]) => el("tr", {}, el("th", { scope: "row" }, name), one.mean.map((value) => el("td", { class: "n" }, number(value)))));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, rows));
}
