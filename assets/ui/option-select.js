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
})();
