/* The selected blocks layer by layer: method for all of them, method and bits of each. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;
  const SHOWN = 120;

  // The same bits with another method; layers for which that is no sensible option keep theirs.
  QS.setMethod = (graph, options, choices, method) => {
    const changed = { ...options };
    for (const choice of choices) {
      const option = graph.optionNamed.get(`${method} ${QS.optionBits(QS.optionOf(options, choice))}`);
      if (graph.sensible.get(choice).has(option)) changed[choice] = option;
    }
    return changed;
  };

  // Per layer the option with least predicted damage at no more bytes than now; a layer without a table keeps its own.
  QS.bestOf = (graph, options, choices) => {
    const changed = { ...options };
    for (const choice of choices) {
      const { bytes, damage = {} } = graph.layers[choice],
        now = QS.optionOf(options, choice);
      if (now === QS.UNTOUCHED) continue;
      const fitting = [...graph.sensible.get(choice)].filter((o) => o in damage && bytes[o] <= bytes[now]);
      fitting.sort((a, b) => damage[a] - damage[b] || bytes[a] - bytes[b]);
      if (fitting.length) changed[choice] = fitting[0];
    }
    return changed;
  };
  const BEST = "best of";

  QS.layerEditor = (store) => {
    const rows = new Map(),
      body = el("tbody"),
      note = el("p", { class: "qs-note" });
    const method = el("select", { "aria-label": "Method of the selected layers" });
    const head = el("tr", {}, ...["Layer", "Role", "Option", "Inputs", "Size"].map((text) => el("th", { scope: "col", text })));
    const table = el("table", { class: "qs-table" }, el("thead", {}, head), body);
    const node = el(
      "div",
      { class: "qs-layers", hidden: true },
      el("label", { class: "qs-method" }, el("span", { text: "Method, same bits" }), method),
      table,
      note,
    );
    let shown = "";

    method.addEventListener("change", () => {
      const choices = store.editable([...store.selected]);
      store.begin();
      store.live(
        method.value === BEST
          ? QS.bestOf(store.graph, store.options, choices)
          : QS.setMethod(store.graph, store.options, choices, method.value),
      );
      store.commit();
      paint();
    });

    function row(choice) {
      const layer = store.graph.layers[choice],
        select = QS.optionSelect(store, choice, () => paint());
      const size = el("td", { class: "number" }),
        inputs = store.graph.inputs && QS.inputSelect(store, choice);
      const tr = el(
        "tr",
        { dataset: { layer: choice } },
        el("th", { scope: "row", title: choice, text: layer.label }),
        el("td", { text: layer.role }),
        el("td", {}, select),
        el("td", {}, inputs || null),
        size,
      );
      return { tr, select, inputs, size };
    }

    function build(choices) {
      rows.clear();
      for (const choice of choices.slice(0, SHOWN)) rows.set(choice, row(choice));
      body.replaceChildren(...[...rows.values()].map((item) => item.tr));
      const names = Object.entries(store.graph.methods).filter(([name]) => name !== QS.UNTOUCHED);
      method.replaceChildren(
        el("option", { value: "", text: "several", disabled: true }),
        el("option", {
          value: BEST,
          text: "Best of all, no more bytes",
          title: "Per layer the method and bits with least predicted damage at no more bytes than now.",
        }),
        ...names.map(([name, m]) => el("option", { value: name, text: m.label, title: m.summary })),
      );
      note.textContent = choices.length > SHOWN ? `${choices.length - SHOWN} more layers; select fewer blocks to see them.` : "";
    }

    function paint() {
      const choices = store.graph ? [...new Set([...store.selected].flatMap((id) => store.choicesOf(id)))] : [];
      node.hidden = !choices.length;
      if (node.hidden) {
        shown = "";
        return;
      }
      const key = `${store.graph.model}|${choices.join("|")}`;
      if (key !== shown) {
        build(choices);
        shown = key;
      }
      const methods = new Set();
      for (const [choice, item] of rows) {
        const option = QS.optionOf(store.options, choice),
          held = QS.holding(store.graph, store.options, [choice]);
        if (item.select.value !== option) item.select.value = option;
        item.select.disabled = store.isProtected(choice);
        item.inputs?.paint();
        item.size.textContent = QS.megabytes(held.bytes);
        methods.add(QS.parseOption(option)[0]);
      }
      method.value = methods.size === 1 && !methods.has(QS.UNTOUCHED) ? [...methods][0] : "";
    }
    store.on("options value select protect graph", QS.framed(paint));
    paint();
    return node;
  };

  QS.mountLayers = (element, { props }) => {
    element.querySelector(".qs-root").replaceChildren(QS.layerEditor(QS.store(props.group)));
  };
})();
