// The words that are steered besides the chosen one: a list from which each can be removed.

import { $, el } from "./dom.js";

let others = [];

const sameWord = (a, b) => a.word === b.word && (a.occurrence ?? 1) === (b.occurrence ?? 1);

export const describe = (steering) =>
  steering
    .map(({ word, concept, away, strength }) => `“${word}” ${away ? `${concept}, not ${away}` : concept} × ${strength}`)
    .join(", ");

// The others; without the chosen word, if one is given, which may be among them from before.
export const steeredToo = (chosen) => others.filter((one) => !chosen || !sameWord(one, chosen));

export function steerToo(steering) {
  others = steering;
  $("generate-others").replaceChildren(...others.map(row));
}

const row = (one) =>
  el(
    "li",
    {},
    el("span", {}, describe([one])),
    el(
      "button",
      {
        type: "button",
        class: "link",
        "aria-label": `Stop steering “${one.word}”`,
        onclick: () => steerToo(others.filter((other) => other !== one)),
      },
      "remove",
    ),
  );
