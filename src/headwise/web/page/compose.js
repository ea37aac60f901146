// Compose: several subjects, each of which must be attended to, with the baselines beside it.

import { $, el, figure, fill, valuesOf, debounced, options, refused } from "./dom.js";
import { pictureOf } from "./api.js";
import { concepts, onRelevance, page } from "./page.js";
import { jobSlot, problem } from "./jobs.js";
import { actions } from "./recipe.js";
import { isValid, pictureSetup } from "./setup.js";
import { showWords, wordsOf } from "./words.js";

const form = $("compose-form");
const QUALITIES = ["Color", "Size", "Counting", "Material", "Texture"];
let words = [],
  subjects = null,
  conceptOf = {};

onRelevance(() => words.length && read());

const composing = jobSlot("compose", "compose", (job) => {
  $("compose-pictures").replaceChildren(
    ...job.found.map((item) =>
      item.error
        ? refused(item.column, item.error)
        : figure(
            pictureOf(job, item),
            item.column === "relevance" ? "by relevance" : item.column,
            `${item.column}: ${job.asked.prompt}`,
            item.column === "relevance",
          ),
    ),
  );
  if (job.state === "done") actions($("compose-actions"), job, "compose");
});

const key = (word) => word.text.toLowerCase();

async function read() {
  try {
    ({ words } = await wordsOf(form.elements.prompt.value));
  } catch (error) {
    return problem("compose", error.message);
  }
  if (!words.length) return show();
  const texts = new Set(words.map(key));
  if (subjects) subjects = new Set([...subjects].filter((text) => texts.has(text)));
  // At first, the words that a concept of objects lists.
  if (!subjects?.size)
    subjects = new Set(
      words
        .filter((word) => word.concepts.some((name) => !QUALITIES.includes(name)))
        .map(key)
        .slice(0, 5),
    );
  show();
}

function show() {
  showWords($("compose-words"), words, {
    several: true,
    isChosen: (word) => subjects?.has(key(word)) ?? false,
    choose: (word) => {
      if (!subjects.delete(key(word))) subjects.add(key(word));
      show();
    },
  });
  const chosen = words.filter(
    (word, i) => subjects?.has(key(word)) && words.findIndex((other) => key(other) === key(word)) === i,
  );
  $("compose-concepts").replaceChildren(
    ...chosen.map((word) => {
      const select = el("select", {
        onchange: (event) => {
          conceptOf[word.text] = event.target.value;
        },
      });
      options(
        select,
        [["", "none"], ...concepts()],
        conceptOf[word.text] ?? word.concepts.find((name) => concepts().includes(name)) ?? "",
      );
      select.dataset.word = word.text;
      return el("label", { class: "field" }, `Concept of “${word.text}”`, select);
    }),
  );
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const selects = [...$("compose-concepts").querySelectorAll("select")];
  if (!selects.length) return problem("compose", "Choose one or more words as subjects.");
  const conceptsOfWords = Object.fromEntries(
    selects.filter((select) => select.value).map((select) => [select.dataset.word, select.value]),
  );
  if (!isValid()) return;
  composing.ask({
    ...valuesOf(form),
    ...pictureSetup(),
    relevance: page.name,
    words: selects.map((select) => select.dataset.word),
    concepts: conceptsOfWords,
  });
});
form.elements.prompt.addEventListener("input", debounced(250, read));

export function ready() {
  if (!words.length) read();
}

export function restore(last, state) {
  fill(form, { num_inference_steps: state.num_inference_steps, guidance_scale: state.guidance_scale });
  if (!last.compose) return;
  fillFrom(last.compose.asked);
  composing.adopt(last.compose, true);
}

// What a link says: the same is composed again.
export function follow(asked) {
  if (!Array.isArray(asked.words)) return;
  fillFrom(asked);
  composing.ask(asked);
}

function fillFrom(asked) {
  fill(form, asked);
  subjects = new Set(asked.words.map((word) => word.toLowerCase()));
  conceptOf = { ...asked.concepts };
  read();
}
