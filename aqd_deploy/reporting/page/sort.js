// Tables of class "sortable" get buttons in their header cells; without this script they stay as they are.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.classList.contains("number") ? null : cell.textContent;
  };
  // What there is not comes last, whichever way.
  const compare = (a, b, way) =>
    a === b ? 0 : a === null ? 1 : b === null ? -1 : way * (typeof a === "number" ? a - b : a.localeCompare(b));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const way = order === "ascending" ? 1 : -1;
      const rows = [...body.rows];
      rows.sort((a, b) => compare(key(a, column), key(b, column), way));
      body.append(...rows);
    });
  });
}
