// Edit: a generated or an uploaded image, by editing its prompt, with the baselines beside it.

import { $, el, figure, fill, valuesOf, debounced, number, options, refused } from "./dom.js";
import { pictureOf, send } from "./api.js";
import { concepts, isByEffect, onRelevance, page } from "./page.js";
import { jobSlot, problem } from "./jobs.js";
import { actions } from "./recipe.js";
import { isValid, onSetup, pictureSetup } from "./setup.js";
import { wordsOf } from "./words.js";

const form = $("edit-form");
const LEAVE = "";
let words = [];
let conceptOf = {};
let upload = null;

onRelevance(() => {
  form.elements.strength.max = isByEffect() ? 2 : 3; // no head is raised further by effect
  showStrength();
  if (words.length) readWords();
});
onSetup(describeUnused);

// A way to edit, as the label of its box has it.
const labelOf = (column) =>
  form.querySelector(`[name=baselines][value="${column}"]`)?.parentElement.textContent.trim() ?? column;

function describeFit({ psnr, limit }) {
  const fit =
    `Reconstruction of your image: PSNR ${number(psnr, 1)} dB ` +
    `(autoencoder alone: ${number(limit, 1)} dB).`;
  return psnr < 20
    ? `${fit} Below 20 dB, what is edited is a different image: describe yours better, or use more steps.`
    : fit;
}

const editing = jobSlot("edit", "edit", (job) => {
  const fit = job.found.find((item) => "psnr" in item);
  $("edit-note").textContent = fit ? describeFit(fit) : "";
  $("edit-pictures").replaceChildren(
    ...job.found
      .filter((item) => item.column)
      .map((item) =>
        item.error
          ? refused(labelOf(item.column), item.error)
          : figure(
              pictureOf(job, item),
              item.column === "relevance" ? `by relevance × ${job.asked.strength}` : labelOf(item.column),
              `${item.column}: ${item.column === "source" ? job.asked.prompt : job.asked.target}`,
              item.column === "relevance",
            ),
      ),
  );
  if (job.state === "done") actions($("edit-actions"), job, "edit");
});

async function readWords() {
  const { prompt, target } = valuesOf(form);
  if (!prompt.trim() || !target.trim()) return;
  try {
    const answer = await wordsOf(target, prompt);
    words = answer.words.filter((word) => word.changed);
    problem("edit", answer.problem);
  } catch (error) {
    words = [];
    problem("edit", error.message);
  }
  showWords();
}

function showWords() {
  $("edit-words").replaceChildren(
    ...words.map((word) => {
      const select = el("select", {
        onchange: (event) => {
          conceptOf[word.text] = event.target.value;
        },
      });
      options(
        select,
        [[LEAVE, "no concept; it keeps the source’s attention map"], ...concepts()],
        conceptOf[word.text] ?? word.concepts.find((name) => concepts().includes(name)) ?? LEAVE,
      );
      select.dataset.word = word.text;
      return el("label", { class: "field" }, `“${word.text}” is strengthened by`, select);
    }),
  );
}

const fromPicture = () => form.elements.from.value === "picture";

const showStrength = () => {
  $("edit-strength").textContent = Number(form.elements.strength.value).toFixed(1);
};

// The image settings that an uploaded image does not follow.
function describeUnused() {
  const { width, scheduler } = pictureSetup();
  const size = page.state.takes?.size; // known once the model is loaded
  const cropped = size ? `the model’s ${size.width} × ${size.height}` : "the model’s size";
  const sentences = [
    width ? `Width and height do not apply to your image, which is cropped to ${cropped}.` : "",
    scheduler
      ? `The sampler ${scheduler} acts on SDEdit alone; the other methods invert your image with a sampler of their own.`
      : "",
  ];
  $("edit-unused").textContent = fromPicture() ? sentences.filter(Boolean).join(" ") : "";
}

