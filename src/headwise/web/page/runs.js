// Runs: the folder of runs, the progress of those at work, and what can be done with each.

import { $, el, figure, valuesOf, number } from "./dom.js";
import { get, over, post, remove } from "./api.js";
import { offerRelevance, page } from "./page.js";
import { announce, jobSlot, problem } from "./jobs.js";
import { showRecipe } from "./recipe.js";

const form = $("measure-form");
let timer = 0;
let all = [];
let openRun = "";
let openLook = "";
let lastNews = "";
let reading = Promise.resolve();

const measuring = jobSlot("runs", "measure", tell);
const resuming = jobSlot("runs", "weaken", tell);

// The list is read again when a run begins and ends, and every second and a half in between.
function tell(job) {
  if (lastNews === `${job.id} ${job.state}`) return;
  lastNews = `${job.id} ${job.state}`;
  list();
  if (over(job)) offerRelevance().catch(() => {});
}

const kindOf = (run) => (run.kind === "pictures" ? "images" : run.kind);
const address = (run) => `/api/runs/${encodeURIComponent(run.name)}`;

function list() {
  clearTimeout(timer);
  reading = read();
  return reading;
}

async function read() {
  let runs;
  try {
    runs = await get("/api/runs");
  } catch (error) {
    return problem("runs", error.message);
  }
  const focused = document.activeElement?.dataset?.key;
  all = runs;
  showList();
  if (focused)
    $("runs-list")
      .querySelector(`[data-key="${CSS.escape(focused)}"]`)
      ?.focus();
  const open = runs.find((run) => run.name === openRun);
  if (open && openLook !== look(open)) await detail(open, false);
  if (runs.some((run) => ["running", "waiting"].includes(run.state)) && !$("runs").hidden)
    timer = setTimeout(list, 1500);
}

// The runs whose name, kind or caption contains what is typed.
function showList() {
  const wanted = $("runs-search").value.trim().toLowerCase();
  const shown = all.filter((run) => `${run.name} ${run.kind} ${run.caption}`.toLowerCase().includes(wanted));
  $("runs-find").hidden = !all.length;
  $("runs-empty").hidden = shown.length > 0;
  $("runs-empty").textContent = all.length ? "No run matches." : "No runs yet.";
  $("runs-list").replaceChildren(...shown.map(rowOf));
}

// A run is shown again when one of these changes.
const look = (run) => [run.name, run.state, run.counted, run.changed].join();

function close() {
  openRun = openLook = "";
  $("run-detail").hidden = true;
  $("run-detail").replaceChildren();
}

function rowOf(run) {
  const working = ["running", "waiting"].includes(run.state);
  const act = (text, onclick) =>
    el(
      "button",
      {
        type: "button",
        class: "link",
        "data-key": `${run.name}/${text}`,
        "aria-label": `${text}: ${run.name}`,
        onclick,
      },
      text,
    );
  const buttons = [act("show", () => detail(run))];
  if (
    ["finished", "unfinished"].includes(run.state) &&
    run.kind !== "pictures" &&
    (run.measured || run.kind !== "measurement")
  ) {
    buttons.push(
      el(
        "a",
        {
          href: `${address(run)}/report`,
          target: "_blank",
          rel: "noopener",
          "aria-label": `report: ${run.name}`,
        },
        "report",
      ),
    );
  }
  buttons.push(act("recipe", () => showRecipe(`${address(run)}/recipe`, "runs")));
  if (working && run.job) buttons.push(act("cancel", () => cancel(run)));
  if (run.state === "unfinished" && run.mine && ["measurement", "weakening"].includes(run.kind))
    buttons.push(act("resume", () => resume(run)));
  if (run.mine && !working) buttons.push(act("delete", () => deleteRun(run)));
  const counted =
    run.kind === "measurement" || run.kind === "weakening"
      ? working && run.total
        ? `${run.done} of ${run.total}`
        : run.counted
          ? `${run.counted}${run.of ? ` of ${run.of}` : ""} counted`
          : ""
      : `${run.pictures} images`;
  const thumbnail = run.thumbnail
    ? el("img", { src: `${address(run)}/pictures/${encodeURIComponent(run.thumbnail)}`, alt: "", loading: "lazy" })
    : null;
  return el(
    "li",
    {},
    thumbnail,
    el(
      "div",
      { class: "head" },
      el("b", {}, run.name),
      el("span", { class: "soft" }, kindOf(run)),
      el("span", { class: `state ${run.state}` }, run.state),
      el("span", { class: "soft" }, counted),
      el("span", { class: "soft" }, new Date(1000 * run.changed).toLocaleString()),
    ),
    run.caption ? el("p", { class: "soft" }, run.caption) : null,
    working
      ? el("progress", {
          max: Math.max(1, run.total ?? 1),
          value: run.done ?? 0,
          "aria-label": `Progress of ${run.name}`,
        })
      : null,
    el("div", { class: "row" }, buttons),
  );
}

