/* The legend: which overlay, its unit, ramp and ends, what hatching means, and how far to trust it. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.legend = (store) => {
    const title = el("b", { class: "qs-legend-title" }),
      colours = el("select", {
        class: "qs-select qs-overlay",
        "aria-label": "Colour by",
        title: "What colours the graph",
        hidden: true,
        onchange: () => store.setOverlay(colours.value),
      }),
      unit = el("span", { class: "qs-legend-unit" });
    const bar = el("div", { class: "qs-ramp", role: "img" }),
      ticks = el("div", { class: "qs-ticks" });
    const chooser = el("select", {
      class: "qs-select",
      "aria-label": "Colour ramp",
      title: "Colour ramp",
      onchange: () => store.setRamp(chooser.value),
    });
    const mark = el("span"),
      hatch = el("span", { class: "qs-hatchkey", hidden: true }, el("i"), mark);
    const trust = el("div", { class: "qs-trust" });
    const node = el(
      "div",
      { class: "qs-legend" },
      el("div", { class: "qs-legend-head" }, colours, title, unit),
      el("div", { class: "qs-legend-scale" }, bar, ticks),
      hatch,
      chooser,
      trust,
    );

    function scaleOf(overlay) {
      if (overlay.ticks && overlay.ticks.length) return overlay.ticks;
      const [low, high] = overlay.scale || [0, 1];
      return [0, 0.5, 1].map((at) => ({
        at,
        label: QS.number(overlay.log && low > 0 ? low * (high / low) ** at : low + at * (high - low)),
      }));
    }
    function steps(graph) {
      bar.style.background = "";
      bar.classList.add("steps");
      bar.replaceChildren(
        ...graph.choices.map((bits) => {
          const color = QS.bitColor(graph, bits, store.ramp),
            step = el("i", { text: bits });
          step.style.background = color;
          step.style.color = QS.inkOn(color);
          return step;
        }),
      );
      ticks.replaceChildren();
    }
    function paint() {
      const graph = store.graph,
        overlay = store.overlay || {};
      if (!graph) return;
      if (chooser.options.length !== Object.keys(graph.ramps).length) {
        const option = (name) => el("option", { value: name, text: graph.ramp_titles[name] || name }),
          names = Object.keys(graph.ramps);
        chooser.replaceChildren(option(names[0]), el("optgroup", { label: "Colour-blind safe" }, ...names.slice(1).map(option)));
      }
      chooser.value = store.ramp;
      const choices = overlay.choices || [];
      if (colours.dataset.for !== JSON.stringify(choices)) {
        colours.dataset.for = JSON.stringify(choices);
        colours.replaceChildren(...choices.map(([text, name]) => el("option", { value: name, text })));
      }
      colours.value = store.wanted ?? (overlay.name || "bits");
      colours.hidden = !choices.length;
      title.hidden = choices.length > 0;
      title.textContent = store.byBits ? "Bits" : overlay.title || overlay.name;
      unit.textContent = store.byBits ? "nominal, per block" : overlay.unit || "";
      unit.title = unit.textContent;
      if (store.byBits) steps(graph);
      else {
        bar.classList.remove("steps");
        bar.replaceChildren();
        bar.style.background = QS.gradient(graph.ramps[store.ramp] || graph.ramps.ember);
        const [low, high] = overlay.ends || [];
        ticks.replaceChildren(
          ...scaleOf(overlay).map((tick, i, all) => {
            const end = i === 0 ? low : i === all.length - 1 ? high : "";
            const mark = el("span", { text: end ? `${tick.label} ${end}` : tick.label });
            mark.style.left = `${100 * tick.at}%`;
            return mark;
          }),
        );
      }
      bar.setAttribute("aria-label", `${title.textContent}, ${unit.textContent}`);
      mark.textContent = store.doubtOf();
      hatch.hidden = !mark.textContent;
      trust.textContent = store.byBits ? "" : overlay.trust || "";
      trust.title = trust.textContent;
      trust.hidden = !trust.textContent;
    }
    store.on("value graph options", QS.framed(paint));
    paint();
    return node;
  };
})();
