/* The bar above the graph: figures, search, selection by stage, type and role, zoom, table, help. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  // Blocks whose name matches; where none does, the layers that match. A broken expression is a plain search.
  QS.searchGraph = (graph, text) => {
    if (!text) return null;
    let test;
    try {
      const expression = new RegExp(text, "i");
      test = (name) => expression.test(name);
    } catch {
      const plain = text.toLowerCase();
      test = (name) => name.toLowerCase().includes(plain);
    }
    const blocks = graph.blocks.filter((card) => test(card.label) || test(card.id) || test(card.kind)).map((card) => card.id);
    const layers = Object.keys(graph.layers).filter((name) => test(name) || test(graph.layers[name].role));
    return { blocks, layers, ids: blocks.length ? blocks : layers };
  };

  QS.graphSearch = (store, painter) => {
    const input = el("input", {
      type: "search",
      class: "qs-search",
      placeholder: "Search",
      title: "Search blocks and layers by regular expression (/)",
      "aria-label": "Search blocks and layers, regular expression",
      spellcheck: "false",
      autocomplete: "off",
    });
    const count = el("button", { type: "button", class: "qs-textbutton qs-matches", hidden: true });
    let found = null;
    function run() {
      found = store.graph ? QS.searchGraph(store.graph, input.value.trim()) : null;
      count.hidden = !found;
      if (!found) {
        painter.mark(null);
        return;
      }
      const kind = found.blocks.length ? "block" : "layer",
        n = found.ids.length;
      count.textContent = n ? `Select ${n} ${kind}${n === 1 ? "" : "s"}` : "No match";
      count.disabled = !n;
      const shown = new Set(found.ids);
      if (!found.blocks.length)
        for (const card of store.graph.blocks) if (card.layers.some((name) => shown.has(name))) shown.add(card.id);
      painter.mark(shown);
    }
    const take = () => {
      if (found && found.ids.length) store.select(found.ids);
    };
    input.addEventListener("input", run);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        take();
      }
      if (event.key === "Escape") {
        input.value = "";
        run();
        input.blur();
      }
    });
    count.addEventListener("click", take);
    const node = el("div", { class: "qs-searchbox" }, QS.icon("search"), input, count);
    return {
      node,
      input,
      run,
      clear: () => {
        input.value = "";
        run();
      },
    };
  };

  // Chips that select; a second press takes the selection back.
  QS.graphFilter = (store) => {
    const anchor = el(
      "button",
      { type: "button", class: "qs-textbutton", title: "Select by stage, type or role" },
      QS.icon("select"),
      el("span", { text: "Select" }),
    );
    const panel = el("div", { class: "qs-popover qs-filter", role: "dialog", "aria-label": "Select by stage, type or role" });
    QS.popover(anchor, panel);
    const chip = (text, ids, count) =>
      el(
        "button",
        {
          type: "button",
          class: "qs-chip",
          dataset: { chip: text },
          onclick: () => {
            const all = ids.every((id) => store.selected.has(id));
            store.select(all ? [...store.selected].filter((id) => !ids.includes(id)) : ids, all ? "set" : "add");
          },
        },
        el("span", { text }),
        el("i", { text: count }),
      );
    const grouped = (items, key) => {
      const groups = new Map();
      for (const item of items) groups.set(key(item), [...(groups.get(key(item)) || []), item]);
      return [...groups];
    };
    function build() {
      const graph = store.graph;
      if (!graph) return;
      const section = (title, chips) =>
        chips.length && el("section", {}, el("h4", { text: title }), el("div", { class: "qs-chips" }, ...chips));
      const stages = graph.stages.map((stage) =>
        chip(stage.label, graph.children.get(stage.id) || [], (graph.children.get(stage.id) || []).length),
      );
      const kinds = grouped(graph.blocks, (card) => card.kind).map(([kind, cards]) =>
        chip(
          kind,
          cards.map((c) => c.id),
          cards.length,
        ),
      );
      const roles = grouped(Object.keys(graph.layers), (name) => graph.layers[name].role).map(([role, names]) =>
        chip(role, names, names.length),
      );
      const ends = el(
        "div",
        { class: "qs-chips" },
        chip(
          "all",
          graph.blocks.map((c) => c.id),
          graph.blocks.length,
        ),
        el("button", { type: "button", class: "qs-chip", text: "none", onclick: () => store.select([]) }),
        el("button", {
          type: "button",
          class: "qs-chip",
          text: "invert",
          onclick: () => store.select(graph.blocks.map((c) => c.id).filter((id) => !store.selected.has(id))),
        }),
      );
      panel.replaceChildren(
        ...[ends, section("Stages", stages), section("Block types", kinds), section("Layer roles", roles)].filter(Boolean),
      );
    }
    panel.addEventListener("open", build);
    return el("div", { class: "qs-anchor" }, anchor, panel);
  };

  // What is selected, and the quick edits on it.
  QS.selectionBar = (store) => {
    const text = el("span", { class: "qs-selected" }),
      bits = el("div", { class: "qs-bitkeys", role: "group", "aria-label": "Set bits of the selection" });
    const lock = QS.button("lock", "Protect or release the selection (p)", () => store.protect([...store.selected]));
    const clear = QS.button("close", "Clear the selection (Esc)", () => store.select([]));
    const inputs = el("div", { class: "qs-bitkeys qs-inputkeys", role: "group", "aria-label": "Set input bits of the selection" });
    const node = el("div", { class: "qs-selection", hidden: true }, text, bits, inputs, lock, clear);
    // Widths of the inputs, while the page shows them.
    function paintInputs(choices) {
      inputs.hidden = !store.graph.inputs || !(store.inputsShown ?? Object.keys(store.inputs).length > 0);
      if (inputs.hidden) return;
      const ladder = [...QS.inputLadder(store.graph)].reverse();
      if (inputs.childElementCount !== ladder.length + 1)
        inputs.replaceChildren(
          el("span", { text: "A" }),
          ...ladder.map((b) =>
            el("button", {
              type: "button",
              text: b >= QS.OFF ? "off" : b,
              dataset: { inputs: b },
              title: b >= QS.OFF ? "Inputs in full precision" : `Quantize inputs to ${b} bits`,
              onclick: () => {
                store.setInputs(store.editable([...store.selected]), b);
                store.commit();
              },
            }),
          ),
        );
      const held = QS.holdingInputs(store.graph, store.inputs, choices);
      for (const key of inputs.querySelectorAll("button"))
        key.setAttribute("aria-pressed", String(!held.mixed && !held.partly && held.low === Number(key.dataset.inputs)));
    }
    function paint() {
      const n = store.selected.size;
      node.hidden = !n || !store.graph;
      if (node.hidden) return;
      if (bits.childElementCount !== store.graph.choices.length) {
        bits.replaceChildren(
          ...store.graph.choices.map((b) =>
            el("button", {
              type: "button",
              text: b === 16 ? "full" : b,
              dataset: { bits: b },
              title: b === 16 ? "Leave untouched (0)" : `Set ${b} bits (${b})`,
              onclick: () => {
                store.set(store.editable([...store.selected]), b);
                store.commit();
              },
            }),
          ),
        );
      }
      const choices = new Set([...store.selected].flatMap((id) => store.choicesOf(id)));
      const held = QS.holding(store.graph, store.options, [...choices]);
      const only = n === 1 ? [...store.selected][0] : null;
      const name = only ? (store.graph.byId.get(only)?.label ?? store.graph.layers[only]?.label ?? only) : `${n} selected`;
      text.textContent = `${name} · ${choices.size} ${choices.size === 1 ? "layer" : "layers"} · ${held.stored.toFixed(2)} bits`;
      for (const key of bits.children)
        key.setAttribute("aria-pressed", String(!held.mixed && held.low === Number(key.dataset.bits)));
      paintInputs([...choices]);
      lock.setAttribute("aria-pressed", String([...store.selected].every((id) => store.protected.has(id))));
    }
    store.on("select options value protect graph inputs", QS.framed(paint));
    return node;
  };
})();
