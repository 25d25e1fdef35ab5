/* A heat map of rows by columns with named groups, a legend and a tooltip; a click picks a cell. Made for hundreds of rows. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;
  const STOPS = [
    [0, "#fdf6e3"],
    [0.2, "#fbd8a0"],
    [0.4, "#f6a85f"],
    [0.6, "#dd6a45"],
    [0.8, "#a8324a"],
    [1, "#4d1238"],
  ];

  QS.mountHeat = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root");
    const canvas = el("canvas", { class: "qs-heat-cells", tabindex: 0, role: "img" }),
      groups = el("div", { class: "qs-heat-groups" }),
      columns = el("div", { class: "qs-heat-columns" }),
      mark = el("div", { class: "qs-heat-mark", hidden: true }),
      cross = el("div", { class: "qs-heat-cross", hidden: true }),
      tip = el("div", { class: "qs-tip", hidden: true });
    const stage = el("div", { class: "qs-heat-stage" }, canvas, mark, cross),
      plot = el("div", { class: "qs-heat-plot" }, groups, stage, columns, tip);
    const title = el("b"),
      unit = el("span"),
      bar = el("i", { style: `background:${QS.gradient(STOPS)}` }),
      low = el("span"),
      high = el("span");
    const head = el("div", { class: "qs-heat-head" }, el("div", {}, title, unit), el("div", { class: "qs-heat-scale" }, low, bar, high));
    const note = el("p", { class: "qs-heat-note" }),
      error = el("div", { class: "qs-error", role: "alert", hidden: true }),
      empty = el("div", { class: "qs-empty" }),
      progress = QS.progressBar(() => trigger("cancel", {}));
    host.replaceChildren(progress, error, head, plot, note, empty);
    let value = {};

    const shape = () => [(value.rows || []).length, (value.columns || []).length];
    const place = (v) => QS.normalise(v, value.scale[0], value.scale[1], value.log);

    function draw() {
      const [r, c] = shape();
      if (!r || !c) return;
      canvas.width = c;
      canvas.height = r;
      const context = canvas.getContext("2d"),
        image = context.createImageData(c, r),
        shades = Array.from({ length: 256 }, (_, i) => {
          const hex = QS.rampColor(STOPS, i / 255);
          return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
        });
      for (let i = 0; i < r; i++)
        for (let j = 0; j < c; j++) {
          const v = value.values[i][j],
            at = 4 * (i * c + j);
          if (v === null || v === undefined) continue; // transparent: unknown
          const shade = shades[Math.round(255 * place(v))];
          image.data.set([...shade, 255], at);
        }
      context.putImageData(image, 0, 0);
    }

    function label(node, items, total, vertical) {
      node.replaceChildren(
        ...items.map(([text, start, count]) => {
          const box = el("span", { title: text }, el("em", { text }));
          box.style[vertical ? "top" : "left"] = `${(100 * start) / total}%`;
          box.style[vertical ? "height" : "width"] = `${(100 * count) / total}%`;
          return box;
        }),
      );
    }
    // Neighbours of the same group share one label; labels that would be too low are left to the tooltip.
    function runs(items) {
      const found = [];
      for (const [i, item] of items.entries()) {
        const text = item.group || item.label,
          last = found[found.length - 1];
        if (last && last[0] === text) last[2] += 1;
        else found.push([text, i, 1]);
      }
      return found;
    }
    function show() {
      const [r, c] = shape(),
        there = r > 0 && c > 0;
      for (const node of [head, plot, note]) node.hidden = !there;
      empty.textContent = value.empty ?? "Nothing to show yet.";
      empty.hidden = there || Boolean(value.progress) || !empty.textContent;
      error.hidden = !value.error;
      error.textContent = value.error || "";
      progress.show(value.progress || null);
      host.dataset.rev = String(value.rev ?? "");
      if (!there) return;
      title.textContent = value.title || "";
      unit.textContent = value.unit || "";
      low.textContent = QS.number(value.scale[0]);
      high.textContent = QS.number(value.scale[1]);
      note.textContent = value.note || "";
      note.hidden = !value.note;
      const pixels = Math.max(value.height || 0, Math.min(460, Math.max(150, r * (c > r * 0.7 ? 3.4 : 3.2))));
      stage.style.height = `${pixels}px`;
      const rows = runs(value.rows).filter(([, , n]) => (pixels * n) / r >= 9.5);
      label(groups, rows, r, true);
      groups.hidden = !rows.length;
      const every = Math.max(1, Math.ceil(c / 10));
      label(
        columns,
        value.columns[0]?.group !== undefined
          ? runs(value.columns).filter(([text, , n]) => (n / c) * stage.clientWidth > 5.6 * text.length)
          : value.columns.map((item, i) => [item.label, i, 1]).filter((_, i) => i % every === 0),
        c,
        false,
      );
      canvas.setAttribute("aria-label", `${value.title}: ${r} rows by ${c} columns. Arrow keys walk, Enter picks.`);
      draw();
      place2(mark, value.picked);
    }
    function place2(node, cell) {
      const [r, c] = shape();
      node.hidden = !cell || !r;
      if (node.hidden) return;
      const whole = value.pick === "column" && node === mark;
      node.style.left = `${(100 * cell.column) / c}%`;
      node.style.width = `${100 / c}%`;
      node.style.top = whole ? "0" : `${(100 * cell.row) / r}%`;
      node.style.height = whole ? "100%" : `${100 / r}%`;
    }

    let at = null; // where keys and pointer are
    function hover(cell) {
      at = cell;
      tip.hidden = !cell;
      place2(cross, cell);
      if (!cell) return;
      const row = value.rows[cell.row],
        column = value.columns[cell.column],
        v = value.values[cell.row][cell.column];
      const line = (name, text) => el("div", { class: "qs-tip-line" }, el("span", { text: name }), el("b", { text }));
      tip.replaceChildren(
        el("div", { class: "qs-tip-title", text: v === null || v === undefined ? "no number" : QS.number(v) }),
        line(value.row_name || "Row", row.title || row.label),
        line(value.column_name || "Column", column.title || column.label),
      );
      const box = plot.getBoundingClientRect(),
        inner = stage.getBoundingClientRect(),
        x = inner.left - box.left + ((cell.column + 0.5) / value.columns.length) * inner.width,
        y = inner.top - box.top + ((cell.row + 0.5) / value.rows.length) * inner.height;
      const side = x + tip.offsetWidth + 16 > box.width ? x - tip.offsetWidth - 12 : x + 14;
      tip.style.transform = `translate(${Math.round(Math.max(0, side))}px, ${Math.round(Math.max(0, y - tip.offsetHeight / 2))}px)`;
    }
    function cellAt(event) {
      const box = stage.getBoundingClientRect(),
        [r, c] = shape();
      const row = Math.floor(((event.clientY - box.top) / box.height) * r),
        column = Math.floor(((event.clientX - box.left) / box.width) * c);
      return row >= 0 && row < r && column >= 0 && column < c ? { row, column } : null;
    }
    function pick(cell) {
      if (!cell) return;
      value.picked = cell;
      place2(mark, cell);
      const id = value.rows[cell.row].id,
        store = QS.store(props.group);
      if (id && store.graph && (store.graph.byId.has(id) || store.graph.layers[id])) store.select([id]);
      props.value = { picked: cell, rev: value.rev };
      trigger("pick", {});
    }
    stage.addEventListener("pointermove", (event) => hover(cellAt(event)));
    stage.addEventListener("pointerleave", () => hover(null));
    stage.addEventListener("click", (event) => pick(cellAt(event)));
    canvas.addEventListener("blur", () => hover(null));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key],
        [r, c] = shape();
      if (step) {
        event.preventDefault();
        event.stopPropagation();
        const from = at || value.picked || { row: 0, column: 0 };
        hover({ row: QS.clamp(from.row + step[0], 0, r - 1), column: QS.clamp(from.column + step[1], 0, c - 1) });
      } else if (event.key === "Enter") {
        event.preventDefault();
        pick(at);
      }
    });
    const take = (next) => {
      value = { ...value, ...(next || {}) };
      show();
    };
    // Which labels fit depends on the width, and a tab that was hidden had none.
    let width = 0;
    new ResizeObserver(
      QS.framed(() => {
        if (Math.abs(stage.clientWidth - width) < 2) return;
        width = stage.clientWidth;
        show();
      }),
    ).observe(stage);
    watch("value", () => take(props.value));
    take(props.value);
    host.dataset.ready = "1";
  };
})();
