/* A grid of pictures: rows are prompts and seeds, columns are recipes; every picture is its own. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.mountGrid = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root");
    const table = el("table", { class: "qs-grid" }),
      scroll = el("div", { class: "qs-gridscroll", tabindex: 0, role: "region", "aria-label": "Grid of pictures" }, table);
    const empty = el("div", { class: "qs-empty" }),
      progress = QS.progressBar(() => trigger("cancel", {}));
    const error = el("div", { class: "qs-error", role: "alert", hidden: true });
    host.replaceChildren(error, progress, empty, scroll);
    let value = {},
      made = { rows: null, columns: null };

    const fileName = (row, column) =>
      `${column.title}-${row.title}-${row.detail || ""}`
        .toLowerCase()
        .replace(/[^\p{L}\p{N}]+/gu, "-")
        .replace(/^-|-$/g, "")
        .slice(0, 80) + ".png";

    function cell(src, row, column, r, c) {
      if (!src) return el("td", { class: "waiting", "aria-label": "not made yet" });
      const open = () => {
        props.value = { open: { row: r, column: c }, rev: value.rev };
        trigger("open", {});
      };
      const image = el("img", { src, alt: `${column.title}: ${row.title}`, loading: "lazy", draggable: "false" });
      return el(
        "td",
        {},
        el(
          "button",
          { type: "button", class: "qs-cell", title: `Compare: ${column.title}`, dataset: { cell: `${r},${c}` }, onclick: open },
          image,
        ),
        el(
          "a",
          {
            class: "qs-download",
            href: src,
            download: fileName(row, column),
            title: "Save this picture",
            "aria-label": `Save ${column.title}, ${row.title}`,
          },
          QS.icon("download"),
        ),
      );
    }
    function head(kind, item) {
      return el(
        "th",
        { scope: kind, title: [item.title, item.detail].filter(Boolean).join(" · ") },
        el("b", { text: item.title }),
        item.detail ? el("span", { text: item.detail }) : null,
      );
    }
    function show() {
      const columns = value.columns || [],
        rows = value.rows || [];
      empty.hidden = rows.length > 0 && columns.length > 0;
      scroll.hidden = !empty.hidden;
      empty.textContent = value.empty || "Choose prompts and recipes, then make the grid.";
      error.hidden = !value.error;
      error.textContent = value.error || "";
      progress.show(value.progress || null);
      host.dataset.rev = String(value.rev ?? "");
      if (value.rows === made.rows && value.columns === made.columns) return; // a picture keeps its focus meanwhile
      made = { rows: value.rows, columns: value.columns };
      table.replaceChildren(
        el("thead", {}, el("tr", {}, el("td", { class: "corner" }), ...columns.map((column) => head("col", column)))),
        el(
          "tbody",
          {},
          ...rows.map((row, r) =>
            el("tr", {}, head("row", row), ...columns.map((column, c) => cell((row.cells || [])[c], row, column, r, c))),
          ),
        ),
      );
    }
    const take = (next) => {
      value = { ...value, ...(next || {}) };
      show();
    };
    watch("value", () => take(props.value));
    take(props.value);
    host.dataset.ready = "1";
  };
})();
