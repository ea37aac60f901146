// Two images of the same size, one over the other, and a slider that says how much of each is seen.

import { el } from "./dom.js";

export function comparison(before, after) {
  const slider = el("input", {
    type: "range",
    min: "0",
    max: "100",
    value: "50",
    "aria-label": `Left of the line: ${before.caption}. Right of it: ${after.caption}`,
  });
  const cover = el("img", { src: after.source, alt: after.alt });
  const line = el("span", { class: "line", "aria-hidden": "true" });
  const move = () => {
    cover.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    line.style.left = `${slider.value}%`;
  };
  slider.addEventListener("input", move);
  move();
  return el(
    "figure",
    { class: "comparison" },
    el("div", { class: "frame" }, el("img", { src: before.source, alt: before.alt }), cover, line, slider),
    el("figcaption", { class: "row between" }, el("span", {}, before.caption), el("b", {}, after.caption)),
  );
}
