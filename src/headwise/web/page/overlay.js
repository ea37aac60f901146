// Maps over an image: smooth layers of one colour each, full where a map is largest.

import { el } from "./dom.js";

const SHARPNESS = 320; // pixels of the longer side of what is painted

// One for each word that is shown, told apart by colour-blind eyes.
export const COLOURS = [
  [107, 33, 168],
  [178, 24, 43],
  [33, 102, 172],
  [180, 95, 6],
  [0, 109, 91],
  [122, 38, 96],
];

export const bytesOf = (map) => Uint8Array.from(atob(map), (c) => c.charCodeAt(0));

export const css = (colour) => `rgb(${colour.join()})`;

// layers: [{map, colour, opacity}]; the browser interpolates between the positions of a map.
export function paint(canvas, layers, { width, height }) {
  const scale = SHARPNESS / Math.max(width, height);
  [canvas.width, canvas.height] = [Math.round(scale * width), Math.round(scale * height)];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  for (const { map, colour, opacity } of layers) {
    const values = new ImageData(width, height);
    bytesOf(map).forEach((value, at) => values.data.set([...colour, value], 4 * at));
    const small = new OffscreenCanvas(width, height);
    small.getContext("2d").putImageData(values, 0, 0);
    context.globalAlpha = opacity;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
}

// An image without its colours, and one map over it.
export function thumbnail(source, map, colour, size) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  paint(canvas, [{ map, colour, opacity: 0.85 }], size);
  const place = el("span", { class: "over" }, el("img", { src: source, alt: "" }), canvas);
  place.style.aspectRatio = `${size.width} / ${size.height}`;
  return place;
}
