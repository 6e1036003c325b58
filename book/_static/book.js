// HTML tables of code cells get a box of their own that scrolls, so that the page never does.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".cell_output table")) {
    const box = document.createElement("div");
    box.className = "pst-scrollable-table-container";
    box.tabIndex = 0;
    table.replaceWith(box);
    box.append(table);
  }
});
