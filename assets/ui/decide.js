/* The budget slider: while it moves, the best recipe of that size is on the graph; Python hears one event at the end. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;
  const WIDEST = 8,
    STEP = 0.01,
    SETTLE_MS = 350;

  QS.mountDecide = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root"),
      store = QS.store(props.group);
    const figure = (name, title) => {
      const value = el("b", { text: "–" });
      return { value, node: el("div", { class: "qs-figure", title, dataset: { budget: name } }, value, el("span", { text: name })) };
    };
    const bits = figure("bits / weight", "Stored bits per quantizable weight"),
      size = figure("stored", "Bytes of the quantizable layers, 1 MB = 1,000,000 bytes"),
      part = figure("of full", "Share of the full-precision bytes of the same layers"),
      whole = figure("whole pipeline", "With text encoders, autoencoder, biases and norms; activations come on top"),
      good = figure("predicted", "By the chosen scores, for the best recipe of this size");
    const slider = el("input", { type: "range", class: "qs-budget", step: STEP, "aria-label": "Budget, stored bits per weight" });
    const ends = el("div", { class: "qs-budget-ends" }, el("span"), el("span"));
    const typed = el("input", {
      type: "text",
      class: "qs-typed",
      placeholder: "3.5 bits, 3 MB, 40 %, fits 8 GB",
      "aria-label": "Type a budget",
      title: "A budget in bits per weight, MB or % of full precision, or “fits 8 GB” for the whole pipeline; Enter applies it",
      autocomplete: "off",
      spellcheck: "false",
    });
    const chooser = (label, name) => {
      const select = el("select", { class: "qs-select", "aria-label": label, dataset: { choose: name } });
      return { select, node: el("label", { class: "qs-choose" }, el("span", { text: label }), select) };
    };
    const allocator = chooser("Allocator", "allocator"),
      provider = chooser("Scores", "provider");
    const summary = el("p", { class: "qs-note", dataset: { note: "summary" } }),
      trust = el("p", { class: "qs-note", dataset: { note: "trust" } });
    const empty = el("div", { class: "qs-empty", text: "The budget appears here as soon as the model is read." });
    const body = el(
      "div",
      { class: "qs-decide", hidden: true },
      el("div", { class: "qs-choosers" }, allocator.node, provider.node),
      summary,
      el("div", { class: "qs-budget-row" }, slider, typed),
      ends,
      el("div", { class: "qs-totals", role: "status" }, bits.node, size.node, part.node, good.node, whole.node),
      trust,
    );
    host.replaceChildren(empty, body);

    let plan = null,
      path = null,
      pathKey = "",
      sliding = false,
      timer = 0;
    const pinned = () => {
      const held = {};
      for (const choice of store.lockedChoices()) held[choice] = QS.optionOf(store.options, choice);
      return held;
    };
    const ready = () => Boolean(plan && store.graph && store.graph.model === plan.model && !store.waiting);
    // The path is made anew only when protection, or what protected layers hold, has changed.
    const current = () => {
      const held = pinned(),
        key = JSON.stringify(held);
      if (!path || key !== pathKey) {
        path = QS.path(store.graph, plan.costs, held);
        pathKey = key;
      }
      return path;
    };
    const bytesOf = (width) => Math.floor((width / store.graph.precision_bits) * store.graph.full_bytes + 1e-6);
    const say = (bytes, damage) => {
      const graph = store.graph;
      bits.value.textContent = ((graph.precision_bits * bytes) / graph.full_bytes).toFixed(2);
      size.value.textContent = QS.megabytes(bytes);
      part.value.textContent = `${((100 * bytes) / graph.full_bytes).toFixed(1)} %`;
      part.node.querySelector("span").textContent = `of fp${graph.precision_bits}`;
      const text = damage === null ? "" : QS.qualityText(plan.gauge, damage);
      good.node.hidden = !text;
      good.value.textContent = text;
      good.node.querySelector("span").textContent = plan.gauge.title || "predicted";
      whole.node.hidden = !plan.rest;
      whole.value.textContent = plan.rest ? QS.megabytes(bytes + plan.rest) : "";
    };
    // What the page shows now, judged by the chosen scores.
    const sayCurrent = () => {
      if (!ready() || sliding) return;
      let damage = 0;
      for (const choice in store.graph.layers) {
        const option = QS.optionOf(store.options, choice),
          cost = (plan.costs[choice] || {})[option] ?? (option === QS.UNTOUCHED ? 0 : NaN);
        damage += cost;
      }
      // The scores are of weights alone: of a recipe with quantized inputs they say nothing.
      const now = store.totals();
      say(now.bytes, Number.isFinite(damage) && !now.inputs ? damage : null);
      slider.value = String(QS.clamp(now.bits_per_weight, Number(slider.min), WIDEST));
    };
    const send = (event, more) => {
      props.value = { allocator: allocator.select.value, provider: provider.select.value, ...more };
      trigger(event, {});
    };
    const slide = () => {
      if (!ready()) return;
      sliding = true;
      const found = current().at(bytesOf(Number(slider.value)));
      host.dataset.live = found ? String(found.bytes) : "";
      if (!found) return;
      store.begin();
      store.live({ ...store.options, ...found.options });
      say(found.bytes, found.damage);
    };
    // Keys move the slider step by step: the recipe is asked for once they rest.
    const settle = () => {
      clearTimeout(timer);
      timer = setTimeout(finish, SETTLE_MS);
    };
    const finish = () => {
      clearTimeout(timer);
      if (!sliding) return;
      sliding = false;
      store.settle();
      send("decide", { budget: bytesOf(Number(slider.value)) });
    };
    slider.addEventListener("input", slide);
    slider.addEventListener("change", settle);
    slider.addEventListener("pointerup", () => setTimeout(finish));
    typed.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && typed.value.trim()) send("decide", { text: typed.value.slice(0, 60) });
    });
    slider.addEventListener("keydown", (event) => event.stopPropagation());
    allocator.select.addEventListener("change", () => {
      const row = plan.allocators.find(([, name]) => name === allocator.select.value);
      summary.textContent = row ? row[2] : "";
      send("choose", {});
    });
    provider.select.addEventListener("change", () => send("choose", {}));

    const fill = (select, rows, wanted) => {
      select.replaceChildren(...rows.map(([text, name]) => el("option", { value: name, text })));
      if (rows.some(([, name]) => name === wanted)) select.value = wanted;
    };
    function take() {
      const text = props.plan;
      plan = text ? JSON.parse(text) : null;
      path = null;
      empty.hidden = Boolean(plan);
      body.hidden = !plan;
      if (!plan) return;
      fill(allocator.select, plan.allocators, allocator.select.value || plan.allocators[0][1]);
      fill(provider.select, plan.providers, plan.provider);
      summary.textContent = (plan.allocators.find(([, name]) => name === allocator.select.value) || [])[2] || "";
      trust.textContent = plan.trust || "";
      const low = Math.ceil((8 * plan.smallest) / plan.weights / STEP) * STEP;
      slider.min = low.toFixed(2);
      slider.max = String(WIDEST);
      ends.firstChild.textContent = `${low.toFixed(2)} bits, the smallest`;
      ends.lastChild.textContent = `${WIDEST} bits`;
      sayCurrent();
      host.dataset.plan = plan.provider;
    }
    store.on("value options graph", QS.framed(sayCurrent));
    watch("plan", take);
    take();

    // Points of the chart below are asked for by their key; the chart is Plotly's, drawn by Gradio.
    const point = (key) => send("point", { point: key });
    QS.onPoint(props.chart, point);
    host.qs = { current, bytesOf, point };
    host.dataset.ready = "1";
  };

  // Clicks on the points of a chart drawn by Gradio, which makes and replaces its element as it likes: whichever stands
  // there when the pointer comes over it is listened to. Each tab answers for its own chart, by the element's id.
  const points = (QS.points = QS.points || new Map());
  QS.onPoint = (id, send) => points.set(id, send);
  const listen = (event) => {
    const chart = event.target.closest?.(".js-plotly-plot");
    if (!chart || chart.qsListens || !chart.on) return;
    for (const [id, send] of points) {
      if (!chart.closest(`#${id}`)) continue;
      chart.qsListens = true;
      chart.on("plotly_click", ({ points: hit }) => {
        const key = hit && hit[0] && hit[0].customdata;
        if (key) send(Array.isArray(key) ? key[0] : key);
      });
    }
  };
  document.addEventListener("pointerover", listen, true);
})();
