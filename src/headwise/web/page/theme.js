// Light, dark, or as the system has it; this browser remembers which.

import { $ } from "./dom.js";

const KEY = "headwise-theme";

function apply(theme) {
  document.documentElement.style.colorScheme = theme === "system" ? "" : theme;
  dispatchEvent(new Event("theme"));
}

function remembered() {
  try {
    return localStorage.getItem(KEY) ?? "system";
  } catch {
    return "system"; // where the browser keeps nothing
  }
}

$("theme").value = remembered();
apply($("theme").value);
$("theme").addEventListener("change", (event) => {
  apply(event.target.value);
  try {
    localStorage.setItem(KEY, event.target.value);
  } catch {
    // it holds for this tab
  }
});
