/* The graph as a table, for screen readers and for exact edits: per block, and per layer with every option. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.graphTable = (store) => {
    const body = el("tbody"),
      rows = new Map(),
      openBlocks = new Set();
    const heads = ["", "Block", "Kind", "Layers", "Bits", "Stored bits", "Size", "Score", "Locked"];
    const score = el("th", { scope: "col", class: "number", text: "Score" });
    const head = el(
      "tr",
      {},
      ...heads.map((text) =>
        text === "Score"
          ? score
          : el("th", { scope: "col", class: ["Layers", "Stored bits", "Size"].includes(text) ? "number" : null, text }),
      ),
    );
    const table = el(
      "table",
      { class: "qs-table" },
      el("caption", { class: "qs-hidden", text: "Blocks and layers with their bits" }),
      el("thead", {}, head),
      body,
    );
    const node = el(
      "div",
      { class: "qs-tableframe", tabindex: 0, role: "region", "aria-label": "Table of blocks and layers", hidden: true },
      table,
    );

    function bitsSelect(id, label) {
      const options = store.graph.choices.map((bits) =>
        el("option", { value: bits, text: bits === 16 ? "full" : `${bits} bits` }),
      );
      const select = el(
        "select",
        { "aria-label": `Bits of ${label}` },
        el("option", { value: "mixed", text: "mixed", disabled: true }),
        ...options,
      );
      select.addEventListener("change", () => {
        store.set(store.editable([id]), Number(select.value));
        store.commit();
        paint();
      });
      return select;
    }

    function row(id, label, kind, count, isLayer) {
      const select = isLayer ? QS.optionSelect(store, id, paint) : bitsSelect(id, label);
      const stored = el("td", { class: "number" }),
        size = el("td", { class: "number" }),
        value = el("td", { class: "number" });
      const lock = el("input", { type: "checkbox", "aria-label": `Protect ${label}`, onchange: () => store.protect([id]) });
      const name = el(
        "th",
        { scope: "row", title: id },
        el("button", { type: "button", class: "qs-link", text: label, onclick: () => store.select([id]) }),
      );
      const more =
        !isLayer &&
        el(
          "button",
          {
            type: "button",
            class: "qs-twist",
            "aria-expanded": "false",
            "aria-label": `Layers of ${label}`,
            onclick: () => toggle(id),
          },
          QS.icon("right"),
        );
      const tr = el(
        "tr",
        { class: isLayer ? "layer" : "block", dataset: { row: id } },
        el("td", {}, more),
        name,
        el("td", { text: kind }),
        el("td", { class: "number", text: count || "" }),
        el("td", {}, select),
        stored,
        size,
        value,
        el("td", {}, lock),
      );
      return { tr, id, select, stored, size, value, lock, more, isLayer, choices: store.choicesOf(id) };
    }

    function toggle(id) {
      const block = rows.get(`block:${id}`),
        open = !openBlocks.has(id);
      if (open) openBlocks.add(id);
      else openBlocks.delete(id);
      block.more.setAttribute("aria-expanded", String(open));
      for (const choice of block.choices) {
        const key = `layer:${choice}`;
        if (!open) {
          rows.get(key)?.tr.remove();
          rows.delete(key);
          continue;
        }
        const layer = store.graph.layers[choice];
        rows.set(key, row(choice, layer.label, layer.role, "", true));
      }
      if (open) block.tr.after(...block.choices.map((choice) => rows.get(`layer:${choice}`).tr));
      paint();
    }

    function build() {
      rows.clear();
      openBlocks.clear();
      if (!store.graph) return;
      for (const card of store.graph.blocks)
        rows.set(`block:${card.id}`, row(card.id, card.label, card.kind, card.layers.length, false));
      body.replaceChildren(...[...rows.values()].map((item) => item.tr));
    }

    function paint() {
      if (node.hidden || !store.graph) return;
      if (!rows.size) build();
      score.title = store.byBits ? "" : `${store.overlay.title || ""} ${store.overlay.unit || ""}`;
      score.tabIndex = -1;
      for (const item of rows.values()) {
        const held = QS.holding(store.graph, store.options, item.choices);
        const value = item.isLayer ? QS.optionOf(store.options, item.id) : held.mixed ? "mixed" : String(held.low);
        if (item.select.value !== value) item.select.value = value;
        item.stored.textContent = held.stored.toFixed(2);
        item.size.textContent = QS.megabytes(held.bytes);
        const number = store.byBits ? null : store.valueOf(item.id);
        const doubt = store.doubtOf(item.id);
        item.value.textContent = number === null ? "–" : QS.number(number) + (doubt && ` ${doubt}`);
        item.lock.checked = store.isProtected(item.id);
        item.tr.classList.toggle("selected", store.selected.has(item.id));
      }
    }
    const repaint = QS.framed(paint);
    store.on("options value select protect", repaint);
    store.on("graph", () => {
      rows.clear();
      repaint();
    });
    return {
      node,
      show: (on) => {
        node.hidden = !on;
        paint();
      },
      shown: () => !node.hidden,
    };
  };
})();
