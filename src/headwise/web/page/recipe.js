// A request as Python and as a command line, to copy or to save.

import { $, download, el } from "./dom.js";
import { get, post } from "./api.js";
import { announce, problem } from "./jobs.js";
import { linkButton } from "./link.js";

export async function showRecipe(path, panel) {
  try {
    const answer = await get(path);
    $("recipe-command").textContent = answer.command;
    $("recipe-python").textContent = answer.python;
    $("recipe-python").hidden = $("recipe-python-head").hidden = !answer.python;
    $("recipe").showModal();
  } catch (error) {
    problem(panel, error.message);
  }
}

// The buttons beneath a result. An uploaded image is in no link: it is its own browser's alone.
export function actions(place, job, panel, strip = () => "") {
  place.hidden = false;
  const name = el("input", {
    value: `${job.kind}-${job.id.slice(0, 4)}`,
    maxlength: "80",
    "aria-label": "Name of the folder to keep the images in",
  });
  const keep = el(
    "button",
    {
      type: "button",
      onclick: async () => {
        try {
          const answer = await post(`/api/jobs/${job.id}/keep?name=${encodeURIComponent(name.value)}&strip=${strip()}`);
          announce(`Kept as ${answer.run}.`);
          keep.textContent = `Kept as ${answer.run}`;
        } catch (error) {
          problem(panel, error.message);
        }
      },
    },
    "Keep in runs",
  );
  place.replaceChildren(
    el(
      "button",
      { type: "button", onclick: () => showRecipe(`/api/jobs/${job.id}/recipe`, panel) },
      "Python and command line",
    ),
    job.asked.picture ? "" : linkButton(panel, () => job.asked),
    name,
    keep,
  );
}

$("recipe-close").addEventListener("click", () => $("recipe").close());
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = $(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
      announce("Copied.");
    } catch {
      getSelection().selectAllChildren($(button.dataset.copy));
      announce("Selected; copy it with the keyboard.");
    }
  });
}
for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => download(`${$(button.dataset.save).textContent}\n`, button.dataset.name));
}
