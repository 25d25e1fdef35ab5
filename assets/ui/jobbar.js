/* A job of the server on a tab: its progress, how it ended, and clicks on the chart beside it. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.mountJobBar = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root");
    let running = false,
      stopping = false;
    const bar = QS.progressBar(() => {
      stopping = true;
      trigger("cancel", {});
    });
    const error = el("div", { class: "qs-error", role: "alert", hidden: true });
    host.replaceChildren(bar, error);

    const show = () => {
      const value = props.value || {},
        ended = running && !value.running;
      running = Boolean(value.running);
      stopping = stopping && running;
      bar.show(running ? { text: value.text, step: value.done, of: value.total, left: value.left, worded: true, cancelling: stopping } : null);
      error.hidden = !value.error;
      error.textContent = value.error || "";
      host.dataset.running = String(running);
      if (ended) trigger("done", {});
    };
    const point = (key) => {
      props.value = { ...(props.value || {}), point: key };
      trigger("point", {});
    };
    if (props.chart) QS.onPoint(props.chart, point);
    host.qs = { point };
    watch("value", show);
    show();
    host.dataset.ready = "1";
  };
})();
