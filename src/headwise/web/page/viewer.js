// An image enlarged, with a download; a pair is compared, one image over the other.

import { $, el } from "./dom.js";
import { comparison } from "./comparison.js";

const slug = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "image";

function described(figure) {
  const image = figure.querySelector("img");
  return { source: image.getAttribute("src"), alt: image.alt, caption: figure.querySelector("figcaption").textContent };
}

const download = ({ source, caption }) =>
  el("a", { class: "button", href: source, download: `${slug(caption)}.png` }, `Download “${caption}”`);

function enlarge(figure) {
  const figures = [...figure.parentElement.querySelectorAll(":scope > figure")];
  const at = figures.indexOf(figure);
  const pair = figure.parentElement.classList.contains("pair") && figures.length % 2 === 0;
  const shown = (pair ? figures.slice(at - (at % 2), at - (at % 2) + 2) : [figure]).map(described);
  const [first, second] = shown;
  $("viewer-title").textContent = pair ? "Before and after" : first.caption;
  $("viewer-place").replaceChildren(
    pair ? comparison(first, second) : el("img", { src: first.source, alt: first.alt }),
    el("p", { class: "row" }, shown.map(download)),
  );
  $("viewer").showModal();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(".enlarge");
  if (button) enlarge(button.closest("figure"));
});
$("viewer-close").addEventListener("click", () => $("viewer").close());
