/* Where long work stands: words, a bar, the time left, and a button that cancels it. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.mountJobBar = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root"),
      text = el("span"),
      left = el("span", { class: "qs-left" });
    const cancel = el("button", {
      type: "button",
      class: "qs-textbutton",
      text: "Cancel",
      onclick: () => {
        cancel.disabled = true;
        trigger("cancel", {});
      },
    });
    const fill = el("i"),
      track = el("div", { class: "qs-progress-track" }, fill);
    const bar = el("div", { class: "qs-progress", hidden: true }, el("div", { class: "qs-progress-line", role: "status" }, text, left, cancel), track);
    const error = el("div", { class: "qs-error", role: "alert", hidden: true });
    host.replaceChildren(bar, error);
    let running = false;

    const show = () => {
      const value = props.value || {};
      bar.hidden = !value.running;
      error.hidden = !value.error;
      error.textContent = value.error || "";
      text.textContent = value.text || "";
      left.textContent = value.left || "";
      track.classList.toggle("unknown", !value.total);
      fill.style.width = value.total ? `${(100 * value.done) / value.total}%` : "";
      if (!value.running) cancel.disabled = false;
      const ended = running && !value.running;
      running = Boolean(value.running);
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
