/* Pure functions over the tables sent with a graph: set or shift bits, totals, what a block holds. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});

  // "kmeans_c-3" -> ["kmeans_c", 3]. Options of one fixed width ("nf4", "fp16") are in the table that came with the graph.
  const parsed = new Map();
  QS.parseOption = (text) => {
    let found = parsed.get(text);
    if (!found) {
      const cut = text.lastIndexOf("-");
      parsed.set(text, (found = cut < 0 ? [text, 16] : [text.slice(0, cut), Number(text.slice(cut + 1))]));
    }
    return found;
  };
  QS.UNTOUCHED = "fp16";
  QS.optionBits = (text) => QS.parseOption(text)[1];
  QS.optionOf = (options, choice) => options[choice] || QS.UNTOUCHED;

  // Tables come as rows aligned with the list of options; here they become lookups by option.
  const unpack = (graph) => {
    if (!graph.options) return;
    const table = (row) =>
      Object.fromEntries(graph.options.map((option, i) => [option, row[i]]).filter((pair) => pair[1] !== null));
    for (const layer of Object.values(graph.layers)) {
      layer.bytes = table(layer.bytes);
      layer.sensible = layer.sensible.map((i) => graph.options[i]);
      if (layer.damage) layer.damage = table(layer.damage);
    }
    delete graph.options;
  };

  // A fast lookup of what is sensible, made once per graph.
  QS.prepare = (graph) => {
    unpack(graph);
    for (const [option, meaning] of Object.entries(graph.option_bits || {})) parsed.set(option, meaning);
    graph.optionNamed = new Map(
      Object.entries(graph.option_bits || {}).map(([option, [method, bits]]) => [`${method} ${bits}`, option]),
    );
    graph.sensible = new Map(Object.entries(graph.layers).map(([name, layer]) => [name, new Set(layer.sensible)]));
    graph.byId = new Map(graph.cards.map((card) => [card.id, card]));
    graph.children = new Map();
    for (const card of graph.cards) {
      if (!graph.children.has(card.parent)) graph.children.set(card.parent, []);
      graph.children.get(card.parent).push(card.id);
    }
    const stages = new Set(graph.cards.filter((c) => c.level === "stage" && graph.children.has(c.id)).map((c) => c.id));
    graph.stages = graph.cards.filter((c) => stages.has(c.id));
    graph.blocks = graph.cards.filter((c) => c.level !== "unit" && !stages.has(c.id));
    return graph;
  };

  // The option a layer takes at these bits: its method, else the default method, else the next better one, never a greyed one.
  QS.optionAt = (graph, choice, current, bits) => {
    if (bits >= 16) return QS.UNTOUCHED;
    const sensible = graph.sensible.get(choice),
      [method, width] = QS.parseOption(current);
    const named = (name, wanted) => graph.optionNamed.get(`${name} ${wanted}`);
    const kept = named(width >= 16 ? graph.default_method : method, bits);
    if (sensible.has(kept)) return kept;
    for (const wider of graph.choices) {
      const option = named(graph.default_method, wider);
      if (wider >= bits && wider < 16 && sensible.has(option)) return option;
    }
    return QS.UNTOUCHED;
  };

  // A copy of `options` with these choices at these bits.
  QS.setBits = (graph, options, choices, bits) => {
    const changed = { ...options };
    for (const choice of choices) changed[choice] = QS.optionAt(graph, choice, QS.optionOf(options, choice), bits);
    return changed;
  };

  // A copy with every one of these choices moved up or down by steps of the ladder 2, 3, 4, 5, 6, 8, 16.
  QS.shiftBits = (graph, options, choices, steps) => {
    const changed = { ...options },
      ladder = graph.choices;
    for (const choice of choices) {
      const current = QS.optionOf(options, choice);
      const at = QS.clamp(QS.levelOf(graph, QS.optionBits(current)) + steps, 0, ladder.length - 1);
      changed[choice] = steps === 0 ? current : QS.optionAt(graph, choice, current, ladder[at]);
    }
    return changed;
  };

  QS.levelOf = (graph, bits) => {
    const at = graph.choices.findIndex((choice) => choice >= bits);
    return at < 0 ? graph.choices.length - 1 : at;
  };
  // A mean between two rungs lies between them: 4.5 -> 2.5.
  QS.levelBetween = (graph, bits) => {
    const ladder = graph.choices,
      at = QS.levelOf(graph, bits);
    if (at === 0 || ladder[at] === bits) return at;
    return at - 1 + Math.min(1, (bits - ladder[at - 1]) / (ladder[at] - ladder[at - 1]));
  };

  // What a set of choices holds: nominal mean and range by weights, stored bits and bytes.
  QS.holding = (graph, options, choices) => {
    let weights = 0,
      bits = 0,
      bytes = 0,
      low = Infinity,
      high = -Infinity,
      method = null;
    for (const choice of choices) {
      const layer = graph.layers[choice],
        option = QS.optionOf(options, choice),
        [name, width] = QS.parseOption(option);
      weights += layer.weights;
      bits += width * layer.weights;
      bytes += layer.bytes[option];
      low = Math.min(low, width);
      high = Math.max(high, width);
      method = method === null || method === name ? name : "mixed";
    }
    if (!weights)
      return { weights: 0, mean: 16, low: 16, high: 16, stored: graph.precision_bits, bytes: 0, mixed: false, method };
    return {
      weights,
      mean: low === high ? low : bits / weights,
      low,
      high,
      stored: (8 * bytes) / weights,
      bytes,
      mixed: low !== high,
      method,
    };
  };

  // The whole recipe: exactly the figures of the engine; the predicted quality is the additive table's.
  const NOTHING = { inputs: {}, sets: {}, tables: {} };
  QS.totals = (graph, options, { inputs, sets, tables } = NOTHING) => {
    let bytes = 0,
      damage = 0,
      known = true,
      scaled = 0;
    for (const choice in graph.layers) {
      const layer = graph.layers[choice],
        option = QS.optionOf(options, choice);
      bytes += layer.bytes[option];
      if (option === QS.UNTOUCHED) continue;
      const value = layer.damage ? layer.damage[option] : undefined;
      if (value === undefined) known = false;
      else damage += value;
      if (layer.scaled && layer.scaled.includes(option)) scaled += 1;
    }
    const more = QS.inputTotals(graph, options, inputs, sets, tables);
    bytes += more.bytes;
    if (more.damage !== null) damage += more.damage;
    return {
      bytes,
      inputs: more.on,
      operations: more.counted ? more.operations : null,
      operations_percent: more.counted ? (100 * more.operations) / more.full : null,
      weights_alone: more.damage === null,
      bits_per_weight: (graph.precision_bits * bytes) / graph.full_bytes,
      megabytes: bytes / 1e6,
      percent: (100 * bytes) / graph.full_bytes,
      file_bytes: bytes + graph.other_bytes,
      damage,
      predicted: known ? (damage > 0 ? QS.quality(graph.gauge, damage) : Infinity) : null,
      scaled,
    };
  };
})();
