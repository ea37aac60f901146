// Curves of the score over k, with their confidence bands, and a cursor at the chosen k.

import { el, number, svg } from "./dom.js";

const [WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM] = [520, 300, 62, 14, 12, 40];

export function chart(curves, order, at) {
  const names = Object.keys(curves.orders);
  const heads = curves.ks.at(-1);
  const bounds = names
    .map((name) => curves.orders[name])
    .flatMap(({ mean, low, high }) => [...mean, ...low, ...high]);
  const [low, high] = [Math.min(0, ...bounds), Math.max(...bounds, 1e-6)];
  const x = (k) => LEFT + ((WIDE - LEFT - RIGHT) * k) / heads;
  const y = (score) => HIGH - BOTTOM - ((HIGH - TOP - BOTTOM) * (score - low)) / (high - low);
  const points = (values) =>
    values.map((value, i) => `${x(curves.ks[i]).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const drawing = svg("svg", {
    viewBox: `0 0 ${WIDE} ${HIGH}`,
    role: "img",
    "aria-label": described(curves),
  });
  for (const score of [low, (low + high) / 2, high]) {
    drawing.append(
      svg("line", { class: "axis", x1: LEFT - 4, x2: LEFT, y1: y(score), y2: y(score) }),
      svg("text", { x: LEFT - 7, y: y(score) + 4, "text-anchor": "end" }, number(score)),
    );
  }
  for (const k of curves.ks)
    drawing.append(
      svg("line", { class: "axis", x1: x(k), x2: x(k), y1: HIGH - BOTTOM, y2: HIGH - BOTTOM + 4 }),
    );
  for (const k of [0, ...curves.ks.filter((count) => count >= heads / 4)])
    drawing.append(svg("text", { x: x(k), y: HIGH - BOTTOM + 17, "text-anchor": "middle" }, String(k)));
  drawing.append(
    svg("line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: HIGH - BOTTOM }),
    svg("line", { class: "axis", x1: LEFT, x2: WIDE - RIGHT, y1: HIGH - BOTTOM, y2: HIGH - BOTTOM }),
    svg("text", { x: (LEFT + WIDE) / 2, y: HIGH - 7, "text-anchor": "middle" }, "heads weakened"),
    svg(
      "text",
      { transform: `translate(14 ${(TOP + HIGH - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" },
      curves.score === "choice" ? "share recognised" : `score: ${curves.score}`,
    ),
  );
  names.forEach((name, i) => {
    const curve = curves.orders[name],
      kind = `o${i % 5}`;
    if (name === order && !curve.low.includes(null))
      drawing.append(
        svg("polygon", {
          class: kind,
          points: `${points(curve.low)} ${points([...curve.high])
            .split(" ")
            .reverse()
            .join(" ")}`,
        }),
      );
    drawing.append(
      svg("polyline", { class: name === order ? kind : `${kind} dim`, points: points(curve.mean) }),
    );
    if (name === order)
      drawing.append(svg("circle", { class: kind, r: 5, cx: x(curves.ks[at]), cy: y(curve.mean[at]) }));
  });
  drawing.append(
    svg("line", { class: "cursor", x1: x(curves.ks[at]), x2: x(curves.ks[at]), y1: TOP, y2: HIGH - BOTTOM }),
  );
  return drawing;
}

export const key = (i) =>
  svg(
    "svg",
    { class: "key", viewBox: "0 0 30 10", "aria-hidden": "true" },
    svg("line", { class: `o${i % 5}`, x1: 1, x2: 29, y1: 5, y2: 5 }),
  );

const described = (curves) =>
  `Curves of the score over the number of weakened heads. ${Object.entries(curves.orders)
    .map(([name, curve]) => `${name}: mean ${number(curve.height[0])}`)
    .join("; ")}.`;

export function table(curves) {
  const head = el(
    "tr",
    {},
    el("th", { scope: "col" }, "order"),
    curves.ks.map((k) => el("th", { scope: "col", class: "n" }, `k = ${k}`)),
  );
  const rows = Object.entries(curves.orders).map(([name, curve]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      curve.mean.map((value) => el("td", { class: "n" }, number(value))),
    ),
  );
  return el("table", {}, el("thead", {}, head), el("tbody", {}, rows));
}
