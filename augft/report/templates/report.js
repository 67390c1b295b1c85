for (const table of document.querySelectorAll("table.sortable")) {
  const collator = new Intl.Collator("en", { numeric: true });
  for (const heading of table.querySelectorAll("thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[heading.cellIndex];
        return (cell.dataset.value ?? cell.textContent).trim();
      };
      const order = (a, b) => {
        if (a === "" || b === "") return (a === "") - (b === ""); // what was not measured comes last, either way
        const difference = Number(a) - Number(b);
        return (Number.isNaN(difference) ? collator.compare(a, b) : difference) * (down ? -1 : 1);
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => order(value(a), value(b)));
      table.tBodies[0].append(...rows);
    });
  }
}
const unfolded = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not(.data, [open])")) {
    details.open = true;
    unfolded.push(details);
  }
});
addEventListener("afterprint", () => {
  for (const details of unfolded.splice(0)) details.open = false;
});
