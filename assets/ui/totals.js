/* The figures of the recipe, live while one drags: bits per weight, MB, % of full precision, predicted quality. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.totalsStrip = (store) => {
    const figure = (name, title) => {
      const value = el("b"),
        delta = el("i");
      return {
        value,
        delta,
        node: el("div", { class: "qs-figure", title, dataset: { figure: name } }, value, el("span", { text: name }), delta),
      };
    };
    const bits = figure("bits / weight", "Stored bits per quantizable weight: codes, scales, zero points and codebooks");
    const size = figure("stored", "Bytes of the quantizable layers as stored, 1 MB = 1,000,000 bytes");
    const part = figure("of full", "Share of the full-precision bytes of the same layers");
    const TABLE = "Predicted quality against full precision: each layer's damage from a table, added up";
    const psnr = figure("predicted", TABLE);
    const BOPS =
      "Bit operations of one denoiser call for one picture: multiply-adds x weight bits x input bits, nominal; attention products are left out";
    const bops = figure("BOPs", BOPS);
    const node = el(
      "div",
      { class: "qs-totals", role: "status", "aria-live": "off" },
      bits.node,
      size.node,
      part.node,
      psnr.node,
      bops.node,
    );

    const change = (now, before, digits, unit = "") => {
      if (
        before === null ||
        before === undefined ||
        !Number.isFinite(now - before) ||
        Math.abs(now - before) < 0.5 * 10 ** -digits
      )
        return "";
      return `${now > before ? "+" : "−"}${Math.abs(now - before).toFixed(digits)}${unit}`;
    };
    const say = (item, text, delta) => {
      if (item.value.textContent !== text) item.value.textContent = text;
      if (item.delta.textContent !== delta) item.delta.textContent = delta;
    };
    function paint() {
      if (!store.graph) return;
      const now = store.totals(),
        before = store.totalsBefore || {};
      store.figures = now;
      const big = now.bytes >= 1e9;
      say(bits, now.bits_per_weight.toFixed(2), change(now.bits_per_weight, before.bits_per_weight, 2));
      say(size, QS.megabytes(now.bytes), change(now.megabytes, before.megabytes, big ? 0 : now.bytes >= 1e8 ? 1 : 2, " MB"));
      say(part, `${now.percent.toFixed(1)} %`, change(now.percent, before.percent, 1));
      part.node.querySelector("span").textContent = `of fp${store.graph.precision_bits}`;
      const gauge = store.graph.gauge || {};
      // The ensemble has learned from weights alone; with quantized inputs the table speaks.
      const forecast = !now.inputs && store.forecast && store.forecast.bytes === now.bytes ? store.forecast : null;
      const beyond = forecast ? forecast.extrapolated : gauge.learned ? now.scaled : 0;
      psnr.node.hidden = now.predicted === null && !forecast;
      if (forecast) say(psnr, forecast.text, "");
      else if (now.predicted !== null)
        say(
          psnr,
          now.predicted === Infinity ? "exact" : QS.qualityText(gauge, now.damage),
          change(now.predicted, before.predicted, 1),
        );
      psnr.node.title = forecast ? forecast.title : TABLE;
      psnr.node.querySelector("span").textContent = now.weights_alone
        ? "weights alone"
        : beyond
          ? "predicted, extrapolated"
          : "predicted";
      psnr.node.classList.toggle("scaled", now.scaled > 0 && !forecast);
      bops.node.hidden = !now.inputs || now.operations === null;
      if (!bops.node.hidden) {
        say(bops, QS.bigNumber(now.operations).trim(), change(now.operations_percent, before.operations_percent, 1, " %"));
        bops.node.title = `${BOPS}. ${now.operations_percent.toFixed(1)} % of full precision`;
      }
    }
    store.on("options value graph", QS.framed(paint));
    paint();
    return node;
  };

  // A strip of its own, for the top of a page.
  QS.mountTotals = (element, { props }) => {
    const store = QS.store(props.group);
    element.querySelector(".qs-root").replaceChildren(QS.totalsStrip(store));
  };
})();
