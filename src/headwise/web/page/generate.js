// Generate: pick a word, a concept, a strength; before and after, and the strip of doses.

import { $, el, figure, fill, held, later, options } from "./dom.js";
import { pictureOf } from "./api.js";
import { concepts, onRelevance, page } from "./page.js";
import { lane, problem } from "./lane.js";
import { actions } from "./recipe.js";
import { showWords, wordsOf } from "./words.js";

const form = $("generate-form");
const DOSES = [-1, 0, 0.5, 1, 1.5, 2, 3];
let words = [], wanted = null, chosen = null, suggested = [], fast = false, asking = false, asked = "";

onRelevance((found) => {
  for (const name of ["concept", "away"]) {
    const before = form.elements[name].value;
    options(form.elements[name], found.concepts, before);
  }
});

const drawing = lane("generate", "generate", (job) => {
  const shown = ["plain", "steered"].map((column) => {
    const item = job.found.find((one) => one.column === column);
    const caption = column === "plain" ? "before" : `after: ${spoken(job.asked)}`;
    return item ? figure(pictureOf(job, item), caption, `${caption}. Picture drawn from the prompt: ${job.asked.prompt}`, column === "steered") : null;
  });
  // What was there stays until its successor is whole.
  if (shown.every(Boolean)) $("generate-pair").replaceChildren(...shown);
  else if (!$("generate-pair").children.length) $("generate-pair").replaceChildren(...shown.filter(Boolean));
  if (job.state === "done") {
    actions($("generate-actions"), job, "generate");
    fast = job.seconds < 1.5;
  }
});

const strip = lane("generate", "strip", (job) => {
  $("generate-strip").replaceChildren(...job.found.map((item) => {
    const shown = figure(pictureOf(job, item), item.column, `${item.column}: ${job.asked.prompt}`);
    const on = Number(form.elements.strength.value) === item.times;
    return el("button", { type: "button", class: "take", "aria-pressed": String(on), onclick: () => take(item.times) }, ...shown.children);
  }));
}, true);

const suggesting = lane("generate", "suggest", (job) => {
  const found = job.found[0];
  if (!found || !chosen || found.word !== chosen.text) return;
  suggest(found.concepts);
}, true);

const way = () => form.elements.way.value;

const spoken = (what) => what.steering.map((one) => `“${one.word}” ${one.away ? `${one.concept}, not ${one.away}` : one.concept} × ${one.strength}`).join(", ");

function steering() {
  const found = held(form);
  return [{ word: chosen.text, occurrence: words.filter((one) => one.text === chosen.text).length > 1 ? chosen.occurrence : null,
    concept: found.concept, away: way() === "adjust" ? found.away : null, strength: found.strength }];
}

function body() {
  const { prompt, seed, num_inference_steps, guidance_scale } = held(form);
  return { prompt, seed, num_inference_steps, guidance_scale, relevance: page.name, steering: steering() };
}

async function draw() {
  if (!chosen) return problem("generate", "Pick a word of the prompt first.");
  if (!form.reportValidity()) return;
  const done = await drawing.ask(body());
  if (done?.state === "done" && fast && !asking && !$("generate").hidden) drawStrip();
}

function drawStrip() {
  if (!chosen) return problem("generate", "Pick a word of the prompt first.");
  const what = body();
  what.steering = what.steering.map((one) => ({ ...one, strength: 1 }));
  const key = JSON.stringify(what);
  if (key === asked) return;
  asked = key;
  strip.ask({ ...what, strengths: DOSES }).then((job) => { if (job?.state !== "done" && asked === key) asked = ""; });
}

function take(strength) {
  form.elements.strength.value = strength;
  changed();
}

const soon = later(150, draw);

function changed() {
  $("generate-strength").textContent = Number(form.elements.strength.value).toFixed(1);
  $("generate-strip").querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", String(DOSES[i] === Number(form.elements.strength.value))));
  if (chosen) soon();
}

// Read the prompt again, and keep the word that was chosen if it is still there: the very object, as whoever
// waits for an answer about it asks whether it still is the one that is chosen.
async function read() {
  const prompt = form.elements.prompt.value;
  let found;
  try {
    ({ words: found } = await wordsOf(prompt));
  } catch (error) {
    return problem("generate", error.message);
  }
  if (prompt !== form.elements.prompt.value) return;
  const here = (word) => word.text === wanted?.text && word.occurrence === (wanted.occurrence ?? 1);
  words = found.map((word) => (here(word) ? Object.assign(wanted, word) : word));
  chosen = words.includes(wanted) ? wanted : null;
  show();
}

