// Explore: the map, one head or concept of it, and the current image, in both directions.

import { $, bars, download, el, fill, valuesOf, number, options, percent } from "./dom.js";
import { get, pictureOf } from "./api.js";
import { concepts, onRelevance, page } from "./page.js";
import { jobSlot, problem } from "./jobs.js";
import { HeadMap, drawScale } from "./headmap.js";
import { csvOf, rowsOf, viewOf } from "./mapview.js";
import { Stage } from "./stage.js";
import { linkButton } from "./link.js";
import { bytesOf } from "./overlay.js";
import { described } from "./region.js";
import { showRecipe } from "./recipe.js";
import * as drawn from "./explain.js";
import { isValid, pictureSetup } from "./setup.js";

let explored = null;
let head = null;
let word = 0;
let addresses = [];
let requests = 0;
let region = null;
let row = null; // of the concept that is shown
let lookedAt = {}; // what a link says to explain in the image
let sampling = {}; // of a link, where it differs from what the model proposes

const KINDS = {
  effect: "Measured by effect: how much of all that the concept’s words do to the image passes through the head.",
  votes: "Measured by votes: how often the head attends most to the concept’s words.",
};
let rows = []; // the concepts that the map shows, from top to bottom
const conceptAt = (line) => (line === null ? null : rows[line] ?? null);
const map = new HeadMap($("map"), $("map-names"), {
  moved: (line, at) => describeCell(conceptAt(line), at),
  chosen: (line, at) => choose(conceptAt(line), at),
});
const stage = new Stage($("stage"), askRegion);

onRelevance((found) => {
  problem("explore", "");
  addresses = found.layers.flatMap((layer) =>
    Array.from({ length: layer.heads }, (_, i) => `${layer.address}[${i}]`),
  );
  arrange();
  options($("map-concept"), [["", "choose …"], ...found.concepts.map((name, row) => [String(row), name])]);
  $("map-head").max = found.values[0].length - 1;
  drawScale($("map-scale"), found.signed);
  $("map-low").textContent = found.signed ? `−${found.top.toFixed(1)} and less` : "0";
  $("map-most").textContent = found.signed ? "Dark red" : "Bright";
  $("map-against").hidden = !found.signed;
  $("map-kind").textContent = KINDS[found.kind] ?? "";
  $("map-top").textContent = `${found.top.toFixed(1)} and more`;
});

// The rows in the chosen order, without those that are filtered out.
function arrange() {
  const found = page.relevance;
  if (!found) return;
  rows = rowsOf(found, $("map-order").value, $("map-filter").value, head);
  $("map-count").textContent =
    rows.length < found.concepts.length ? `${rows.length} of ${found.concepts.length} concepts` : "";
  map.show(viewOf(found, rows));
  mark();
}

// What is chosen, on the map.
function mark() {
  const line = rows.indexOf(row);
  map.choose(line < 0 ? null : line, head);
}

$("map-order").addEventListener("change", arrange);
$("map-filter").addEventListener("input", arrange);
$("map-csv").addEventListener("click", () => {
  if (page.relevance) download(csvOf(page.relevance, rows, addresses), "relevance.csv", "text/csv");
});

export function nothing(sentence) {
  problem("explore", sentence);
}

function describeCell(row, head) {
  const found = page.relevance;
  const parts = [row === null ? null : found.concepts[row], head === null ? null : `head ${head}`];
  const names = parts.filter(Boolean).join(" × ");
  const value = row !== null && head !== null ? `: ${number(found.values[row][head])}${sure(row, head)}` : "";
  $("map-cell").textContent = names ? `${names}${value}` : "\u00a0";
}

const sure = (row, head) => {
  const error = page.relevance.errors[row][head];
  return error === null ? "" : ` ± ${number(1.96 * error)}`;
};

function choose(row, at) {
  if (at !== null) showHead(at, row);
  else showConcept(row);
}

$("map-concept").addEventListener("change", (event) => {
  if (event.target.value) showConcept(Number(event.target.value));
});
$("map-head").addEventListener("change", (event) => {
  const at = event.target.value === "" ? -1 : Number(event.target.value);
  if (Number.isInteger(at) && at >= 0 && at < addresses.length) showHead(at, null);
});

function showConcept(at) {
  const found = page.relevance;
  row = at;
  map.choose(rows.indexOf(row) < 0 ? null : rows.indexOf(row), null);
  $("map-concept").value = String(row);
  const order = found.values[row]
    .map((value, at) => [value, at])
    .sort((a, b) => b[0] - a[0])
    .slice(0, 10);
  const words = found.words.find(([name]) => name === found.concepts[row])?.[1] ?? [];
  $("detail").replaceChildren(
    el("h3", {}, `The heads of ${found.concepts[row]}`),
    el(
      "p",
      { class: "soft" },
      `Split-half rank correlation ${number(found.split_half[row])}.`,
      words.length ? ` Its words: ${words.join(", ")}.` : "",
    ),
    bars(
      order.map(([value, at]) => ({
        name: `head ${at}`,
        value,
        label: number(value) + sure(row, at),
        note: addresses[at],
        onclick: () => showHead(at, row),
      })),
    ),
  );
}

