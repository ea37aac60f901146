// Generate: pick a word, a concept and a strength; before and after, and the strip of strengths.

import { $, el, figure, fill, picture, valuesOf, debounced, options } from "./dom.js";
import { pictureOf } from "./api.js";
import { concepts, isByEffect, onRelevance, page } from "./page.js";
import { jobSlot, problem } from "./jobs.js";
import { actions } from "./recipe.js";
import { describe, steerToo, steeredToo } from "./steered.js";
import { isValid, modelSetup, pictureSetup } from "./setup.js";
import { showWords, wordsOf } from "./words.js";

const form = $("generate-form");
const MOST = 6; // words that are steered at once
// The strengths of the strip, which begin and end where the slider does by effect: −1 takes the word away, and
// no head is raised or lowered further than by a contrast or a dose of 2.
const STRENGTHS = {
  votes: [-1, 0, 0.5, 1, 1.5, 2, 3],
  effect: [-1, -0.5, 0, 0.5, 1, 1.5, 2],
  contrast: [0, 0.5, 1, 1.5, 2],
};
let words = [];
let kept = null;
let chosen = null;
let suggested = [];
let isFast = false;
let isSuggesting = false;
let stripKey = "";
let lastStrip = null;

onRelevance((found) => {
  for (const name of ["concept", "away"]) {
    const before = form.elements[name].value;
    options(form.elements[name], found.concepts, before);
  }
  hint();
  if (words.length) read();
});

const generating = jobSlot("generate", "generate", (job) => {
  const numbers = Array.from({ length: job.asked.pictures }, (_, number) => number);
  const shown = numbers.flatMap((number) => ["plain", "steered"].map((column) => shownOf(job, column, number)));
  // The old pair stays until the new one is complete.
  if (shown.every(Boolean)) $("generate-pair").replaceChildren(...shown);
  else if (!$("generate-pair").children.length) $("generate-pair").replaceChildren(...shown.filter(Boolean));
  if (job.state === "done") {
    actions($("generate-actions"), job, "generate", () => stripOf(job));
    isFast = job.seconds < 1.5;
  }
});

// One image of a pair; null as long as it is not generated.
function shownOf(job, column, number) {
  const item = job.found.find((result) => result.column === column && result.number === number);
  if (!item) return null;
  const caption = column === "plain" ? "before" : `after: ${describe(job.asked.steering)}`;
  const alt = `${caption}. Image generated from the prompt: ${job.asked.prompt}`;
  return figure(pictureOf(job, item), caption, alt, column === "steered");
}

const strip = jobSlot(
  "generate",
  "strip",
  (job) => {
    if (job.state === "done") lastStrip = job;
    $("generate-strip").replaceChildren(
      ...job.found.map((item) => {
        const on = Number(form.elements.strength.value) === item.times;
        return el(
          "button",
          { type: "button", class: "take", "aria-pressed": String(on), "data-times": item.times, onclick: () => take(item.times) },
          picture(pictureOf(job, item), `${item.column}: ${job.asked.prompt}`),
          el("span", {}, item.column),
        );
      }),
    );
  },
  true,
);

const suggesting = jobSlot(
  "generate",
  "suggest",
  (job) => {
    const found = job.found[0];
    if (!found || !chosen || found.word !== chosen.text) return;
    suggest(found.concepts);
  },
  true,
);

// The strip that is shown beneath these images, if it is of the same prompt and seed.
const stripOf = ({ asked }) =>
  lastStrip?.asked.prompt === asked.prompt && lastStrip.asked.seed === asked.seed ? lastStrip.id : "";

const mode = () => form.elements.way.value;

// The steering of the chosen word, followed by that of the others.
function steering() {
  if (!chosen) return steeredToo();
  const found = valuesOf(form);
  const ofChosen = {
    word: chosen.text,
    occurrence: words.filter((word) => word.text === chosen.text).length > 1 ? chosen.occurrence : null,
    concept: found.concept,
    away: mode() === "adjust" ? found.away : null,
    strength: found.strength,
  };
  return [ofChosen, ...steeredToo(ofChosen)].slice(0, MOST);
}