function show() {
  showWords($("generate-words"), words, { chosen: (word) => word === chosen, choose: pick });
  $("generate-what").disabled = !chosen;
  $("generate-word").textContent = chosen ? `“${chosen.text}”` : "a word";
}

// A word that a concept lists takes that one at once, another what its own heads suggest; then comes the strip.
async function pick(word) {
  if (chosen === word) return;
  chosen = wanted = word;
  asking = true;
  problem("generate", "");
  show();
  hint();
  suggest(null);
  const listed = word.concepts.find((name) => concepts().includes(name));
  if (listed && way() === "strengthen") form.elements.concept.value = listed;
  const known = listed || way() === "adjust";
  if (known) await draw();
  if (chosen !== word) return;
  const { prompt, seed, num_inference_steps, guidance_scale } = held(form);
  const job = await suggesting.ask({ prompt, seed, num_inference_steps, guidance_scale, relevance: page.name, word: word.text });
  if (chosen !== word) return;
  asking = false;
  if (job?.state !== "done") suggest([]);
  if (known) return fast && drawStrip();
  if (suggested.length) form.elements.concept.value = suggested[0].concept;
  draw();
}

// The concepts that a word's heads suggest; null while they are being asked.
function suggest(found) {
  suggested = found ?? [];
  $("generate-suggested").textContent = found ? (found.length ? "its heads suggest" : "") : "asking the heads …";
  const place = $("generate-suggested").parentElement;
  place.querySelectorAll("button").forEach((button) => button.remove());
  place.append(...suggested.slice(0, 4).map((one) => el("button", { type: "button", title: `rank correlation ${one.fit.toFixed(2)}`,
    onclick: () => { form.elements.concept.value = one.concept; changed(); } }, `${one.concept} ${one.fit.toFixed(2)}`)));
}

// Two senses: away from the concept that lists the word, toward another.
function hint() {
  const adjusts = way() === "adjust";
  $("generate-away").hidden = !adjusts;
  form.elements.away.disabled = !adjusts;
  $("generate-toward").textContent = adjusts ? "toward" : "by the heads of";
  $("generate-hint").textContent = "";
  if (!chosen || !adjusts) return;
  const [first] = chosen.concepts;
  if (first && concepts().includes(first)) {
    form.elements.away.value = first;
    if (form.elements.concept.value === first) form.elements.concept.value = concepts().find((name) => name === "Color" && name !== first) ?? concepts().find((name) => name !== first);
    $("generate-hint").textContent = `“${chosen.text}” is listed under ${chosen.concepts.join(" and ")}. If the picture shows that and you mean something else, say what.`;
  } else $("generate-hint").textContent = `“${chosen.text}” is in no concept's list. Say which sense you mean, and which the picture shows.`;
}

form.addEventListener("submit", (event) => { event.preventDefault(); draw(); });
form.elements.prompt.addEventListener("input", later(250, read));
for (const name of ["concept", "away"]) form.elements[name].addEventListener("change", changed);
form.elements.strength.addEventListener("input", changed);
for (const radio of form.elements.way) radio.addEventListener("change", () => { hint(); changed(); });
$("generate-strip-button").addEventListener("click", drawStrip);

export function ready() {
  if (!words.length) read();
}

export function restore(last, state) {
  fill(form, { num_inference_steps: state.num_inference_steps, guidance_scale: state.guidance_scale });
  hint();
  if (!last.generate) return;
  const what = last.generate.asked, [one] = what.steering;
  fill(form, what);
  form.elements.way.value = one.away ? "adjust" : "strengthen";
  form.elements.strength.value = one.strength;
  form.elements.concept.value = one.concept;
  $("generate-strength").textContent = Number(one.strength).toFixed(1);
  drawing.adopt(last.generate, true);
  if (last.strip) strip.adopt(last.strip, true);
  wanted = { text: one.word, occurrence: one.occurrence };
  hint();
  if (one.away) form.elements.away.value = one.away;
  form.elements.concept.value = one.concept;
  read();
}
