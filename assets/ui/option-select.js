/* A list of every option of one layer; greyed ones show their real size and cannot be chosen. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.optionSelect = (store, choice, done) => {
    const layer = store.graph.layers[choice],
      sensible = store.graph.sensible.get(choice);
    const groups = new Map();
    for (const option of Object.keys(layer.bytes)) {
      const [method, bits] = QS.parseOption(option),
        stored = (8 * layer.bytes[option]) / layer.weights;
      const beyond = (store.graph.gauge || {}).learned && (layer.scaled || []).includes(option) ? ", extrapolated" : "";
      const text = bits === 16 ? "full precision" : `${bits} bits (${stored.toFixed(2)} stored${beyond})`;
      const title = store.graph.methods[method]?.label || method;
      groups.set(title, [
        ...(groups.get(title) || []),
        el("option", { value: option, text, disabled: option !== QS.UNTOUCHED && !sensible.has(option) }),
      ]);
    }
    const select = el("select", { "aria-label": `Option of ${choice}` });
    for (const [title, options] of groups) select.append(el("optgroup", { label: title }, ...options));
    select.addEventListener("change", () => {
      if (store.editable([choice]).length) store.setOption([choice], select.value);
      done();
    });
    return select;
  };

  // The width of one layer's inputs; a layer that cannot take one says why.
  QS.inputSelect = (store, choice) => {
    const refused = store.graph.inputs.refused[choice];
    const widths = [...QS.inputLadder(store.graph)].reverse();
    const select = el(
      "select",
      { "aria-label": `Input bits of ${choice}`, title: refused || null },
      ...widths.map((bits) => el("option", { value: bits, text: bits >= QS.OFF ? "off" : `${bits} bits` })),
    );
    select.addEventListener("change", () => {
      store.setInputs(store.editable([choice]), Number(select.value));
      store.commit();
      select.paint();
    });
    select.paint = () => {
      const bits = QS.inputBits(store.inputs, choice),
        text = store.inputs[choice];
      if (![...select.options].some((o) => o.value === String(bits)))
        select.append(el("option", { value: bits, text: `${bits} bits` }));
      select.value = String(bits);
      select.disabled = Boolean(refused) || store.isProtected(choice);
      const online = text && store.scheme !== "token" && QS.schemeOf(text) === "token";
      select.title = refused || (online ? store.graph.inputs.untabled : "");
    };
    return select;
  };
})();