function showHead(at, concept) {
  const found = page.relevance;
  [head, row] = [at, concept];
  if ($("map-order").value === "head") arrange();
  else mark();
  $("map-head").value = at;
  if (row !== null) $("map-concept").value = String(row);
  const order = found.concepts
    .map((name, c) => [found.values[c][at], c])
    .sort((a, b) => b[0] - a[0])
    .slice(0, 8);
  $("detail").replaceChildren(
    el("h3", {}, `The concepts of head ${at}`),
    el("p", { class: "address" }, addresses[at] ?? ""),
    bars(
      order.map(([value, c]) => ({
        name: found.concepts[c],
        value,
        label: number(value) + sure(c, at),
        onclick: () => showConcept(c),
      })),
    ),
    el(
      "p",
      { class: "soft" },
      explored
        ? "Its attention to each word is shown beneath the image."
        : "Generate an image to see what it attends to.",
    ),
    el(
      "p",
      {},
      el(
        "button",
        {
          type: "button",
          onclick: () => {
            head = null;
            mark();
            showMaps();
          },
        },
        "All heads together",
      ),
    ),
  );
  showMaps();
}

// The image

const generating = jobSlot("explore", "explore", (job) => {
  const item = job.found.find((result) => "picture" in result);
  if (!item || explored?.id === job.id) return;
  explored = job;
  word = 0;
  region = null;
  stage.show(pictureOf(job, item), `Image generated from the prompt: ${job.asked.prompt}`);
  $("explore-actions").hidden = false;
  drawn.show(job).then(() => {
    drawn.lookAt(lookedAt);
    lookedAt = {};
  });
  showMaps(true);
});

$("explore-form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});

const settings = () => ({
  num_inference_steps: page.state.num_inference_steps,
  guidance_scale: page.state.guidance_scale,
  ...sampling,
  relevance: page.name,
  ...pictureSetup(),
});

const generate = () => isValid() && generating.ask({ ...valuesOf($("explore-form")), ...settings() });

$("explore-recipe").addEventListener("click", () => {
  const looked = new URLSearchParams();
  if (head !== null) looked.set("head", head);
  if (region) looked.set("box", region.join());
  showRecipe(`/api/jobs/${explored.id}/recipe?${looked}`, "explore");
});

async function showMaps(first = false) {
  if (!explored) return;
  const request = (requests += 1);
  let found;
  try {
    found = await get(`/api/explore/${explored.id}/head${head === null ? "" : `?index=${head}`}`);
  } catch (error) {
    if (request === requests && !first) problem("explore", error.message);
    return;
  }
  if (request !== requests) return;
  // At first the word whose attention varies most from place to place.
  if (first)
    word = found.words.reduce((best, one, i) => (range(one) > range(found.words[best]) ? i : best), 0);
  const maps = found.words.map((one) => contrasted(bytesOf(one.map)));
  $("stage-words").setAttribute(
    "aria-label",
    `Attention of ${head === null ? "all heads together" : `head ${head}`} to each word`,
  );
  $("stage-words").replaceChildren(
    ...found.words.map((one, i) => {
      const small = el("canvas", { width: found.width, height: found.height, "aria-hidden": "true" });
      const picture = new ImageData(found.width, found.height);
      maps[i].forEach((value, at) => picture.data.set([255, 255, 255, value], 4 * at));
      const context = small.getContext("2d");
      context.fillStyle = "#00204c";
      context.fillRect(0, 0, found.width, found.height);
      const layer = new OffscreenCanvas(found.width, found.height);
      layer.getContext("2d").putImageData(picture, 0, 0);
      context.drawImage(layer, 0, 0);
      return el(
        "button",
        {
          type: "button",
          "aria-pressed": String(i === word),
          onclick: () => {
            word = word === i ? -1 : i;
            showMaps();
          },
        },
        small,
        el("span", {}, one.text),
        el("span", {}, percent(one.share)),
      );
    }),
  );
  stage.heat(
    word >= 0 && word < maps.length ? { values: maps[word], width: found.width, height: found.height } : null,
  );
}

const range = (one) => one.most - one.share;

// Darkest where the attention is lowest; not quite, so that an even map stays even.
function contrasted(values) {
  const low = 0.8 * Math.min(...values);
  return values.map((value) => Math.round((255 * (value - low)) / (255 - low || 1)));
}

async function askRegion(box) {
  if (!explored) return;
  region = box.map((share) => share.toFixed(4));
  const [left, top, right, bottom] = region;
  try {
    const name = encodeURIComponent(page.name);
    const query = `left=${left}&top=${top}&right=${right}&bottom=${bottom}`;
    const found = await get(`/api/explore/${explored.id}/region?${query}&name=${name}`);
    $("detail").replaceChildren(...described(found, (concept) => showConcept(concepts().indexOf(concept))));
  } catch (error) {
    problem("explore", error.message);
  }
}

// What a link holds of the image, and of what is looked at in it.
const linkState = () => ({ ...explored.asked, head, row, ...drawn.looked() });

$("explore-actions").append(linkButton("explore", linkState));

// What a link says: the same image, the same head or concept, the same words.
export function follow(asked) {
  const { num_inference_steps, guidance_scale, head: at = null, row: concept = null } = asked;
  sampling = Object.fromEntries(Object.entries({ num_inference_steps, guidance_scale }).filter(([, value]) => value));
  lookedAt = asked;
  fill($("explore-form"), { prompt: asked.prompt ?? "", seed: asked.seed ?? 0 });
  if (Number.isInteger(at) && addresses[at]) showHead(at, page.relevance.concepts[concept] ? concept : null);
  else if (page.relevance?.concepts[concept]) showConcept(concept);
  if ($("explore-form").reportValidity()) generate();
}

export function restore(last) {
  if (!last.explore) return;
  fill($("explore-form"), last.explore.asked);
  generating.adopt(last.explore, true);
  drawn.restore(last);
}

export function ready() {
  drawn.read();
  if (!explored && !$("explore").hidden) generate();
}
