// A prompt's words with their tokens, as buttons.

import { el } from "./dom.js";
import { post } from "./api.js";
import { page } from "./page.js";

// Nothing is requested before the model is loaded, because its tokenizer is needed.
export async function wordsOf(prompt, source) {
  if (!prompt.trim() || page.state.state !== "ready") return { words: [], problem: "" };
  return post("/api/words", { prompt, source, relevance: page.name }); // a source that is undefined is left out
}

// One word is chosen (a radio group, in which arrow keys move), or several (toggles).
export function showWords(place, words, { several, isChosen, choose }) {
  const buttons = words.map((word, i) => {
    const chosen = isChosen(word, i);
    const button = el(
      "button",
      {
        type: "button",
        class: word.positions.length ? "" : "beyond",
        disabled: !word.positions.length,
        title: word.positions.length
          ? `token ${word.positions.join(", ")}`
          : "beyond what the text encoder reads",
        onclick: () => choose(word, i),
      },
      el("span", {}, word.text),
      el("small", {}, word.positions.length ? word.pieces.join("·") : "not read"),
    );
    if (several) button.setAttribute("aria-pressed", String(chosen));
    else {
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", String(chosen));
      button.tabIndex = chosen || (i === 0 && !words.some(isChosen)) ? 0 : -1;
    }
    return button;
  });
  if (!several) {
    buttons.forEach((button, i) =>
      button.addEventListener("keydown", (event) => {
        const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        place.children[(to + buttons.length) % buttons.length].focus();
        place.children[(to + buttons.length) % buttons.length].click();
      }),
    );
  }
  const focused = [...place.children].indexOf(document.activeElement);
  place.replaceChildren(...buttons);
  if (focused >= 0) buttons[focused]?.focus();
}