async function detail({ name }, scroll = true) {
  try {
    const run = await get(`/api/runs/${encodeURIComponent(name)}`);
    if (!scroll && openRun !== name) return;
    openRun = name;
    openLook = look(run);
    const place = $("run-detail");
    place.hidden = false;
    place.replaceChildren(
      el(
        "div",
        { class: "row between" },
        el("h3", { tabindex: "-1" }, run.name),
        el("button", { type: "button", onclick: close }, "Close"),
      ),
      el(
        "p",
        { class: "soft" },
        [
          `${kindOf(run)}, ${run.state}`,
          run.counted ? `${run.counted} counted` : "",
          run.sure === null ? "" : `median split-half correlation ${number(run.sure)}`,
          run.made_here
            ? run.mine
              ? "started from this browser"
              : "started from another browser"
            : "made on the command line",
        ]
          .filter(Boolean)
          .join("; ") + ".",
      ),
      el(
        "div",
        { class: "pictures strip" },
        run.prompts.map((prompt, i) => {
          const name = run.pictures[i].replace(/\.png$/, "");
          const source = `${address(run)}/pictures/${encodeURIComponent(run.pictures[i])}`;
          return figure(source, prompt ? `${prompt} (${name})` : name);
        }),
      ),
    );
    if (!scroll) return;
    place.scrollIntoView({ block: "nearest" });
    place.querySelector("h3").focus({ preventScroll: true });
  } catch (error) {
    problem("runs", error.message);
  }
}

async function cancel(run) {
  try {
    await post(`/api/jobs/${run.job}/cancel`);
    announce(`${run.name} is cancelled; what has been counted is kept.`);
  } catch (error) {
    problem("runs", error.message);
  }
  list();
}

function resume(run) {
  (run.kind === "weakening" ? resuming : measuring).ask(undefined, `${address(run)}/resume`);
}

async function deleteRun(run) {
  if (!confirm(`Delete ${run.name} and everything in it?`)) return;
  clearTimeout(timer);
  if (openRun === run.name) close();
  await reading; // or it would go on to ask for what is deleted
  try {
    await remove(address(run));
    announce(`${run.name} is deleted.`);
  } catch (error) {
    problem("runs", error.message);
  }
  list();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const { prompts, ...fields } = valuesOf(form);
  measuring.ask({
    ...fields,
    prompts: prompts
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean),
    keep_pictures: Math.min(8, fields.pictures),
  });
});

// By votes every image counts for all concepts, by effect for the concept whose word is in it. A first look.
const PROPOSED = { votes: ["Images", 64], effect: ["Images of each concept", 10] };

form.elements.by.addEventListener("change", () => {
  [$("measure-pictures").textContent, form.elements.pictures.value] = PROPOSED[form.elements.by.value];
});

$("runs-search").addEventListener("input", showList);

export function opened() {
  list();
}

const proposeName = () => {
  form.elements.name.value = `measured-${Date.now().toString(36).slice(-4)}`;
};

export function restore(last, state) {
  proposeName();
  form.elements.concepts.value = state.concepts;
  if (last.measure && !over(last.measure)) measuring.adopt(last.measure, true);
  if (page.state.measured === false) $("measure-card").open = true;
}