function steerAnother() {
  steerToo(steering());
  chosen = kept = null;
  show();
  $("generate-words").querySelector("button")?.focus();
}

function body() {
  const { prompt, seed, num_inference_steps, guidance_scale } = valuesOf(form);
  const sampling = { num_inference_steps, guidance_scale };
  return { prompt, seed, ...sampling, relevance: page.name, ...pictureSetup(), steering: steering() };
}

async function generate() {
  if (!steering().length) return problem("generate", "Choose a word of the prompt first.");
  if (!form.reportValidity() || !isValid()) return;
  const done = await generating.ask({ ...body(), pictures: valuesOf(form).pictures });
  if (done?.state === "done" && isFast && !isSuggesting && !$("generate").hidden) generateStrip();
}

// All steered words at the same strength.
function generateStrip() {
  if (!steering().length) return problem("generate", "Choose a word of the prompt first.");
  const what = body();
  what.steering = what.steering.map((single) => ({ ...single, strength: 1 }));
  const key = JSON.stringify(what);
  if (key === stripKey) return;
  stripKey = key;
  strip.ask({ ...what, strengths: strengths() }).then((job) => {
    if (job?.state !== "done" && stripKey === key) stripKey = "";
  });
}

function take(strength) {
  form.elements.strength.value = strength;
  steerToo(steeredToo().map((one) => ({ ...one, strength })));
  changed();
}

const soon = debounced(150, generate);

function changed() {
  $("generate-strength").textContent = Number(form.elements.strength.value).toFixed(1);
  $("generate-strip")
    .querySelectorAll("button")
    .forEach((button) =>
      button.setAttribute(
        "aria-pressed",
        String(Number(button.dataset.times) === Number(form.elements.strength.value)),
      ),
    );
  if (chosen) soon();
}

// Read the prompt again, and keep the chosen word if it is still there. The object itself is kept, because
// code that waits for an answer about a word compares it with the one that is chosen by then.
async function read() {
  const prompt = form.elements.prompt.value;
  let found;
  try {
    ({ words: found } = await wordsOf(prompt));
  } catch (error) {
    return problem("generate", error.message);
  }
  if (prompt !== form.elements.prompt.value) return;
  const here = (word) => word.text === kept?.text && word.occurrence === (kept.occurrence ?? 1);
  words = found.map((word) => (here(word) ? Object.assign(kept, word) : word));
  chosen = words.includes(kept) ? kept : null;
  show();
}

function show() {
  showWords($("generate-words"), words, { isChosen: (word) => word === chosen, choose: pick });
  $("generate-what").disabled = !chosen;
  $("generate-word").textContent = chosen ? `“${chosen.text}”` : "a word";
}

// A word that a concept lists takes that concept at once, any other the one that its heads suggest.
async function pick(word) {
  if (chosen === word) return;
  chosen = kept = word;
  isSuggesting = true;
  problem("generate", "");
  show();
  hint();
  suggest(null);
  const listed = word.concepts.find((name) => concepts().includes(name));
  if (listed && mode() === "strengthen") form.elements.concept.value = listed;
  const hasConcept = listed || mode() === "adjust";
  if (hasConcept) await generate();
  if (chosen !== word) return;
  const { prompt, seed, num_inference_steps, guidance_scale } = valuesOf(form);
  const job = await suggesting.ask({
    prompt,
    seed,
    num_inference_steps,
    guidance_scale,
    relevance: page.name,
    ...modelSetup(),
    word: word.text,
  });
  if (chosen !== word) return;
  isSuggesting = false;
  if (job?.state !== "done") suggest([]);
  if (hasConcept) return isFast && generateStrip();
  if (suggested.length) form.elements.concept.value = suggested[0].concept;
  generate();
}

