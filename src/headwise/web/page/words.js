// A prompt's words with their tokens, as buttons.

import { el } from "./dom.js";
import { post } from "./api.js";
import { page } from "./page.js";

// Nothing is asked before the model is there, whose tokenizer it takes.
export async function wordsOf(prompt, source) {
  if (!prompt.trim() || page.state.state !== "ready") return { words: [], problem: "" };
  return post("/api/words", source === undefined ? { prompt } : { prompt, source });
}

// One of them is chosen (a radio group, arrow keys move), or several (toggles).
export function showWords(place, words, { several, chosen, choose }) {
  const buttons = words.map((word, i) => {
    const on = chosen(word, i);
    const made = el("button", { type: "button", class: word.positions.length ? "" : "beyond", disabled: !word.positions.length,
      title: word.positions.length ? `token ${word.positions.join(", ")}` : "beyond what the text encoder reads",
      onclick: () => choose(word, i) },
    el("span", {}, word.text), el("small", {}, word.positions.length ? word.pieces.join("·") : "not read"));
    if (several) made.setAttribute("aria-pressed", String(on));
    else {
      made.setAttribute("role", "radio");
      made.setAttribute("aria-checked", String(on));
      made.tabIndex = on || (i === 0 && !words.some(chosen)) ? 0 : -1;
    }
    return made;
  });
  if (!several) {
    buttons.forEach((button, i) => button.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      place.children[(to + buttons.length) % buttons.length].focus();
      place.children[(to + buttons.length) % buttons.length].click();
    }));
  }
  const held = [...place.children].indexOf(document.activeElement);
  place.replaceChildren(...buttons);
  if (held >= 0) buttons[held]?.focus();
}
