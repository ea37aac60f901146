// Which heads carry which words of the current image, at which steps and where; and the image without one.

import { $, el, bars } from "./dom.js";
import { get, pictureOf } from "./api.js";
import { comparison } from "./comparison.js";
import { jobSlot, problem } from "./jobs.js";
import { COLOURS, css, paint, thumbnail } from "./overlay.js";
import { showRecipe } from "./recipe.js";
import { showWords, wordsOf } from "./words.js";

const LAYERS = 6; // listed, the largest shares of either sign

let picture = null; // the job that generated it
let words = [];
let chosen = []; // the words whose maps are shown
let explained = new Map(); // by word
let focus = null; // the word whose heads are listed
let head = null; // the head that is muted and whose map is shown
let layer = null; // the layer whose attention is shown
let size = null;

const same = (a, b) => Object.keys(a).every((name) => JSON.stringify(a[name]) === JSON.stringify(b[name]));

// The image that is explained; what was found of the one before goes.
export function show(job) {
  const stays = picture && same(picture.asked, job.asked);
  picture = job;
  $("explain").hidden = false;
  if (!stays) clear();
  return read();
}

function clear() {
  [chosen, explained, focus, head, layer] = [[], new Map(), null, null, null];
  for (const id of ["explain-heads", "explain-layers", "explain-pair"]) $(id).replaceChildren();
  $("explain-view").hidden = $("explain-more").hidden = true;
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

function offer() {
  showWords($("explain-words"), words, {
    several: true,
    isChosen: (one) => chosen.includes(one.text),
    choose: (one) => toggle(one.text),
  });
  [...$("explain-words").children].forEach((button, i) => {
    const at = chosen.indexOf(words[i].text);
    button.style.backgroundColor = at < 0 ? "" : css(colourOf(words[i].text));
    button.style.color = at < 0 ? "" : "#fff";
  });
}

// A word keeps its colour, whichever others are shown.
const colourOf = (text) => COLOURS[words.findIndex((one) => one.text === text) % COLOURS.length];

function toggle(text) {
  if (chosen.includes(text)) {
    chosen = chosen.filter((other) => other !== text);
    if (focus === text) look(chosen.at(-1) ?? null);
    offer();
    return showAll();
  }
  chosen = [...chosen, text];
  look(text);
  offer();
  ask();
}

function look(text) {
  [focus, head, layer] = [text, null, null];
  $("explain-pair").replaceChildren();
}

// What a word does is the same whichever others are explained with it, so only new ones are.
function ask() {
  const missing = chosen.filter((text) => !explained.has(text));
  if (missing.length) explaining.ask({ ...picture.asked, words: missing.slice(0, 12) });
  showAll();
}

const explaining = jobSlot("explore", "explain", (job) => {
  const [found] = job.found;
  const { words: asked, ...settings } = job.asked;
  if (!found || !same(settings, picture.asked)) return;
  size = { width: found.width, height: found.height };
  for (const one of found.words)
    explained.set(one.word, { ...one, steps: found.steps, source: pictureOf(job, found) });
  $("explain-recipe").dataset.job = job.id;
  $("explain-more").hidden = false;
  showAll();
});

function showAll() {
  const found = explained.get(focus);
  $("explain-view").hidden = !found;
  if (!found) return;
  const step = $("explain-step");
  step.max = found.steps.length;
  $("explain-picture").querySelector("img").src = found.source;
  $("explain-picture").style.aspectRatio = `${size.width} / ${size.height}`;
  showHeads(found);
  showLayers(found);
  overlay();
}

const signed = (share) => `${share < 0 ? "−" : "+"}${Math.abs(share).toFixed(2)}`;

function showHeads(found) {
  const colour = colourOf(found.word);
  $("explain-heads-title").textContent = `Heads that carry “${found.word}”`;
  $("explain-heads").setAttribute("aria-label", `Heads that carry “${found.word}”`);
  $("explain-heads").replaceChildren(
    el(
      "figure",
      {},
      thumbnail(found.source, found.map, colour, size),
      el("figcaption", {}, el("b", {}, "all heads"), el("span", {}, `in all ${signed(found.share)}`)),
    ),
    ...found.heads.map((one) =>
      el(
        "button",
        {
          type: "button",
          "data-head": String(one.head),
          "aria-pressed": String(one.head === head),
          title: one.address,
          "aria-label": `Mute “${found.word}” in head ${one.head}, ${one.address}, share ${signed(one.share)}`,
          onclick: () => mute(one.head),
        },
        thumbnail(found.source, one.map, colour, size),
        el("b", {}, `head ${one.head}`),
        el("span", {}, signed(one.share)),
      ),
    ),
  );
}

function showLayers(found) {
  const largest = found.layers
    .map((one, at) => ({ ...one, at }))
    .sort((a, b) => Math.abs(b.share) - Math.abs(a.share))
    .slice(0, LAYERS);
  $("explain-layers").replaceChildren(
    bars(
      largest.map(({ address, share, at }) => ({
        name: `layer ${at}`,
        value: Math.abs(share),
        label: signed(share),
        note: address,
        onclick: () => showLayer(at),
      })),
    ),
  );
}

// Where the heads of a layer attend to the word, which was recorded with the image.
async function showLayer(at) {
  try {
    const found = await get(`/api/explore/${picture.id}/head?layer=${at}`);
    const one = found.words.find((word) => word.text === focus);
    [layer, head] = [{ at, map: one.map, width: found.width, height: found.height }, null];
    overlay();
  } catch (error) {
    problem("explore", error.message);
  }
}

// The maps of the chosen words; of the one in focus by its head or layer, if one is chosen.
function overlay() {
  const found = explained.get(focus);
  if (!found) return;
  const step = Number($("explain-step").value);
  const opacity = Number($("explain-opacity").value);
  const at = (maps) => (step ? maps.by_step[step - 1] : maps.map);
  const canvas = $("explain-picture").querySelector("canvas");
  if (layer) paint(canvas, [{ map: layer.map, colour: colourOf(focus), opacity }], layer);
  else {
    const layers = chosen
      .filter((text) => explained.has(text) && (head === null || text === focus))
      .map((text) => {
        const one = explained.get(text);
        const maps = (text === focus && one.heads.find((other) => other.head === head)) || one;
        return { map: at(maps), colour: colourOf(text), opacity };
      });
    paint(canvas, layers, size);
  }
  $("explain-step").disabled = Boolean(layer);
  $("explain-step-shown").textContent = step ? `step ${found.steps[step - 1]}` : "all steps";
  const shown = chosen.filter((text) => explained.has(text)).map((text) => `“${text}”`);
  const of = { head: `“${focus}” in head ${head}`, all: `${shown.join(", ")} in all heads` };
  $("explain-caption").textContent = layer
    ? `attention of layer ${layer.at} to “${focus}”, mean over its heads`
    : head === null
      ? of.all
      : of.head;
}

const muting = jobSlot("explore", "mute", (job) => {
  const { word, head: muted, ...settings } = job.asked;
  if (!picture || word !== focus || muted !== head || !same(settings, picture.asked)) return;
  if (job.state !== "done") return;
  const [before, after] = job.found.map((item) => {
    const caption = item.column === "plain" ? "plain" : `“${word}” muted in head ${muted}`;
    const alt = `${caption}. Image generated from the prompt: ${job.asked.prompt}`;
    return { source: pictureOf(job, item), caption, alt };
  });
  $("explain-pair").replaceChildren(comparison(before, after));
  $("explain-recipe").dataset.job = job.id;
});

function mute(at) {
  [head, layer] = [head === at ? null : at, null];
  for (const button of $("explain-heads").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.head === String(head)));
  overlay();
  if (head === null) $("explain-pair").replaceChildren();
  else muting.ask({ ...picture.asked, word: focus, head });
}