// The concepts that a word's heads suggest; null while they are being looked for.
function suggest(found) {
  suggested = found ?? [];
  $("generate-suggested").textContent = found
    ? found.length
      ? "suggested by its heads:"
      : ""
    : "looking for concepts …";
  const place = $("generate-suggested").parentElement;
  place.querySelectorAll("button").forEach((button) => button.remove());
  place.append(
    ...suggested.slice(0, 4).map(({ concept, fit }) =>
      el(
        "button",
        {
          type: "button",
          title: `rank correlation ${fit.toFixed(2)}`,
          onclick: () => {
            form.elements.concept.value = concept;
            changed();
          },
        },
        `${concept} ${fit.toFixed(2)}`,
      ),
    ),
  );
}

const strengths = () => STRENGTHS[!isByEffect() ? "votes" : mode() === "adjust" ? "contrast" : "effect"];

// Two senses: away from the concept that lists the word, toward another.
function hint() {
  const adjusts = mode() === "adjust";
  const slider = form.elements.strength;
  [slider.min, slider.max] = isByEffect() ? [strengths()[0], strengths().at(-1)] : [-2, 4];
  $("generate-strength").textContent = Number(slider.value).toFixed(1);
  $("generate-away").hidden = !adjusts;
  form.elements.away.disabled = !adjusts;
  $("generate-toward").textContent = adjusts ? "toward" : "by the heads of";
  $("generate-hint").textContent = "";
  if (chosen && !adjusts && isByEffect())
    $("generate-hint").textContent = `A strength of −1 takes “${chosen.text}” away; 1 asks for twice as much of it.`;
  if (!chosen || !adjusts) return;
  const [first] = chosen.concepts;
  if (first && concepts().includes(first)) {
    form.elements.away.value = first;
    if (form.elements.concept.value === first)
      form.elements.concept.value =
        concepts().find((name) => name === "Color" && name !== first) ??
        concepts().find((name) => name !== first);
    const listed = `“${chosen.text}” is listed under ${chosen.concepts.join(" and ")}.`;
    $("generate-hint").textContent =
      `${listed} If the image shows that sense and you mean another, choose yours under “toward”.`;
  } else
    $("generate-hint").textContent =
      `“${chosen.text}” is not listed under any concept. ` +
      "Choose the sense that you mean under “toward”, and the one that the image shows under “away from”.";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
form.elements.prompt.addEventListener("input", debounced(250, read));
for (const name of ["concept", "away"]) form.elements[name].addEventListener("change", changed);
form.elements.strength.addEventListener("input", changed);
for (const radio of form.elements.way)
  radio.addEventListener("change", () => {
    hint();
    changed();
  });
$("generate-strip-button").addEventListener("click", generateStrip);
$("generate-another").addEventListener("click", steerAnother);

export function ready() {
  if (!words.length) read();
}

export function restore(last, state) {
  fill(form, { num_inference_steps: state.num_inference_steps, guidance_scale: state.guidance_scale });
  hint();
  if (!last.generate) return;
  fillFrom(last.generate.asked);
  generating.adopt(last.generate, true);
  if (last.strip) strip.adopt(last.strip, true);
  read();
}

// What a link says: the same is generated again.
export async function follow(asked) {
  if (!asked.steering?.length) return;
  fillFrom(asked);
  await read();
  if (chosen) suggest([]);
  generate();
}

function fillFrom(what) {
  const [first, ...rest] = what.steering;
  steerToo(rest);
  fill(form, what);
  form.elements.way.value = first.away ? "adjust" : "strengthen";
  form.elements.strength.value = first.strength;
  form.elements.concept.value = first.concept;
  $("generate-strength").textContent = Number(first.strength).toFixed(1);
  kept = { text: first.word, occurrence: first.occurrence };
  hint();
  if (first.away) form.elements.away.value = first.away;
  form.elements.concept.value = first.concept;
}