function changeSource() {
  describeUnused();
  $("edit-upload").hidden = $("edit-skip").hidden = !fromPicture();
  $("edit-source-name").textContent = fromPicture() ? "What the image shows" : "Source prompt";
}

async function uploadFile(file) {
  problem("edit", "");
  if (!file) return;
  if (file.size > page.state.upload) {
    const [size, limit] = [number(file.size / 2 ** 20, 1), Math.floor(page.state.upload / 2 ** 20)];
    return problem("edit", `${file.name} has ${size} MB; expected at most ${limit} MB.`);
  }
  $("edit-sent").textContent = "Uploading …";
  try {
    upload = await send("/api/pictures", file);
    $("edit-preview").src = `/api/pictures/${upload.id}`;
    $("edit-preview").alt = `Your image ${file.name}, at the model’s size`;
    $("edit-preview").hidden = false;
    $("edit-sent").textContent = `${file.name} is uploaded, cropped to ${upload.width} × ${upload.height}. ${upload.cropped}`;
  } catch (error) {
    upload = null;
    $("edit-preview").hidden = true;
    $("edit-sent").textContent = "";
    problem("edit", error.message);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (fromPicture() && !upload) return problem("edit", "Choose an image first.");
  if (!isValid()) return;
  const { strength, ...fields } = valuesOf(form);
  const chosen = {};
  for (const select of $("edit-words").querySelectorAll("select"))
    if (select.value !== LEAVE) chosen[select.dataset.word] = select.value;
  delete fields.from;
  delete fields.skip;
  const body = {
    ...fields,
    ...pictureSetup(),
    strength,
    relevance: page.name,
    concepts: chosen,
    baselines: [...form.querySelectorAll("[name=baselines]:checked")].map((box) => box.value),
  };
  if (fromPicture())
    Object.assign(body, { picture: upload.id, skip: Number(form.elements.skip.value), width: null, height: null });
  editing.ask(body);
});
for (const radio of form.elements.from) radio.addEventListener("change", changeSource);
for (const name of ["prompt", "target"])
  form.elements[name].addEventListener("input", debounced(250, readWords));
form.elements.strength.addEventListener("input", showStrength);
$("edit-file").addEventListener("change", (event) => uploadFile(event.target.files[0]));
$("edit-upload").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("edit-upload").classList.add("over");
});
$("edit-upload").addEventListener("dragleave", () => $("edit-upload").classList.remove("over"));
$("edit-upload").addEventListener("drop", (event) => {
  event.preventDefault();
  $("edit-upload").classList.remove("over");
  uploadFile(event.dataTransfer.files[0]);
});

export function ready() {
  if (!words.length) readWords();
}

function offer(baselines) {
  $("edit-baselines").replaceChildren(
    ...Object.entries(baselines).map(([value, title]) => {
      const box = el("input", { type: "checkbox", name: "baselines", value, checked: true });
      return el("label", { class: "choice" }, box, ` ${title}`);
    }),
  );
}

export function restore(last, state) {
  offer(state.baselines);
  fill(form, {
    num_inference_steps: Math.max(10, state.num_inference_steps),
    guidance_scale: state.guidance_scale,
  });
  changeSource();
  if (!last.edit) return;
  fillFrom(last.edit.asked);
  if (last.edit.asked.picture) {
    upload = { id: last.edit.asked.picture };
    $("edit-sent").textContent = "The image that you uploaded earlier.";
  }
  changeSource();
  editing.adopt(last.edit, true);
}

// What a link says: the same edit is made again.
export function follow(asked) {
  fillFrom(asked);
  changeSource();
  editing.ask(asked);
}

function fillFrom(asked) {
  fill(form, asked);
  form.elements.from.value = asked.picture ? "picture" : "prompt";
  conceptOf = { ...asked.concepts };
  for (const box of form.querySelectorAll("[name=baselines]"))
    box.checked = asked.baselines?.includes(box.value) ?? false;
  showStrength();
  readWords();
}