// What is looked at, for a link; and the same from one.
export const looked = () => ({ words: chosen, focus, muted: head });

export function lookAt({ words: texts = [], focus: text = null, muted = null }) {
  if (!picture || !texts.length) return;
  chosen = texts.filter((one) => words.some((word) => word.text === one));
  look(chosen.includes(text) ? text : (chosen.at(-1) ?? null));
  offer();
  ask();
  if (focus && muted !== null) {
    head = muted;
    muting.ask({ ...picture.asked, word: focus, head });
  }
}

for (const id of ["explain-opacity", "explain-step"]) $(id).addEventListener("input", overlay);
$("explain-all").addEventListener("click", () => {
  chosen = words.filter((one) => one.positions.length).map((one) => one.text);
  look(chosen.includes(focus) ? focus : (chosen[0] ?? null));
  offer();
  ask();
});
$("explain-recipe").addEventListener("click", (event) =>
  showRecipe(`/api/jobs/${event.currentTarget.dataset.job}/recipe`, "explore"),
);

export function restore(last) {
  if (!last.explain || !last.explore) return;
  const { words: asked, ...settings } = last.explain.asked;
  if (!same(settings, last.explore.asked)) return;
  [chosen, focus] = [asked, asked.at(-1)];
  explaining.adopt(last.explain, true);
}
