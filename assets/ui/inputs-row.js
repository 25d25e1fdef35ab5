/* The second row of the mixer: a short slider per block for the width of its inputs, and the scheme they are quantized by. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el,
    HEIGHT = 58;

  // One short slider; `ids` says which cards it means.
  function fader(store, label, ids) {
    const ladder = QS.inputLadder(store.graph),
      top = ladder.length - 1;
    const slider = QS.fader(top, label, { height: HEIGHT, low: ladder[0], high: QS.OFF, extra: "inputs" }),
      bits = el("output", { class: "qs-inputbits" }, "off");
    const choices = () => store.editable(ids()).filter((choice) => QS.takesInputs(store.graph, choice));
    QS.driveFader(slider, {
      onset: (level) => store.setInputs(choices(), ladder[Math.min(level, top)]),
      onshift: (steps) => store.shiftInputs(choices(), steps),
      onend: () => store.commit(),
      oncancel: () => store.abandon(),
    });
    const node = el("div", { class: "qs-inputs" }, bits, slider);
    let key = "";
    node.paint = (held) => {
      const now = `${held.mean}|${held.low}|${held.high}|${held.on}|${held.of}`;
      if (now === key) return;
      key = now;
      bits.textContent = held.of ? QS.inputText(held) : "–";
      const at = ladder.findIndex((width) => width >= held.mean);
      const below = at > 0 && ladder[at] > held.mean ? (held.mean - ladder[at - 1]) / (ladder[at] - ladder[at - 1]) : 1;
      slider.place(at > 0 ? at - 1 + below : 0);
      node.classList.toggle("off", held.low >= QS.OFF);
      node.classList.toggle("none", !held.of);
      node.classList.toggle("partly", held.partly);
      slider.setAttribute("aria-valuenow", held.mean.toFixed(2));
      slider.setAttribute("aria-valuetext", held.low >= QS.OFF ? "off, full precision" : `${QS.inputText(held)} bits${held.partly ? `, ${held.on} of ${held.of} layers` : ""}`);
      slider.setAttribute("aria-disabled", String(!held.of));
      node.title = held.of ? "" : [...ids()].map((id) => store.choicesOf(id)).flat().map((c) => store.graph.inputs.refused[c])[0] || "";
    };
    return node;
  }

  QS.inputFader = (store, card) => fader(store, `${card.label}, bits of its inputs`, () => store.meant(card.id));
  QS.inputMaster = (store) => fader(store, "All blocks, bits of their inputs", () => store.graph.blocks.map((card) => card.id));

  // The switch in the mixer's bar: the row is hidden until it is wanted or the recipe needs it.
  QS.inputSwitch = (store, host) => {
    const button = el("button", {
      type: "button",
      class: "qs-textbutton qs-inputswitch",
      text: "A bits",
      title: "A second row of sliders: how many bits the inputs (activations) of each block are quantized to; off by default",
      "aria-pressed": "false",
      onclick: (event) => {
        event.stopPropagation();
        store.inputsShown = !shown();
        show();
      },
    });
    const scheme = el("select", { "aria-label": "How inputs are quantized", title: "How inputs are quantized" });
    scheme.addEventListener("change", () => {
      store.scheme = scheme.value;
      store.rescheme(store.editable(store.graph.blocks.map((card) => card.id)));
    });
    const node = el("span", { class: "qs-inputtools", hidden: true }, scheme, button);
    const shown = () => store.inputsShown ?? Object.keys(store.inputs).length > 0;
    function show() {
      const able = Boolean(store.graph && store.graph.inputs),
        on = able && shown();
      node.hidden = !able;
      scheme.hidden = !on;
      button.setAttribute("aria-pressed", String(on));
      if (host.classList.contains("inputs") !== on) {
        host.classList.toggle("inputs", on);
        store.emit("inputs");
      }
    }
    function offer() {
      if (!store.graph || !store.graph.inputs) return show();
      const schemes = Object.entries(store.graph.inputs.schemes);
      scheme.replaceChildren(...schemes.map(([name, title]) => el("option", { value: name, text: title })));
      const used = Object.values(store.inputs).map(QS.schemeOf).find((name) => name in store.graph.inputs.schemes);
      store.scheme = schemes.some(([name]) => name === store.scheme) ? store.scheme : "token";
      if (used && !schemes.some(([name]) => name === used)) store.scheme = "token";
      scheme.value = store.scheme;
      scheme.disabled = schemes.length < 2;
      show();
    }
    store.on("graph", () => {
      store.inputsShown = undefined;
      offer();
    });
    store.on("value", () => {
      // A recipe that uses one scheme throughout goes on with it.
      const used = new Set(Object.values(store.inputs).map(QS.schemeOf)),
        only = used.size === 1 ? [...used][0] : "";
      if (only && store.graph?.inputs && only in store.graph.inputs.schemes) scheme.value = store.scheme = only;
      show();
    });
    offer();
    return node;
  };
})();
