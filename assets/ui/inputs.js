/* Quantized layer inputs, pure: widths of a setting, setting and shifting them, what a set of layers holds, what they cost. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  QS.OFF = 16;

  // "token-8" -> ["token", 8]; nothing -> ["", 16]: full-precision inputs.
  const parsed = new Map();
  QS.parseInput = (text) => {
    if (!text) return ["", QS.OFF];
    let found = parsed.get(text);
    if (!found) {
      const cut = text.lastIndexOf("-");
      parsed.set(text, (found = [text.slice(0, cut), Number(text.slice(cut + 1))]));
    }
    return found;
  };
  QS.inputBits = (inputs, choice) => QS.parseInput(inputs[choice])[1];
  // The scheme by which it was chosen: "token", or the id of its tables.
  QS.schemeOf = (text) => QS.parseInput(text)[0].split(".")[0];

  QS.inputLadder = (graph) => [...graph.inputs.widths, QS.OFF];
  QS.takesInputs = (graph, choice) => !(choice in graph.inputs.refused);

  // The setting of a layer at a width: of these tables where they have one for it, else online; "" = full precision.
  QS.inputAt = (graph, choice, bits, scheme) => {
    if (bits >= QS.OFF || !QS.takesInputs(graph, choice)) return "";
    const row = graph.inputs.static[choice]?.[scheme];
    if (row && (row[1] === 0 || row[1] === bits)) return `${row[0]}-${bits}`;
    return `token-${bits}`;
  };

  const put = (changed, choice, text) => {
    if (text) changed[choice] = text;
    else delete changed[choice];
  };
  QS.setInputs = (graph, inputs, choices, bits, scheme) => {
    const changed = { ...inputs };
    for (const choice of choices) put(changed, choice, QS.inputAt(graph, choice, bits, scheme));
    return changed;
  };
  QS.shiftInputs = (graph, inputs, choices, steps, scheme) => {
    const changed = { ...inputs },
      ladder = QS.inputLadder(graph);
    for (const choice of choices) {
      const at = ladder.findIndex((bits) => bits >= QS.inputBits(inputs, choice));
      if (steps) put(changed, choice, QS.inputAt(graph, choice, ladder[QS.clamp(at + steps, 0, ladder.length - 1)], scheme));
    }
    return changed;
  };
  // Another scheme, same widths.
  QS.rescheme = (graph, inputs, choices, scheme) => {
    const changed = { ...inputs };
    for (const choice of choices)
      if (inputs[choice]) put(changed, choice, QS.inputAt(graph, choice, QS.inputBits(inputs, choice), scheme));
    return changed;
  };

  // Of those that are on: mean by weights and range; 16 where none is. `on` of `of` that can be.
  QS.holdingInputs = (graph, inputs, choices) => {
    let weights = 0,
      sum = 0,
      on = 0,
      of = 0,
      low = Infinity,
      high = -Infinity;
    for (const choice of choices) {
      if (!QS.takesInputs(graph, choice)) continue;
      const bits = QS.inputBits(inputs, choice),
        weight = graph.layers[choice].weights;
      of += 1;
      if (bits >= QS.OFF) continue;
      on += 1;
      weights += weight;
      sum += bits * weight;
      low = Math.min(low, bits);
      high = Math.max(high, bits);
    }
    if (!on) return { of, on, low: QS.OFF, high: QS.OFF, mean: QS.OFF, mixed: false, partly: false };
    return { of, on, low, high, mean: low === high ? low : sum / weights, mixed: low !== high, partly: on < of };
  };
  QS.inputText = (held) => (held.low >= QS.OFF ? "off" : held.mixed ? held.mean.toFixed(held.mean >= 9.95 ? 0 : 1) : String(held.low));

  // Bytes of tables and scales beside the weights, bit operations, and added damage of inputs (null where unknown).
  QS.inputTotals = (graph, options, inputs, sets, tables) => {
    let bytes = 0,
      operations = 0,
      full = 0,
      damage = 0,
      known = true;
    const { macs, damage: priced } = graph.inputs || { macs: {}, damage: {} };
    for (const choice in graph.layers) {
      const [source, bits] = QS.parseInput(inputs[choice]),
        mac = macs[choice] || 0;
      const width = Math.min(QS.optionBits(QS.optionOf(options, choice)), graph.precision_bits);
      operations += mac * width * Math.min(bits, graph.precision_bits);
      full += mac * graph.precision_bits ** 2;
      if (bits >= QS.OFF) {
        bytes += sets[choice] || 0;
        continue;
      }
      const row = graph.inputs?.static[choice]?.[source.split(".")[0]];
      const scaled = /\.1.$/.test(source);
      bytes += source === "token" ? 0 : row && row[0] === source ? row[2] : tables[choice]?.[1] || 0;
      if (!scaled) bytes += sets[choice] || 0;
      const added = source === "token" ? priced[choice]?.[bits] : undefined;
      if (added === undefined) known = false;
      else damage += added;
    }
    return { bytes, operations, full, damage: known ? damage : null, counted: full > 0, on: Object.keys(inputs).length };
  };
  QS.bigNumber = (value) =>
    value >= 1e12 ? `${(value / 1e12).toFixed(2)} T` : value >= 1e9 ? `${(value / 1e9).toFixed(2)} G` : `${(value / 1e6).toFixed(1)} M`;
})();
