"use strict";
// Sorts and filters leaderboards. Without it the page is whole, in its first order.
for (const board of document.querySelectorAll(".board")) {
  const table = board.querySelector("table.sortable");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const filters = board.querySelector(".filter");
  const status = board.querySelector(".status");

  const key = (row, place) => {
    const order = row.cells[place].dataset.order;
    return order === undefined ? row.cells[place].textContent : order === "" ? null : Number(order);
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);

  function sort(place) {
    const head = heads[place];
    const first = head.dataset.first;
    const other = first === "ascending" ? "descending" : "ascending";
    const way = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of heads) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", way);
    const sign = way === "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row) => [row, key(row, place)]);
    keyed.sort(([, a], [, b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
    body.append(...keyed.map(([row]) => row));
    status.textContent = `Sorted by ${head.textContent.trim()}, ${way}.`;
  }

  function filter() {
    const wanted = filters.querySelector("[data-filter=text]").value.trim().toLowerCase().split(/\s+/);
    const off = [...filters.querySelectorAll("[type=checkbox]:not(:checked)")];
    for (const row of rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden =
        !wanted.every((word) => name.includes(word)) || off.some((box) => row.dataset[box.dataset.filter] === box.value);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = shown === rows.length ? `All ${shown} methods shown.` : `${shown} of ${rows.length} methods shown.`;
  }

  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(place));
    head.append(button);
  });
  if (filters) {
    filters.hidden = false;
    filters.addEventListener("input", filter);
  }
}
