// Which heads drew a word of the current picture, each with its map; and the picture without one of them.

import { $, el, figure } from "./dom.js";
import { pictureOf } from "./api.js";
import { jobSlot, problem } from "./jobs.js";
import { showRecipe } from "./recipe.js";
import { showWords, wordsOf } from "./words.js";

// As in the figures: through the head the word acts, or the head works against it; and all heads.
const FOR = [178, 24, 43];
const AGAINST = [33, 102, 172];
const ALL = [107, 33, 168];

let picture = null; // the job that generated it
let words = [];
let word = null;
let muted = null;
let shown = null;

const same = (a, b) =>
  ["prompt", "seed", "num_inference_steps", "guidance_scale"].every((name) => a[name] === b[name]);

// The picture that is explained; what was said of the one before goes.
export function show(job) {
  const stays = picture && same(picture.asked, job.asked);
  picture = job;
  $("explain").hidden = false;
  if (!stays) clear();
  read();
}

function clear() {
  word = muted = shown = null;
  for (const id of ["explain-heads", "explain-pair"]) $(id).replaceChildren();
  $("explain-more").hidden = true;
}

export async function read() {
  if (!picture) return;
  const { prompt } = picture.asked;
  try {
    const { words: found } = await wordsOf(prompt);
    if (picture.asked.prompt !== prompt) return;
    words = found.filter((one) => one.occurrence === 1);
  } catch (error) {
    return problem("explore", error.message);
  }
  offer();
}

const offer = () =>
  showWords($("explain-words"), words, { isChosen: (one) => one.text === word, choose: (one) => explain(one.text) });

const request = (more) => {
  const { prompt, seed, num_inference_steps, guidance_scale } = picture.asked;
  return { prompt, seed, num_inference_steps, guidance_scale, ...more };
};

const explaining = jobSlot("explore", "explain", (job) => {
  const [found] = job.found;
  if (!found || found.word !== word || !same(job.asked, picture.asked)) return;
  showHeads(job, found);
});

function explain(text) {
  if (word === text) return;
  clear();
  word = text;
  offer();
  explaining.ask(request({ word }));
}

function showHeads(job, found) {
  if (shown === job.id) return;
  shown = job.id;
  const source = pictureOf(job, found);
  const together = el(
    "figure",
    {},
    over(source, found, found.together.map, ALL),
    el("figcaption", {}, el("b", {}, "all heads"), el("span", {}, `in all ${signed(found.together.share)}`)),
  );
  const heads = found.heads.map((one) =>
    el(
      "button",
      {
        type: "button",
        "data-head": String(one.head),
        "aria-pressed": "false",
        title: one.address,
        "aria-label": `Mute “${found.word}” in head ${one.head}, ${one.address}, share ${signed(one.share)}`,
        onclick: () => mute(one.head),
      },
      over(source, found, one.map, one.share > 0 ? FOR : AGAINST),
      el("b", {}, `head ${one.head}`),
      el("span", {}, signed(one.share)),
    ),
  );
  $("explain-heads").setAttribute("aria-label", `Heads that drew “${found.word}”`);
  $("explain-heads").replaceChildren(together, ...heads);
  $("explain-more").hidden = false;
  $("explain-recipe").dataset.job = job.id;
}

const signed = (share) => `${share < 0 ? "−" : "+"}${Math.abs(share).toFixed(2)}`;

// The picture without its colours, and a map over it: full where the map is largest.
function over(source, { width, height }, map, colour) {
  const canvas = el("canvas", { width, height, "aria-hidden": "true" });
  const layer = new ImageData(width, height);
  Uint8Array.from(atob(map), (c) => c.charCodeAt(0)).forEach((value, at) =>
    layer.data.set([...colour, Math.round(0.85 * value)], 4 * at),
  );
  canvas.getContext("2d").putImageData(layer, 0, 0);
  return el("span", { class: "over" }, el("img", { src: source, alt: "" }), canvas);
}

const muting = jobSlot("explore", "mute", (job) => {
  if (!picture || job.asked.word !== word || job.asked.head !== muted || !same(job.asked, picture.asked)) return;
  if (job.state !== "done") return;
  $("explain-pair").replaceChildren(
    ...job.found.map((item) => {
      const caption =
        item.column === "plain" ? "plain" : `“${job.asked.word}” muted in head ${job.asked.head}`;
      const alt = `${caption}. Picture generated from the prompt: ${job.asked.prompt}`;
      return figure(pictureOf(job, item), caption, alt, item.column === "muted");
    }),
  );
  $("explain-recipe").dataset.job = job.id;
});

function mute(head) {
  muted = head;
  for (const button of $("explain-heads").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.head === String(head)));
  muting.ask(request({ word, head }));
}

$("explain-recipe").addEventListener("click", (event) =>
  showRecipe(`/api/jobs/${event.currentTarget.dataset.job}/recipe`, "explore"),
);

export function restore(last) {
  if (!last.explain || !last.explore || !same(last.explain.asked, last.explore.asked)) return;
  word = last.explain.asked.word;
  explaining.adopt(last.explain, true);
}
