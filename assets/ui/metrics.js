/* Measured numbers in a row: title, value, direction, n and interval. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.metricsStrip = () => {
    const node = el("div", { class: "qs-metrics" });
    node.show = (metrics) => {
      node.hidden = !metrics || !metrics.length;
      node.replaceChildren(
        ...(metrics || []).map((metric) => {
          const up = metric.better === "higher",
            interval = Number.isFinite(metric.low) && Number.isFinite(metric.high) && metric.low !== metric.high;
          const n = metric.n ? `n = ${metric.n}` : "";
          const range = interval ? `95 %: ${QS.number(metric.low)} to ${QS.number(metric.high)}` : "";
          return el(
            "div",
            {
              class: "qs-metric",
              title: [metric.title, `${up ? "higher" : "lower"} is better`, n, range, metric.note].filter(Boolean).join(" · "),
            },
            el("span", { class: "qs-metric-title", text: metric.title }),
            el("b", { text: metric.value }),
            el(
              "span",
              { class: "qs-metric-more" },
              metric.better
                ? el("i", {
                    class: up ? "up" : "down",
                    "aria-label": up ? "higher is better" : "lower is better",
                    text: up ? "↑ better" : "↓ better",
                  })
                : null,
              el("span", { text: n }),
            ),
          );
        }),
      );
    };
    return node;
  };

  QS.mountMetrics = (element, { props, watch }) => {
    const strip = QS.metricsStrip();
    element.querySelector(".qs-root").replaceChildren(strip);
    const show = () => strip.show((props.value || {}).metrics || []);
    watch("value", show);
    show();
  };
})();
