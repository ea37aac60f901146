// What drives a region of the image: its words, and the concepts whose heads attend to them there.

import { bars, el, number } from "./dom.js";

export function described(found, showConcept) {
  const say = (share) => Math.round(100 * share);
  const [left, top, right, bottom] = found.box;
  const byTimes = [...found.words].sort((a, b) => b.times - a.times);
  const heads = (one) =>
    one.concepts?.length
      ? `through heads of ${one.concepts.map((c) => `${c.concept} (${number(c.pull, 1)})`).join(", ")}`
      : "";
  return [
    el("h3", {}, "What drives this region"),
    el(
      "p",
      { class: "soft" },
      `From ${say(left)} to ${say(right)} % across, ${say(top)} to ${say(bottom)} % down.`,
    ),
    el("h4", {}, "Words, compared with the whole image"),
    bars(
      byTimes.map((one) => ({
        name: one.text,
        value: one.times,
        label: `× ${number(one.times)}`,
        note: heads(one),
      })),
    ),
    found.concepts.length ? el("h4", {}, "Concepts whose heads attend here, compared with the average head") : null,
    found.concepts.length
      ? bars(
          found.concepts.map((one) => ({
            name: one.concept,
            value: one.pull,
            label: `× ${number(one.pull)}`,
            onclick: () => showConcept(one.concept),
          })),
        )
      : null,
  ].filter(Boolean);
}
