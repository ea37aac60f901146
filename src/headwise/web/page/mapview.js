// Which rows of the concept × head map are shown, in which order; and the map as a table.

const ORDERS = {
  measured: () => 0,
  name: (found) => (a, b) => found.concepts[a].localeCompare(found.concepts[b]),
  largest: (found) => descending((row) => Math.max(...found.values[row])),
  split: (found) => descending((row) => found.split_half[row] ?? -Infinity),
  head: (found, head) => descending((row) => (head === null ? 0 : found.values[row][head])),
};

const descending = (value) => (a, b) => value(b) - value(a);

// The rows that contain what is typed, in a concept's name or in one of its words.
export function rowsOf(found, order, text, head) {
  const wanted = text.trim().toLowerCase();
  const words = new Map(found.words);
  const matches = (name) =>
    [name, ...(words.get(name) ?? [])].some((one) => one.toLowerCase().includes(wanted));
  const rows = found.concepts.map((_, row) => row).filter((row) => matches(found.concepts[row]));
  return order === "measured" ? rows : rows.sort(ORDERS[order](found, head));
}

// The relevance with these rows alone.
export const viewOf = (found, rows) => ({
  ...found,
  heads: found.values[0].length,
  concepts: rows.map((row) => found.concepts[row]),
  values: rows.map((row) => found.values[row]),
});

const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;

// A row for each concept, with its split-half correlation and its relevance for each head.
export function csvOf(found, rows, addresses) {
  const head = ["concept", "split_half", ...addresses].map(quoted);
  const lines = rows.map((row) => [quoted(found.concepts[row]), found.split_half[row] ?? "", ...found.values[row]]);
  return [head, ...lines].map((cells) => cells.join(",")).join("\r\n") + "\r\n";
}
