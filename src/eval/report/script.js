"use strict";

// The value of a cell: a number where it has one, else its text.
function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text);
  return text !== "" && !Number.isNaN(number) ? number : text;
}

// Numbers before texts, and each in their order; what is missing (–) is always last.
function compare(a, b, sign) {
  const missing = (value) => value === "" || String(value).startsWith("–");
  if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortTable(heading) {
  const table = heading.closest("table");
  const headings = [...heading.parentElement.children];
  const column = headings.indexOf(heading);
  const ascends = heading.getAttribute("aria-sort") !== "ascending";
  headings.forEach((other) => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", ascends ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.sort((a, b) => compare(valueOf(a.cells[column]), valueOf(b.cells[column]), ascends ? 1 : -1));
  body.append(...rows);
}

for (const heading of document.querySelectorAll("table.sortable thead th")) {
  heading.setAttribute("aria-sort", "none");
  heading.querySelector("button").addEventListener("click", () => sortTable(heading));
}

const list = document.querySelector(".pairs");
const pairs = [...list.children];
const sort = document.getElementById("sort");
const filter = document.getElementById("filter");
const search = document.getElementById("search");

// What is no number, or infinite, is not among the worst.
function sortPairs() {
  const chosen = sort.selectedOptions[0];
  if (!chosen) return;
  const name = `data-${chosen.value.replaceAll("_", "-")}`;
  const sign = chosen.dataset.worst === "ascending" ? 1 : -1;
  const value = (pair) => {
    const number = Number.parseFloat(pair.getAttribute(name) ?? "");
    return Number.isFinite(number) ? sign * number : Infinity;
  };
  const sorted = [...pairs].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x === y ? a.dataset.key.localeCompare(b.dataset.key, undefined, { numeric: true }) : x - y;
  });
  list.append(...sorted);
}

function filterPairs() {
  const words = search.value.trim().toLowerCase();
  let found = 0;
  for (const pair of pairs) {
    const isOfKind = !filter.value || pair.dataset.kind === filter.value;
    const isFound = isOfKind && (!words || pair.textContent.toLowerCase().includes(words));
    pair.hidden = !isFound;
    found += Number(isFound);
  }
  document.getElementById("found").textContent = `${found} of ${pairs.length}`;
}

sort.addEventListener("change", sortPairs);
filter.addEventListener("change", filterPairs);
search.addEventListener("input", filterPairs);
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
filterPairs();

list.addEventListener("input", (event) => {
  const slider = event.target.closest(".slider");
  if (slider) slider.style.setProperty("--at", `${event.target.value}%`);
});
